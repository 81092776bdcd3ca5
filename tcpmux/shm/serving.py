"""Effective weights: the turns of endpoints and the weights that the pick uses, as they follow from
states, health, slow starts and the weights that are asked for.

Runs in the master, which changes them; control asks what serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import gcd

from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.turns import turns
from tcpmux.shm.image import (
    FALLBACK,
    FULL_SHARE,
    HEALTHY,
    READY,
    REFUSE,
    REJECT,
    RESET,
    DestinationRow,
    EndpointRow,
    Image,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.rules import RouteRules
from tcpmux.shm.slots import Key
from tcpmux.shm.sticky import contests

Condition = tuple[int, int]  # health, percent of slow start: all that counts of a destination


def with_turns_and_weights(route: RouteRow) -> RouteRow:
    """The same route with what follows from states, health, slow starts and weights: the turns of
    each destination's endpoints, and effective weights."""
    rows = [_with_turns(row) for row in route.destinations]
    wanted = [row.weight for row in rows]
    effective = _effective_weights(route.rules, rows, wanted)
    stand_in = _stand_in(route.rules, rows)
    return replace(
        route,
        pick_rules=tuple(
            _with_effective_weights(route.rules, rows, stand_in, rule) for rule in route.pick_rules
        ),
        contests=contests(route.contests, route.rules, rows, wanted, effective, stand_in),
        destinations=tuple(
            row if row.effective_weight == weight else replace(row, effective_weight=weight)
            for row, weight in zip(rows, effective, strict=True)
        ),
    )


def serves(row: DestinationRow) -> bool:
    """Whether it can take connections, apart from its weight."""
    return row.state == READY and bool(row.turns)


def fallback_of(rules: RouteRules) -> int:
    """The index of the destination that gets the share of those that can take no connection; -1 =
    none is named."""
    return rules.fallback if rules.on_unavailable == FALLBACK else -1


def is_unavailable(route: RouteRow) -> bool:
    """Whether connections would go somewhere if any endpoint there were healthy."""
    wanted = (d.weight and d.is_meant_to_serve and d.state == READY for d in route.destinations)
    return any(wanted) and not any(d.effective_weight and d.turns for d in route.destinations)


def rule_serves(route: RouteRow, rule: RuleRow) -> bool:
    """Whether connections that meet it go somewhere."""
    pairs = zip(route.destinations, rule.effective_weights, strict=True)
    return any(weight and serves(row) for row, weight in pairs)


def is_rule_unavailable(route: RouteRow, rule: RuleRow) -> bool:
    """As is_unavailable(), of the connections that meet a rule."""
    pairs = zip(route.destinations, rule.weights, strict=True)
    wanted = (weight and d.is_meant_to_serve and d.state == READY for d, weight in pairs)
    return any(wanted) and not rule_serves(route, rule)


def refuses(route: RouteRow) -> bool:
    """Whether it is not to listen: on_all_unavailable says so, and nobody who comes gets anywhere,
    be it by a rule."""
    return (
        route.rules.on_all_unavailable == REFUSE
        and is_unavailable(route)
        and not any(rule_serves(route, rule) for rule in route.pick_rules)
    )


def end_of(route: RouteRow) -> int:
    """What becomes of connections that no destination can take: an index of ENDS."""
    end = route.rules.on_all_unavailable
    return RESET if end == REFUSE and not refuses(route) else end


def shift_elsewhere(route: RouteRow) -> tuple[str, str]:
    """The first destination that could serve and has no weight, and the command that gives it the
    connections of those that have; of a route none of whose destinations with weight can. Both "":
    there is none."""
    for row in route.destinations:
        if serves(row) and not row.weight:
            zeros = " ".join(f"{other.name}=0" for other in route.destinations if other.weight)
            return row.name, f"tcpmux weight {route.name} {row.name}=100 {zeros}".rstrip()
    return "", ""


