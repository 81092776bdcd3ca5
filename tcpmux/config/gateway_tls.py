"""TLSRoutes of the Gateway API: one route for all of a port, as they share it by name (SNI)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.by_rules import ANY_NAME, Part, named, shared_route, specificity
from tcpmux.config.gateway_backends import destinations_of
from tcpmux.config.gateway_cluster import Cluster, Gateway
from tcpmux.config.gateway_parents import parents_of, with_backends
from tcpmux.config.gateway_specs import ListenerModel, TlsRouteSpec
from tcpmux.config.model import Attachment, Destination
from tcpmux.config.resources import Made, Resource
from tcpmux.config.rule import Rule
from tcpmux.config.rule_match import is_named
from tcpmux.config.specs import read


@dataclass(frozen=True, slots=True)
class _Named:
    """Connections that one name of a TLSRoute takes at a listener. host: of that."""

    host: Rule
    when: Rule
    resource: Resource
    destinations: tuple[Destination, ...]


@dataclass(slots=True)
class Tls:
    cluster: Cluster
    at: dict[Address, list[_Named]] = field(default_factory=dict)
    gateways: dict[Address, Gateway] = field(default_factory=dict)

    def take(self, resource: Resource) -> list[Attachment]:
        """What became of its parents."""
        spec = read(resource, TlsRouteSpec)
        if spec is None:
            return []
        resource.use()
        names = _names(resource, spec)
        taken: list[tuple[Gateway, ListenerModel, list[Rule]]] = []
        told = []
        for at, (listeners, one) in enumerate(parents_of(resource, spec.parentRefs, self.cluster)):
            common = [(g, each, _common(names, _host_of(g, each))) for g, each in listeners]
            taken += [of for of in common if of[2]]
            is_named = not listeners or any(of[2] for of in common)
            if one:
                told.append(one if is_named else _not_named(resource, at, one))
        if not taken:
            resource.harmless("no listener accepts it, so it has no effect")
            return told
        for index in range(1, len(spec.rules)):
            resource.warn("no connection can reach this rule", "spec", "rules", index)
        backends = spec.rules[0].backendRefs
        destinations, reason, why = destinations_of(resource, 0, backends, self.cluster)
        for gateway, listener, found in taken:
            self._add(gateway, listener, found, resource, destinations)
        return [with_backends(one, reason, why) for one in told]

    def _add(
        self,
        gateway: Gateway,
        listener: ListenerModel,
        found: Sequence[Rule],
        resource: Resource,
        destinations: tuple[Destination, ...],
    ) -> None:
        host = _host_of(gateway, listener)
        for address in gateway.addresses(listener):
            self.gateways.setdefault(address, gateway)
            self.at.setdefault(address, []).extend(
                _Named(host, when, resource, destinations) for when in found
            )

    def made(self) -> Iterator[Made]:
        """A route for all listeners where the same is done."""
        listens: dict[tuple[Part, ...], list[Address]] = {}
        for address, every in self.at.items():
            parts = tuple(self._parts(address, every))
            listens.setdefault(parts, []).append(address)
        taken: set[tuple[str, ...]] = set()
        for parts, listen in listens.items():
            resources = (one.resource for one in self.at[listen[0]])
            gateway = self.gateways[listen[0]].resource
            yield shared_route(parts, listen, resources, gateway, taken)

    def _parts(self, address: Address, every: Sequence[_Named]) -> Iterator[Part]:
        """A connection is of the listener whose host is the most specific one, and there of the
        route whose name is; of the oldest, if they are equal."""
        gateway = self.gateways[address]
        hosts = dict.fromkeys(
            _host_of(gateway, listener)
            for listener in gateway.listeners
            if listener.protocol == "TLS" and address in gateway.addresses(listener)
        )
        for host in sorted({**hosts, **dict.fromkeys(one.host for one in every)}, key=specificity):
            there = [one for one in every if one.host == host]
            seen: dict[Rule, _Named] = {}
            for one in sorted(there, key=_precedence):
                before = seen.setdefault(one.when, one)
                if before is not one:
                    note = f"{before.resource} has precedence: it has {_text(one.when)}"
                    one.resource.warn(note, "spec", "hostnames", *_place(one))
                else:
                    yield Part(one.when, one.destinations)
            if host.sni and host not in seen:
                yield Part(host, ())  # reset: they are not of another listener


def _precedence(one: _Named) -> tuple[tuple[int, int], str, str, str]:
    """Of the specification: the most specific name, then the oldest, then by its name."""
    metadata = one.resource.value.get("metadata")
    created = metadata.get("creationTimestamp") if isinstance(metadata, dict) else ""
    return specificity(one.when), str(created or ""), one.resource.namespace, one.resource.name


def _place(one: _Named) -> list[int]:
    """Of the name among those of its route, if it is one of them as it stands there."""
    hosts = one.resource.value["spec"].get("hostnames") or []
    return [at for at, host in enumerate(hosts) if (str(host).lower(),) == one.when.sni][:1]


def _text(when: Rule) -> str:
    return when.sni[0] if when.sni else "every name"


def _host_of(gateway: Gateway, listener: ListenerModel) -> Rule:
    if not listener.hostname:
        return Rule(tls=True)
    try:
        return named(str(listener.hostname).lower())
    except ValueError as error:
        at = gateway.spec.listeners.index(listener)
        gateway.resource.problem(str(error), "spec", "listeners", at, "hostname")
        return Rule(tls=True)


def _names(resource: Resource, spec: TlsRouteSpec) -> list[Rule]:
    found = []
    for at, host in enumerate(spec.hostnames):
        if host == ANY_NAME:
            message = "expected a host name or *.SUFFIX, got *"
            resource.problem(message, "spec", "hostnames", at)
            continue
        try:
            found.append(named(host))
        except ValueError as error:
            resource.problem(str(error), "spec", "hostnames", at)
    return found if spec.hostnames else [Rule(tls=True)]


def _common(names: Sequence[Rule], host: Rule) -> list[Rule]:
    """The names of a route that are of a listener's host too, as far as they are."""
    found = []
    for name in names:
        if not name.sni or not host.sni:
            found.append(name if not host.sni else host)
        elif is_named(name.sni[0], host.sni[0]):
            found.append(name)
        elif is_named(host.sni[0], name.sni[0]):
            found.append(host)
    return [*dict.fromkeys(found)]


def _not_named(resource: Resource, at: int, told: Attachment) -> Attachment:
    why = "none of its hostnames is one of the listener"
    resource.warn(f"NoMatchingListenerHostname: {why}", "spec", "parentRefs", at)
    return replace(told, accepted="NoMatchingListenerHostname", message=why)
