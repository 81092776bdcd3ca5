"""Resources as tests write them, and what comes of them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tcpmux.config import Config, ConfigError, Text, load_texts
from tcpmux.convert.resources import convert_own

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
        "TLSRoute": "gateway.networking.k8s.io/v1",
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


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in Python, it takes most of the time


def listeners(*ports: int, **others: Any) -> dict[str, Any]:
    listed = [{"name": f"p{port}", "port": port, "protocol": "TCP", **others} for port in ports]
    return {"gatewayClassName": "c", "listeners": listed}


def attached(*backends: dict[str, Any], **parent: Any) -> dict[str, Any]:
    return {"parentRefs": [{"name": "g", **parent}], "rules": [{"backendRefs": list(backends)}]}


def text(*resources: dict[str, Any], name: str = "r.yaml") -> Text:
    return Text(name, yaml.dump_all(resources, Dumper=DUMPER, sort_keys=False))


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
