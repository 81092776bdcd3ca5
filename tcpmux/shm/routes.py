"""From configuration to route table: who gets which ticket and which counters.

Runs in the master. Tickets and counter slots belong to a name (route, destination,
endpoint address) and stay with it across reloads; a name that goes away leaves them to
nobody until they are needed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

from tcpmux.config import (
    Address,
    Clients,
    Config,
    Destination,
    Endpoint,
    EndpointPolicy,
    HostName,
    Route,
)
from tcpmux.config.loops import without
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.settings import milliseconds
from tcpmux.config.turns import turns
from tcpmux.errors import TcpmuxError
from tcpmux.shm._shm import MAX_RANGES, MAX_SLOTS, MAX_TICKETS, MAX_TURNS
from tcpmux.shm.image import (
    ADMIN_STATES,
    FALLBACK,
    FULL_RAMP,
    READY,
    REJECT,
    RESET,
    WELL,
    DestinationRow,
    EndpointRow,
    Image,
    ListenerRow,
    RouteRow,
)
from tcpmux.shm.rules import (
    DestinationRules,
    RouteRules,
    destination_rules,
    route_rules,
    rule_changes,
)

Key = tuple[str, ...]  # (route,), (route, destination) or (route, destination, endpoint)
Weights = Mapping[str, Mapping[str, int]]  # route -> destination -> weight
Addresses = Mapping[HostName, Sequence[Address]]
Loops = Collection[tuple[str, Address]]  # a route, and what leads back to it
Condition = tuple[int, int]  # health, ramp in percent; of a destination the ramp alone counts
RANGE = 32  # bytes of one range of clients
_EMPTY = Image((), ())


class TableFull(TcpmuxError):
    """No counter slot or ticket is left; all are held by names in use."""


@dataclass(slots=True)
class Numbers:
    """Gives out small numbers to names, the same one as long as the name is in use.

    A number whose name went away is given out again only when no fresh one is left, and
    only if `reusable` says so.
    """

    limit: int
    reusable: Callable[[int], bool]
    _given: dict[Key, int] = field(default_factory=dict)
    _born: dict[Key, int] = field(default_factory=dict)
    _retired: list[int] = field(default_factory=list)
    _next: int = 0

    def of(self, key: Key, generation: int) -> tuple[int, int]:
        """(number, generation in which this name got it); a new name gets one now."""
        number = self._given.get(key)
        if number is None:
            number = self._fresh()
            self._given[key] = number
            self._born[key] = generation
        return number, self._born[key]

    def _fresh(self) -> int:
        if self._next < self.limit:
            self._next += 1
            return self._next - 1
        for place, number in enumerate(self._retired):
            if self.reusable(number):
                return self._retired.pop(place)
        raise TableFull(f"the configuration needs more than {self.limit} names at once")

    def keep_only(self, keys: set[Key]) -> None:
        """Retires the numbers of all other names."""
        for key in [key for key in self._given if key not in keys]:
            self._retired.append(self._given.pop(key))
            del self._born[key]

    @property
    def given(self) -> int:
        """Numbers from here on have never belonged to a name."""
        return self._next

    def restore(self, held: Mapping[Key, tuple[int, int]], given: int) -> None:
        """Goes on where another master ended. held: (number, born) of every name in use."""
        self._given = {key: number for key, (number, _) in held.items()}
        self._born = {key: born for key, (_, born) in held.items()}
        self._retired = sorted(set(range(given)) - set(self._given.values()))
        self._next = given

    def copy(self) -> Numbers:
        """To try something out: nothing is given out for good until the copy is kept."""
        return Numbers(
            self.limit,
            self.reusable,
            dict(self._given),
            dict(self._born),
            list(self._retired),
            self._next,
        )


@dataclass(slots=True)
class Names:
    """The numbers of one running instance."""

    slots: Numbers
    tickets: Numbers

    @classmethod
    def new(cls, slot_is_idle: Callable[[int], bool]) -> Names:
        """slot_is_idle: no worker has a connection that counts in this slot."""
        # A ticket carries no meaning: any value is a good start.
        return cls(Numbers(MAX_SLOTS, slot_is_idle), Numbers(MAX_TICKETS, lambda _: True))

    def restore(self, image: Image, given: tuple[int, int]) -> None:
        """Goes on where another master ended, whose image this is. given: slots, tickets."""
        slots: dict[Key, tuple[int, int]] = {}
        tickets: dict[Key, tuple[int, int]] = {}
        for route in image.routes:
            key: Key = (route.name,)
            slots[key] = route.slot, route.born
            tickets[key] = route.ticket, route.born
            for destination in route.destinations:
                key = (route.name, destination.name)
                slots[key] = destination.slot, destination.born
                tickets[key] = destination.ticket, destination.born
                for endpoint in destination.endpoints:
                    name = (*key, str(endpoint.address))
                    slots[name] = endpoint.slot, endpoint.born
        self.slots.restore(slots, given[0])
        self.tickets.restore(tickets, given[1])

    @property
    def given(self) -> tuple[int, int]:
        return self.slots.given, self.tickets.given

    def copy(self) -> Names:
        return Names(self.slots.copy(), self.tickets.copy())


def _addresses_of(
    route: Route, endpoint: Endpoint, addresses: Addresses, loops: Loops
) -> Sequence[Address]:
    if isinstance(endpoint, Address):
        return (endpoint,)
    return without(route.name, addresses.get(endpoint, ()), loops)


class _Before:
    """What goes on from the image in force: states, health, and who is new."""

    def __init__(self, image: Image) -> None:
        self.routes = {route.name for route in image.routes}
        self.destinations: dict[Key, DestinationRow] = {
            (route.name, row.name): row for route in image.routes for row in route.destinations
        }
        self.endpoints: dict[Key, EndpointRow] = {
            (*key, str(endpoint.address)): endpoint
            for key, row in self.destinations.items()
            for endpoint in row.endpoints
        }


_NO_POLICY = EndpointPolicy()


@dataclass(slots=True)
class _Builder:
    """Makes the rows of one image."""

    weights: Weights
    names: Names
    generation: int
    addresses: Addresses
    before: _Before
    loops: Loops
    used: set[Key] = field(default_factory=set)

    def number(self, key: Key) -> tuple[int, int]:
        """Slot, and generation in which it was given."""
        self.used.add(key)
        return self.names.slots.of(key, self.generation)

    def route(self, route: Route) -> RouteRow:
        key = (route.name,)
        slot, born = self.number(key)
        return settled(
            RouteRow(
                route.name,
                milliseconds(route.connect_timeout),
                milliseconds(route.idle_timeout),
                self.names.tickets.of(key, self.generation)[0],
                slot,
                born,
                tuple(self.destination(route, d) for d in route.destinations),
                route_rules(route),
                admitted(route.policy.allow, route.policy.deny),
            )
        )

    def destination(self, route: Route, destination: Destination) -> DestinationRow:
        key = (route.name, destination.name)
        slot, born = self.number(key)
        before = self.before.destinations.get(key)
        rules = destination_rules(destination)
        weight = self.weights.get(route.name, {}).get(destination.name, destination.weight)
        count = Counter(
            address
            for endpoint in destination.endpoints
            for address in _addresses_of(route, endpoint, self.addresses, self.loops)
        )
        policies = {
            address: policy
            for endpoint, policy in destination.endpoint_policies
            for address in _addresses_of(route, endpoint, self.addresses, self.loops)
        }
        # What is new beside others that serve gets its share gradually; if all is new, at once.
        has_begun = before is not None and bool(before.endpoints)
        return DestinationRow(
            destination.name,
            weight,
            destination.weight,
            0,
            milliseconds(destination.connect_timeout),
            milliseconds(destination.idle_timeout),
            self.names.tickets.of(key, self.generation)[0],
            slot,
            born,
            tuple(
                self.endpoint(
                    (*key, str(address)),
                    address,
                    weight,
                    policies.get(address, _NO_POLICY),
                    _first_ramp(rules, has_begun),
                )
                for address, weight in count.items()
            ),
            before.state if before else READY,
            before.ramp if before else _first_ramp(rules, route.name in self.before.routes),
            rules,
            unresolved=sum(
                not _addresses_of(route, endpoint, self.addresses, self.loops)
                for endpoint in set(destination.endpoints)
                if isinstance(endpoint, HostName)
            ),
        )

    def endpoint(
        self, key: Key, address: Address, weight: int, policy: EndpointPolicy, first_ramp: int
    ) -> EndpointRow:
        before = self.before.endpoints.get(key)
        return EndpointRow(
            address,
            *self.number(key),
            before.state if before else READY,
            weight,
            before.health if before else WELL,
            before.ramp if before else first_ramp,
            policy.max_connections,
            policy.priority,
            before.until if before else 0,
        )


def _first_ramp(rules: DestinationRules, others_serve: bool) -> int:
    return rules.warmup_floor if others_serve and rules.warmup_ms else FULL_RAMP


def build_image(
    config: Config,
    weights: Weights,
    names: Names,
    listener_ids: Mapping[Address, int],
    generation: int,
    addresses: Addresses,
    before: Image = _EMPTY,
    loops: Loops = (),
) -> Image:
    """The image for `config` with run-time `weights` on top, to be published as `generation`.

    listener_ids: of the addresses that are listened on; those of a route may be missing while
    it refuses connections. addresses: those of each host name, as often as they take turns; a name
    that is not in it has none. before: the image in force; the states and the health of its
    names go on. loops: of a route and an address that a name stands for: those are left out.

    Gives numbers to new names in `names` and retires those no longer used: hand in a copy,
    and keep it when the image is published. Raises TableFull.
    """
    builder = _Builder(weights, names, generation, addresses, _Before(before), loops)
    routes = tuple(builder.route(route) for route in config.routes)
    turns_taken = sum(
        len(d.turns) + len(d.reserves) for route in routes for d in route.destinations
    )
    ranges = sum(len(route.admitted or b"") for route in routes) // RANGE
    for what, count, most in (
        ("turns of endpoints", turns_taken, MAX_TURNS),
        ("ranges of client addresses", ranges, MAX_RANGES),
    ):
        if count > most:
            raise TableFull(f"the configuration needs {count} {what}: at most {most} can be")
    listeners = tuple(
        ListenerRow(address, listener_ids[address], index)
        for index, route in enumerate(config.routes)
        for address in route.listen
        if address in listener_ids
    )
    names.slots.keep_only(builder.used)
    names.tickets.keep_only(builder.used)
    return Image(routes, listeners)


def slots_given(image: Image, before: int) -> Iterator[int]:
    """Slots of names that have got them since that generation."""
    rows: list[RouteRow | DestinationRow | EndpointRow] = [*image.routes]
    rows += [row for route in image.routes for row in route.destinations]
    rows += [e for route in image.routes for row in route.destinations for e in row.endpoints]
    return (row.slot for row in rows if row.born > before)


# --- rules ----------------------------------------------------------------------------------


_LAST = (1 << 128) - 1
_MAPPED = 0xFFFF << 32  # IPv4 as ::ffff:a.b.c.d


def admitted(allow: Sequence[Clients], deny: Sequence[Clients]) -> bytes | None:
    """The clients that are let in, as csrc/route_table.h has them: ranges in order that don't
    meet. None = all. deny wins."""
    if not allow and not deny:
        return None
    outside = [*_merged(deny), (_LAST + 1, _LAST + 1)]
    ranges = []
    at = 0
    for first, last in _merged(allow) if allow else [(0, _LAST)]:
        rest = first
        while outside[at][1] < rest:
            at += 1
        here = at
        while outside[here][0] <= last:
            if outside[here][0] > rest:
                ranges.append((rest, outside[here][0] - 1))
            rest = outside[here][1] + 1
            here += 1
        if rest <= last:
            ranges.append((rest, last))
    return b"".join(first.to_bytes(16, "big") + last.to_bytes(16, "big") for first, last in ranges)


def _merged(clients: Iterable[Clients]) -> list[tuple[int, int]]:
    """In order, and as few as there can be."""
    spans = []
    for some in clients:
        if isinstance(some, str):  # those of UNIX sockets
            spans.append((0, 0))
            continue
        base = _MAPPED if some.version == 4 else 0
        first, last = int(some.network_address), int(some.broadcast_address)
        if base + last:  # :: stands for UNIX sockets, and is in no network
            spans.append((max(base + first, 1), base + last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


# --- who serves -----------------------------------------------------------------------------


def settled(route: RouteRow) -> RouteRow:
    """The same route with what follows from states, health, ramps and weights: whose turns they
    are in each destination, and effective weights."""
    rows = [_with_turns(row) for row in route.destinations]
    effective = _effective_weights(route.rules, rows)
    return replace(
        route,
        destinations=tuple(
            row if row.effective_weight == weight else replace(row, effective_weight=weight)
            for row, weight in zip(rows, effective, strict=True)
        ),
    )


def serves(row: DestinationRow) -> bool:
    """Whether it can take connections, apart from its weight."""
    return row.state == READY and bool(row.turns)


def is_unavailable(route: RouteRow) -> bool:
    """Whether connections would go somewhere if any endpoint there were healthy."""
    wanted = (d.weight and d.is_meant_to_serve and d.state == READY for d in route.destinations)
    return any(wanted) and not any(d.effective_weight and d.turns for d in route.destinations)


def _with_turns(row: DestinationRow) -> DestinationRow:
    ready = [i for i, endpoint in enumerate(row.endpoints) if endpoint.state == READY]
    well = [i for i in ready if row.endpoints[i].health == WELL]
    panic = len(well) * 100 < len(ready) * row.rules.panic_percent
    usable = ready if panic else well
    tiers: dict[int, list[tuple[int, int]]] = {}
    for i in usable:
        endpoint = row.endpoints[i]
        tiers.setdefault(endpoint.priority, []).append((i, endpoint.weight * endpoint.ramp))
    first, *others = [turns(tiers[priority]) for priority in sorted(tiers)] or [()]
    reserves = tuple(i for tier in others for i in tier)
    if (first, reserves, panic) == (row.turns, row.reserves, row.panic):
        return row
    return replace(row, turns=first, reserves=reserves, panic=panic)


def _effective_weights(rules: RouteRules, rows: Sequence[DestinationRow]) -> list[int]:
    """The share of a destination that has endpoints, of which none can take a connection, goes
    where on_unavailable says, be it that the address of none is known. One for which no endpoint is
    configured keeps it: it is to be reset."""
    weights = [row.weight if row.state == READY else 0 for row in rows]
    if any(weight and row.ramp != FULL_RAMP for row, weight in zip(rows, weights, strict=True)):
        weights = [weight * row.ramp for row, weight in zip(rows, weights, strict=True)]
    failed = [
        i for i, row in enumerate(rows) if weights[i] and row.is_meant_to_serve and not row.turns
    ]
    fallback = rules.fallback if rules.on_unavailable == FALLBACK else -1
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


def with_addresses(image: Image) -> Image:
    """The same image with every address, which a table tells as text, parsed."""

    def parsed(address: Address | str) -> Address:
        return Address.parse(address) if isinstance(address, str) else address

    routes = tuple(
        replace(
            route,
            destinations=tuple(
                replace(
                    destination,
                    endpoints=tuple(
                        replace(endpoint, address=parsed(endpoint.address))
                        for endpoint in destination.endpoints
                    ),
                )
                for destination in route.destinations
            ),
        )
        for route in image.routes
    )
    listeners = tuple(replace(row, address=parsed(row.address)) for row in image.listeners)
    return Image(routes, listeners)


def with_weights(image: Image, route_name: str, weights: Mapping[str, int]) -> Image:
    """The same image, every row of it too, but for these weights of one route."""

    def changed(row: DestinationRow) -> DestinationRow:
        weight = weights.get(row.name, row.weight)
        return row if weight == row.weight else replace(row, weight=weight)

    return _with_destinations(image, {route_name: changed})


def with_state(image: Image, key: Key, state: int, until: int = 0) -> Image:
    """The same image, but for the state of one destination or endpoint. until: Unix time, s, when
    an endpoint is to be READY again; 0 = not by itself."""

    def changed(row: DestinationRow) -> DestinationRow:
        if row.name != key[1]:
            return row
        if len(key) == 2:
            return replace(row, state=state)
        endpoints = (
            replace(endpoint, state=state, until=until)
            if str(endpoint.address) == key[2]
            else endpoint
            for endpoint in row.endpoints
        )
        return replace(row, endpoints=tuple(endpoints))

    return _with_destinations(image, {key[0]: changed})


def with_conditions(image: Image, conditions: Mapping[Key, Condition]) -> Image:
    """The same image, but for the health and the ramps of some endpoints and destinations. Those
    that are not in it any more are passed over."""
    by_route: dict[str, set[str]] = {}
    for key in conditions:
        by_route.setdefault(key[0], set()).add(key[1])

    def change_of(route: str) -> Callable[[DestinationRow], DestinationRow]:
        def changed(row: DestinationRow) -> DestinationRow:
            if row.name not in by_route[route]:
                return row
            _, ramp = conditions.get((route, row.name), (WELL, row.ramp))
            endpoints = (
                _conditioned(endpoint, conditions.get((route, row.name, str(endpoint.address))))
                for endpoint in row.endpoints
            )
            return replace(row, ramp=ramp, endpoints=tuple(endpoints))

        return changed

    return _with_destinations(image, {route: change_of(route) for route in by_route})


def _conditioned(row: EndpointRow, condition: Condition | None) -> EndpointRow:
    if condition is None or condition == (row.health, row.ramp):
        return row
    return replace(row, health=condition[0], ramp=condition[1])


def _with_destinations(
    image: Image, changes: Mapping[str, Callable[[DestinationRow], DestinationRow]]
) -> Image:
    """The same image, but for the destinations of some routes."""
    routes = (
        settled(replace(route, destinations=tuple(map(changes[route.name], route.destinations))))
        if route.name in changes
        else route
        for route in image.routes
    )
    return replace(image, routes=tuple(routes))


TIMEOUTS = ("connect_timeout", "idle_timeout")


def _timeout_changes(old: RouteRow | DestinationRow, new: RouteRow | DestinationRow) -> list[str]:
    found = []
    for what in TIMEOUTS:
        old_ms, new_ms = getattr(old, f"{what}_ms"), getattr(new, f"{what}_ms")
        if old_ms != new_ms:
            found.append(f"{what} {old_ms}ms->{new_ms}ms")
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
        old_states = {str(e.address): e.state for e in before[name].endpoints}
        states = {str(e.address): e.state for e in row.endpoints}
        changes.extend(
            f"{name} endpoint {address} {ADMIN_STATES[state]}"
            for address, state in states.items()
            if old_states.get(address, READY) != state
        )
        was, now = old_states.keys(), states.keys()
        changes.extend(f"{name} endpoint {address} added" for address in sorted(now - was))
        changes.extend(f"{name} endpoint {address} removed" for address in sorted(was - now))
        changes += _other_changes(before[name], row)
    changes.extend(f"{name} removed" for name in before if name not in after)
    return changes


def _other_changes(old: DestinationRow, new: DestinationRow) -> list[str]:
    """Of its endpoints that stay, and of its rules."""
    was = {str(endpoint.address): endpoint for endpoint in old.endpoints}
    changes = []
    for endpoint in new.endpoints:
        before = was.get(str(endpoint.address), endpoint)
        for what in ("weight", "max_connections", "priority"):
            then, now = getattr(before, what), getattr(endpoint, what)
            if then != now:
                changes.append(f"endpoint {endpoint.address} {what} {then}->{now}")
    return [f"{new.name} {change}" for change in (*changes, *rule_changes(old.rules, new.rules))]


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
    changes += [*of_route, *rule_changes(old.rules, new.rules)]
    if old.admitted != new.admitted:
        changes.append("allow or deny changed")
    return changes


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