def _with_turns(row: DestinationRow) -> DestinationRow:
    ready = [i for i, endpoint in enumerate(row.endpoints) if endpoint.state == READY]
    healthy = [i for i in ready if row.endpoints[i].health == HEALTHY]
    panic = len(healthy) * 100 < len(ready) * row.rules.panic_percent
    usable = ready if panic else healthy
    tiers: dict[int, list[tuple[int, int]]] = {}
    for i in usable:
        endpoint = row.endpoints[i]
        share = endpoint.weight * endpoint.slow_start_percent
        tiers.setdefault(endpoint.rules.priority, []).append((i, share))
    first, *others = [turns(tiers[priority]) for priority in sorted(tiers)] or [()]
    reserves = tuple(i for tier in others for i in tier)
    if (first, reserves, panic) == (row.turns, row.reserves, row.panic):
        return row
    return replace(row, turns=first, reserves=reserves, panic=panic)


def _with_effective_weights(
    rules: RouteRules, rows: Sequence[DestinationRow], stand_in: int | None, rule: RuleRow
) -> RuleRow:
    """A rule of a route with such rows."""
    found = _effective_weights(rules, rows, rule.weights)
    divisor = gcd(*found) or 1
    effective = tuple(weight // divisor for weight in found)
    asked = contests(rule.contests, rules, rows, rule.weights, effective, stand_in)
    if (effective, asked) == (rule.effective_weights, rule.contests):
        return rule
    return replace(rule, effective_weights=effective, contests=asked)


def _stand_in(rules: RouteRules, rows: Sequence[DestinationRow]) -> int | None:
    """The destination that takes over from those that fail, if it can."""
    fallback = fallback_of(rules)
    return fallback if fallback >= 0 and serves(rows[fallback]) else None


def _effective_weights(
    rules: RouteRules, rows: Sequence[DestinationRow], wanted: Sequence[int]
) -> list[int]:
    """Of the route, or of one of its rules. wanted: what is asked for of each destination.

    The share of a destination that has endpoints, of which none can take a connection, goes
    where on_unavailable says, be it that the address of none is known. One for which no endpoint is
    configured keeps it: it is to be reset."""
    weights = [w if row.state == READY else 0 for row, w in zip(rows, wanted, strict=True)]
    percents = [row.slow_start_percent for row in rows]
    if any(weight and at != FULL_SHARE for at, weight in zip(percents, weights, strict=True)):
        weights = [weight * at for at, weight in zip(percents, weights, strict=True)]
    failed = [
        i for i, row in enumerate(rows) if weights[i] and row.is_meant_to_serve and not row.turns
    ]
    fallback = fallback_of(rules)
    if fallback >= 0 and serves(rows[fallback]):
        weights[fallback] += sum(weights[i] for i in failed)
    served = any(weight and serves(row) for row, weight in zip(rows, weights, strict=True))
    if rules.on_unavailable != REJECT or (not served and rules.on_all_unavailable != RESET):
        for i in failed:
            weights[i] = 0
    return _within_bounds(weights)


def _within_bounds(weights: list[int]) -> list[int]:
    """In the same ratio, as far as whole numbers up to the largest weight can be."""
    if max(weights, default=0) <= MAX_WEIGHT:
        return weights
    divisor = gcd(*weights)
    weights = [weight // divisor for weight in weights]
    largest = max(weights)
    if largest <= MAX_WEIGHT:
        return weights
    return [max(1, weight * MAX_WEIGHT // largest) if weight else 0 for weight in weights]


def with_rule_weights(
    image: Image, route_name: str, rule: str, weights: Mapping[str, int], *, in_file: bool = False
) -> Image:
    """The same image, but for these weights of a rule. in_file: for what the file has as them."""

    def changed(route: RouteRow, row: RuleRow) -> RuleRow:
        old = row.file_weights if in_file else row.weights
        pairs = zip(route.destinations, old, strict=True)
        new = tuple(weights.get(destination.name, weight) for destination, weight in pairs)
        return replace(row, file_weights=new) if in_file else replace(row, weights=new)

    def of_route(route: RouteRow) -> RouteRow:
        rows = (changed(route, r) if r.name == rule else r for r in route.pick_rules)
        return with_turns_and_weights(replace(route, pick_rules=tuple(rows)))

    routes = (of_route(r) if r.name == route_name else r for r in image.routes)
    return replace(image, routes=tuple(routes))


def with_weights(image: Image, route_name: str, weights: Mapping[str, int]) -> Image:
    """The same image, every row of it too, but for these weights of one route."""

    def changed(row: DestinationRow) -> DestinationRow:
        weight = weights.get(row.name, row.weight)
        return row if weight == row.weight else replace(row, weight=weight)

    return _with_destinations(image, {route_name: changed})


def with_file_weights(image: Image, route_name: str, weights: Mapping[str, int]) -> Image:
    """The same image, but for what the file has as the weights of a route; nothing follows."""

    def changed(row: DestinationRow) -> DestinationRow:
        weight = weights.get(row.name, row.file_weight)
        return row if weight == row.file_weight else replace(row, file_weight=weight)

    return _with_destinations(image, {route_name: changed})


def with_state(image: Image, key: Key, state: int, until: int = 0) -> Image:
    """The same image, but for the state of one destination or endpoint. until: Unix time, s, when
    an endpoint is to be READY again; 0 = as before or, in another state, not by itself."""

    def changed(row: DestinationRow) -> DestinationRow:
        if row.name != key[1]:
            return row
        if len(key) == 2:
            return replace(row, state=state, state_since=_since(row, state))
        endpoints = (
            replace(
                endpoint,
                state=state,
                until=until or (endpoint.until if endpoint.state == state else 0),
                state_since=_since(endpoint, state),
            )
            if str(endpoint.address) == key[2]
            else endpoint
            for endpoint in row.endpoints
        )
        return replace(row, endpoints=tuple(endpoints))

    return _with_destinations(image, {key[0]: changed})


def with_conditions(image: Image, conditions: Mapping[Key, Condition]) -> Image:
    """The same image, but for the health and the slow start of some endpoints and destinations.
    Those that are not in it any more are passed over."""
    by_route: dict[str, set[str]] = {}
    for key in conditions:
        by_route.setdefault(key[0], set()).add(key[1])

    def change_of(route: str) -> Callable[[DestinationRow], DestinationRow]:
        def changed(row: DestinationRow) -> DestinationRow:
            if row.name not in by_route[route]:
                return row
            _, percent = conditions.get((route, row.name), (HEALTHY, row.slow_start_percent))
            endpoints = (
                _conditioned(endpoint, conditions.get((route, row.name, str(endpoint.address))))
                for endpoint in row.endpoints
            )
            return replace(row, slow_start_percent=percent, endpoints=tuple(endpoints))

        return changed

    return _with_destinations(image, {route: change_of(route) for route in by_route})


def _conditioned(row: EndpointRow, condition: Condition | None) -> EndpointRow:
    if condition is None or condition == (row.health, row.slow_start_percent):
        return row
    since = row.health_since if row.health == condition[0] else int(time.time())
    return replace(row, health=condition[0], slow_start_percent=condition[1], health_since=since)


def _since(row: DestinationRow | EndpointRow, state: int) -> int:
    return row.state_since if row.state == state else int(time.time())


def _with_destinations(
    image: Image, changes: Mapping[str, Callable[[DestinationRow], DestinationRow]]
) -> Image:
    """The same image, but for the destinations of some routes."""
    routes = (
        with_turns_and_weights(
            replace(route, destinations=tuple(map(changes[route.name], route.destinations)))
        )
        if route.name in changes
        else route
        for route in image.routes
    )
    return replace(image, routes=tuple(routes))
