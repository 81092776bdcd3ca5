"""Which filter chain a connection gets: Envoy's order of specificity, step by step, without a way
back. A chain that a step leaves out stays out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from tcpmux.config.address import Address
from tcpmux.config.settings import Clients, Network
from tcpmux.convert.clients import without_mapped
from tcpmux.convert.decisions import Cases, Decided, TooManyRules, decided
from tcpmux.convert.envoy.values import enum, network
from tcpmux.convert.hellos import Hello, TooManyHellos, covers, hellos, pattern_of, protocol_of
from tcpmux.convert.tree import Node

NONE = -1  # instead of a chain: the connection is closed
_NOT_SAID = {  # keys of filter_chain_match, unless they say nothing
    "source_ports": "rules by the client's port",
    "direct_source_prefix_ranges": "rules by the peer's address",
    "address_suffix": "original destinations",
    "suffix_len": "original destinations",
}


@dataclass(slots=True)
class Chain:
    """port: 0 = any. Empty lists stand for any, too. transport: tls or raw_buffer."""

    node: Node
    port: int = 0
    destinations: list[Network] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    transport: str = ""
    protocols: list[str] = field(default_factory=list)
    sources: list[Network] = field(default_factory=list)

    @property
    def transports(self) -> list[str]:
        return [self.transport] if self.transport else []


class Unclear(Exception):
    """tcpmux can't tell which chain it is. needs: the feature that would."""

    def __init__(self, note: str, needs: str) -> None:
        super().__init__(note)
        self.needs = needs


def chain_of(node: Node) -> Chain | None:
    """None: it is about what tcpmux does not look at, which is in the report then."""
    match = node["filter_chain_match"]
    for key, needs in _NOT_SAID.items():
        if key in match.fields:
            node.changes("tcpmux does not distinguish these connections", needs)
            return None
    if "source_type" in match.fields and enum(match["source_type"], "ANY") not in ("ANY", "0"):
        node.changes("tcpmux does not distinguish these connections", "rules by source")
        return None
    found = Chain(node, match["destination_port"].integer(0, 1, 65535))
    found.destinations = [net for entry in match["prefix_ranges"] if (net := network(entry))]
    found.sources = [net for entry in match["source_prefix_ranges"] if (net := network(entry))]
    found.transport = match["transport_protocol"].text()
    try:
        found.names = [pattern_of(entry.text()) for entry in match["server_names"]]
        found.protocols = [protocol_of(entry.text()) for entry in match["application_protocols"]]
    except ValueError as error:
        node.changes(str(error), "rules by SNI")
        return None
    if found.transport not in ("", "tls", "raw_buffer"):
        node.changes("tcpmux does not distinguish these connections", "rules by transport")
        return None
    if match and not match.fields:
        match.mapped()
    return found


def decided_at(chains: Sequence[Chain], default: int, at: Address) -> Decided[int]:
    """The index of the chain that each connection to that address gets. default: of what no chain
    matches. Raises Unclear."""
    names = [name for chain in chains for name in chain.names]
    protocols = [protocol for chain in chains for protocol in chain.protocols]
    asks_tls = any(chain.transport for chain in chains)
    try:
        classes = hellos(names, protocols, asks_tls=asks_tls)
        return decided(classes, lambda hello: _Search(chains, default, at, hello).cases())
    except (TooManyHellos, TooManyRules) as error:
        raise Unclear(str(error), "longer lists") from None


@dataclass(slots=True)
class _Search:
    chains: Sequence[Chain]
    default: int
    at: Address
    hello: Hello

    def cases(self) -> Cases[int]:
        chains = [*self.chains]
        left = _narrowed(chains, lambda chain: [chain.port] if chain.port else [], self._port)
        left = _narrowed(left, lambda chain: chain.destinations, self._destination)
        left = _narrowed(left, lambda chain: chain.names, self._name)
        left = _narrowed(left, lambda chain: chain.transports, self._transport)
        last = left
        left = _narrowed(
            last, lambda chain: chain.protocols, lambda asked: self._protocol(last, asked)
        )
        return tuple(self._by_source(left))

    def _port(self, ports: list[int]) -> list[int]:
        return [port for port in ports if port == self.at.port]

    def _destination(self, networks: list[Network]) -> list[Network]:
        if not networks or self.at.path:
            return []
        host = ip_address(self.at.host)
        if host.is_unspecified and any(net.prefixlen for net in networks):
            note = "it depends on the address that a client connects to"
            raise Unclear(note, "rules by destination address")
        fitting = [net for net in networks if net.version == host.version and host in net]
        return sorted(fitting, key=lambda net: -net.prefixlen)[:1]

    def _name(self, names: list[str]) -> list[str]:
        fitting = [name for name in names if self.hello.sni and covers(name, self.hello.sni)]
        return sorted(fitting, key=lambda name: (name.startswith("*"), -len(name)))[:1]

    def _transport(self, kinds: list[str]) -> list[str]:
        mine = "tls" if self.hello.tls else "raw_buffer"
        return [kind for kind in kinds if kind == mine]

    def _protocol(self, left: Sequence[Chain], protocols: list[str]) -> list[str]:
        """The client's favourite decides, which tcpmux does not look for."""
        offered = [p for p in protocols if self.hello.is_offered(p)]
        perhaps = [p for p in protocols if self.hello.is_offered(p) is None]
        led = {
            tuple(id(chain) for chain in left if p in chain.protocols) for p in offered + perhaps
        }
        if len(led) > 1:
            raise Unclear("it depends on which protocol a client prefers", "rules by preference")
        if perhaps and not offered:
            raise Unclear("it depends on several protocols", "rules by lists of protocols")
        return offered

    def _by_source(self, left: Sequence[Chain]) -> Iterator[tuple[tuple[Clients, ...] | None, int]]:
        networks = {net: chain for chain in reversed(left) for net in chain.sources}
        for net in sorted(networks, key=lambda net: (net.version, -net.prefixlen)):
            yield without_mapped(net), self._index(networks[net])
        rest = [chain for chain in left if not chain.sources]
        yield None, self._index(rest[0]) if rest else self.default

    def _index(self, chain: Chain) -> int:
        return next(i for i, one in enumerate(self.chains) if one is chain)


V = TypeVar("V", bound=Hashable)


def _narrowed(
    chains: list[Chain], said: Callable[[Chain], list[V]], best: Callable[[list[V]], list[V]]
) -> list[Chain]:
    """Those that name what is best; if nothing fits, those that name nothing."""
    chosen = best(list(dict.fromkeys(value for chain in chains for value in said(chain))))
    if chosen:
        return [chain for chain in chains if any(value in chosen for value in said(chain))]
    return [chain for chain in chains if not said(chain)]
