"""Routes from Istio's Gateway, VirtualService and DestinationRule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.by_rules import Part, route_by, shared_route, specificity
from tcpmux.config.hosts import Hosts
from tcpmux.config.istio_destinations import destinations_of, names_of
from tcpmux.config.istio_gateways import PASSTHROUGH, PLAIN, Gateway, gateways_in, key_of
from tcpmux.config.istio_matches import check_names, is_refused, tcp_rules_at, tls_rules_at
from tcpmux.config.istio_mesh import MESH, mesh_listens
from tcpmux.config.istio_rules import Rules
from tcpmux.config.istio_specs import TcpRule, TlsRule, VirtualServiceSpec
from tcpmux.config.problems import Location
from tcpmux.config.resources import ISTIO, Made, Resource, known_names
from tcpmux.config.rule import Rule
from tcpmux.config.specs import read

Gateways = Mapping[tuple[str, str], Gateway]
Matched = tuple[tuple[Rule, int], ...]  # conditions, and the index of the rule in the spec


@dataclass(frozen=True, slots=True)
class _Named:
    """Connections of TLS that one name of a VirtualService takes. at: where it stands."""

    when: Rule
    resource: Resource
    spec: VirtualServiceSpec
    index: int
    at: Location


@dataclass(slots=True)
class _Names:
    """Those of all VirtualServices, by listener. gateway: of the listener."""

    of: dict[Address, list[_Named]] = field(default_factory=dict)
    gateway: dict[Address, Resource] = field(default_factory=dict)


def istio_routes(resources: Sequence[Resource], hosts: Hosts) -> list[Made]:
    """A route for each rule of a VirtualService that some port of a Gateway comes to; of rules that
    depend on more than the port, one for all of them; and one for each port of TLS."""
    gateways = gateways_in(resources)
    rules = Rules.of(resources, hosts)
    found: list[Made] = []
    served: set[tuple[str, str]] = set()
    names = _Names()
    for resource in resources:
        if (resource.group, resource.kind) != (ISTIO, "VirtualService"):
            continue
        spec = read(resource, VirtualServiceSpec)
        if spec is None:
            continue
        resource.use()
        if spec.tls:
            check_names(resource, spec)
            _add_names(resource, spec, gateways, served, names)
        for part, (matched, listen) in enumerate(_used(resource, spec, gateways, served, hosts)):
            made = _plain(resource, spec, matched, listen, rules)
            if made is not None:
                tail = f"-{listen[0].port or part}" if part else ""
                found.append(replace(made, tail=tail))
    found += _of_tls(names, rules, {made.resource.key for made in found})
    for key in gateways.keys() - served:
        gateways[key].resource.warn("no VirtualService uses it: its ports are not opened")
    for key in gateways.keys() & served:
        gateways[key].tell_unused()
    return found


def _used(
    resource: Resource,
    spec: VirtualServiceSpec,
    gateways: Gateways,
    served: set[tuple[str, str]],
    hosts: Hosts,
) -> list[tuple[Matched, list[Address]]]:
    """The rules for TCP to which some listener comes, with these."""
    names = spec.gateways or [MESH]
    if not spec.tcp:
        served.update(key_of(resource, name) for name in names)
        _tell_no_tcp(resource, spec)
        return []
    matched: dict[Address, Matched] = {}
    is_told = False
    for at, name in enumerate(names):
        if name == MESH:
            where = ("spec", "gateways", at) if len(names) > 1 else ()
            found, is_told = mesh_listens(resource, spec, hosts, where)
        else:
            found = [*_gateway_listens(resource, spec, at, gateways, served, PLAIN)]
        for port, address in found:
            rules = tuple(tcp_rules_at(resource, spec, port, name, address))
            if rules:
                matched.setdefault(address, rules)
    used = {index for rules in matched.values() for _, index in rules}
    if used:
        _tell_unused(resource, spec, used)
    elif not is_told and not resource.document.problems:
        _tell_unreachable(resource, spec, names, gateways)
    listens: dict[Matched, list[Address]] = {}
    for address, rules in matched.items():
        listens.setdefault(rules, []).append(address)
    return sorted(listens.items(), key=lambda one: [index for _, index in one[0]])


def _plain(
    resource: Resource,
    spec: VirtualServiceSpec,
    matched: Matched,
    listen: Sequence[Address],
    rules: Rules,
) -> Made | None:
    """None if something is wrong with it."""
    names = names_of(t.destination for _, index in matched for t in spec.tcp[index].route)
    parts = []
    for when, index in matched:
        here = ("spec", "tcp", index, "route")
        found = destinations_of(resource, here, spec.tcp[index].route, rules, names)
        if found is None:
            return None
        parts.append(Part(when, found))
    if parts[-1].when.conditions:
        resource.mapped("what no rule matches is reset", "spec", "tcp")
    route = replace(route_by(parts), listen=tuple(listen), source=str(resource))
    return Made(route, resource)


# --- TLS ------------------------------------------------------------------------------------------


def _add_names(
    resource: Resource,
    spec: VirtualServiceSpec,
    gateways: Gateways,
    served: set[tuple[str, str]],
    names: _Names,
) -> None:
    """Those of its rules for TLS that some listener comes to."""
    here = ("spec", "tls")
    used: set[int] = set()
    for at, gateway in enumerate(spec.gateways or [MESH]):
        if gateway == MESH:
            note = "rules by SNI of sidecars are not served"
            resource.beside(note, *here, needs="rules by SNI of sidecars")
            used.update(range(len(spec.tls)))
            continue
        for port, address in _gateway_listens(resource, spec, at, gateways, served, PASSTHROUGH):
            names.gateway.setdefault(address, gateways[key_of(resource, gateway)].resource)
            for when, index, place in tls_rules_at(resource, spec, port, gateway, address):
                used.add(index)
                one = _Named(when, resource, spec, index, place)
                names.of.setdefault(address, []).append(one)
    for index, rule in enumerate(spec.tls):
        if index in used:
            continue
        _tell_unused_rule(resource, rule, *here, index)


def _of_tls(names: _Names, rules: Rules, taken: set[tuple[str, ...]]) -> Iterator[Made]:
    """taken: resources that have routes."""
    listens: dict[tuple[tuple[Rule, tuple[str, ...], int], ...], list[Address]] = {}
    for address, every in names.of.items():
        names.of[address] = _sorted(every)
        key = tuple((one.when, one.resource.key, one.index) for one in names.of[address])
        listens.setdefault(key, []).append(address)
    for listen in listens.values():
        every = names.of[listen[0]]
        parts = _parts(every, rules)
        if parts is None:
            continue
        resources = (one.resource for one in every)
        yield shared_route(parts, listen, resources, names.gateway[listen[0]], taken)


def _sorted(every: Sequence[_Named]) -> list[_Named]:
    """The most specific name first, as Envoy does it. A name that is there already is left out, as
    Istio does it."""
    found: dict[Rule, _Named] = {}
    for one in sorted(every, key=lambda one: specificity(one.when)):
        before = found.setdefault(one.when, one)
        if (before.resource.key, before.index) != (one.resource.key, one.index):
            one.resource.warn(f"{before.resource} already has this name", *one.at)
    return [*found.values()]


def _parts(every: Sequence[_Named], rules: Rules) -> list[Part] | None:
    names = names_of(t.destination for one in every for t in one.spec.tls[one.index].route)
    made: dict[tuple[tuple[str, ...], int], Part | None] = {}
    for one in every:
        key = one.resource.key, one.index
        if key not in made:
            here = ("spec", "tls", one.index, "route")
            targets = one.spec.tls[one.index].route
            found = destinations_of(one.resource, here, targets, rules, names)
            made[key] = Part(Rule(), found) if found is not None else None
    parts = []
    for one in every:
        part = made[one.resource.key, one.index]
        if part is None:
            return None
        parts.append(replace(part, when=one.when))
    return parts


# --- what is told ---------------------------------------------------------------------------------


def _tell_no_tcp(resource: Resource, spec: VirtualServiceSpec) -> None:
    if spec.http is None and not spec.tls:
        resource.problem("tcp is missing", "spec")
    elif not spec.tls:
        resource.changes("tcpmux relays TCP, but it has no tcp rules: tcpmux serves nothing of it")


def _tell_unused(resource: Resource, spec: VirtualServiceSpec, used: Collection[int]) -> None:
    """Of rules that no listener comes to."""
    for index, rule in enumerate(spec.tcp):
        if index not in used:
            _tell_unused_rule(resource, rule, "spec", "tcp", index)


def _tell_unused_rule(resource: Resource, rule: TcpRule | TlsRule, *here: str | int) -> None:
    if any(is_refused(resource, one, *here, "match", m) for m, one in enumerate(rule.match)):
        note = "tcpmux can't distinguish its connections: the rules after it apply to them"
        resource.changes(note, *here)
    else:
        resource.warn("no connection can reach this rule", *here)


def _tell_unreachable(
    resource: Resource,
    spec: VirtualServiceSpec,
    names: Sequence[str],
    gateways: Gateways,
) -> None:
    if not all(match.is_whole for rule in spec.tcp for match in rule.match):
        return  # they have been told
    keys = [key_of(resource, name) for name in names]
    if any(gateways[key].opened for key in keys if key in gateways):
        resource.problem("no port of its gateways matches any of these rules", "spec", "tcp")
    else:
        resource.changes("none of its gateways has an open port: tcpmux serves nothing of it")


def _gateway_listens(
    resource: Resource,
    spec: VirtualServiceSpec,
    at: int,
    gateways: Gateways,
    served: set[tuple[str, str]],
    of: str,
) -> Iterator[tuple[int, Address]]:
    name = (spec.gateways or ())[at]
    key = key_of(resource, name)
    served.add(key)
    if key not in gateways:
        known = known_names(gateways, resource.namespace)
        resource.problem(
            f"no Gateway {name} in the files; there are: {known}", "spec", "gateways", at
        )
        return
    yield from gateways[key].listens(resource, spec, of)
