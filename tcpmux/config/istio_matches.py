"""Which connections a rule of an Istio VirtualService is about, as conditions of a Rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from tcpmux.config.address import Address
from tcpmux.config.by_rules import ANY_NAME, named
from tcpmux.config.istio_specs import MatchModel, TcpRule, VirtualServiceSpec
from tcpmux.config.problems import Location
from tcpmux.config.resources import Resource
from tcpmux.config.rule import Rule
from tcpmux.config.rule_match import is_named

NEEDS = "rules by destination address"


def tcp_rules_at(
    resource: Resource, spec: VirtualServiceSpec, port: int, gateway: str, at: Address
) -> list[tuple[Rule, int]]:
    """Conditions, each with the index of a rule in `tcp`, at an address that takes connections for
    this port and gateway. The first that is met decides; nothing comes after one without any."""
    found: list[tuple[Rule, int]] = []
    for index, rule in enumerate(spec.tcp):
        when = _any_of(resource, rule, index, port, gateway, at)
        if when is not None:
            found.append((when, index))
            if not when.conditions:
                break
    return found


def _any_of(
    resource: Resource, rule: TcpRule, index: int, port: int, gateway: str, at: Address
) -> Rule | None:
    """None: no connection to that address meets one of its matches."""
    every = []
    for m, match in enumerate(rule.match or [MatchModel()]):
        here = ("spec", "tcp", index, "match", m)
        when = condition_of(resource, match, here, port, gateway, at)
        if when is not None:
            every.append(when)
    if not every or not all(when.sources for when in every):
        return Rule() if every else None
    return Rule(sources=tuple(dict.fromkeys(one for when in every for one in when.sources)))


def condition_of(
    resource: Resource, match: MatchModel, here: Location, port: int, gateway: str, at: Address
) -> Rule | None:
    """None: no connection to that address meets it."""
    if not match.is_whole or match.port not in (None, port):
        return None
    if match.gateways is not None and gateway not in match.gateways:
        return None
    if match.destinationSubnets and not _is_within(resource, match, here, at):
        return None
    return Rule(sources=(match.sourceSubnet,) if match.sourceSubnet else ())


def _is_within(resource: Resource, match: MatchModel, here: Location, at: Address) -> bool:
    """Whether clients connect to an address of these networks."""
    if at.path:
        return False
    host = ip_address(at.host)
    every = any(subnet.prefixlen == 0 for subnet in match.destinationSubnets)
    if host.is_unspecified and not every:
        note = "it depends on the address that a client connects to: give the server a `bind`"
        resource.refuse(note, *here, "destinationSubnets", needs=NEEDS)
        return False
    return every or any(
        host.version == subnet.version and host in subnet for subnet in match.destinationSubnets
    )


def is_refused(resource: Resource, match: MatchModel, *here: str | int) -> bool:
    """Whether tcpmux can't tell which connections meet a match."""
    place = (*resource.location, *here, "destinationSubnets")
    return not match.is_whole or resource.document.remarks.of_all(place) is not None


def tls_rules_at(
    resource: Resource, spec: VirtualServiceSpec, port: int, gateway: str, at: Address
) -> Iterator[tuple[Rule, int, Location]]:
    """As of `tls`, with where each name stands; in no order that counts."""
    for index, rule in enumerate(spec.tls):
        for m, match in enumerate(rule.match):
            here = ("spec", "tls", index, "match", m)
            when = condition_of(resource, match, here, port, gateway, at)
            for s, host in enumerate(match.sniHosts if when is not None else ()):
                assert when is not None
                try:
                    of_name = named(host)
                except ValueError as error:
                    resource.problem(str(error), *here, "sniHosts", s)
                    continue
                yield replace(of_name, sources=when.sources), index, (*here, "sniHosts", s)


def check_names(resource: Resource, spec: VirtualServiceSpec) -> None:
    """Names have to be among the hosts, as Istio demands."""
    hosts = [host.lower() for host in spec.hosts]
    for index, rule in enumerate(spec.tls):
        for m, match in enumerate(rule.match):
            for s, name in enumerate(match.sniHosts):
                if not any(_is_part(name.lower(), host) for host in hosts):
                    place = ("spec", "tls", index, "match", m, "sniHosts", s)
                    message = f"expected a name among the hosts {', '.join(spec.hosts)}, got {name}"
                    resource.problem(message, *place)


def _is_part(name: str, host: str) -> bool:
    """Whether all that a name stands for is of a host, both of which may begin with `*`."""
    return host == ANY_NAME or is_named(name, host)
