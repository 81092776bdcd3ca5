"""Counter slots and tickets: numbers that belong to a name (route, destination, endpoint address)
and stay with it across reloads; a name that goes away leaves them to nobody until they are needed
again. Runs in the master.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tcpmux.errors import TcpmuxError
from tcpmux.shm._declared import MAX_SLOTS, MAX_TICKETS
from tcpmux.shm.image import DestinationRow, EndpointRow, Image, RouteRow, RuleRow

# (route,), (route, destination) or (route, destination, endpoint); a rule is (route, /rule).
Key = tuple[str, ...]


class TableFull(TcpmuxError):
    """No counter slot or ticket is left; all are held by names in use."""


def rule_key(route: str, rule: str) -> Key:
    """No destination is called so."""
    return route, f"/{rule}"


@dataclass(slots=True)
class Numbers:
    """Gives out small numbers to names, the same one as long as the name is in use.

    A number whose name went away is given out again only when no fresh one is left, and
    only if `reusable` says so.
    """

    limit: int
    reusable: Callable[[int], bool]
    _given: dict[Key, int] = field(default_factory=dict)
    _since: dict[Key, int] = field(default_factory=dict)
    _retired: list[int] = field(default_factory=list)
    _next: int = 0

    def of(self, key: Key, generation: int) -> tuple[int, int]:
        """(number, generation in which this name got it); a new name gets one now."""
        number = self._given.get(key)
        if number is None:
            number = self._fresh()
            self._given[key] = number
            self._since[key] = generation
        return number, self._since[key]

    def _fresh(self) -> int:
        if self._next < self.limit:
            self._next += 1
            return self._next - 1
        for index, number in enumerate(self._retired):
            if self.reusable(number):
                return self._retired.pop(index)
        raise TableFull(f"the configuration needs more than {self.limit} names at once")

    def keep_only(self, keys: set[Key]) -> None:
        """Retires the numbers of all other names."""
        for key in [key for key in self._given if key not in keys]:
            self._retired.append(self._given.pop(key))
            del self._since[key]

    @property
    def given(self) -> int:
        """Numbers from here on have never belonged to a name."""
        return self._next

    def restore(self, held: Mapping[Key, tuple[int, int]], given: int) -> None:
        """Goes on where another master ended. held: what of() says of every name in use."""
        self._given = {key: number for key, (number, _) in held.items()}
        self._since = {key: since for key, (_, since) in held.items()}
        self._retired = sorted(set(range(given)) - set(self._given.values()))
        self._next = given

    def copy(self) -> Numbers:
        """To try something out: nothing is given out for good until the copy is kept."""
        return Numbers(
            self.limit,
            self.reusable,
            dict(self._given),
            dict(self._since),
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
            slots[key] = route.slot, route.since_generation
            tickets[key] = route.ticket, route.since_generation
            for rule in route.pick_rules:
                key = rule_key(route.name, rule.name)
                slots[key] = rule.slot, rule.since_generation
                tickets[key] = rule.ticket, rule.since_generation
            for destination in route.destinations:
                key = (route.name, destination.name)
                slots[key] = destination.slot, destination.since_generation
                tickets[key] = destination.ticket, destination.since_generation
                for endpoint in destination.endpoints:
                    name = (*key, str(endpoint.address))
                    slots[name] = endpoint.slot, endpoint.since_generation
        self.slots.restore(slots, given[0])
        self.tickets.restore(tickets, given[1])

    @property
    def given(self) -> tuple[int, int]:
        return self.slots.given, self.tickets.given

    def copy(self) -> Names:
        return Names(self.slots.copy(), self.tickets.copy())


def slots_given(image: Image, before: int) -> Iterator[int]:
    """Slots of names that have got them since that generation."""
    rows: list[RouteRow | DestinationRow | EndpointRow | RuleRow] = [*image.routes]
    rows += [rule for route in image.routes for rule in route.pick_rules]
    rows += [row for route in image.routes for row in route.destinations]
    rows += [e for route in image.routes for row in route.destinations for e in row.endpoints]
    return (row.slot for row in rows if row.since_generation > before)
