"""The page for people who come from Istio: its table of classes says what the report says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.convert.resources import (
    CHANGES,
    HARMLESS,
    PLAIN,
    classes,
    resource,
    servers,
    to,
    virtual,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate" / "istio.md"
MARK = "zzz"  # in the value that the report is asked for


def kind(name: str, api: str = "v1", **spec: Any) -> list[dict[str, Any]]:
    metadata = {"name": MARK}
    return [*PLAIN, {"apiVersion": api, "kind": name, "metadata": metadata, "spec": spec}]


def policy(**others: Any) -> list[dict[str, Any]]:
    spec = {"host": "db.example.org", "trafficPolicy": others}
    return [*PLAIN, resource("DestinationRule", "d", spec)]


def rule(**others: Any) -> list[dict[str, Any]]:
    return [*PLAIN, resource("DestinationRule", "d", {"host": "db.example.org", **others})]


def metadata(**others: Any) -> list[dict[str, Any]]:
    found = resource("VirtualService", "d", virtual())
    found["metadata"] |= others
    return [PLAIN[0], found]


def match(**others: Any) -> list[dict[str, Any]]:
    rules = [{"match": [others], "route": [to("a.example.org")]}, {"route": [to("b.example.org")]}]
    return [PLAIN[0], resource("VirtualService", "d", virtual(tcp=rules))]


def workload(**others: Any) -> list[dict[str, Any]]:
    spec = {
        "hosts": ["db.example.org"],
        "ports": [{"number": 5432, "name": "tcp"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.0.0.1", **others}],
    }
    return [*PLAIN, resource("ServiceEntry", "e", spec)]


def service(**others: Any) -> list[dict[str, Any]]:
    spec = {"ports": [{"port": 5432}], **others}
    return [
        PLAIN[0],
        resource("VirtualService", "d", virtual("db")),
        resource("Service", "db", spec),
    ]


ISTIO, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"
API = "gateway.networking.k8s.io/v1"
EXAMPLES = {
    "labels": metadata(labels={"a": MARK}),
    "annotations": metadata(annotations={"a": MARK}),
    "managedFields": metadata(managedFields=[{"manager": MARK}]),
    "status": [PLAIN[0], PLAIN[1] | {"status": {"a": MARK}}],
    "connectionPool.http": policy(connectionPool={"http": {"h2UpgradePolicy": MARK}}),
    "GatewayClass": kind("GatewayClass", API),
    "Telemetry": kind("Telemetry", "telemetry.istio.io/v1"),
    "RequestAuthentication": kind("RequestAuthentication", SECURITY),
    "WorkloadGroup": kind("WorkloadGroup", ISTIO),
    "Deployment": kind("Deployment", "apps/v1"),
    "ConfigMap": kind("ConfigMap"),
    "Secret": kind("Secret"),
    "sourceLabels": match(sourceLabels={"a": MARK}),
    "sourceNamespace": match(sourceNamespace=MARK),
    "tls": policy(tls={"mode": MARK}),
    "tunnel": policy(tunnel={"targetHost": MARK}),
    "BackendTLSPolicy": kind("BackendTLSPolicy", API),
    "PeerAuthentication": kind("PeerAuthentication", SECURITY, mtls={"mode": "STRICT"}),
    "exportTo": rule(exportTo=[MARK]),
    "workloadSelector": rule(workloadSelector={"matchLabels": {"a": MARK}}),
    "Sidecar": kind("Sidecar", ISTIO),
    "locality": workload(locality=MARK),
    "network": workload(network=MARK),
    "localityLbSetting": policy(loadBalancer={"localityLbSetting": {"distribute": [MARK]}}),
    "internalTrafficPolicy": service(internalTrafficPolicy=MARK),
    "sessionAffinity": service(sessionAffinity=MARK),
    "loadBalancer.simple": policy(loadBalancer={"simple": MARK}),
    "gateways": [
        resource("VirtualService", MARK, {"hosts": ["a"], "tcp": [{"route": [to("a")]}]}),
        *PLAIN,
    ],
    "AuthorizationPolicy": kind("AuthorizationPolicy", SECURITY),
    "NetworkPolicy": kind("NetworkPolicy", "networking.k8s.io/v1"),
    "EnvoyFilter": kind("EnvoyFilter", ISTIO),
    "WasmPlugin": kind("WasmPlugin", "extensions.istio.io/v1alpha1"),
    "HTTP": [resource("Gateway", "g", {"servers": [
        *servers(1000)["servers"],
        {"port": {"number": 1, "name": MARK, "protocol": "HTTP"}, "hosts": ["*"]},
    ]}), PLAIN[1]],
    "UDP": kind("UDPRoute", API),
    "TLS": [resource("Gateway", "g", {"servers": [
        *servers(1000)["servers"],
        {"port": {"number": 1, "name": MARK, "protocol": "TLS"}, "hosts": ["*"]},
    ]}), PLAIN[1]],
}  # fmt: skip
# Words of the table that name what others stand in, or values.
AROUND = {
    "Services",
    "DestinationRule",
    "STRICT",
    "VirtualService",
    "PASSTHROUGH",
    "Local",
    "ClientIP",
}


def rows() -> list[tuple[str, str]]:
    """Of the table: each word that names something, and its class."""
    table = PAGE.read_text().partition("| | Class |")[2].partition("\n\n")[0]
    found = []
    for line in table.splitlines()[2:]:
        words, said = (cell.strip() for cell in line.strip("|").rsplit("|", 1))
        effect = re.match(f"{CHANGES}|{HARMLESS}|mapped", said)
        assert effect, line
        for word in re.findall(r"`([\w.]+)|\b((?:[A-Z]+[a-z]+)+[A-Z]\w+|[A-Z]\w+)", words):
            name = word[0] or word[1]
            if name not in AROUND:
                found.append((name, effect[0]))
    return found


@pytest.mark.parametrize(("name", "effect"), rows())
def test_a_word_is_in_the_class_that_the_page_says(name: str, effect: str) -> None:
    found = {of for words, of in classes(*EXAMPLES[name]).items() if MARK in words}
    assert found == {effect}


def test_the_page_names_every_example() -> None:
    assert {name for name, _ in rows()} == EXAMPLES.keys()
