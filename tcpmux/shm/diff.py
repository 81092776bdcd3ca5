"""What a reload changes, in words of the configuration file. Runs in the master."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tcpmux.config import Address
from tcpmux.config.rows import rules_of
from tcpmux.config.settings import (
    ON_UNAVAILABLE,
    DestinationPolicy,
    EndpointPolicy,
    RoutePolicy,
    Timeouts,
)
from tcpmux.config.written import rule_text
from tcpmux.errors import clock
from tcpmux.shm.convergence import convergence_changes
from tcpmux.shm.image import (
    ADMIN_STATES,
    FALLBACK,
    READY,
    DestinationRow,
    Image,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.mirror import mirror_changes
from tcpmux.shm.rules import DestinationRules, EndpointRules, RouteRules
from tcpmux.shm.sticky import stays

_TIMEOUTS = [*rules_of(Timeouts)]
_ELSEWHERE = {
    *("on_unavailable", "fallback", "sticky_salt"),
    *("converge_when", "converge_rate", "converge_rate_percent"),
    *("mirror_to", "mirror_share", "mirror_at_run_time"),
    *(rule.name for rule in _TIMEOUTS),
}
_OF_TYPE = {
    kind: [rule for rule in rules_of(table) if rule.name not in _ELSEWHERE]
    for kind, table in (
        (RouteRules, RoutePolicy),
        (DestinationRules, DestinationPolicy),
        (EndpointRules, EndpointPolicy),
    )
}


def describe_changes(old: Image, new: Image) -> list[str]:
    """What is different, one line a route: `tcp-echo: v1 80->50, v2 20->50`. Empty: nothing."""
    before = {route.name: route for route in old.routes}
    after = {route.name: route for route in new.routes}
    was_listening: dict[str, set[Address | str]] = {}
    is_listening: dict[str, set[Address | str]] = {}
    if old.listeners != new.listeners or list(before) != list(after):
        was_listening, is_listening = _listens(old), _listens(new)
    lines = []
    for name, route in after.items():
        gone, come = was_listening.get(name, set()), is_listening.get(name, set())
        if name not in before:
            lines.append(f"{name}: added, listening on {', '.join(_texts(come))}")
            continue
        parts = _route_changes(before[name], route)
        parts.extend(f"listens on {address}" for address in _texts(come - gone))
        parts.extend(f"no longer listens on {address}" for address in _texts(gone - come))
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    lines.extend(f"{name}: removed" for name in before if name not in after)
    return lines


def _listens(image: Image) -> dict[str, set[Address | str]]:
    found: dict[str, set[Address | str]] = {route.name: set() for route in image.routes}
    for listener in image.listeners:
        found[image.routes[listener.route].name].add(listener.address)
    return found


def _texts(addresses: Iterable[Address | str]) -> list[str]:
    return sorted(str(address) for address in addresses)


def _route_changes(old: RouteRow, new: RouteRow) -> list[str]:
    if old == new:
        return []
    of_route = _timeout_changes(old, new)
    changes = _destination_changes(old.destinations, new.destinations, of_route)
    changes += [*of_route, *_rule_changes(old.rules, new.rules)]
    then, now = _on_unavailable(old), _on_unavailable(new)
    if then != now:
        changes.append(f"on_unavailable {then}->{now}")
    changes += _pick_rule_changes(old, new)
    if old.admitted != new.admitted:
        changes.append("allow or deny changed")
    if old.senders != new.senders:
        changes.append("accept_proxy.from changed")
    changes += [*convergence_changes(old, new), *mirror_changes(old, new)]
    salts = {old.rules.sticky_salt, new.rules.sticky_salt}
    if len(salts) == 2 and 0 not in salts:
        changes.append("sticky.group changed")
    return changes + _stay_changes(old, new)


def _stay_changes(old: RouteRow, new: RouteRow) -> list[str]:
    """Of sticky routes: who keeps the clients that it had with weight 0, and who of weight 0 does
    no longer."""
    then, now = stays(old), stays(new)
    zeros = {("", row.name) for row in new.destinations if not row.weight}
    for rule in new.pick_rules:
        zeros |= {(rule.name, name) for name, weight in _weights(new, rule).items() if not weight}
    return [
        f"{f'rule {rule} ' if rule else ''}{name} {what} its clients"
        for found, what in ((now - then, "keeps"), ((then - now) & zeros, "no longer keeps"))
        for rule, name in sorted(found)
    ]


def _pick_rule_changes(old: RouteRow, new: RouteRow) -> list[str]:
    """`rule testers v2 10->20`. What a rule's weights of destinations are that come or go is of
    these."""
    before = {rule.name: rule for rule in old.pick_rules}
    after = {rule.name: rule for rule in new.pick_rules}
    changes = []
    for name, rule in after.items():
        if name not in before:
            changes.append(f"rule {name} added ({rule.rule}: {_goes_to(new, rule)})")
            continue
        was = before[name]
        if was.rule.conditions != rule.rule.conditions:
            changes.append(f"rule {name} is of {rule.rule} now")
        if was.rule.reject != rule.rule.reject:
            changes.append(f"rule {name} {_goes_to(new, rule)}")
            continue
        then, now = _weights(old, was), _weights(new, rule)
        changes += [
            f"rule {name} {destination} {then.get(destination, 0)}->{now.get(destination, 0)}"
            for destination in dict.fromkeys((*now, *then))
            if then.get(destination, 0) != now.get(destination, 0)
        ]
    changes += [f"rule {name} removed" for name in before if name not in after]
    if [n for n in before if n in after] != [n for n in after if n in before]:
        changes.append("rules are in another order")
    return changes


def _weights(route: RouteRow, rule: RuleRow) -> dict[str, int]:
    names = (destination.name for destination in route.destinations)
    return dict(zip(names, rule.weights, strict=True))


def _goes_to(route: RouteRow, rule: RuleRow) -> str:
    weights = {name: weight for name, weight in _weights(route, rule).items() if weight}
    if rule.rule.reject:
        return "rejects"
    if len(weights) == 1:
        return f"to {next(iter(weights))}"
    return ", ".join(f"{name} {weight}" for name, weight in weights.items()) or "all weights 0"


def _on_unavailable(route: RouteRow) -> str:
    """As the file has it: a fallback by its name, which stays when destinations change places."""
    if route.rules.on_unavailable == FALLBACK:
        return f"{{fallback: {route.destinations[route.rules.fallback].name}}}"
    return [*ON_UNAVAILABLE][route.rules.on_unavailable]


def _timeout_changes(old: RouteRow | DestinationRow, new: RouteRow | DestinationRow) -> list[str]:
    found = []
    for rule in _TIMEOUTS:
        then, now = getattr(old.rules, rule.name), getattr(new.rules, rule.name)
        if then != now:
            found.append(f"{rule.path[0]} {then}ms->{now}ms")
    return found


def _destination_changes(
    old: Iterable[DestinationRow], new: Iterable[DestinationRow], of_route: Collection[str]
) -> list[str]:
    """of_route: what has changed for all destinations that say nothing else."""
    before = {d.name: d for d in old}
    after = {d.name: d for d in new}
    changes = []
    for name, row in after.items():
        if name not in before:
            changes.append(f"{name} added with weight {row.weight}")
            continue
        if before[name].weight != row.weight:
            changes.append(f"{name} {before[name].weight}->{row.weight}")
        changes += [
            f"{name} {change}"
            for change in _timeout_changes(before[name], row)
            if change not in of_route
        ]
        if before[name].state != row.state:
            changes.append(f"{name} {ADMIN_STATES[row.state]}")
        old_states = {str(e.address): (e.state, e.until) for e in before[name].endpoints}
        states = {str(e.address): (e.state, e.until) for e in row.endpoints}
        changes.extend(
            f"{name} endpoint {address} {state_text(*state)}"
            for address, state in states.items()
            if old_states.get(address, (READY, 0)) != state
        )
        was, now = old_states.keys(), states.keys()
        changes.extend(f"{name} endpoint {address} added" for address in sorted(now - was))
        changes.extend(f"{name} endpoint {address} removed" for address in sorted(was - now))
        changes += _other_changes(before[name], row)
    changes.extend(f"{name} removed" for name in before if name not in after)
    return changes


def state_text(state: int, until: int) -> str:
    """`draining (ready again at 19:15:02 UTC)`. until: Unix time, s; 0 = not by itself."""
    if not until:
        return ADMIN_STATES[state]
    return f"{ADMIN_STATES[state]} (ready again at {clock(until, zone=True)})"


def _other_changes(old: DestinationRow, new: DestinationRow) -> list[str]:
    """Of its endpoints that stay, and of its rules."""
    was = {str(endpoint.address): endpoint for endpoint in old.endpoints}
    changes = []
    for endpoint in new.endpoints:
        before = was.get(str(endpoint.address), endpoint)
        found = _rule_changes(before.rules, endpoint.rules)
        if before.weight != endpoint.weight:
            found.insert(0, f"weight {before.weight}->{endpoint.weight}")
        changes += [f"endpoint {endpoint.address} {change}" for change in found]
    return [f"{new.name} {change}" for change in (*changes, *_rule_changes(old.rules, new.rules))]


def _rule_changes(
    old: RouteRules | DestinationRules | EndpointRules,
    new: RouteRules | DestinationRules | EndpointRules,
) -> list[str]:
    """What is different, in the words of the file: `retry.budget 20%->5%`."""
    values = [
        (rule, getattr(old, rule.name), getattr(new, rule.name)) for rule in _OF_TYPE[type(new)]
    ]
    return [
        f"{'.'.join(rule.path)} {rule_text(rule, then)}->{rule_text(rule, now)}"
        for rule, then, now in values
        if then != now
    ]
