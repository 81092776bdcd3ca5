"""Resources of Istio, the Gateway API and Kubernetes: which values are in which class, and what
comes of them."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tcpmux.cli.app import cli
from tcpmux.config import Config, ConfigError, Text, load_texts
from tcpmux.convert.resources import convert_own

FILES = sorted((Path(__file__).parent / "files" / "resources").glob("*.yaml"))
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "istio").rglob("*.yaml"))
GIVEN = ("orders/v1=127.0.0.1:19101", "orders/v2=127.0.0.1:19102")
CHANGES, HARMLESS, MAPPED = "changes traffic", "harmless", "mapped"


def resource(
    kind: str, name: str, spec: Any = None, *, namespace: str = "", **others: Any
) -> dict[str, Any]:
    groups = {
        "Gateway": "networking.istio.io/v1",
        "VirtualService": "networking.istio.io/v1",
        "DestinationRule": "networking.istio.io/v1",
        "ServiceEntry": "networking.istio.io/v1",
        "TCPRoute": "gateway.networking.k8s.io/v1alpha2",
        "ReferenceGrant": "gateway.networking.k8s.io/v1beta1",
        "ApiGateway": "gateway.networking.k8s.io/v1",
    }
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    found = {"apiVersion": groups.get(kind, "v1"), "kind": kind.removeprefix("Api")}
    return found | {"metadata": metadata} | ({"spec": spec} if spec is not None else {}) | others


def servers(*ports: int, protocol: str = "TCP", hosts: tuple[str, ...] = ("*",)) -> dict[str, Any]:
    listed = [
        {"port": {"number": port, "name": "a", "protocol": protocol}, "hosts": list(hosts)}
        for port in ports
    ]
    return {"servers": listed}


def to(host: str, port: int = 5432, **others: Any) -> dict[str, Any]:
    return {"destination": {"host": host, "port": {"number": port}}, **others}


def virtual(host: str = "db.example.org", **others: Any) -> dict[str, Any]:
    return {"hosts": ["*"], "gateways": ["g"], "tcp": [{"route": [to(host)]}], **others}


def listeners(*ports: int, **others: Any) -> dict[str, Any]:
    listed = [{"name": f"p{port}", "port": port, "protocol": "TCP", **others} for port in ports]
    return {"gatewayClassName": "c", "listeners": listed}


def attached(*backends: dict[str, Any], **parent: Any) -> dict[str, Any]:
    return {"parentRefs": [{"name": "g", **parent}], "rules": [{"backendRefs": list(backends)}]}


def text(*resources: dict[str, Any], name: str = "r.yaml") -> Text:
    return Text(name, "---\n".join(yaml.safe_dump(one, sort_keys=False) for one in resources))


def loaded(*resources: dict[str, Any], given: tuple[str, ...] = ()) -> Config:
    return load_texts([text(*resources)], given)


def endpoints(config: Config, route: int = 0) -> dict[str, list[str]]:
    return {d.name: [str(e) for e in d.endpoints] for d in config.routes[route].destinations}


def refusal(*resources: dict[str, Any], given: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*resources, given=given)
    return str(caught.value)


def classes(*resources: dict[str, Any], given: tuple[str, ...] = ()) -> dict[str, str]:
    """Of each value, as `key: value`."""
    findings = convert_own([text(*resources)], given).findings
    return {finding.text: finding.effect.value for finding in findings}


def class_of(word: str, *resources: dict[str, Any], given: tuple[str, ...] = ()) -> str:
    found = [of for words, of in classes(*resources, given=given).items() if word in words]
    assert len(found) == 1, (word, found)
    return found[0]


PLAIN = resource("Gateway", "g", servers(1000)), resource("VirtualService", "d", virtual())

# --- Istio ----------------------------------------------------------------------------------------


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
    assert class_of("number: 1001", gateway, resource("VirtualService", "db", virtual())) == CHANGES


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
        assert "no port of its gateways leads to any of these rules" in refusal(*both)


def test_rules_for_sidecars_get_the_reason() -> None:
    spec = {"hosts": ["cache"], "tcp": [{"route": [to("cache", 6379)]}]}
    said = refusal(resource("VirtualService", "cache", spec))
    assert "it names no gateway, so it is for sidecars: --mesh makes tcpmux listen" in said
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
            "--mesh: no VirtualService of nobody is for a mesh",
        ),
    ],
)
def test_mistakes_with_mesh(given: tuple[str, ...], message: str) -> None:
    assert message in refusal(MESH, given=given)


def test_mesh_in_vain_is_a_mistake() -> None:
    gateway = resource("Gateway", "g", servers(1000))
    said = refusal(gateway, resource("VirtualService", "d", virtual()), given=("mesh:127.0.0.1",))
    assert said == "--mesh: no VirtualService is for a mesh"


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
    ("version: V1", {"proxyProtocol": {"version": "V1"}}, CHANGES),
    ("targetHost", {"tunnel": {"targetHost": "x", "targetPort": 1}}, CHANGES),
    ("number: 9", {"portLevelSettings": [{"port": {"number": 9}}]}, CHANGES),
]


@pytest.mark.parametrize(("word", "policy", "effect"), POLICIES, ids=[p[0] for p in POLICIES])
def test_class_of_a_traffic_policy(word: str, policy: dict[str, Any], effect: str) -> None:
    assert class_of(word, *PLAIN, rule("db.example.org", **policy)) == effect


def test_a_rule_that_no_route_needs_has_no_effect() -> None:
    assert class_of("mode: SIMPLE", *PLAIN, rule("else", tls={"mode": "SIMPLE"})) == HARMLESS


@pytest.mark.parametrize(
    "match",
    [
        {"sourceSubnet": "10.0.0.0/8"},
        {"sourceLabels": {"app": "a"}},
        {"sourceNamespace": "n"},
        {"destinationSubnets": ["10.0.0.0/8"]},
    ],
    ids=str,
)
def test_a_rule_by_source_is_refused_and_its_destination_left_out(match: dict[str, Any]) -> None:
    gateway = resource("Gateway", "g", servers(1000))
    spec = virtual(
        tcp=[{"match": [match], "route": [to("a.example.org")]}, {"route": [to("b.example.org")]}]
    )
    both = gateway, resource("VirtualService", "d", spec)
    assert "not supported yet" in refusal(*both)
    found = convert_own([text(*both)])
    assert len(found.changes) == 2  # the match, and what it leads to
    assert "a.example.org" not in found.text.split("routes:")[1].split("listen")[1]
    assert "b.example.org:5432" in found.text


# --- namespaces -----------------------------------------------------------------------------------


def two_namespaces() -> list[dict[str, Any]]:
    gateway = resource("ApiGateway", "g", listeners(1000, 1001), namespace="one")
    for listener in gateway["spec"]["listeners"]:
        listener["allowedRoutes"] = {"namespaces": {"from": "All"}}
    found = [gateway]
    for port, namespace in ((1000, "one"), (1001, "two")):
        spec = attached({"name": "db", "port": 5432}, namespace="one", port=port)
        found.append(resource("Service", "db", {"ports": [{"port": 5432}]}, namespace=namespace))
        found.append(resource("TCPRoute", "r", spec, namespace=namespace))
    return found


def test_services_of_the_same_name_stay_two() -> None:
    config = loaded(*two_namespaces())
    assert [route.name for route in config.routes] == ["one.r", "two.r"]
    assert endpoints(config, 0)["db"] == ["db.one.svc.cluster.local:5432"]
    assert endpoints(config, 1)["db"] == ["db.two.svc.cluster.local:5432"]


@pytest.mark.parametrize("form", ["db.two", "db.two.svc.cluster.local"])
def test_an_endpoint_may_be_given_for_one_of_them(form: str) -> None:
    config = loaded(*two_namespaces(), given=(f"{form}=127.0.0.1:9",))
    assert endpoints(config, 0)["db"] == ["db.one.svc.cluster.local:5432"]
    assert endpoints(config, 1)["db"] == ["127.0.0.1:9"]


def test_the_most_exact_name_wins() -> None:
    config = loaded(*two_namespaces(), given=("db=127.0.0.1:8", "db.two=127.0.0.1:9"))
    assert endpoints(config, 0)["db"] == ["127.0.0.1:8"]
    assert endpoints(config, 1)["db"] == ["127.0.0.1:9"]


def test_a_name_that_stands_for_two_is_refused() -> None:
    said = refusal(*two_namespaces(), given=("db=127.0.0.1:9",))
    assert said == "--endpoint db: it stands for db.one and db.two: name one, as in db.one=..."


def test_routes_of_both_apis_may_have_the_same_name() -> None:
    istio = resource("Gateway", "g", servers(2000)), resource("VirtualService", "r", virtual())
    other = resource("ApiGateway", "g", listeners(1000)), resource("TCPRoute", "r", attached())
    names = [route.name for route in loaded(*istio, *other).routes]
    assert names == ["virtualservice.default.r", "tcproute.default.r"]


@pytest.mark.parametrize("name", ["x" * 253, "a b", "ä", "-x", "x\n# y"])
def test_names_that_tcpmux_cannot_have(name: str) -> None:
    both = resource("Gateway", "g", servers(1000)), resource("VirtualService", name, virtual())
    found = convert_own([text(*both)])
    (route,) = load_texts([Text("x", found.text)]).routes
    assert 1 <= len(route.name) <= 63


# --- the Gateway API ------------------------------------------------------------------------------


def conditions(*resources: dict[str, Any]) -> list[tuple[str, str]]:
    return [(a.accepted, a.resolved) for a in loaded(*resources).attachments]


FINE = resource("TCPRoute", "fine", attached(port=1000), namespace="infra")


@pytest.mark.parametrize(
    ("listener", "parent", "reason"),
    [
        ({}, {}, "NotAllowedByListeners"),
        ({"allowedRoutes": {"namespaces": {"from": "Same"}}}, {}, "NotAllowedByListeners"),
        ({"allowedRoutes": {"namespaces": {"from": "None"}}}, {}, "NotAllowedByListeners"),
        ({"allowedRoutes": {"namespaces": {"from": "All"}}}, {}, "Accepted"),
        ({"allowedRoutes": {"namespaces": {"from": "All"}}}, {"port": 9}, "NoMatchingParent"),
        (
            {"allowedRoutes": {"namespaces": {"from": "All"}}},
            {"sectionName": "x"},
            "NoMatchingParent",
        ),
        (
            {"allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "UDPRoute"}]}},
            {},
            "NotAllowedByListeners",
        ),
        (
            {"allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "TCPRoute"}]}},
            {},
            "Accepted",
        ),
        (
            {"allowedRoutes": {"namespaces": {"from": "All"}}, "protocol": "UDP"},
            {},
            "NotAllowedByListeners",
        ),
    ],
)
def test_whether_a_route_is_accepted(
    listener: dict[str, Any], parent: dict[str, Any], reason: str
) -> None:
    spec = listeners(1000)
    spec["listeners"].append({**listeners(1001)["listeners"][0], **listener})
    gateway = resource("ApiGateway", "g", spec, namespace="infra")
    wanted = {"namespace": "infra", "port": 1001} | parent
    route = resource("TCPRoute", "r", attached(**wanted), namespace="shop")
    assert conditions(gateway, FINE, route)[1][0] == reason


@pytest.mark.parametrize(
    ("expression", "is_chosen"),
    [
        ({"key": "team", "operator": "In", "values": ["shop"]}, True),
        ({"key": "team", "operator": "In", "values": ["x"]}, False),
        ({"key": "team", "operator": "NotIn", "values": ["shop"]}, False),
        ({"key": "none", "operator": "NotIn", "values": ["shop"]}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"key": "team", "operator": "DoesNotExist"}, False),
        (
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop"]},
            True,
        ),
    ],
)
def test_namespaces_by_selector(expression: dict[str, Any], is_chosen: bool) -> None:
    spec = listeners(1000)
    chosen = {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [expression]}}}
    spec["listeners"].append({**listeners(1001)["listeners"][0], "allowedRoutes": chosen})
    namespace = resource("Namespace", "shop")
    namespace["metadata"]["labels"] = {"team": "shop"}
    route = resource("TCPRoute", "r", attached(namespace="infra", port=1001), namespace="shop")
    found = conditions(resource("ApiGateway", "g", spec, namespace="infra"), FINE, route, namespace)
    assert (found[1][0] == "Accepted") == is_chosen


def test_an_operator_that_kubernetes_has_not_is_a_mistake() -> None:
    wrong = {"matchExpressions": [{"key": "a", "operator": "Is", "values": []}]}
    allowed = {"namespaces": {"from": "Selector", "selector": wrong}}
    gateway = resource("ApiGateway", "g", listeners(1000, allowedRoutes=allowed))
    assert "expected In, NotIn, Exists or DoesNotExist" in refusal(
        gateway, resource("TCPRoute", "r", attached())
    )


def grant(*, name: str = "x", **changed: Any) -> dict[str, Any]:
    source = {"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": "shop"}
    target = {"group": "", "kind": "Service"}
    for key, value in changed.items():
        (target if key.startswith("to_") else source)[key.removeprefix("to_")] = value
    return resource("ReferenceGrant", name, {"from": [source], "to": [target]}, namespace="data")


@pytest.mark.parametrize(
    ("grants", "reason"),
    [
        ([], "RefNotPermitted"),
        ([grant()], "ResolvedRefs"),
        ([grant(to_name="db")], "ResolvedRefs"),
        ([grant(to_name="other")], "RefNotPermitted"),
        ([grant(namespace="else")], "RefNotPermitted"),
        ([grant(kind="HTTPRoute")], "RefNotPermitted"),
        ([grant(group="x")], "RefNotPermitted"),
        ([grant(to_kind="Secret")], "RefNotPermitted"),
        (
            [
                grant(to_name="other"),
                grant(name="y", to_name="db"),
            ],
            "ResolvedRefs",
        ),
    ],
)
def test_backends_of_other_namespaces_need_a_grant(
    grants: list[dict[str, Any]], reason: str
) -> None:
    gateway = resource("ApiGateway", "g", listeners(1000), namespace="shop")
    service = resource("Service", "db", {"ports": [{"port": 1}]}, namespace="data")
    backend = {"name": "db", "namespace": "data", "port": 1}
    route = resource("TCPRoute", "r", attached(backend), namespace="shop")
    config = loaded(gateway, service, route, *grants)
    assert config.attachments[0].resolved == reason
    is_served = endpoints(config)["db"] == ["db.data.svc.cluster.local:1"]
    assert is_served == (reason == "ResolvedRefs")


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ({"name": "db", "port": 1}, "ResolvedRefs"),
        ({"name": "none", "port": 1}, "BackendNotFound"),
        ({"name": "db", "port": 2}, "BackendNotFound"),
        ({"name": "db", "port": 53}, "BackendNotFound"),  # UDP alone
        ({"name": "db", "kind": "ServiceImport", "group": "x.org", "port": 1}, "InvalidKind"),
    ],
)
def test_a_backend_that_cannot_be_used_has_its_share_reset(
    backend: dict[str, Any], reason: str
) -> None:
    gateway = resource("ApiGateway", "g", listeners(1000))
    ports = [{"name": "a", "port": 1}, {"name": "u", "port": 53, "protocol": "UDP"}]
    service = resource("Service", "db", {"ports": ports})
    good = {"name": "db", "port": 1, "weight": 0}
    backends = [backend | {"weight": 3}] if reason == "ResolvedRefs" else [good, backend]
    config = loaded(gateway, service, resource("TCPRoute", "r", attached(*backends)))
    assert config.attachments[0].resolved == reason
    last = config.routes[0].destinations[-1]
    assert bool(last.endpoints) == (reason == "ResolvedRefs")
    assert last.weight == (3 if reason == "ResolvedRefs" else 1)
    assert config.routes[0].policy.on_unavailable == "reject"


def test_a_route_without_backends_resets_all() -> None:
    gateway = resource("ApiGateway", "g", listeners(1000))
    config = loaded(gateway, resource("TCPRoute", "r", attached()))
    assert endpoints(config) == {"none": []}
    assert any("it has no backendRefs" in warning.message for warning in config.warnings)


def test_a_port_of_udp_and_tcp_is_that_of_tcp() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "d", "labels": {"kubernetes.io/service-name": "dns"}},
        "ports": [
            {"name": "dns", "port": 5300, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 5301, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }
    gateway = resource("ApiGateway", "g", listeners(1000))
    route = resource("TCPRoute", "r", attached({"name": "dns", "port": 53}))
    config = loaded(gateway, route, resource("Service", "dns", {"ports": ports}), slice_)
    assert endpoints(config)["dns"] == ["10.0.0.1:5301"]


def test_endpoints_that_are_not_ready_count_if_the_service_says_so() -> None:
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "d", "labels": {"kubernetes.io/service-name": "db"}},
        "ports": [{"name": "", "port": 1}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}],
    }
    gateway = resource("ApiGateway", "g", listeners(1000))
    route = resource("TCPRoute", "r", attached({"name": "db", "port": 1}))
    spec = {"ports": [{"port": 1}], "publishNotReadyAddresses": True}
    config = loaded(gateway, route, resource("Service", "db", spec), slice_)
    assert endpoints(config)["db"] == ["10.0.0.1:1"]


# --- other kinds ----------------------------------------------------------------------------------

KINDS = [
    ("gateway.networking.k8s.io/v1", "HTTPRoute", CHANGES),
    ("gateway.networking.k8s.io/v1", "GRPCRoute", CHANGES),
    ("gateway.networking.k8s.io/v1alpha2", "TLSRoute", CHANGES),
    ("gateway.networking.k8s.io/v1alpha2", "UDPRoute", CHANGES),
    ("gateway.networking.k8s.io/v1", "GatewayClass", HARMLESS),
    ("gateway.networking.k8s.io/v1alpha3", "BackendTLSPolicy", CHANGES),
    ("networking.istio.io/v1alpha3", "EnvoyFilter", CHANGES),
    ("networking.istio.io/v1", "Sidecar", CHANGES),
    ("networking.istio.io/v1", "WorkloadGroup", HARMLESS),
    ("security.istio.io/v1", "AuthorizationPolicy", CHANGES),
    ("security.istio.io/v1", "PeerAuthentication", CHANGES),
    ("security.istio.io/v1", "RequestAuthentication", HARMLESS),
    ("telemetry.istio.io/v1", "Telemetry", HARMLESS),
    ("networking.k8s.io/v1", "NetworkPolicy", CHANGES),
    ("networking.k8s.io/v1", "Ingress", CHANGES),
    ("apps/v1", "Deployment", HARMLESS),
    ("v1", "ConfigMap", HARMLESS),
    ("v1", "Secret", HARMLESS),
    ("example.org/v1", "Gateway", CHANGES),
    ("v2", "List", CHANGES),
]


@pytest.mark.parametrize(("api", "kind", "effect"), KINDS[:-1], ids=[k[1] for k in KINDS[:-1]])
def test_class_of_a_kind_that_tcpmux_reads_nothing_from(api: str, kind: str, effect: str) -> None:
    other = {"apiVersion": api, "kind": kind, "metadata": {"name": "zzz"}, "spec": {"a": 1}}
    assert class_of("zzz", *PLAIN, other) == effect
    warnings = [warning.message for warning in loaded(*PLAIN, other).warnings]
    assert any(message.startswith(f"{kind} is ignored: ") for message in warnings)


@pytest.mark.parametrize(
    ("spec", "effect"),
    [
        ({"mtls": {"mode": "STRICT"}}, CHANGES),
        ({"mtls": {"mode": "PERMISSIVE"}}, HARMLESS),
        ({"mtls": {"mode": "UNSET"}}, CHANGES),
        ({}, CHANGES),
        ({"mtls": {"mode": "DISABLE"}, "portLevelMtls": {"80": {"mode": "STRICT"}}}, CHANGES),
    ],
)
def test_authentication_of_peers_changes_traffic_unless_none_is_asked_for(
    spec: dict[str, Any], effect: str
) -> None:
    api = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
    other = {**api, "metadata": {"name": "zzz"}, "spec": spec}
    assert class_of("zzz", *PLAIN, other) == effect


def test_what_changes_traffic_is_told_first() -> None:
    deny = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    deny["metadata"] = {"name": "n"}  # type: ignore[assignment]
    config = loaded(resource("ConfigMap", "c"), *PLAIN, deny)
    assert [w.message.split()[0] for w in config.warnings] == ["NetworkPolicy", "ConfigMap"]


def test_secrets_are_not_shown() -> None:
    secret = resource("Secret", "s", data={"password": "aGlkZGVu", "kind": "aGlkZGVu"})
    found = convert_own([text(*PLAIN, {"apiVersion": "v1", "kind": "List", "items": [secret]})])
    assert "aGlkZGVu" not in str(found.as_json())


# --- properties -----------------------------------------------------------------------------------


def leaves(value: Any) -> int:
    if isinstance(value, dict) and value:
        return sum(map(leaves, value.values()))
    if isinstance(value, list) and value:
        return sum(map(leaves, value))
    return 1


def given_for(file: Path) -> tuple[str, ...]:
    return GIVEN if "everything" in file.name else ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_value_is_in_exactly_one_class(file: Path) -> None:
    found = convert_own([Text(file.name, file.read_text(), {})], given_for(file))
    documents = [one for one in yaml.safe_load_all(file.read_text()) if one is not None]
    assert sum(found.totals.values()) == sum(map(leaves, documents))
    places = [(finding.line, finding.column) for finding in found.findings]
    assert len(set(places)) == len(places)


def test_istios_samples_are_mapped_or_harmless() -> None:
    texts = [
        Text(file.name, file.read_text()) for file in SAMPLES if "gateway-api" not in str(file)
    ]
    found = convert_own(texts, ("tcp-echo/v1=127.0.0.1:1", "tcp-echo/v2=127.0.0.1:2"))
    assert not found.changes
    assert 'listen: "[::]:31400"' in found.text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_order_of_documents_does_not_matter(file: Path) -> None:
    documents = [one for one in yaml.safe_load_all(file.read_text()) if one is not None]
    if len(documents) < 2:
        pytest.skip("it has one")
    orders = [list(order) for order in itertools.islice(itertools.permutations(documents), 7)]
    orders += [random.Random(seed).sample(documents, len(documents)) for seed in range(5)]
    results = set()
    for order in orders:
        whole = {"apiVersion": "v1", "kind": "List", "items": list(order)}
        for parts in (order, [whole]):
            found = convert_own([text(*parts)], given_for(file))
            routes = load_texts([Text("x", found.text)]).routes if found.text else ()
            changes = sorted(finding.note for finding in found.changes)
            shown = sorted(
                str((r.name, sorted(map(str, r.listen)), r.destinations)) for r in routes
            )
            results.add((tuple(shown), tuple(changes)))
    assert len(results) == 1


def test_a_dump_of_a_cluster_is_read_and_its_report_is_short() -> None:
    """Four hundred resources with what `kubectl get -A -o yaml` adds to them."""
    items = []

    def add(kind: str, api: str, number: int, **others: Any) -> None:
        metadata = {
            "name": f"n{number}",
            "namespace": f"ns{number % 7}",
            "uid": "5b0a",
            "creationTimestamp": None,
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:x": {}}}}],
        }
        items.append({"apiVersion": api, "kind": kind, "metadata": metadata, **others})

    for number in range(100):
        add("Deployment", "apps/v1", number, spec={"replicas": 1}, status={"replicas": 1})
        ports = [{"port": 80, "targetPort": 8080}]
        service = {"ports": ports, "selector": {"app": "a"}, "sessionAffinity": "None"}
        add("Service", "v1", number, spec=service, status={"loadBalancer": {}})
        add("Pod", "v1", number, spec={"containers": [{"name": "c"}]}, status={"phase": "Running"})
        add("Event", "v1", number, reason="Pulled")
    gateway = resource("ApiGateway", "g", listeners(1000), namespace="ns1", status={"x": 1})
    route = resource("TCPRoute", "r", attached({"name": "n1", "port": 80}), namespace="ns1")
    dump = {"apiVersion": "v1", "kind": "List", "items": [*items, gateway, route]}
    started = time.monotonic()
    found = convert_own([text(dump | {"metadata": {"resourceVersion": ""}})])
    assert time.monotonic() - started < 60
    assert not found.changes
    assert len(found.findings) < 20
    assert sum(found.totals.values()) > 3000
    assert "n1.ns1.svc.cluster.local:80" in found.text


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_broken_there_is_no_other_exception(seed: int) -> None:
    chance = random.Random(seed)
    content = chance.choice([*FILES, *SAMPLES]).read_text()
    lines = content.splitlines()
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(lines))
        lines[at] = chance.choice(
            [
                "",
                lines[at] * 2,
                f"{lines[at]} [",
                "- " + lines[at],
                "spec: 5",
                "kind: List",
                "x: {}",
            ]
        )
    with contextlib.suppress(ConfigError):
        convert_own([Text("r.yaml", "\n".join(lines))], GIVEN)
