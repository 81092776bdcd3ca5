"""What makes a route, a destination or an endpoint healthy, degraded, down, drained or disabled.
Runs in control.

Pure functions: conditions.py remembers since when. The `since` that they return is what shared
memory tells; None = it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.control.condition import DEGRADED, DISABLED, DOWN, DRAINED, HEALTHY, Condition
from tcpmux.control.connecting import error_text
from tcpmux.errors import plural
from tcpmux.shm import image as rows
from tcpmux.shm.serving import end_of, fallback_of, is_unavailable, serves

if TYPE_CHECKING:
    from tcpmux.control.endpoint import Endpoint
    from tcpmux.shm.image import DestinationRow, EndpointRow, RouteRow, RuleRow

DOWN_AFTER = 3  # connects in a row that fail, as checks have it by default (fall)
# What becomes of new connections that no destination can take, by on_all_unavailable.
ENDS = ("are reset", "wait", "are refused")
_SET_ASIDE = {rows.DRAINING: DRAINED, rows.DISABLED: DISABLED}


class NameTrouble(NamedTuple):
    """Of a host name among a destination's endpoints. has_addresses: those that it had before are
    used. since: Unix time, s."""

    name: str
    error: str
    since: float
    has_addresses: bool

    @property
    def condition(self) -> Condition:
        word = DEGRADED if self.has_addresses else DOWN
        return Condition(word, self.error, self.since)


class Failures(NamedTuple):
    """Connects of clients to one endpoint that have failed in a row, up to now and since it last
    answered a check. error: errno of the last, 0 = it timed out. since: of the first, Unix time, s.
    before: those before it answered."""

    in_a_row: int = 0
    error: int = 0
    since: float | None = None
    before: int = 0

    @property
    def text(self) -> str:
        """`connection refused, 17 in a row`."""
        what = error_text(self.error)
        return what if self.in_a_row == 1 else f"{what}, {self.in_a_row} in a row"


NONE = Failures()


def of_endpoint(row: EndpointRow, known: Endpoint | None, failures: Failures = NONE) -> Condition:
    """known: what health checks and ejection know of it; None = nothing yet."""
    healthy = _of_endpoint(row, known, failures)
    if row.state == rows.READY:
        return healthy
    but = f"; {healthy.word}: {healthy.reason}" if healthy.word == DOWN else ""
    return _set_aside(row, but)


def _set_aside(row: EndpointRow | DestinationRow, but: str = "") -> Condition:
    word = _SET_ASIDE[row.state]
    return Condition(word, f"{word} by an operator{but}", row.state_since or None)


def _of_endpoint(row: EndpointRow, known: Endpoint | None, failures: Failures) -> Condition:
    if row.health != rows.HEALTHY:
        return Condition(DOWN, _why_out(row, known, failures), row.health_since or None)
    is_checked = known is not None and known.watch.check is not None
    if failures.in_a_row >= DOWN_AFTER and not is_checked:
        return Condition(DOWN, failures.text, failures.since)
    reason = _doubt(known, failures)
    if reason:
        return Condition(DEGRADED, reason, failures.since)
    since = max(row.state_since, row.health_since) or None
    percent = row.slow_start_percent
    note = f"slow start: {percent}% of its share" if percent < rows.FULL_SHARE else ""
    if failures.before and not note:
        note = f"answers checks again; before that {plural(failures.before, 'connect')} failed"
    return Condition(HEALTHY, note, since)


def _why_out(row: EndpointRow, known: Endpoint | None, failures: Failures) -> str:
    reason = known.reason if known is not None else ""
    if row.health == rows.EJECTED:
        if failures.in_a_row and known is not None and known.ejections <= 1:
            reason = failures.text
        return f"ejected: {reason}" if reason else "ejected"
    return reason or "its checks fail"


def _doubt(known: Endpoint | None, failures: Failures) -> str:
    """Why one that is used may not be as it should; "" = nothing."""
    check = known.watch.check if known is not None else None
    if failures.in_a_row:
        but = ", but its checks succeed" if check and known and not known.streak else ""
        return f"{failures.text}{but}"
    if known is None:
        return ""
    if known.on_trial and known.ejections:
        return "back from an ejection; no connection has succeeded since then"
    # It is spared for those before.
    why = known.suspected if failures.before and not known.streak else known.reason
    return why or known.unanswered


def of_destination(
    row: DestinationRow, endpoints: Sequence[Condition], names: Sequence[NameTrouble] = ()
) -> Condition:
    """endpoints: in the order of the row's. names: those that are in trouble."""
    if row.state != rows.READY:
        return _set_aside(row)
    words = [each.word for each in endpoints]
    if not any(each.is_usable for each in endpoints):
        return _without_endpoints(row, endpoints, names)
    healthy = words.count(HEALTHY)
    parts = []
    if row.panic:
        parts.append(f"only {healthy} of {len(words)} endpoints healthy: all are used (panic)")
    if DOWN in words:
        parts.append(f"{words.count(DOWN)} of {plural(len(words), 'endpoint')} down")
    bad = _worst(row, endpoints, names)
    if bad or row.unresolved:
        parts.append(bad or f"{plural(row.unresolved, 'host name')} without an address")
    if parts:
        return Condition(DEGRADED, ": ".join(parts))
    notes = []
    if row.slow_start_percent < rows.FULL_SHARE:
        notes.append(f"slow start: {row.slow_start_percent}% of its share")
    notes += _some_aside(words)
    return Condition(HEALTHY, "; ".join(notes), row.state_since or None)


