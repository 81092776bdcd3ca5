"""From configuration to route table: who gets which ticket and which counters.

Runs in the master. Tickets and counter slots belong to a name (route, destination,
endpoint address) and stay with it across reloads; a name that goes away leaves them to
nobody until they are needed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config import Address, Config, Destination, Endpoint, HostName, Route
from tcpmux.errors import TcpmuxError
from tcpmux.shm._shm import MAX_SLOTS, MAX_TICKETS
from tcpmux.shm.image import (
    ADMIN_STATES,
    READY,
    DestinationRow,
    EndpointRow,
    Image,
    ListenerRow,
    RouteRow,
)

Key = tuple[str, ...]  # (route,), (route, destination) or (route, destination, endpoint)
Weights = Mapping[str, Mapping[str, int]]  # route -> destination -> weight
Addresses = Mapping[HostName, Sequence[Address]]
States = Mapping[Key, int]  # of destinations and endpoints that are not READY


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


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, at least 1 unless it is 0 (= off)."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def _addresses_of(endpoint: Endpoint, addresses: Addresses) -> Sequence[Address]:
    return (endpoint,) if isinstance(endpoint, Address) else addresses.get(endpoint, ())


def build_image(
    config: Config,
    weights: Weights,
    names: Names,
    listener_ids: Mapping[Address, int],
    generation: int,
    addresses: Addresses,
    states: States,
) -> Image:
    """The image for `config` with run-time `weights` on top, to be published as `generation`.

    addresses: those of each host name, as often as they take turns; a name that is not in it
    has none. A destination that is not READY has no effective weight, such an endpoint no turn.

    Gives numbers to new names in `names` and retires those no longer used: hand in a copy,
    and keep it when the image is published. Raises TableFull.
    """
    used: set[Key] = set()

    def number(kind: Numbers, key: Key) -> tuple[int, int]:
        used.add(key)
        return kind.of(key, generation)

    def endpoint_row(route: Route, destination: Destination, address: Address) -> EndpointRow:
        key = (route.name, destination.name, str(address))
        return EndpointRow(address, *number(names.slots, key), states.get(key, READY))

    def destination_row(route: Route, destination: Destination) -> DestinationRow:
        key = (route.name, destination.name)
        slot, born = number(names.slots, key)
        weight = weights.get(route.name, {}).get(destination.name, destination.weight)
        state = states.get(key, READY)
        endpoints = _ready_first(
            endpoint_row(route, destination, address)
            for endpoint in destination.endpoints
            for address in _addresses_of(endpoint, addresses)
        )
        return DestinationRow(
            destination.name,
            weight,
            destination.weight,
            _effective(weight, state),
            milliseconds(destination.connect_timeout),
            milliseconds(destination.idle_timeout),
            names.tickets.of(key, generation)[0],
            slot,
            born,
            endpoints,
            state,
        )

    def route_row(route: Route) -> RouteRow:
        slot, born = number(names.slots, (route.name,))
        return RouteRow(
            route.name,
            milliseconds(route.connect_timeout),
            milliseconds(route.idle_timeout),
            names.tickets.of((route.name,), generation)[0],
            slot,
            born,
            tuple(destination_row(route, d) for d in route.destinations),
        )

    routes = tuple(route_row(route) for route in config.routes)
    listeners = tuple(
        ListenerRow(address, listener_ids[address], index)
        for index, route in enumerate(config.routes)
        for address in route.listen
    )
    names.slots.keep_only(used)
    names.tickets.keep_only(used)
    return Image(routes, listeners)


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
        if weight == row.weight:
            return row
        return replace(row, weight=weight, effective_weight=_effective(weight, row.state))

    return _with_destinations(image, route_name, changed)


def with_state(image: Image, key: Key, state: int) -> Image:
    """The same image, but for the state of one destination or endpoint."""

    def changed(row: DestinationRow) -> DestinationRow:
        if row.name != key[1]:
            return row
        if len(key) == 2:
            return replace(row, state=state, effective_weight=_effective(row.weight, state))
        endpoints = (
            replace(endpoint, state=state) if str(endpoint.address) == key[2] else endpoint
            for endpoint in row.endpoints
        )
        return replace(row, endpoints=_ready_first(endpoints))

    return _with_destinations(image, key[0], changed)


def _with_destinations(
    image: Image, route_name: str, changed: Callable[[DestinationRow], DestinationRow]
) -> Image:
    """The same image, but for the destinations of one route."""
    routes = (
        replace(route, destinations=tuple(map(changed, route.destinations)))
        if route.name == route_name
        else route
        for route in image.routes
    )
    return replace(image, routes=tuple(routes))


def _effective(weight: int, state: int) -> int:
    return weight if state == READY else 0


def _ready_first(endpoints: Iterable[EndpointRow]) -> tuple[EndpointRow, ...]:
    """As the table wants them: those that take turns before the others."""
    return tuple(sorted(endpoints, key=lambda row: row.state != READY))


def states_of(image: Image) -> dict[Key, int]:
    """Those of destinations and endpoints that are not READY."""
    found: dict[Key, int] = {}
    for route in image.routes:
        for destination in route.destinations:
            key = (route.name, destination.name)
            if destination.state != READY:
                found[key] = destination.state
            for endpoint in destination.endpoints:
                if endpoint.state != READY:
                    address = str(endpoint.address)
                    found[route.name, destination.name, address] = endpoint.state
    return found


def _order(row: DestinationRow) -> list[str]:
    return [str(endpoint.address) for endpoint in row.endpoints]


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
        if old_states == states and _order(before[name]) != _order(row):
            changes.append(f"{name} endpoints take other turns")
    changes.extend(f"{name} removed" for name in before if name not in after)
    return changes


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
    return [*_destination_changes(old.destinations, new.destinations, of_route), *of_route]


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
