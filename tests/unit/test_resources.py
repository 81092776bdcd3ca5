"""Files of Istio and of the Gateway API: what is refused and what is only told, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpmux.config import ConfigError, load

GW = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  servers:
  - port: {number: 31400, name: tcp, protocol: TCP}
    hosts: ["*"]
---
"""
VS = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: ["*"]
  gateways: [gw]
  tcp:
  - match: [{port: 31400}]
    route:
    - destination: {host: a, port: {number: 9000}}
      weight: 80
    - destination: {host: b, port: {number: 9000}}
      weight: 20
"""
DR = """---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: a
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 5, connectTimeout: 2s, tcpKeepalive: {time: 1s}}
      http: {}
    loadBalancer: {simple: LEAST_REQUEST}
    outlierDetection: {consecutive5xxErrors: 3}
"""
GIVEN = ("a=127.0.0.1:1", "b=127.0.0.1:2")
AG = """apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  listeners:
  - {name: tcp, protocol: TCP, port: 31400}
---
"""
TR = """apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: echo}
spec:
  parentRefs: [{name: gw}]
  rules:
  - backendRefs:
    - {name: a, port: 9000, weight: 80}
    - {name: b, port: 9000, weight: 20}
"""


class Case:
    """A file, and how it is answered: refused with these lines, or taken with these warnings."""

    def __init__(
        self,
        name: str,
        text: str,
        given: tuple[str, ...] = GIVEN,
        refused: tuple[str, ...] = (),
        warned: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.text = text
        self.given = given
        self.refused = refused
        self.warned = warned


CASES = [
    Case("good", GW + VS, warned=()),
    Case(
        "typo",
        GW + VS.replace("  tcp:", "  tpc:"),
        refused=("r.yaml:15:3: spec: unknown key tpc: did you mean tcp?",),
    ),
    Case(
        "kind typo",
        GW + VS.replace("VirtualService", "VirtualServce"),
        refused=("r.yaml:10:7: kind: unknown kind VirtualServce: did you mean VirtualService?",),
    ),
    Case("old version", GW + VS.replace("io/v1", "io/v1beta1"), warned=()),
    Case(
        "bad version",
        GW + VS.replace("io/v1", "io/v2"),
        refused=(
            "r.yaml:9:13: apiVersion: expected networking.istio.io/ and v1, v1beta1, v1alpha3, got v2",
        ),
    ),
    Case(
        "no gateway",
        GW + VS.replace("[gw]", "[gx]"),
        refused=("r.yaml:14:14: spec.gateways[0]: no Gateway gx in the files; there are: gw",),
    ),
    Case(
        "mesh only",
        GW + VS.replace("[gw]", "[mesh]"),
        refused=(
            "r.yaml:9:1: without gateways, it applies to sidecars: use --mesh to listen on the ports of its hosts",
            "r.yaml:1:1: no VirtualService uses it: its ports are not opened",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "http",
        GW + VS + "  http: [{route: []}]\n",
        warned=("r.yaml:22:9: spec.http: tcpmux relays TCP: these rules are not served",),
    ),
    Case(
        "tls server",
        GW.replace("protocol: TCP", "protocol: TLS") + VS,
        refused=(
            "r.yaml:6:5: spec.servers[0]: TLS is not supported yet: port 31400 is not opened",
            "r.yaml:9:1: none of its gateways has an open port: tcpmux serves nothing of it",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "http server",
        GW.replace("protocol: TCP", "protocol: HTTP") + VS,
        refused=(
            "r.yaml:6:5: spec.servers[0]: tcpmux relays TCP, not HTTP: port 31400 is not opened",
            "r.yaml:9:1: none of its gateways has an open port: tcpmux serves nothing of it",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "port unmatched",
        GW + VS.replace("port: 31400", "port: 31401"),
        refused=("r.yaml:16:3: spec.tcp: no port of its gateways matches any of these rules",),
    ),
    Case(
        "weights 0",
        GW + VS.replace("weight: 80", "weight: 0").replace("weight: 20", "weight: 0"),
        refused=("r.yaml:18:5: spec.tcp[0].route: expected at least one weight above 0",),
    ),
    Case(
        "weight neg",
        GW + VS.replace("weight: 80", "weight: -1"),
        refused=("r.yaml:19:15: spec.tcp[0].route[0].weight: expected 0..1000000, got -1",),
    ),
    Case(
        "subset",
        GW + VS.replace("host: a", "host: a, subset: v9"),
        refused=(
            "r.yaml:18:38: spec.tcp[0].route[0].destination.subset: no DestinationRule defines subset v9 of a; there are: none",
        ),
    ),
    Case(
        "same dest",
        GW + VS.replace("host: b", "host: a"),
        refused=("r.yaml:18:5: spec.tcp[0].route: the same destination is listed twice",),
    ),
    Case(
        "source",
        GW + VS.replace("{port: 31400}", "{port: 31400, sourceSubnet: 10.0.0.0/33}"),
        refused=(
            (
                "r.yaml:16:41: spec.tcp[0].match[0].sourceSubnet: expected a network such as "
                "10.0.0.0/8, got 10.0.0.0/33"
            ),
        ),
    ),
    Case(
        "two rules",
        GW + VS + "  - route: [{destination: {host: a}}]\n",
        warned=("r.yaml:22:5: spec.tcp[1]: no connection can reach this rule",),
    ),
    Case(
        "no name",
        GW + VS.replace("{name: echo}", "{}"),
        refused=("r.yaml:11:11: metadata: expected a name and, optionally, a namespace",),
    ),
    Case("no spec", GW + VS[: VS.index("spec:")], refused=("r.yaml:9:1: spec is missing",)),
    Case(
        "spec list",
        GW + VS[: VS.index("spec:")] + "spec: []\n",
        refused=("r.yaml:12:7: spec: expected a mapping, got a list",),
    ),
    Case(
        "DR typo",
        GW + VS + DR + "  subsets: [{name: v1, labels: {version: v1}, trafficPolcy: {}}]\n",
        refused=(
            "r.yaml:34:47: spec.subsets[0]: unknown key trafficPolcy: did you mean trafficPolicy?",
        ),
    ),
    Case(
        "DR",
        GW + VS + DR,
        warned=(
            "r.yaml:31:13: spec.trafficPolicy.connectionPool.http: applies to HTTP only, and has no effect",
        ),
    ),
    Case(
        "DR tls",
        GW + VS + DR + "    tls: {mode: SIMPLE}\n",
        refused=(
            "r.yaml:34:17: spec.trafficPolicy.tls.mode: TLS is not supported yet: expected DISABLE",
        ),
    ),
    Case(
        "given unknown",
        GW + VS,
        (*GIVEN, "c=127.0.0.1:1"),
        refused=("--endpoint c: the files do not mention that host",),
    ),
    Case(
        "given bad",
        GW + VS,
        ("a", "b=1"),
        refused=(
            "--endpoint a: expected HOST=ADDRESS or HOST/SUBSET=ADDRESS, such as tcp-echo/v1=127.0.0.1:9001",
            "--endpoint b: expected IP:port, [IPv6]:port, NAME:port, srv:NAME or unix:/path, got 1",
        ),
    ),
    Case("dns", GW + VS, (), warned=()),
    Case(
        "list",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: x}\n- 5\n",
        refused=("r.yaml:7:3: items[1]: expected a resource, with apiVersion and kind",),
    ),
    Case(
        "only gateway",
        GW,
        refused=(
            "r.yaml:1:1: no VirtualService uses it: its ports are not opened",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case("gwapi", AG + TR, warned=()),
    Case(
        "gw no listener",
        AG + TR.replace("{name: gw}", "{name: gw, sectionName: x}"),
        refused=(
            "r.yaml:12:16: spec.parentRefs[0]: NoMatchingParent: no listener of gw matches; there are: tcp (port 31400)",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "gw two rules",
        AG + TR + "  - backendRefs: [{name: a}]\n",
        refused=("r.yaml:14:3: spec.rules: expected at most 1 entry, got 2",),
    ),
    Case(
        "gw udp",
        AG.replace("protocol: TCP", "protocol: UDP") + TR,
        refused=(
            "r.yaml:6:5: spec.listeners[0]: tcpmux relays TCP, not UDP: port 31400 is not opened",
            "r.yaml:12:16: spec.parentRefs[0]: NotAllowedByListeners: no listener of gw allows a TCPRoute",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "gw other ns",
        AG
        + TR.replace("{name: echo}", "{name: echo, namespace: x}").replace(
            "{name: gw}", "{name: gw, namespace: default}"
        ),
        refused=(
            "r.yaml:12:16: spec.parentRefs[0]: NotAllowedByListeners: no listener of gw allows a TCPRoute of namespace x",
            "r.yaml: no route for TCP remains",
        ),
    ),
    Case(
        "gw weight",
        AG + TR.replace("weight: 80", "weight: 1000001"),
        refused=(
            "r.yaml:15:37: spec.rules[0].backendRefs[0].weight: expected 0..1000000, got 1000001",
        ),
    ),
    Case(
        "native+istio same listen",
        GW
        + VS
        + "---\nroutes: [{name: n, listen: ':31400', destinations: [{name: x, endpoints: []}]}]\n",
        refused=("r.yaml:9:1: a listener on [::]:31400 is already at r.yaml:23:28",),
    ),
    Case(
        "both",
        GW + VS + "---\n" + AG.replace("31400", "31401") + TR.replace("echo", "gecho"),
        warned=(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answer(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(case.text)
    if case.refused:
        with pytest.raises(ConfigError) as caught:
            load(["r.yaml"], case.given)
        assert tuple(map(str, caught.value.problems)) == case.refused
    else:
        assert tuple(map(str, load(["r.yaml"], case.given).warnings)) == case.warned


def destination(text: str, given: tuple[str, ...] = GIVEN) -> dict[str, tuple[object, ...]]:
    """Of the only route: weight, endpoints, connect and idle timeout, by name."""
    Path("r.yaml").write_text(text)
    (route,) = load(["r.yaml"], given).routes
    return {
        d.name: (d.weight, [str(e) for e in d.endpoints], d.connect_timeout, d.idle_timeout)
        for d in route.destinations
    }


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_timeouts_of_a_destination_rule() -> None:
    found = destination(GW + VS + DR)
    assert found["a"] == (80, ["127.0.0.1:1"], 2.0, 3600.0)
    assert found["b"] == (20, ["127.0.0.1:2"], 10.0, 3600.0)


def test_a_host_that_no_file_knows_is_a_name() -> None:
    assert destination(GW + VS, ())["a"][1] == ["a:9000"]


def test_a_single_destination_ignores_its_weight() -> None:
    text = VS[: VS.index("      weight: 80")]
    assert destination(GW + text, GIVEN[:1])["a"][0] == 100


DUMP = """---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: {ports: [{name: tcp, port: 9000, targetPort: echo}], selector: {app: echo}}
- apiVersion: v1
  kind: Pod
  metadata: {name: p1, labels: {app: echo, version: v1}}
  spec: {containers: [{name: c, ports: [{name: echo, containerPort: 7000}]}]}
  status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: p2, labels: {app: echo, version: v2}}
  spec: {containers: [{name: c, ports: [{name: echo, containerPort: 7000}]}]}
  status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: "False"}]}
- apiVersion: v1
  kind: Service
  metadata: {name: b}
  spec: {ports: [{name: tcp, port: 9000}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: b-1, labels: {kubernetes.io/service-name: b}}
  addressType: IPv4
  ports: [{name: tcp, port: 7001}]
  endpoints:
  - {addresses: [10.0.0.3], conditions: {ready: true}}
  - {addresses: [10.0.0.4], conditions: {ready: false}}
  - {addresses: [10.0.0.5]}
"""


def test_endpoints_of_a_cluster_dump() -> None:
    found = destination(GW + VS + DUMP, ())
    assert found["a"][1] == ["10.0.0.1:7000"], "pods of the selector that are ready"
    assert found["b"][1] == ["10.0.0.3:7001", "10.0.0.5:7001"]


def test_workload_weights_are_turns() -> None:
    entry = """---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a]
  ports: [{number: 9000, name: tcp, targetPort: 7000}]
  resolution: STATIC
  endpoints:
  - {address: 10.0.0.1, weight: 2}
  - {address: "unix:///run/a.sock", weight: 1}
"""
    found = destination(GW + VS + entry, GIVEN[1:])
    assert found["a"][1] == ["10.0.0.1:7000", "unix:/run/a.sock", "10.0.0.1:7000"]
