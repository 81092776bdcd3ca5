"""Which live connections are to leave so that the weights in force hold: a plan, no more.

Pure functions of what shared memory has, so that a restart misses nothing. Each split is planned by
itself: the route's own weights, and those of each of its rules. With rules or a sticky pick it is
asked of each connection where it would go now (fates.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tcpmux.config.converge import CONVERGE_ORDER
from tcpmux.shm.convergence import CLOSE, is_left
from tcpmux.shm.image import RouteRow

if TYPE_CHECKING:
    from tcpmux.shm._connections import Facts

NO_RULE = (1 << 32) - 1  # instead of a rule's slot
Split = Mapping[int, int]  # destination slot -> weight in force
Place = tuple[int, int]  # slots of the rule and of the destination
IDLE, OLDEST, RANDOM = range(len(CONVERGE_ORDER))
# Moments that are no question of silence, as fields of Blocked.
LASTING = {
    "transaction": "in_transaction",
    "subscribed": "subscribed",
    "stateful": "stateful",
    "turned_away": "turned_away",
}
PART = 1000  # candidates that are compared without a pause


class Candidate(NamedTuple):
    """A relayed connection, as shared memory has it: numbers of slots; times in ms."""

    worker: int
    record: int
    generation: int
    rule: int
    destination: int
    endpoint: int
    idle: int
    age: int
    endpoint_spoke_last: bool
    facts: Facts | None = None
    moment: str = "safe"  # of MOMENTS: shm/_connections.pyx

    @property
    def id(self) -> str:
        return f"{self.worker}-{self.record}-{self.generation}"


Ranked = tuple[tuple[int, float], Candidate]


@dataclass(slots=True)
class Surplus:
    """How many are to leave. places: of each, by weight; only those with any. endpoints: slots that
    everybody leaves. elsewhere: records (worker, record) that would go to another destination now.
    by_destination: of all these, by slot. lacking: how many each place has too few. weightless:
    slots of rules whose connections stay, as their clients would be refused; stuck: how many.
    total: connections that were counted."""

    places: dict[Place, int] = field(default_factory=dict)
    endpoints: frozenset[int] = frozenset()
    elsewhere: frozenset[tuple[int, int]] = frozenset()
    by_destination: dict[int, int] = field(default_factory=dict)
    lacking: dict[Place, int] = field(default_factory=dict)
    weightless: frozenset[int] = frozenset()
    total: int = 0
    stuck: int = 0

    def leaves(self, one: Candidate) -> bool:
        """Whether it has to, whoever else of its place does."""
        if (one.worker, one.record) in self.elsewhere:
            return True
        return one.endpoint in self.endpoints and one.rule not in self.weightless


def splits_of(route: RouteRow) -> dict[int, Split]:
    """By the rule's slot; without those that reject."""
    slots = [row.slot for row in route.destinations]
    found: dict[int, Split] = {
        NO_RULE: {row.slot: row.effective_weight for row in route.destinations}
    }
    for rule in route.pick_rules:
        if not rule.rule.reject:
            found[rule.slot] = dict(zip(slots, rule.effective_weights, strict=True))
    return found


def leaving_endpoints(route: RouteRow, method: int = CLOSE) -> frozenset[int]:
    """Slots of those that an operator has taken out of service; and of those that are down, where
    that costs no client its connection."""
    return frozenset(
        endpoint.slot
        for row in route.destinations
        for endpoint in row.endpoints
        if is_left(endpoint, method)
    )


