"""Headers of the PROXY protocol: of clients, by a listener filter, and to servers, by a transport
socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tcpmux.config.address import Address
from tcpmux.config.check import Check
from tcpmux.config.rows import DAY
from tcpmux.config.settings import AcceptProxy, SendProxy
from tcpmux.config.values import whole
from tcpmux.convert.clients import everybody_at
from tcpmux.convert.envoy.values import HARMLESS, enum, seconds, type_of
from tcpmux.convert.tree import Node

NEEDS = "the PROXY protocol"
EXTENSIONS = "PROXY header extensions"
TIMEOUT = 15.0  # s; Envoy's default for all listener filters together
_VERSIONS = {"0": "V1", "1": "V2"}
_BITS = {"V1": 1, "V2": 2}
_CLASSES = {
    "stat_prefix": (HARMLESS, "metrics", ""),
    "rules": (HARMLESS, "only stores extensions of the header as labels", ""),
    "pass_through_tlvs": (HARMLESS, "reported where extensions are sent to servers", ""),
    "tlv_location": (HARMLESS, "only stores extensions of the header", ""),
}


def is_header_filter(entry: Node) -> bool:
    """Of a listener filter: whether it reads the PROXY header."""
    config = entry["typed_config"]
    kind = type_of(config) if config else entry["name"].text().rpartition(".")[2]
    return kind in ("ProxyProtocol", "proxy_protocol")


def accept_proxy_of(listener: Node, entry: Node, listen: Sequence[Address]) -> AcceptProxy:
    """Of the filter in a listener. Every peer has to send the header."""
    config = entry["typed_config"]
    entry["name"].mapped()
    if config:
        config["@type"].mapped()
        config.sort_out(_CLASSES)
    without = config["allow_requests_without_proxy_protocol"]
    if without.flag():
        without.changes("tcpmux resets connections without a header; Envoy accepts them", NEEDS)
    refused = [_VERSIONS.get(enum(one, "V1"), enum(one, "V1")) for one in _refused(config)]
    versions = 3 & ~sum({_BITS.get(one, 0) for one in refused})
    if not versions:
        config["disallowed_versions"].changes("tcpmux accepts at least one version", NEEDS)
    resumes = listener["continue_on_listener_filters_timeout"]
    if resumes.flag():
        resumes.changes("tcpmux resets connections whose header is late", NEEDS)
    wait = listener["listener_filters_timeout"]
    timeout = seconds(wait, TIMEOUT, zero=True)
    if not timeout:
        wait.mapped("tcpmux waits for the header for at most a day")
    return AcceptProxy(everybody_at(listen), versions or 3, timeout or DAY)


def _refused(config: Node) -> list[Node]:
    return list(config["disallowed_versions"]) if config["disallowed_versions"] else []


def send_proxy_of(transport: Node) -> SendProxy:
    """Of a transport socket that sends the header."""
    transport["name"].mapped()
    socket = transport["typed_config"]
    socket["@type"].mapped()
    for key in ("allow_unspecified_address", "tlv_as_pool_key"):
        socket[key].harmless("affects only which connections to servers are shared")
    if not socket["transport_socket"]:
        transport.problem("expected transport_socket, that the header goes out by")
    config = socket["config"]
    text = enum(config["version"], "V1")
    version = _VERSIONS.get(text, text)
    if version not in _BITS:
        config["version"].problem(f"expected V1 or V2, got {text}")
    if "added_tlvs" in config.fields:
        config["added_tlvs"].changes("tcpmux adds no extensions with values of yours", EXTENSIONS)
    passed = _passed(config["pass_through_tlvs"])
    return SendProxy(_BITS.get(version, 1), passed=passed if version == "V2" else ())


_MATCHES = {"0": "INCLUDE_ALL", "1": "INCLUDE"}
_OF_ONE_HEADER = (0x03, 0x04)  # its checksum, its padding


def _passed(node: Node) -> tuple[int, ...]:
    """Types of extensions that go on to servers."""
    if not node:
        return ()
    text = enum(node["match_type"], "INCLUDE_ALL")
    match = _MATCHES.get(text, text)
    types = [one.read(_type, 1) for one in node["tlv_type"]] if node["tlv_type"] else []
    if match not in _MATCHES.values():
        node["match_type"].problem(f"expected INCLUDE_ALL or INCLUDE, got {text}")
    elif match == "INCLUDE_ALL":
        node.changes("tcpmux passes on extensions whose types are listed", EXTENSIONS)
    elif {*types} & {*_OF_ONE_HEADER}:
        node["tlv_type"].changes(
            "tcpmux does not pass on checksums (3) and paddings (4)", EXTENSIONS
        )
    else:
        node.mapped("whatever pass_through_tlvs of listeners says; 112 bytes of them at most")
        return tuple(sorted({*types}))
    return ()


def _type(value: Any) -> int:
    return whole(int(value, 16) if str(value).lower().startswith("0x") else value, 1, 255)


def mark_sent(transport: Node, check: Check | None) -> None:
    """What tcpmux sends differently."""
    if check is not None:
        transport["name"].remark("checks name nobody in it; checks that only connect send none")
