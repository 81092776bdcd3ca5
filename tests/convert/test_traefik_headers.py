"""Traefik: PROXY headers of an entry point's clients, and those that servers get."""

from __future__ import annotations

from typing import Any

import pytest

from tcpmux.config import ConfigError
from tcpmux.config.settings import DestinationPolicy, SendProxy
from tests.convert.test_traefik import dynamic, found_of, route_of


def static(header: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        **dynamic(),
        "entryPoints": {"db": {"address": "127.0.0.1:1", "proxyProtocol": header, **more}},
    }


def policy(balancer: dict[str, Any], transport: dict[str, Any] | None = None) -> DestinationPolicy:
    more = {"serversTransports": {"t": transport}} if transport is not None else {}
    named = {"serversTransport": "t"} if transport is not None else {}
    content = dynamic(balancer={**balancer, **named}, more=more)
    return route_of(content).destinations[0].policy


@pytest.mark.parametrize(
    ("header", "senders", "told"),
    [
        ({"trustedIPs": ["10.0.0.1"]}, ["10.0.0.1/32"], "removes the others"),
        ({"trustedIPs": ["fd00::/8"]}, ["fd00::/8"], "removes the others"),
        ({"insecure": True}, ["0.0.0.0/0", "::/0"], "resets connections without a header"),
        (
            {"insecure": True, "trustedIPs": ["10.0.0.1"]},
            ["0.0.0.0/0", "::/0"],
            "resets connections without a header",
        ),
    ],
)  # fmt: skip
def test_headers_that_traefik_does_not_require(
    header: dict[str, Any], senders: list[str], told: str
) -> None:
    (route,), changes = found_of(static(header))
    assert [str(net) for net in route.policy.accept_proxy.senders] == senders
    assert len(changes) == 1
    assert told in changes[0]


@pytest.mark.parametrize(("given", "timeout"), [(None, 60), ("10s", 10), (5, 5), ("0s", 86400)])
def test_timeout_of_the_header(given: Any, timeout: float) -> None:
    transport = {"respondingTimeouts": {"readTimeout": given} if given is not None else {}}
    (route,), _ = found_of(static({"insecure": True}, transport=transport))
    assert route.policy.accept_proxy.timeout == timeout


@pytest.mark.parametrize("header", [{"insecure": False}, {"trustedIPs": ["x"]}])
def test_what_traefik_refuses(header: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        found_of(static(header))


def test_entry_points_that_differ_in_headers_are_two_routes() -> None:
    content = static({"insecure": True})
    content["entryPoints"]["plain"] = {"address": "127.0.0.1:2"}
    limit = {"middlewares": {"m": {"inFlightConn": {"amount": 5}}}}
    content["tcp"] |= limit
    routes, changes = found_of(content)
    assert [bool(route.policy.accept_proxy.senders) for route in routes] == [True, False]
    content["tcp"]["routers"]["db"]["middlewares"] = ["m"]
    _, with_limit = found_of(content)
    assert len(with_limit) == len(changes) + 1


@pytest.mark.parametrize(
    ("balancer", "transport", "version"),
    [
        ({}, None, 0),
        ({"proxyProtocol": {}}, None, 2),
        ({"proxyProtocol": {"version": 1}}, None, 1),
        ({}, {"proxyProtocol": {"version": 1}}, 1),
        ({"proxyProtocol": {"version": 1}}, {"proxyProtocol": {}}, 2),
        ({"proxyProtocol": {"version": 1}}, {"dialTimeout": "3s"}, 0),
    ],
)
def test_header_to_servers(
    balancer: dict[str, Any], transport: dict[str, Any] | None, version: int
) -> None:
    """A serversTransport that is named decides it, also by saying nothing."""
    assert policy(balancer, transport).send_proxy == SendProxy(version)


def test_a_version_that_traefik_refuses() -> None:
    with pytest.raises(ConfigError):
        policy({"proxyProtocol": {"version": 3}})


def test_checks_that_send_something_have_no_header_in_traefik() -> None:
    health = {"send": "PING"}
    found = policy({"proxyProtocol": {}, "healthCheck": health})
    assert found.check is not None
    assert (found.check.proxy, found.send_proxy.version) == (0, 2)