def apportion(total: int, weights: Split, present: Mapping[int, int]) -> dict[int, int]:
    """`total` by weight, by largest remainder. Equal remainders: to whoever has more already, so
    that as few as possible move; then by slot. {} where nothing has weight."""
    whole = sum(weights.values())
    if not whole:
        return {}
    shares = {slot: total * weight // whole for slot, weight in weights.items()}
    first = sorted(
        weights,
        key=lambda slot: (-(total * weights[slot] % whole), -present.get(slot, 0), slot),
    )
    for slot in first[: total - sum(shares.values())]:
        shares[slot] += 1
    return shares


def surplus(
    counts: Mapping[tuple[int, int, int], int],
    splits: Mapping[int, Split],
    leaving: Collection[int] = (),
    tolerance: int = 0,
) -> Surplus:
    """counts: by slots of rule, destination and endpoint. leaving: slots of endpoints.

    A destination without a share keeps none, any other `tolerance` more than its share. A split
    without weight is left alone: its clients would be refused. Connections of a rule that is there
    no longer belong to the route's own split.
    """
    present: dict[int, dict[int, int]] = {}
    going: dict[int, dict[int, int]] = {}
    for (rule, destination, endpoint), count in counts.items():
        of = going if endpoint in leaving else present
        split = rule if rule in splits else NO_RULE
        found = of.setdefault(split, {})
        found[destination] = found.get(destination, 0) + count
    result = Surplus(endpoints=frozenset(leaving), total=sum(counts.values()))
    for rule, weights in splits.items():
        staying, gone = present.get(rule, {}), going.get(rule, {})
        shares = apportion(sum(staying.values()) + sum(gone.values()), weights, staying)
        if not any(weights.values()):
            result.weightless |= {rule}
            result.stuck += sum(staying.values()) + sum(gone.values())
            continue
        for slot, share in shares.items():
            if share > staying.get(slot, 0):
                result.lacking[rule, slot] = share - staying.get(slot, 0)
        for slot in {*staying, *gone}:
            share, count = shares.get(slot, 0), staying.get(slot, 0)
            many = max(0, count - share)
            if many <= (tolerance if share else 0):
                many = 0
            else:
                result.places[rule, slot] = many
            if many + gone.get(slot, 0):
                _add(result.by_destination, slot, many + gone.get(slot, 0))
    return result


def _add(counts: dict[int, int], key: int, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


class Homes:
    """Where each that is to leave goes on: where the most are lacking, which may be another
    endpoint of its own destination."""

    def __init__(self, wanted: Surplus) -> None:
        self._lacking = dict(wanted.lacking)

    def next(self, one: Candidate) -> int | None:
        """Slot of a destination, to be taken; None: nobody lacks any."""
        found = [
            (count, -slot) for (rule, slot), count in self._lacking.items() if rule == one.rule
        ]
        if not found:
            return None
        slot = -max(found)[1]
        self.take(one.rule, slot)
        return slot

    def take(self, rule: int, slot: int) -> None:
        """One is on its way there."""
        count = self._lacking.pop((rule, slot), 0) - 1
        if count > 0:
            self._lacking[rule, slot] = count


class Blocked(NamedTuple):
    """Of those that are to leave, why they can't yet."""

    busy: int = 0  # bytes have moved too lately
    unanswered: int = 0  # the client spoke last, or nobody has spoken
    in_transaction: int = 0
    subscribed: int = 0
    unknown: int = 0  # what they say is not understood
    stateful: int = 0  # to go on elsewhere: the endpoint knows what the next one can't be told
    turned_away: int = 0  # the same: another endpoint has not wanted them just now

    def __add__(self, other: object) -> Blocked:  # as vectors, not as tuples
        assert isinstance(other, Blocked)
        return Blocked(*(one + more for one, more in zip(self, other, strict=True)))


def why_not_yet(one: Candidate, quiet: int) -> str | None:
    """Why it can't leave yet: a field of Blocked. quiet: ms."""
    spoke = one.endpoint_spoke_last
    return why_stays(one.moment, one.idle, quiet, endpoint_spoke_last=spoke)


def why_stays(moment: str, idle: int, quiet: int, *, endpoint_spoke_last: bool) -> str | None:
    """The same of any connection: moment as of Candidate, times in ms."""
    if moment in LASTING:
        return LASTING[moment]
    if not endpoint_spoke_last:
        return "unanswered"
    if idle < quiet or moment == "busy":
        return "busy"
    return "unknown" if moment == "unknown" else None


class Choice:
    """Those to end first, of many, looked at in parts. quiet: ms. late: whatever they do. refusals:
    how often a worker has found one busy that looked quiet; those it did least often go first, so
    that clients that never are (half-closed ones, those that do not read) keep nobody else."""

    def __init__(
        self,
        wanted: Surplus,
        *,
        quiet: int,
        order: int,
        most: int,
        random: Random,
        late: bool,
        refusals: Mapping[object, int] = MappingProxyType({}),
    ) -> None:
        self._wanted = wanted
        self._refusals = refusals
        self._quiet, self._order, self._most, self._late = quiet, order, most, late
        self._random = random
        self._found: dict[Place | None, list[Ranked]] = {}
        self.blocked = Blocked()

    def steps(self, rows: Sequence[Candidate]) -> Iterator[None]:
        """Yields None after each part of the work."""
        for at in range(0, len(rows), PART):
            self._add(rows[at : at + PART])
            yield None

    def _add(self, rows: Iterable[Candidate]) -> None:
        wanted = self._wanted
        fit: dict[Place | None, list[Ranked]] = {}
        blocked = dict.fromkeys(Blocked._fields, 0)
        for one in rows:
            if wanted.leaves(one):
                place = None
            elif (one.rule, one.destination) in wanted.places:
                place = one.rule, one.destination
            else:
                continue
            why = None if self._late else why_not_yet(one, self._quiet)
            if why:
                blocked[why] += 1
            else:
                fit.setdefault(place, []).append((self._key(one), one))
        self.blocked += Blocked(**blocked)
        for place, found in fit.items():
            most = self._most if place is None else min(self._most, wanted.places[place])
            both = [*self._found.get(place, ()), *found]
            self._found[place] = heapq.nlargest(most, both, key=_rank)

    def _key(self, one: Candidate) -> tuple[int, float]:
        refused = -self._refusals.get((one.worker, one.record, one.generation), 0)
        if self._order == IDLE:
            return refused, one.idle
        return refused, one.age if self._order == OLDEST else self._random.random()

    def first(self) -> list[Candidate]:
        """At most `most`, and of no place more than its surplus."""
        every = [each for found in self._found.values() for each in found]
        return [one for _, one in heapq.nlargest(self._most, every, key=_rank)]


def _rank(each: Ranked) -> tuple[tuple[int, float], int, int]:
    """The greatest first; of equal ones that of the least record."""
    return each[0], -each[1].worker, -each[1].record


def closes_needed(route: RouteRow, wanted: Surplus) -> int:
    """About how many connections have to be closed until the weights hold: of those that come
    again, some come to where they were, by its share."""
    splits = splits_of(route)
    every = float(len(wanted.elsewhere))
    for (rule, slot), many in wanted.places.items():
        weights = splits[rule]
        staying = weights.get(slot, 0) / sum(weights.values())
        every += many / (1 - staying) if staying < 1 else 0
    listed = sum(wanted.places.values()) + len(wanted.elsewhere)
    every += max(0, sum(wanted.by_destination.values()) - listed)  # of endpoints that all leave
    return round(every)


def by_name(route: RouteRow, of: Surplus) -> list[dict[str, Any]]:
    """As in the status. A destination that the route has no longer has no name."""
    names = {row.slot: row.name for row in route.destinations}
    return [
        {"name": names.get(slot, "(removed)"), "connections": count}
        for slot, count in sorted(of.by_destination.items())
    ]
