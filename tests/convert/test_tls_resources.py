"""Routes by the name that clients of TLS ask for, of Istio and of the Gateway API: rules, in which
the most specific name comes first."""

from __future__ import annotations

from typing import Any

import pytest

from tcpmux.config import Config
from tests.convert.resources import (
    MAPPED,
    PLAIN,
    class_of,
    loaded,
    refusal,
    resource,
    servers,
    to,
    virtual,
)
from tests.convert.routes import rules_of


def gateway(*hosts: str, port: int = 1000, **server: Any) -> dict[str, Any]:
    spec = servers(port, protocol="TLS", hosts=hosts or ("*",))
    spec["servers"][0] |= {"tls": {"mode": "PASSTHROUGH"}, "bind": "127.0.0.1"} | server
    return resource("Gateway", "g", spec)


def service(*names: str, host: str = "db.example.org", **others: Any) -> dict[str, Any]:
    return {"match": [{"sniHosts": [*names], **others}], "route": [to(host)]}


def virtual_tls(*rules: dict[str, Any], hosts: tuple[str, ...] = ("*",), name: str = "d") -> Any:
    spec = {"hosts": [*hosts], "gateways": ["g"], "tls": [*rules]}
    return resource("VirtualService", name, spec)


def rules(config: Config) -> list[str]:
    """Of the only route: `CONDITIONS -> WEIGHTS`."""
    (route,) = config.routes
    return rules_of(route)


RESET = "every connection -> reset"


def test_names_of_several_rules_are_sorted_and_the_rest_is_reset() -> None:
    one = virtual_tls(service("*.x.org", host="a"), service("b.x.org", "*.b.x.org", host="b"))
    assert rules(loaded(gateway(), one)) == [
        "sni b.x.org, *.b.x.org -> b=1",
        "sni *.x.org -> a=1",
        RESET,
    ]


def test_two_services_on_a_port_are_one_route_that_has_the_gateways_name() -> None:
    both = virtual_tls(service("a.org", host="a")), virtual_tls(service("b.org"), name="e")
    config = loaded(gateway(), *both)
    assert rules(config) == ["sni a.org -> a=1", "sni b.org -> db=1", RESET]
    assert [route.name for route in config.routes] == ["g-1000"]
    assert not config.warnings


def test_a_service_may_have_rules_for_tcp_and_tls() -> None:
    spec = gateway()["spec"]["servers"] + servers(1001)["servers"]
    one = resource("VirtualService", "d", virtual(tls=[service("a.org")]))
    config = loaded(resource("Gateway", "g", {"servers": spec}), one)
    assert [(r.name, len(r.rules)) for r in config.routes] == [("d", 0), ("d-1000", 2)]


def test_weights_of_a_name() -> None:
    route = [to("a", weight=90), to("b", weight=10)]
    one = virtual_tls({"match": [{"sniHosts": ["x.org"]}], "route": route})
    assert rules(loaded(gateway(), one)) == ["sni x.org -> a=90 b=10", RESET]


def test_a_name_for_any_client_of_tls() -> None:
    one = virtual_tls(service("*", host="rest"), service("a.org", host="a"))
    assert rules(loaded(gateway(), one)) == ["sni a.org -> a=1", "tls true -> rest=1", RESET]


def test_the_first_of_two_equal_names_has_it_and_that_is_told() -> None:
    config = loaded(gateway(), virtual_tls(service("a.org", host="a"), service("a.org", host="b")))
    assert rules(config) == ["sni a.org -> a=1", RESET]
    assert "already has this name" in str(config.warnings)


def test_a_source_beside_a_name() -> None:
    one = virtual_tls(
        service("a.org", host="office", sourceSubnet="10.0.0.0/8"), service("a.org", host="a")
    )
    assert rules(loaded(gateway(), one)) == [
        "source 10.0.0.0/8; sni a.org -> office=1",
        "sni a.org -> a=1",
        RESET,
    ]


