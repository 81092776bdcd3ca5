"""Envoy: PROXY headers of clients, and those that servers get."""

from __future__ import annotations

from typing import Any

import pytest

from tcpmux.config import ConfigError
from tcpmux.config.settings import AcceptProxy, SendProxy
from tests.convert.test_envoy import (
    CHECK,
    address,
    bootstrap,
    cluster,
    destination,
    found_of,
    rbac,
    refused,
    servers,
)

EVERY = ["0.0.0.0/0", "::/0"]
RAW = {"name": "envoy.transport_sockets.raw_buffer"}


def header(
    listener: dict[str, Any] | None = None, before: tuple[dict[str, Any], ...] = (), **config: Any
) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    entry = {"name": "first", "typed_config": {"@type": kind, **config}}
    return bootstrap(before=before, listener_filters=[entry], **(listener or {}))


def sending(inner: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.upstream_proxy_protocol",
        "typed_config": {"@type": "x", "transport_socket": inner or RAW, "config": config},
    }


def accepted(content: dict[str, Any]) -> AcceptProxy:
    (route,), changes = found_of(content)
    assert changes == []
    return route.policy.accept_proxy


def test_every_peer_has_to_send_a_header() -> None:
    found = accepted(header())
    assert [str(net) for net in found.senders] == EVERY
    assert (found.versions, found.timeout) == (3, 15)
    by_name = bootstrap(listener_filters=[{"name": "envoy.filters.listener.proxy_protocol"}])
    assert accepted(by_name) == found
    assert accepted(bootstrap()) == AcceptProxy()


@pytest.mark.parametrize(
    ("refused_", "versions"), [([], 3), (["V1"], 2), (["V2"], 1), ([1], 1), (["v1"], 2)]
)
def test_versions(refused_: list[Any], versions: int) -> None:
    assert accepted(header(disallowed_versions=refused_)).versions == versions


@pytest.mark.parametrize(
    ("said", "timeout"),
    [
        ({"listener_filters_timeout": "2.5s"}, 2.5),
        ({"listener_filters_timeout": "0s"}, 86400),  # Envoy waits for ever
        ({"continue_on_listener_filters_timeout": False}, 15),
    ],
)
def test_timeout(said: dict[str, Any], timeout: float) -> None:
    assert accepted(header(said)).timeout == timeout


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(allow_requests_without_proxy_protocol=True), "resets connections without a header"),
        (header(disallowed_versions=["V1", "V2"]), "at least one version"),
        (header({"continue_on_listener_filters_timeout": True}), "header is late"),
        (
            header(before=(rbac({"direct_remote_ip": {"address_prefix": "10.0.0.1"}}),)),
            "only rules by the client's address",
        ),
        (header(surprise=True), "does not know it"),
    ],
)
def test_headers_of_clients_that_differ(content: dict[str, Any], told: str) -> None:
    assert told in refused(content)


def test_rules_are_about_the_client_that_the_header_names() -> None:
    rule = rbac({"remote_ip": {"address_prefix": "10.0.0.1", "prefix_len": 32}})
    (route,), changes = found_of(header(before=(rule,)))
    assert changes == []
    assert [str(net) for net in route.policy.allow] == ["10.0.0.1/32"]


@pytest.mark.parametrize(
    ("said", "version"),
    [({}, 1), ({"version": "V1"}, 1), ({"version": "V2"}, 2), ({"version": 1}, 2)],
)
def test_header_to_servers(said: dict[str, Any], version: int) -> None:
    policy = destination(cluster(transport_socket=sending(**said), health_checks=CHECK)).policy
    assert policy.send_proxy == SendProxy(version)
    assert policy.check is not None
    assert policy.check.proxy == version


@pytest.mark.parametrize(
    ("of", "told"),
    [
        ({"transport_socket": sending(inner={"name": "envoy.tls"})}, "does not encrypt"),
        ({"transport_socket": sending(pass_through_tlvs={"match_type": 0})}, "whose types are"),
        (
            {
                "transport_socket": sending(
                    pass_through_tlvs={"match_type": "INCLUDE", "tlv_type": [3]}
                )
            },
            "checksums (3)",
        ),
        ({"transport_socket": sending(added_tlvs=[{"type": 7}])}, "values of yours"),
    ],
)
def test_headers_to_servers_that_differ(of: dict[str, Any], told: str) -> None:
    assert told in refused(bootstrap(of=cluster(**of)))


def test_unix_sockets_have_it_too() -> None:
    (route,), changes = found_of(header({"address": {"pipe": {"path": "/x"}}}))
    assert changes == []
    assert route.policy.accept_proxy.senders == ("unix",)
    unix = {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/x"}}}}]}
    assert destination(cluster(unix, transport_socket=sending())).policy.send_proxy.version == 1


@pytest.mark.parametrize(("version", "passed"), [("V1", ()), ("V2", (0x01, 0xEA))])
def test_extensions_that_are_passed_on(version: str, passed: tuple[int, ...]) -> None:
    tlvs = {"match_type": "INCLUDE", "tlv_type": [0xEA, 1, 0xEA]}
    of = cluster(transport_socket=sending(version=version, pass_through_tlvs=tlvs))
    assert destination(of).policy.send_proxy.passed == passed


def test_checks_of_another_port_get_one() -> None:
    locality = servers(19101)
    locality["lb_endpoints"][0]["endpoint"]["health_check_config"] = {"port_value": 19102}
    of = cluster(locality, transport_socket=sending(), health_checks=CHECK)
    check = destination(of).policy.check
    assert check is not None
    assert (check.port, check.proxy) == (19102, 1)


@pytest.mark.parametrize(
    "socket",
    [
        sending(version="V3"),
        {**sending(), "typed_config": {"@type": "x"}},  # without what the header goes out by
    ],
)
def test_what_envoy_refuses(socket: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        found_of(bootstrap(of=cluster(transport_socket=socket)))


def test_a_listener_that_is_not_opened_says_nothing_of_its_header() -> None:
    content = header({"address": address(1, protocol="UDP")})
    routes, changes = found_of(content)
    assert routes == []
    assert not any("header" in told for told in changes)
