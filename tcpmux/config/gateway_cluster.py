"""Gateways of the Gateway API, and what the routes of all files need to know of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Address
from tcpmux.config.gateway_specs import (
    ApiGatewaySpec,
    BackendRef,
    ListenerModel,
    ReferenceGrantSpec,
)
from tcpmux.config.hosts import Hosts
from tcpmux.config.resources import CORE, GATEWAY_API, Resource
from tcpmux.config.specs import read

# Protocols of listeners that are not opened, and what they would need.
NOT_OPENED = {"HTTP": "HTTP", "HTTPS": "HTTP", "TLS": "TLS", "UDP": "UDP"}
# The kind of route for each protocol of a listener that is opened.
KINDS = {"TCP": "TCPRoute", "TLS": "TLSRoute"}


@dataclass(frozen=True, slots=True)
class Gateway:
    """listeners: those that tcpmux opens."""

    resource: Resource
    spec: ApiGatewaySpec
    listeners: Sequence[ListenerModel]

    def addresses(self, listener: ListenerModel) -> Iterator[Address]:
        hosts = [address.value for address in self.spec.addresses if address.value]
        for host in hosts or [""]:
            try:
                text = f"[{host}]" if ":" in host else host
                yield Address.parse(f"{text}:{listener.port}")
            except ValueError as error:
                self.resource.problem(f"{error}, got {host}", "spec", "addresses")


@dataclass(slots=True)
class Cluster:
    """What the routes of all files need to know of each other."""

    hosts: Hosts
    gateways: dict[tuple[str, str], Gateway] = field(default_factory=dict)
    grants: list[tuple[Resource, ReferenceGrantSpec]] = field(default_factory=list)
    namespaces: dict[str, Resource] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Sequence[Resource], hosts: Hosts) -> Cluster:
        found = cls(hosts)
        for resource in resources:
            kind = resource.group, resource.kind
            if kind == (GATEWAY_API, "Gateway") and (gateway := _gateway(resource)):
                found.gateways[resource.namespace, resource.name] = gateway
            elif kind == (GATEWAY_API, "ReferenceGrant"):
                grant = read(resource, ReferenceGrantSpec)
                if grant is not None:
                    found.grants.append((resource, grant))
            elif kind == (CORE, "Namespace"):
                found.namespaces[resource.name] = resource
        return found

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """Of a namespace; each has its name as a label, whether it is in the files or not."""
        found = self.namespaces.get(namespace)
        if found is not None:
            found.use()
        return {"kubernetes.io/metadata.name": namespace, **(found.labels if found else {})}

    def permits(self, route: Resource, backend: BackendRef, namespace: str) -> bool:
        """Whether a ReferenceGrant lets the route use a backend of another namespace."""
        for resource, grant in self.grants:
            if resource.namespace != namespace:
                continue
            is_from = any(
                (one.group, one.kind, one.namespace) == (GATEWAY_API, route.kind, route.namespace)
                for one in grant.from_
            )
            is_to = any(
                (one.group, one.kind) == (backend.group, backend.kind)
                and one.name in (None, "", backend.name)
                for one in grant.to
            )
            if is_from and is_to:
                resource.use()
                return True
        return False


def _gateway(resource: Resource) -> Gateway | None:
    spec = read(resource, ApiGatewaySpec)
    if spec is None:
        return None
    resource.use()
    opened = []
    for index, listener in enumerate(spec.listeners):
        here = ("spec", "listeners", index)
        protocol, port = listener.protocol, listener.port
        if protocol == "TCP" and listener.tls is None:
            opened.append(listener)
            if listener.hostname is not None:
                note = "has no effect where the protocol is TCP"
                resource.harmless(note, *here, "hostname")
        elif protocol == "TLS" and listener.mode == "Passthrough":
            opened.append(listener)
        elif protocol in ("TCP", "TLS"):
            note = f"TLS is not supported yet: port {port} is not opened"
            resource.beside(note, *here, needs="TLS")
        elif protocol in NOT_OPENED or "/" in protocol:
            note = f"tcpmux relays TCP, not {protocol}: port {port} is not opened"
            resource.beside(note, *here, needs=NOT_OPENED.get(protocol, "other protocols"))
        else:
            known = ", ".join(("TCP", *NOT_OPENED))
            resource.problem(f"expected one of {known}, got {protocol}", *here, "protocol")
    return Gateway(resource, spec, opened)
