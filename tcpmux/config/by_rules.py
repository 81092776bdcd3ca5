"""A route of which several resources, or several rules of one, say where its connections go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tcpmux.config.address import Address
from tcpmux.config.model import Destination, Route
from tcpmux.config.resources import Made, Resource
from tcpmux.config.rule import Rule
from tcpmux.config.rule_schema import sni

ANY_NAME = "*"


@dataclass(frozen=True, slots=True)
class Part:
    """Of a route: connections that meet the conditions of a rule, which has no weights, go to these
    destinations by their weights; without any, they are reset."""

    when: Rule
    destinations: tuple[Destination, ...]


def route_by(parts: Sequence[Part]) -> Route:
    """The first part that a connection meets decides; one that meets none is reset. Without a name
    and listeners."""
    made: dict[str, Destination] = {}
    rules: list[Rule] = []
    rest: dict[str, int] = {}
    for part in parts:
        weights: dict[str, int] = {}
        for destination in part.destinations:
            name = _added(made, destination)
            weights[name] = weights.get(name, 0) + destination.weight
        if not part.when.conditions:
            rest = weights
            break
        alone = len(weights) == 1
        pairs = tuple((name, min(w, 1) if alone else w) for name, w in weights.items())
        rules.append(replace(part.when, weights=pairs, reject=not pairs))
    else:
        rules.append(Rule(reject=True))
    destinations = tuple(
        replace(destination, name=name, weight=rest.get(name, 0))
        for name, destination in made.items()
    )
    return Route("", (), destinations, rules=tuple(_joined(rules)))


def shared_route(
    parts: Sequence[Part],
    listen: Sequence[Address],
    of: Iterable[Resource],
    gateway: Resource,
    taken: set[tuple[str, ...]],
) -> Made:
    """As route_by(), named after the resource that all parts are of, or after the gateway. taken:
    keys of resources with a route, to which its own is added."""
    resources = {resource.key: resource for resource in of}
    several = len(resources) > 1
    owner = gateway if several else next(iter(resources.values()))
    tail = f"-{listen[0].port}" if several or owner.key in taken else ""
    taken.add(owner.key)
    source = " and ".join(map(str, [*resources.values()][:3]))
    return Made(replace(route_by(parts), listen=tuple(listen), source=source), owner, tail)


def _added(made: dict[str, Destination], destination: Destination) -> str:
    """Its name among them: another of the same name that is different has another one."""
    number = 1
    while True:
        name = destination.name if number == 1 else f"{destination.name}-{number}"
        before = made.setdefault(name, destination)
        if replace(before, weight=0) == replace(destination, weight=0):
            return name
        number += 1


def _joined(rules: Sequence[Rule]) -> list[Rule]:
    """Neighbours that differ in their names alone become one."""
    found: list[Rule] = []
    for rule in rules:
        last = found[-1] if found else None
        if last and last.sni and rule.sni and replace(last, sni=()) == replace(rule, sni=()):
            found[-1] = replace(last, sni=tuple(dict.fromkeys((*last.sni, *rule.sni))))
        else:
            found.append(rule)
    return found


def named(host: str) -> Rule:
    """Of clients of TLS that ask for this host; ANY_NAME: for any, or for none. Raises
    ValueError."""
    return Rule(tls=True) if host == ANY_NAME else Rule(sni=(sni(host),))


def specificity(rule: Rule) -> tuple[int, int]:
    """Sorts rules of named(), the most specific first: names, then *.SUFFIX, the longest first."""
    if not rule.sni:
        return 2, 0
    return int(rule.sni[0].startswith("*")), -rule.sni[0].count(".")
