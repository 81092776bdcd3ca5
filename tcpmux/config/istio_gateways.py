"""Istio's Gateways: which of their servers tcpmux listens for, and for which VirtualServices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tcpmux.config.address import Address
from tcpmux.config.istio_specs import GatewaySpec, Server, VirtualServiceSpec
from tcpmux.config.resources import ISTIO, Resource
from tcpmux.config.specs import read

# What becomes of the connections of a server.
PLAIN, PASSTHROUGH = "tcp", "tls"
# Protocols of a server whose connections are relayed as they are, and what others would need.
OPENED = ("TCP", "MONGO", "MYSQL", "REDIS")
NOT_OPENED = {
    "HTTP": "HTTP",
    "HTTP2": "HTTP",
    "HTTPS": "HTTP",
    "GRPC": "HTTP",
    "GRPC-WEB": "HTTP",
    "TLS": "TLS",
    "UDP": "UDP",
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """opened: what its servers that tcpmux listens for are, by index: PLAIN or PASSTHROUGH. taken:
    those of them that a VirtualService uses."""

    resource: Resource
    spec: GatewaySpec
    opened: Mapping[int, str]
    taken: set[int] = field(default_factory=set)

    def listens(
        self, to: Resource, wanted: VirtualServiceSpec, of: str
    ) -> Iterator[tuple[int, Address]]:
        """Port and address of each server of that kind that takes a VirtualService."""
        for index, server in enumerate(self.spec.servers):
            if self.opened.get(index) != of or not self._takes(server, to, wanted):
                continue
            text = server.bind or ""
            try:
                if text.startswith("unix:"):
                    address = Address.parse("unix:" + text[5:].removeprefix("//"))
                else:
                    host = f"[{text}]" if ":" in text else text
                    address = Address.parse(f"{host}:{server.port.number}")
            except ValueError as error:
                self.resource.problem(f"{error}, got {text}", "spec", "servers", index, "bind")
                continue
            self.taken.add(index)
            yield server.port.number, address

    def tell_unused(self) -> None:
        """Of its servers of TLS. One of TCP that nothing uses is told with the rules."""
        for index in sorted(self.opened.keys() - self.taken):
            if self.opened[index] == PASSTHROUGH:
                number = self.spec.servers[index].port.number
                note = f"no VirtualService has tls rules for it: port {number} is not opened"
                self.resource.warn(note, "spec", "servers", index)

    def _takes(self, server: Server, to: Resource, wanted: VirtualServiceSpec) -> bool:
        """Some host of both is the same, and its namespace may use it."""
        for text in server.hosts:
            namespace, slash, host = text.rpartition("/")
            mine = {"*": to.namespace, ".": self.resource.namespace}.get(namespace, namespace)
            if slash and mine != to.namespace:
                continue
            if any(_overlap(host, other) for other in wanted.hosts or ["*"]):
                return True
        return False


def _overlap(one: str, other: str) -> bool:
    """Whether a host is of both names, each of which may begin with `*`."""
    one, other = one.lower(), other.lower()
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    if one.startswith("*"):
        return other.endswith(one[1:])
    return one == other or (other.startswith("*") and one.endswith(other[1:]))


def gateways_in(resources: Sequence[Resource]) -> dict[tuple[str, str], Gateway]:
    """By namespace and name."""
    return {
        (resource.namespace, resource.name): gateway
        for resource in resources
        if (resource.group, resource.kind) == (ISTIO, "Gateway")
        and (gateway := _gateway(resource)) is not None
    }


def key_of(resource: Resource, gateway: str) -> tuple[str, str]:
    """Of a Gateway that a VirtualService names."""
    namespace, slash, name = gateway.rpartition("/")
    return (namespace if slash and namespace != "." else resource.namespace), name


def _gateway(resource: Resource) -> Gateway | None:
    spec = read(resource, GatewaySpec)
    if spec is None:
        return None
    resource.use()
    opened: dict[int, str] = {}
    for index, server in enumerate(spec.servers):
        here = ("spec", "servers", index)
        protocol, number = server.port.protocol.upper(), server.port.number
        known = protocol in OPENED or protocol in NOT_OPENED
        if known and protocol != "UDP" and _mode(server.tls) == "PASSTHROUGH":
            opened[index] = PASSTHROUGH
            for key in server.tls.keys() - {"mode"}:
                resource.harmless("has no effect with PASSTHROUGH", *here, "tls", key)
        elif protocol in OPENED and server.tls is None:
            opened[index] = PLAIN
        elif protocol in OPENED or protocol == "TLS":
            note = f"TLS is not supported yet: port {number} is not opened"
            resource.beside(note, *here, needs="TLS")
        elif protocol in NOT_OPENED:
            note = f"tcpmux relays TCP, not {protocol}: port {number} is not opened"
            resource.beside(note, *here, needs=NOT_OPENED[protocol])
        else:
            names = ", ".join((*OPENED, *NOT_OPENED))
            resource.problem(
                f"expected one of {names}, got {server.port.protocol}", *here, "port", "protocol"
            )
    return Gateway(resource, spec, opened)


def _mode(tls: Any) -> str:
    return str(tls.get("mode", "")) if isinstance(tls, dict) else ""
