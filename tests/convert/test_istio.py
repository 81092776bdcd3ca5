"""Istio's resources: what comes of them, and which values change traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tcpmux.cli.app import cli
from tcpmux.config import Config
from tcpmux.config.settings import SendProxy
from tcpmux.convert.resources import convert_own
from tests.convert.resources import (
    CHANGES,
    HARMLESS,
    MAPPED,
    PLAIN,
    class_of,
    endpoints,
    loaded,
    refusal,
    resource,
    servers,
    text,
    to,
    virtual,
)


@pytest.mark.parametrize("protocol", ["TCP", "MONGO", "MYSQL", "REDIS", "tcp", "Mongo"])
def test_protocols_that_are_tcp_to_istio(protocol: str) -> None:
    gateway = resource("Gateway", "g", servers(1000, protocol=protocol))
    config = loaded(gateway, resource("VirtualService", "db", virtual()))
    assert [str(a) for a in config.routes[0].listen] == ["[::]:1000"]


@pytest.mark.parametrize("protocol", ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "UDP"])
def test_another_protocol_beside_tcp_is_told_and_not_opened(protocol: str) -> None:
    gateway = resource("Gateway", "g", servers(1000))
    other = servers(1001, protocol=protocol)["servers"][0]
    gateway["spec"]["servers"].append(other)
    config = loaded(gateway, resource("VirtualService", "db", virtual()))
    assert [str(a) for a in config.routes[0].listen] == ["[::]:1000"]
    (warning,) = config.warnings
    assert "port 1001 is not opened" in warning.message
    assert (
        class_of("number: 1001", gateway, resource("VirtualService", "db", virtual())) == HARMLESS
    )


def test_a_protocol_that_nobody_knows_is_a_mistake() -> None:
    gateway = resource("Gateway", "g", servers(1000, protocol="TPC"))
    said = refusal(gateway, resource("VirtualService", "db", virtual()))
    assert "spec.servers[0].port.protocol: expected one of TCP, MONGO" in said
    assert "got TPC" in said


def test_a_tcp_server_with_tls_is_not_opened_as_plain_tcp() -> None:
    gateway = resource("Gateway", "g", servers(1000))
    gateway["spec"]["servers"][0]["tls"] = {"mode": "SIMPLE", "credentialName": "c"}
    said = refusal(gateway, resource("VirtualService", "db", virtual()))
    assert "TLS is not supported yet: port 1000 is not opened" in said
    assert "no route for TCP remains" in said


@pytest.mark.parametrize(
    ("server", "service", "namespace", "is_taken"),
    [
        ("*", "*", "shop", True),
        ("db.example.org", "*", "shop", True),
        ("*.example.org", "db.example.org", "shop", True),
        ("db.example.org", "other.example.org", "shop", False),
        ("*.example.org", "*.org", "shop", True),
        ("infra/*", "*", "shop", False),
        ("shop/*", "*", "shop", True),
        ("./*", "*", "infra", True),
        ("./*", "*", "shop", False),
        ("*/db.example.org", "db.example.org", "shop", True),
    ],
)
def test_hosts_of_a_server_say_whose_rules_it_takes(
    server: str, service: str, namespace: str, is_taken: bool
) -> None:
    gateway = resource("Gateway", "g", servers(1000, hosts=(server,)), namespace="infra")
    spec = virtual(hosts=[service], gateways=["infra/g"])
    both = gateway, resource("VirtualService", "db", spec, namespace=namespace)
    if is_taken:
        assert loaded(*both).routes
    else:
        assert "no port of its gateways matches any of these rules" in refusal(*both)


def test_rules_for_sidecars_get_the_reason() -> None:
    spec = {"hosts": ["cache"], "tcp": [{"route": [to("cache", 6379)]}]}
    said = refusal(resource("VirtualService", "cache", spec))
    assert "without gateways, it applies to sidecars: use --mesh to listen" in said
    assert "no route for TCP remains" in said


MESH = resource(
    "VirtualService", "m", {"hosts": ["cache"], "tcp": [{"route": [to("cache", 6379)]}]}
)
PORTS = [
    {"name": "redis", "port": 6379},
    {"name": "plain", "port": 7000},
    {"name": "http-admin", "port": 8080},
    {"name": "x", "port": 8443, "appProtocol": "https"},
    {"name": "udp-x", "port": 9000, "protocol": "UDP"},
]


def test_mesh_listens_on_the_ports_of_tcp_that_its_hosts_have() -> None:
    service = resource("Service", "cache", {"ports": PORTS})
    config = loaded(MESH, service, given=("mesh:127.0.0.1",))
    listen = [str(a) for route in config.routes for a in route.listen]
    assert listen == ["127.0.0.1:6379", "127.0.0.1:7000"]


def test_mesh_listens_on_the_ports_of_its_rules_where_no_file_knows_the_host() -> None:
    assert [str(a) for a in loaded(MESH, given=("mesh:10.0.0.1",)).routes[0].listen] == [
        "10.0.0.1:6379"
    ]


def test_mesh_may_have_an_address_for_each_host() -> None:
    other = resource(
        "VirtualService", "o", {"hosts": ["other"], "tcp": [{"route": [to("other", 6379)]}]}
    )
    config = loaded(MESH, other, given=("mesh:127.0.0.1", "mesh:other=::1"))
    assert [str(r.listen[0]) for r in config.routes] == ["127.0.0.1:6379", "[::1]:6379"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("mesh:localhost",), "--mesh: expected ADDRESS or HOST=ADDRESS with an IP address"),
        (("mesh:127.0.0.1:80",), "--mesh: expected ADDRESS or HOST=ADDRESS with an IP address"),
        (
            ("mesh:127.0.0.1", "mesh:nobody=::1"),
            "--mesh: no VirtualService of nobody applies to sidecars",
        ),
    ],
)
def test_mistakes_with_mesh(given: tuple[str, ...], message: str) -> None:
    assert message in refusal(MESH, given=given)


def test_mesh_in_vain_is_a_mistake() -> None:
    gateway = resource("Gateway", "g", servers(1000))
    said = refusal(gateway, resource("VirtualService", "d", virtual()), given=("mesh:127.0.0.1",))
    assert said == "--mesh: no VirtualService applies to sidecars"


@pytest.mark.parametrize("word", ["check", "convert"])
def test_mesh_alone_on_the_command_line_is_the_loopback_address(word: str, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text(MESH).content)
    command = [word, "-c", str(file), "--mesh", "--endpoint", "cache=127.0.0.1:19101"]
    result = CliRunner().invoke(cli, command)
    assert "127.0.0.1:6379" in result.stdout, result.output


def service_entry(*weights: int) -> dict[str, Any]:
    found = [{"address": f"10.0.0.{n}", "weight": weight} for n, weight in enumerate(weights, 1)]
    return resource(
        "ServiceEntry",
        "e",
        {
            "hosts": ["db.example.org"],
            "ports": [{"number": 5432, "name": "tcp", "protocol": "TCP"}],
            "resolution": "STATIC",
            "endpoints": found,
        },
    )


@pytest.mark.parametrize(
    ("weights", "turns"),
    [((600, 200), (3, 1)), ((1000, 1000), (1, 1)), ((250, 251), (250, 251)), ((0, 2), (1, 2))],
)
def test_weights_of_workloads_are_scaled_exactly(
    weights: tuple[int, ...], turns: tuple[int, ...]
) -> None:
    gateway, spec = resource("Gateway", "g", servers(1000)), virtual()
    config = loaded(gateway, resource("VirtualService", "d", spec), service_entry(*weights))
    found = endpoints(config)["db"]
    assert [found.count(f"10.0.0.{n}:5432") for n in (1, 2)] == list(turns)
    assert not config.warnings


def test_weights_that_cannot_be_had_exactly_are_told() -> None:
    gateway, spec = resource("Gateway", "g", servers(1000)), virtual()
    config = loaded(gateway, resource("VirtualService", "d", spec), service_entry(1001, 500))
    assert [w.message for w in config.warnings] == ["its weights are rounded to 2 to 1"]


def rule(host: str, name: str = "r", **policy: Any) -> dict[str, Any]:
    return resource("DestinationRule", name, {"host": host, "trafficPolicy": policy})


def with_rule(*rules: dict[str, Any], host: str = "db") -> Config:
    gateway = resource("Gateway", "g", servers(1000), namespace="shop")
    service = resource("VirtualService", "d", virtual(host), namespace="shop")
    return loaded(gateway, service, *rules)


@pytest.mark.parametrize(
    ("host", "namespace"),
    [
        ("db", "shop"),
        ("db.shop.svc.cluster.local", "other"),
        ("db.shop.svc", "other"),
        ("*.shop.svc.cluster.local", "other"),
        ("*.local", "other"),
    ],
)
def test_a_destination_rule_is_found_by_any_name_of_its_host(host: str, namespace: str) -> None:
    one = rule(host, connectionPool={"tcp": {"connectTimeout": "3s"}})
    one["metadata"]["namespace"] = namespace
    assert with_rule(one).routes[0].destinations[0].connect_timeout == 3.0


@pytest.mark.parametrize("host", ["db", "other.shop", "*.other.svc.cluster.local"])
def test_a_destination_rule_of_another_host_says_nothing(host: str) -> None:
    one = rule(host, tls={"mode": "SIMPLE"})  # would be refused
    one["metadata"]["namespace"] = "elsewhere"
    config = with_rule(one)
    assert config.routes[0].destinations[0].connect_timeout == 10.0
    assert not config.warnings


@pytest.mark.parametrize(
    ("said", "errors"),
    [
        ({}, 5),
        ({"consecutive5xxErrors": 3}, 3),
        ({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2}, 2),
        ({"consecutive5xxErrors": 7, "consecutiveGatewayErrors": 2}, 2),
        ({"consecutive5xxErrors": 0}, 0),
        ({"consecutiveLocalOriginFailures": 9}, 5),
        ({"consecutiveLocalOriginFailures": 9, "splitExternalLocalOriginErrors": True}, 9),
        ({"consecutive5xxErrors": 1, "splitExternalLocalOriginErrors": True}, 5),
    ],
)
def test_failures_that_eject_an_endpoint(said: dict[str, Any], errors: int) -> None:
    config = with_rule(rule("db.shop.svc.cluster.local", outlierDetection=said))
    assert config.routes[0].destinations[0].policy.passive.errors == errors


LEVEL = {"port": {"number": 5432}, "loadBalancer": {"simple": "RANDOM"}}
POLICIES: list[tuple[str, dict[str, Any], str]] = [
    ("simple: PASSTHROUGH", {"loadBalancer": {"simple": "PASSTHROUGH"}}, CHANGES),
    ("simple: RANDOM", {"loadBalancer": {"simple": "RANDOM"}}, MAPPED),
    ("enabled: true", {"loadBalancer": {"localityLbSetting": {"enabled": True}}}, CHANGES),
    ("enabled: false", {"loadBalancer": {"localityLbSetting": {"enabled": False}}}, HARMLESS),
    ("minimumRingSize", {"loadBalancer": {"consistentHash": {"minimumRingSize": 9}}}, HARMLESS),
    ("httpHeaderName", {"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}, CHANGES),
    ("mode: SIMPLE", {"tls": {"mode": "SIMPLE"}}, CHANGES),
    ("mode: DISABLE", {"tls": {"mode": "DISABLE"}}, HARMLESS),
    ("sni: x", {"tls": {"mode": "MUTUAL", "sni": "x"}}, CHANGES),
    ("maxRetries", {"connectionPool": {"http": {"maxRetries": 3}}}, HARMLESS),
    ("connectTimeout", {"connectionPool": {"tcp": {"connectTimeout": "3s"}}}, MAPPED),
    ("version: V1", {"proxyProtocol": {"version": "V1"}}, MAPPED),
    ("targetHost", {"tunnel": {"targetHost": "x", "targetPort": 1}}, CHANGES),
    ("simple: RANDOM", {"portLevelSettings": [LEVEL]}, MAPPED),
]


@pytest.mark.parametrize(("word", "policy", "effect"), POLICIES, ids=[p[0] for p in POLICIES])
def test_class_of_a_traffic_policy(word: str, policy: dict[str, Any], effect: str) -> None:
    assert class_of(word, *PLAIN, rule("db.example.org", **policy)) == effect


def test_a_rule_that_no_route_needs_has_no_effect() -> None:
    assert class_of("mode: SIMPLE", *PLAIN, rule("else", tls={"mode": "SIMPLE"})) == HARMLESS


@pytest.mark.parametrize(
    "match",
    [
        {"sourceLabels": {"app": "a"}},
        {"sourceNamespace": "n"},
        {"destinationSubnets": ["10.0.0.0/8"]},
    ],
    ids=str,
)
def test_a_match_that_tcpmux_lacks_is_refused_and_its_destination_left_out(
    match: dict[str, Any],
) -> None:
    gateway = resource("Gateway", "g", servers(1000))
    spec = virtual(
        tcp=[{"match": [match], "route": [to("a.example.org")]}, {"route": [to("b.example.org")]}]
    )
    both = gateway, resource("VirtualService", "d", spec)
    assert "tcpmux does not know" in refusal(*both) or "give the server a `bind`" in refusal(*both)
    found = convert_own([text(*both)])
    assert len(found.changes) == 2  # the match, and what it leads to
    assert "a.example.org" not in found.text.split("routes:")[1].split("listen")[1]
    assert "b.example.org:5432" in found.text


def layered(port: int | None, subset: str | None = None) -> float:
    """The connect timeout of a destination, for which there are four."""

    def pool(seconds: int) -> dict[str, Any]:
        return {"connectionPool": {"tcp": {"connectTimeout": f"{seconds}s"}}}

    levels = [{"port": {"number": 1}, **pool(2)}, {"port": {"number": 2}, "loadBalancer": {}}]
    subsets = [
        {"name": "own", "trafficPolicy": pool(3)},
        {"name": "more", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 7}}}},
        {"name": "none"},
        {"name": "port", "trafficPolicy": {"portLevelSettings": [{"port": {"number": 1}}]}},
    ]
    spec = {"host": "db", "subsets": subsets, "trafficPolicy": pool(1)}
    spec["trafficPolicy"] = pool(1) | {"portLevelSettings": levels}
    target: dict[str, Any] = {"host": "db", "port": {"number": port}}
    target |= {"subset": subset} if subset else {}
    config = loaded(
        resource("Gateway", "g", servers(1000)),
        resource("VirtualService", "v", virtual(tcp=[{"route": [{"destination": target}]}])),
        resource("DestinationRule", "d", spec),
        given=(f"db/{subset}=127.0.0.1:1" if subset else "db=127.0.0.1:1",),
    )
    return config.routes[0].destinations[0].connect_timeout


@pytest.mark.parametrize(
    ("port", "subset", "seconds"),
    [
        (9, None, 1),
        (1, None, 2),
        (2, None, 10),  # the port's settings leave it out: the default, not the host's
        (9, "own", 3),
        (1, "own", 3),
        (9, "more", 10),  # a subset's pool replaces that of the host as a whole
        (9, "none", 1),
        (1, "none", 2),
        (1, "port", 10),
        (9, "port", 1),
    ],
)
def test_which_of_the_layers_of_a_rule_holds(port: int, subset: str | None, seconds: int) -> None:
    assert layered(port, subset) == seconds


@pytest.mark.parametrize(
    ("host", "subset", "version"),
    [
        (None, None, 0),
        ({}, None, 1),
        ({"version": "V2"}, None, 2),
        ({"version": "V2"}, {"version": "V1"}, 1),
        (None, {"version": "V2"}, 2),
    ],
)
def test_the_header_to_servers(host: Any, subset: Any, version: int) -> None:
    """A subset's replaces that of the host; settings of a port leave it as it is."""
    levels = [{"port": {"number": 1}, "connectionPool": {"tcp": {"connectTimeout": "1s"}}}]
    policy = {"portLevelSettings": levels} | ({} if host is None else {"proxyProtocol": host})
    own = {} if subset is None else {"trafficPolicy": {"proxyProtocol": subset}}
    spec = {"host": "db", "subsets": [{"name": "s", **own}], "trafficPolicy": policy}
    target = {"host": "db", "port": {"number": 1}, "subset": "s"}
    config = loaded(
        resource("Gateway", "g", servers(1000)),
        resource("VirtualService", "v", virtual(tcp=[{"route": [{"destination": target}]}])),
        resource("DestinationRule", "d", spec),
        given=("db/s=127.0.0.1:1",),
    )
    made = config.routes[0].destinations[0].policy
    assert (made.send_proxy, made.connect_timeout) == (SendProxy(version), 1)