def _some_aside(words: Sequence[str]) -> Iterator[str]:
    """`1 of 2 endpoints drained`. words: the conditions of all endpoints."""
    for word in (DRAINED, DISABLED):
        if word in words:
            yield f"{words.count(word)} of {plural(len(words), 'endpoint')} {word}"


def _without_endpoints(
    row: DestinationRow, endpoints: Sequence[Condition], names: Sequence[NameTrouble]
) -> Condition:
    """None of its endpoints can take a connection."""
    words = {each.word for each in endpoints}
    if words and DOWN not in words and not row.unresolved:
        word = DISABLED if words == {DISABLED} else DRAINED
        since = [each.since for each in endpoints if each.since is not None]
        return Condition(word, f"all its endpoints are {word}", max(since, default=None))
    if not row.is_meant_to_serve:
        return Condition(DOWN, "it has no endpoint")
    reason = _worst(row, endpoints, names) or f"no address for {plural(row.unresolved, 'name')}"
    used = "; all are used nevertheless (panic)" if row.panic else ""
    return Condition(DOWN, f"{reason}{used}")


def _worst(
    row: DestinationRow, endpoints: Sequence[Condition], names: Sequence[NameTrouble]
) -> str:
    """What is wrong with the first of those that are down or, if none is, degraded; and how many
    more there are. "" = nothing is wrong."""
    every = [(trouble.name, trouble.condition) for trouble in names]
    every += [(str(one.address), at) for one, at in zip(row.endpoints, endpoints, strict=True)]
    for word in (DOWN, DEGRADED):
        bad = [(name, each.reason) for name, each in every if each.word == word]
        if bad:
            name, reason = bad[0]
            more = f" (and {len(bad) - 1} more {word})" if len(bad) > 1 else ""
            return f"{name}: {reason}{more}"
    return ""


def of_route(route: RouteRow, destinations: Sequence[Condition]) -> Condition:
    """destinations: in the order of the row's."""
    own = _by_weights(route, destinations)
    lost = rules_lost(route, destinations)
    if own.word not in (HEALTHY, DEGRADED):
        if len(lost) == sum(not rule.rule.reject for rule in route.pick_rules):
            return own
        if any(row.weight for row in route.destinations):
            own = Condition(DEGRADED, f"without a rule, {own.reason}", own.since)
        else:
            own = Condition(HEALTHY, "connections that meet no rule are reset")
    if lost:
        reasons = [own.reason] if own.word == DEGRADED else []
        return Condition(DEGRADED, "; ".join([*reasons, _lost_by_rules(route, lost)]))
    return own


