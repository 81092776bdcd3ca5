"""The Gateway API, and Services of several namespaces: who is attached to what, and goes where."""

from __future__ import annotations

from typing import Any

import pytest

from tcpmux.config import Text, load_texts
from tcpmux.convert.resources import convert_own
from tests.convert.resources import (
    attached,
    endpoints,
    listeners,
    loaded,
    refusal,
    resource,
    servers,
    text,
    virtual,
)


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
    assert said == "--endpoint db: it matches db.one and db.two: name one, as in db.one=..."


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