@pytest.mark.parametrize("mode", ["SIMPLE", "MUTUAL", "ISTIO_MUTUAL", "AUTO_PASSTHROUGH"])
def test_tls_that_the_gateway_ends_is_not_opened(mode: str) -> None:
    other = servers(1001)["servers"][0]
    spec = gateway(tls={"mode": mode})["spec"]
    spec["servers"].append(other)
    both = resource("Gateway", "g", spec), resource("VirtualService", "d", virtual())
    config = loaded(*both)
    assert [str(at) for route in config.routes for at in route.listen] == ["[::]:1001"]
    assert "port 1000 is not opened" in str(config.warnings)


def test_a_server_that_no_rule_uses_is_told() -> None:
    spec = gateway()["spec"]["servers"] + servers(1001)["servers"]
    both = resource("Gateway", "g", {"servers": spec}), resource("VirtualService", "d", virtual())
    assert "no VirtualService has tls rules for it: port 1000" in str(loaded(*both).warnings)


def test_a_name_that_is_not_of_the_hosts_is_refused_as_by_istio() -> None:
    said = refusal(gateway(), virtual_tls(service("a.org"), hosts=("b.org", "*.c.org")))
    assert "expected a name among the hosts b.org, *.c.org, got a.org" in said
    assert rules(loaded(gateway(), virtual_tls(service("a.c.org"), hosts=("*.c.org",))))


@pytest.mark.parametrize("name", ["a..org", "*.", "a b", "*x.org", "1" * 300])
def test_what_is_no_name_is_a_mistake(name: str) -> None:
    assert "expected a host name" in refusal(gateway(), virtual_tls(service(name)))


@pytest.mark.parametrize(
    ("subnets", "expected"),
    [
        (["10.0.0.0/8"], "b"),
        (["127.0.0.0/8"], "a"),
        (["0.0.0.0/0"], "a"),
        (["fd00::/8", "127.0.0.1"], "a"),
    ],
)
def test_destination_subnets_say_whether_the_listener_is_meant(
    subnets: list[str], expected: str
) -> None:
    spec = servers(1000)
    spec["servers"][0]["bind"] = "127.0.0.1"
    tcp = [
        {"match": [{"destinationSubnets": subnets}], "route": [to("a")]},
        {"route": [to("b")]},
    ]
    both = resource("Gateway", "g", spec), resource("VirtualService", "d", virtual(tcp=tcp))
    (route,) = loaded(*both).routes
    assert [d.name for d in route.destinations] == [expected]
    assert not route.rules