def test_a_version_of_the_header_that_istio_does_not_have() -> None:
    assert "version" in refusal(*PLAIN, rule("db.example.org", proxyProtocol={"version": "V3"}))


def test_servers_on_unix_sockets_get_a_header_too() -> None:
    config = (*PLAIN, rule("db.example.org", proxyProtocol={}))
    found = loaded(*config, given=("db.example.org=unix:/run/db",))
    assert not found.warnings
    assert found.routes[0].destinations[0].policy.send_proxy == SendProxy(1)


def test_settings_of_a_port_that_no_route_goes_to_are_harmless() -> None:
    levels = [{"port": {"number": 9}, "tls": {"mode": "SIMPLE"}}]
    one = rule("db.example.org", portLevelSettings=levels)
    assert not loaded(*PLAIN, one).warnings
    assert class_of("mode: SIMPLE", *PLAIN, one) == HARMLESS


@pytest.mark.parametrize("levels", [[5], [{"port": 5}], [{}], [{"port": {}}], [None], [[]]])
def test_settings_of_a_port_that_are_none(levels: list[Any]) -> None:
    said = refusal(*PLAIN, rule("db.example.org", portLevelSettings=levels))
    assert "spec.trafficPolicy.portLevelSettings[0]" in said


@pytest.mark.parametrize(
    ("keepalive", "message"),
    [
        ({"time": "86400s"}, "tcpKeepalive.time: expected 1ms..9h6m7s, got 86400s"),
        ({"interval": "86400s"}, "tcpKeepalive.interval: expected 1ms..9h6m7s, got 86400s"),
        ({"probes": 128}, "tcpKeepalive.probes: expected 0..127, got 128"),
    ],
)
def test_a_keepalive_that_linux_cannot_have(keepalive: dict[str, Any], message: str) -> None:
    one = rule("db.example.org", connectionPool={"tcp": {"tcpKeepalive": keepalive}})
    assert message in refusal(*PLAIN, one)


def test_a_limit_that_two_routes_share_is_not_doubled_in_silence() -> None:
    """In Istio it is one limit, in whatever way connections come."""
    gateway = resource("Gateway", "g", servers(1000, 1001))
    limit = {"maxConnections": 9}
    rule = {"host": "a.example.org", "trafficPolicy": {"connectionPool": {"tcp": limit}}}
    rules = [{"match": [{"port": port}], "route": [to("a.example.org")]} for port in (1000, 1001)]
    both = [gateway, resource("VirtualService", "v", virtual(tcp=rules))]
    (warning,) = loaded(*both, resource("DestinationRule", "d", rule)).warnings
    assert "its limit, 9 connections, applies to each route on its own" in warning.message
    assert "spec.tcp[1].route[0].destination" in warning.where
    one = [gateway, resource("VirtualService", "v", virtual(tcp=rules[:1]))]
    assert loaded(*one, resource("DestinationRule", "d", rule)).warnings == ()