def rules_lost(route: RouteRow, destinations: Sequence[Condition]) -> list[RuleRow]:
    """The rules whose connections no destination takes. destinations: in the order of the row's."""

    def is_served(rule: RuleRow) -> bool:
        pairs = zip(rule.effective_weights, destinations, strict=True)
        return any(weight and at.is_usable for weight, at in pairs)

    return [rule for rule in route.pick_rules if not rule.rule.reject and not is_served(rule)]


def _lost_by_rules(route: RouteRow, lost: Sequence[RuleRow]) -> str:
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    end = "fail" if any(lost[0].effective_weights) else ENDS[end_of(route)]
    return f"connections of rule {lost[0].name}{more} {end}"


def _by_weights(route: RouteRow, destinations: Sequence[Condition]) -> Condition:
    """Of those that meet no rule."""
    weighted = [
        (row, at) for row, at in zip(route.destinations, destinations, strict=True) if row.weight
    ]
    if not weighted:
        return Condition(DOWN, "every destination has weight 0: new connections are reset")
    words = {at.word for _, at in weighted}
    if words <= {DRAINED, DISABLED}:
        word = DISABLED if words == {DISABLED} else DRAINED
        which = "its only destination" if len(weighted) == 1 else "every destination with weight"
        since = [at.since for _, at in weighted if at.since is not None]
        reason = f"{which} is {word}: new connections are reset"
        return Condition(word, reason, max(since, default=None))
    bad = [(row, at) for row, at in weighted if at.word in (DOWN, DEGRADED)]
    bad.sort(key=lambda pair: pair[1].word != DOWN)
    if not takes_connections(route, destinations):
        return Condition(DOWN, f"new connections {what_becomes(route)}: {_first(bad)}")
    if not bad:
        return Condition(HEALTHY, "; ".join(_aside(weighted)))
    return Condition(DEGRADED, _first(bad, route))


def _aside(weighted: Sequence[tuple[DestinationRow, Condition]]) -> Iterator[str]:
    """What an operator has taken out of service of a route that is healthy even so."""
    for row, at in weighted:
        if not at.is_usable:
            yield f"{row.name} is {at.word}"
            continue
        words = [_SET_ASIDE.get(endpoint.state, HEALTHY) for endpoint in row.endpoints]
        yield from (f"{row.name}: {note}" for note in _some_aside(words))


def _first(bad: Sequence[tuple[DestinationRow, Condition]], route: RouteRow | None = None) -> str:
    """What is wrong with the first of a route's destinations, and how many more there are. route:
    as it also says what becomes of their shares."""
    row, at = bad[0]
    share = f" ({share_of(route, row)})" if route and at.word == DOWN else ""
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{row.name} is {at.word}{share}: {at.reason}{more}"


def takes_connections(route: RouteRow, destinations: Sequence[Condition]) -> bool:
    """Whether there is a destination with a share that can take connections."""
    return any(
        row.effective_weight and at.is_usable
        for row, at in zip(route.destinations, destinations, strict=True)
    )


def what_becomes(route: RouteRow) -> str:
    """Of new connections of a route that is down: `are reset`, `wait`, `are refused` or `fail`."""
    return ENDS[end_of(route)] if is_unavailable(route) else "fail"


def loses_clients(row: DestinationRow) -> bool:
    """Whether one that is down has a share nevertheless."""
    return row.effective_weight > 0


def share_of(route: RouteRow, row: DestinationRow) -> str:
    """What becomes of the share of a destination that is down."""
    if row.effective_weight:
        whole = sum(other.effective_weight for other in route.destinations)
        share = f"{max(1, round(100 * row.effective_weight / whole))}%"
        end = "fail" if row.turns else "are reset"
        of = "clients: their new connections" if route.rules.sticky_by else "new connections"
        return f"{share} of {of} {end}"
    fallback = fallback_of(route.rules)
    if fallback >= 0 and serves(route.destinations[fallback]):
        return f"its share goes to {route.destinations[fallback].name}"
    if not any(other.effective_weight for other in route.destinations):
        return "no destination with weight is left to take its share"
    return "the others get its share"