def plain(tcp: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return PLAIN[0], resource("VirtualService", "d", virtual(tcp=tcp))


def test_sources_of_rules_for_tcp() -> None:
    """In order; the destination of a rule without conditions has the route's weight."""
    tcp = [
        {"match": [{"sourceSubnet": "10.0.0.0/8"}, {"sourceSubnet": "::1"}], "route": [to("a")]},
        {"match": [{"port": 1}], "route": [to("never")]},
        {"route": [to("b")]},
    ]
    both = (
        resource("Gateway", "g", servers(1000)),
        resource("VirtualService", "d", virtual(tcp=tcp)),
    )
    config = loaded(*both)
    assert rules(config) == ["source 10.0.0.0/8, ::1/128 -> a=1"]
    assert [(d.name, d.weight) for d in config.routes[0].destinations] == [("a", 0), ("b", 100)]
    assert class_of("sourceSubnet: 10.0.0.0/8", *both) == MAPPED


def test_what_no_rule_for_tcp_matches_is_reset() -> None:
    tcp = [{"match": [{"sourceSubnet": "10.0.0.0/8"}], "route": [to("a")]}]
    both = (
        resource("Gateway", "g", servers(1000)),
        resource("VirtualService", "d", virtual(tcp=tcp)),
    )
    assert rules(loaded(*both)) == ["source 10.0.0.0/8 -> a=1", RESET]


@pytest.mark.parametrize("subnet", ["10.0.0.0/33", "x", "", 5, None])
def test_what_is_no_network_is_a_mistake(subnet: Any) -> None:
    tcp = [{"match": [{"destinationSubnets": [subnet]}], "route": [to("a")]}]
    both = (
        resource("Gateway", "g", servers(1000)),
        resource("VirtualService", "d", virtual(tcp=tcp)),
    )
    assert "expected a network" in refusal(*both)


# --- the Gateway API ------------------------------------------------------------------------------


def listening(*hosts: str, mode: str = "Passthrough", **others: Any) -> dict[str, Any]:
    """A Gateway with a listener for each host; "" = for all."""
    listeners = [
        {"name": f"l{at}", "port": 1000, "protocol": "TLS", "tls": {"mode": mode}, **others}
        | ({"hostname": host} if host else {})
        for at, host in enumerate(hosts)
    ]
    return resource("ApiGateway", "g", {"gatewayClassName": "c", "listeners": listeners})


def tls_route(*hosts: str, to: str = "a", name: str = "r", **others: Any) -> dict[str, Any]:
    spec = {"parentRefs": [{"name": "g"}], "hostnames": [*hosts]}
    rule = {"backendRefs": [{"name": to, "port": 1}]}
    return resource("TLSRoute", name, {**spec, "rules": [rule], **others})


SERVICES = [resource("Service", name, {"ports": [{"port": 1}]}) for name in "abc"]


def tls_rules(*resources: dict[str, Any]) -> list[str]:
    return rules(loaded(*resources, *SERVICES))


@pytest.mark.parametrize("version", ["v1", "v1alpha2", "v1alpha3"])
def test_a_tls_route_of_any_version(version: str) -> None:
    route = tls_route("x.org") | {"apiVersion": f"gateway.networking.k8s.io/{version}"}
    assert tls_rules(listening(""), route) == ["sni x.org -> a=1", RESET]


@pytest.mark.parametrize(
    ("host", "name", "common"),
    [
        ("", "x.org", "x.org"),
        ("x.org", "x.org", "x.org"),
        ("x.org", "*.org", "x.org"),
        ("*.org", "a.x.org", "a.x.org"),
        ("*.x.org", "*.org", "*.x.org"),
        ("*.org", "*.x.org", "*.x.org"),
        ("X.org", "x.ORG", "x.org"),
    ],
)
def test_the_names_that_listener_and_route_have_in_common(
    host: str, name: str, common: str
) -> None:
    found = tls_rules(listening(host), tls_route(name))
    assert found[0] == f"sni {common} -> a=1"
    assert found[-1] == RESET


@pytest.mark.parametrize(("host", "name"), [("x.org", "y.org"), ("*.x.org", "x.org")])
def test_no_name_in_common_means_not_accepted(host: str, name: str) -> None:
    listener = listening(host, "")
    one = tls_route(name, parentRefs=[{"name": "g", "sectionName": "l0"}])
    config = loaded(listener, one, tls_route("z.org", name="other"), *SERVICES)
    assert [a.accepted for a in config.attachments] == ["NoMatchingListenerHostname", "Accepted"]
    assert rules(config)[-2:] == ["sni z.org -> a=1", RESET]


def test_a_connection_is_of_the_most_specific_listener_alone() -> None:
    """One that no route of that listener takes does not get to another's."""
    both = [
        tls_route("a.x.org", to="a", parentRefs=[{"name": "g", "sectionName": "l1"}]),
        tls_route("b.x.org", to="b", name="s", parentRefs=[{"name": "g", "sectionName": "l0"}]),
    ]
    assert tls_rules(listening("", "*.x.org"), *both) == [
        "sni a.x.org -> a=1",
        "sni *.x.org -> reset",
        "sni b.x.org -> b=1",
        RESET,
    ]


def test_the_oldest_route_has_a_name_that_two_have() -> None:
    old = tls_route("x.org", to="b", name="z")
    old["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    new = tls_route("x.org", to="a", name="a")
    new["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    config = loaded(listening(""), new, old, *SERVICES)
    assert rules(config) == ["sni x.org -> b=1", RESET]
    assert "has precedence: it has x.org" in str(config.warnings)


def test_several_rules_of_a_route_are_of_the_first() -> None:
    backends = [{"backendRefs": [{"name": name, "port": 1, "weight": 3}]} for name in "bc"]
    config = loaded(listening(""), tls_route("x.org", rules=backends), *SERVICES)
    assert rules(config) == ["sni x.org -> b=1", RESET]
    assert "no connection can reach this rule" in str(config.warnings)


def test_backends_that_are_missing_have_their_share_reset() -> None:
    backends = [{"name": "a", "port": 1, "weight": 3}, {"name": "gone", "port": 1}]
    config = loaded(listening(""), tls_route("x.org", rules=[{"backendRefs": backends}]), *SERVICES)
    assert rules(config) == ["sni x.org -> a=3 gone=1", RESET]
    assert config.routes[0].policy.on_unavailable == "reject"
    assert [a.resolved for a in config.attachments] == ["BackendNotFound"]


def test_a_single_backend_without_weight_gets_nothing() -> None:
    backends = [{"name": "a", "port": 1, "weight": 0}]
    config = loaded(listening(""), tls_route("x.org", rules=[{"backendRefs": backends}]), *SERVICES)
    assert rules(config) == ["sni x.org -> a=0", RESET]
    assert "every connection is reset until one has weight" in str(config.warnings)


def test_a_route_without_names_takes_those_of_the_listener() -> None:
    assert tls_rules(listening(""), tls_route()) == ["tls true -> a=1", RESET]
    assert tls_rules(listening("x.org"), tls_route())[0] == "sni x.org -> a=1"


@pytest.mark.parametrize("mode", ["Terminate", ""])
def test_a_listener_that_ends_tls_takes_no_route(mode: str) -> None:
    tls = {"tls": {"mode": mode} if mode else {"certificateRefs": [{"name": "c"}]}}
    tcp = {"name": "t", "port": 1001, "protocol": "TCP"}
    ended = {**tcp, "name": "u", "port": 1000, "protocol": "TLS", **tls}
    spec = {"gatewayClassName": "c", "listeners": [ended, tcp]}
    tcp_route = resource("TCPRoute", "p", {"parentRefs": [{"name": "g"}], "rules": [
        {"backendRefs": [{"name": "b", "port": 1}]}]})  # fmt: skip
    found = loaded(resource("ApiGateway", "g", spec), tls_route("x.org"), tcp_route, *SERVICES)
    assert [str(at) for route in found.routes for at in route.listen] == ["[::]:1001"]
    assert [a.accepted for a in found.attachments] == ["NotAllowedByListeners", "Accepted"]
    assert "port 1000 is not opened" in str(found.warnings)


@pytest.mark.parametrize("name", ["*", "a..b", "*x.org", "ü.org"])
def test_what_is_no_hostname_is_a_mistake(name: str) -> None:
    assert "expected a host name" in refusal(listening(""), tls_route(name), *SERVICES)
    assert class_of("hostname: x.org", listening("x.org"), tls_route("x.org"), *SERVICES) == MAPPED


def test_a_tcp_route_does_not_get_to_a_listener_of_tls() -> None:
    both = listening(""), tls_route("x.org")
    tcp_route = resource("TCPRoute", "p", {"parentRefs": [{"name": "g"}], "rules": [
        {"backendRefs": [{"name": "b", "port": 1}]}]})  # fmt: skip
    config = loaded(*both, tcp_route, *SERVICES)
    assert len(config.routes) == 1
    assert config.attachments[-1].accepted == "NotAllowedByListeners"
