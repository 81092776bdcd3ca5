"""Health checks."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace

from tcpmux.config.check import Check
from tcpmux.convert.envoy.servers import Servers
from tcpmux.convert.envoy.values import HARMLESS, enum, seconds, type_of
from tcpmux.convert.tree import Node, quoted

_LATER = "affects when a check runs, not its result"
_CLASSES = {
    "event_log_path": (HARMLESS, "logs", ""),
    "event_logger": (HARMLESS, "logs", ""),
    "event_log": (HARMLESS, "logs", ""),
    "always_log_health_check_failures": (HARMLESS, "logs", ""),
    "always_log_health_check_success": (HARMLESS, "logs", ""),
    "initial_jitter": (HARMLESS, _LATER, ""),
    "interval_jitter": (HARMLESS, _LATER, ""),
    "interval_jitter_percent": (HARMLESS, _LATER, ""),
    "reuse_connection": (HARMLESS, "tcpmux opens a new connection for each check", ""),
    "no_traffic_interval": (HARMLESS, "tcpmux uses the same interval with and without traffic", ""),
    "no_traffic_healthy_interval": (
        HARMLESS,
        "tcpmux uses the same interval with and without traffic",
        "",
    ),
}


def check_of(checks: Node, cluster: str, servers: Servers) -> Check | None:
    """None: there is none, or none that tcpmux can make."""
    found = list(checks) if checks else []
    for node in found[1:]:
        node.changes("tcpmux runs only the first check", "several checks")
    if not found:
        return None
    node = found[0]
    node.sort_out(_CLASSES)
    made = _kind(node, cluster, servers)
    if made is None:
        node.changes("tcpmux does not check these servers", "this kind of check")
        return None
    interval = seconds(node["interval"], 2.0)
    for key in ("unhealthy_interval", "unhealthy_edge_interval", "healthy_edge_interval"):
        if seconds(node[key], interval) != interval:
            node[key].changes("tcpmux checks a server that is down at the same interval as others")
    made = replace(
        made,
        interval=interval,
        fast_interval=interval,
        timeout=seconds(node["timeout"], 1.0),
        fall=node["unhealthy_threshold"].integer(3, 0),
        rise=node["healthy_threshold"].integer(2, 0),
        port=_port(node, servers),
    )
    return _within_limits(node, made)


def _within_limits(node: Node, made: Check) -> Check:
    for key, value in (("unhealthy_threshold", made.fall), ("healthy_threshold", made.rise)):
        if value > 100:
            node[key].changes("it is above 100, tcpmux's maximum")
    return replace(made, fall=min(max(made.fall, 1), 100), rise=min(max(made.rise, 1), 100))


def _port(node: Node, servers: Servers) -> int:
    """Another port than the servers' own, if all are checked on the same one."""
    ports = servers.check_ports
    if len(ports) > 1:
        node.changes(
            "tcpmux checks all servers of a cluster on the same port", "check ports per server"
        )
        return 0
    return next(iter(ports), 0)


def _kind(node: Node, cluster: str, servers: Servers) -> Check | None:
    if node["tcp_health_check"] or "tcp_health_check" in node.fields:
        return _tcp(node["tcp_health_check"])
    if node["http_health_check"]:
        return _http(node["http_health_check"], cluster, servers)
    custom = node["custom_health_check"]
    if custom and type_of(custom["typed_config"]) == "Redis":
        custom["name"].mapped()
        if custom["typed_config"]["key"]:
            custom["typed_config"]["key"].changes("tcpmux does not read a key", "checks of keys")
        return Check("redis")
    return None


def _tcp(node: Node) -> Check:
    node.mapped()
    sent, wanted = _payload(node["send"]), list(node["receive"]) if node["receive"] else []
    blocks = [_payload(block) for block in wanted]
    if not sent and not blocks:
        return Check("tcp")
    if len(blocks) < 2:
        return Check("send", send=sent, expect=b"".join(blocks))
    if all(block.isascii() for block in blocks):
        pattern = ".*".join(quoted(block.decode()) for block in blocks)
        return Check("send", send=sent, expect=f"(?s){pattern}".encode(), is_pattern=True)
    node["receive"].changes("tcpmux expects one text, or several that are ASCII")
    return Check("send", send=sent)


def _payload(node: Node) -> bytes:
    if "binary" in node.fields:
        return node["binary"].read(_base64, b"")
    return node["text"].read(_hex, b"")


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(str(value))
    except ValueError:
        raise ValueError("expected hexadecimal digits") from None


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected base64") from None


def _http(node: Node, cluster: str, servers: Servers) -> Check:
    path = node["path"].text("/")
    if not re.fullmatch(r"/[!-~]{0,1023}", path):
        node["path"].changes("tcpmux cannot request this path")
        path = "/"
    host = node["host"].text() or next(iter(servers.hostnames - {""}), "") or cluster
    if len(servers.hostnames) > 1 and not node["host"]:
        node.changes("tcpmux sends the same Host header to all servers of a cluster")
    if not re.fullmatch(r"[A-Za-z0-9.:_\[\]-]{1,255}", host):
        node["host"].changes("it is not a host name")
        host = ""
    if enum(node["method"], "GET") not in ("GET", "METHOD_UNSPECIFIED", "0", "1"):
        node["method"].changes("tcpmux sends only GET")
    if enum(node["codec_client_type"], "HTTP1") not in ("HTTP1", "0"):
        node["codec_client_type"].changes("tcpmux checks with HTTP/1.1", "HTTP/2")
    for key in ("request_headers_to_add", "request_headers_to_remove", "service_name_matcher"):
        if key in node.fields:
            node[key].changes("tcpmux sends only the path and a Host header", "headers in checks")
    node["retriable_statuses"].mapped("tcpmux counts every failure, up to unhealthy_threshold")
    return Check("http", path=path, host=host, status=_status(node["expected_statuses"]))


@dataclass(frozen=True, slots=True)
class _Range:
    start: int
    end: int  # not in it


def _status(node: Node) -> tuple[int, int]:
    ranges = sorted(
        (
            _Range(entry["start"].integer(0, 100, 599), entry["end"].integer(0, 101, 600))
            for entry in (node or ())
        ),
        key=lambda found: found.start,
    )
    if not ranges:
        return 200, 200
    first, last = ranges[0].start, ranges[0].end
    for found in ranges[1:]:
        if found.start > last:
            node.changes("tcpmux accepts a single range of statuses")
            break
        last = max(last, found.end)
    if last <= first:
        node.problem("expected an end greater than the start")
        return 200, 200
    return first, last - 1
