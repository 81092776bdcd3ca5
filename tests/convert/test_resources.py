"""Resources of Kubernetes: every value of them is in one class, whatever there is around them."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config import ConfigError, Text, load_texts
from tcpmux.convert.resources import convert_own
from tests.convert.resources import (
    CHANGES,
    HARMLESS,
    PLAIN,
    attached,
    class_of,
    listeners,
    loaded,
    resource,
    text,
)
from tests.support import patient

HERE = Path(__file__).parent / "files" / "resources"
MISTAKEN = ("mistakes", "no-tcp", "two-on-one-port")
FILES = sorted(file for file in HERE.glob("*.yaml") if file.stem not in MISTAKEN)
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "istio").rglob("*.yaml"))
GIVEN = ("orders/v1=127.0.0.1:19101", "orders/v2=127.0.0.1:19102")

KINDS = [
    ("gateway.networking.k8s.io/v1", "HTTPRoute", HARMLESS),
    ("gateway.networking.k8s.io/v1", "GRPCRoute", HARMLESS),
    ("gateway.networking.k8s.io/v1alpha2", "UDPRoute", HARMLESS),
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
    ("networking.k8s.io/v1", "Ingress", HARMLESS),
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


def test_copies_of_secrets_are_not_shown() -> None:
    secret = resource("Secret", "s", data={"password": "aGlkZGVu"})
    key = "kubectl.kubernetes.io/last-applied-configuration"
    secret["metadata"]["annotations"] = {key: '{"data": {"password": "aGlkZGVu"}}'}
    containers = [{"name": "c", "env": [{"name": "PASSWORD", "value": "aGlkZGVu"}]}]
    pod = resource("Pod", "p", spec={"containers": containers})
    settings = resource("ConfigMap", "c", data={"users.txt": "aGlkZGVu"})
    found = convert_own([text(*PLAIN, secret, pod, settings)])
    assert "aGlkZGVu" not in str(found.as_json())
    assert "PASSWORD" in str(found.as_json())


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
    assert time.monotonic() - started < patient(60)
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
