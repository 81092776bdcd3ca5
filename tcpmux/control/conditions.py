"""The conditions of everything in the route table, and since when. Runs in control.

Looked at once a second, and whenever somebody asks. Of a thousand routes most stay as they are: as
long as the route table is the same, only those are looked at again that something is known of.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tcpmux.control.condition import DEGRADED, HEALTHY, Condition
from tcpmux.control.condition_rules import (
    NONE,
    Failures,
    NameTrouble,
    of_destination,
    of_endpoint,
    of_route,
)
from tcpmux.control.problems import (
    SEVERITIES,
    DestinationConditions,
    Problem,
    last_reload,
    problems_of_instance,
    problems_of_route,
    worst,
)
from tcpmux.shm.image import Image, RouteRow
from tcpmux.shm.stats import is_first_control, is_running

if TYPE_CHECKING:
    from tcpmux.control.endpoint import Endpoint, Key
    from tcpmux.control.health import Health
    from tcpmux.control.master_link import MasterLink
    from tcpmux.control.names import HostNames
    from tcpmux.control.slices import Slices
    from tcpmux.shm.view import View

EVERY = 1.0  # s
BEHIND = 2.0  # s that a worker may use an older route table; it needs milliseconds
_HEALTHY = Condition(HEALTHY)
# A destination's route and name, and its endpoints: their slots, and what is known of each.
_Part = tuple[tuple[str, str], list[tuple[int, "Endpoint | None"]]]


@dataclass(frozen=True, slots=True)
class RouteConditions:
    """row: what they are of. facts: what they follow from besides. version: the number of the
    change that made them so. problems: what is wrong with it."""

    row: RouteRow
    facts: Sequence[object]
    version: int
    own: Condition
    destinations: Mapping[str, DestinationConditions]
    problems: Sequence[Problem]

    @property
    def is_plain(self) -> bool:
        """All of it is healthy, and there is nothing to say of it."""
        return all(
            each.word == HEALTHY and not each.reason
            for at in self.destinations.values()
            for each in (self.own, at.own, *at.endpoints.values(), *at.names.values())
        )


class Conditions:
    """Of a View. version: grows with each change."""

    def __init__(self, view: View, health: Health, names: HostNames) -> None:
        self.version = 0
        self.routes: dict[str, RouteConditions] = {}
        self._view = view
        self._health = health
        self._names = names
        self._master: MasterLink | None = None
        self._image: Image | None = None
        self._rows: dict[str, RouteRow] = {}
        self._slots = array("I")
        self._route_of: dict[int, str] = {}  # by slot of an endpoint
        self._troubles: dict[tuple[str, str], list[NameTrouble]] = {}
        self._failing: set[int] = set()
        self._counts = array("Q")  # as moved() has them
        self._failed: dict[int, tuple[int, int, float, float]] = {}  # what is so of those failing
        self._known: Mapping[Key, Endpoint] = {}  # the endpoints that _parts are of
        self._parts: dict[str, list[_Part]] = {}  # of routes
        self._remarkable: set[str] = set()  # routes
        self._stale: set[str] = set()  # routes that are to be looked at
        self._behind: dict[int, float] = {}  # workers with an older table; since when, Unix time, s
        self._is_first = True
        self._looked = 0.0  # Unix time, s
        self._looking = asyncio.Lock()
        self._begun = 0.0  # monotonic, s: of the last look that is complete

    def start(self, master: MasterLink) -> None:
        self._master = master

    async def run(self, slices: Slices) -> None:
        """Looks again and again."""
        while True:
            await self.look(slices, EVERY / 2)
            await asyncio.sleep(EVERY)

    async def look(self, slices: Slices, recent: float = 0.0) -> None:
        """Has all of them as they are now, or were at most `recent` s ago. However many ask at the
        same time, there are at most two looks: the one under way, and one that begins after all of
        them have asked."""
        wanted = time.monotonic() - recent
        async with self._looking:
            begun = time.monotonic()
            if self._begun < wanted:
                await slices.all(self.looking())
                self._begun = begun

    def looking(self) -> Iterator[None]:
        """look() in short steps."""
        self._begin()
        for name in list(self._stale):
            self._update(name)
            yield
        self._is_first = False
        self._looked = time.time()

    def of(self, route: str) -> RouteConditions | None:
        """None: there is no such route any more."""
        if self._view.image()[1] is not self._image:
            self._begin()
        if route in self._rows and (route in self._stale or route not in self.routes):
            self._update(route)
        return self.routes.get(route)

    # --- what is to be looked at ------------------------------------------------------------

    def _begin(self) -> None:
        generation, image = self._view.image()
        if image is not self._image:
            self._take(image)
        self._behind = {
            live.worker: self._behind.get(live.worker, time.time())
            for live in self._view.lives
            if is_running(live) and live.generation_seen < generation
        }
        self._troubles = self._names.failing()
        self._failing = set(self._view.failing(self._slots))
        self._look_at_failures()
        before = self._remarkable
        self._remarkable = {self._route_of[slot] for slot in self._failing}
        self._remarkable.update(known.key[0] for known in self._health.remarkable())
        self._remarkable.update(route for route, _ in self._troubles)
        # Those that nothing is known of any more are looked at for the last time.
        self._stale |= (before | self._remarkable) & self._rows.keys()

    def _look_at_failures(self) -> None:
        """Only of those endpoints with which something has happened since the last time."""
        for slot in self._view.moved(self._slots, self._counts):
            if slot in self._failing:
                self._failed[slot] = self._view.commons.failing_for(slot)
        for slot in self._failed.keys() - self._failing:
            del self._failed[slot]
        if self._known is not self._health.registry.endpoints:
            self._known, self._parts = self._health.registry.endpoints, {}

    def _take(self, image: Image) -> None:
        self._image = image
        self._rows = {row.name: row for row in image.routes}
        self._route_of = {
            endpoint.slot: route.name
            for route in image.routes
            for row in route.destinations
            for endpoint in row.endpoints
        }
        self._slots = array("I", self._route_of)
        self._counts = array("Q", bytes(16 * len(self._slots)))
        self._failed, self._parts = {}, {}
        self._stale = set(self._rows)
        for name in self.routes.keys() - self._rows.keys():
            del self.routes[name]
            self.version += 1

    # --- a route ----------------------------------------------------------------------------

    def _update(self, name: str) -> None:
        self._stale.discard(name)
        row = self._rows.get(name)
        if row is None:
            return
        now = time.time()
        old = self.routes.get(name)
        facts = self._facts(row)
        if old is not None and old.row is row and old.facts == facts:
            return
        before = old.destinations if old is not None else {}
        found = {
            each.name: self._destination(name, each, before.get(each.name), now)
            for each in row.destinations
        }
        own = of_route(row, [each.own for each in found.values()])
        own = self._since(own, old.own if old else None, now, [d.own for d in found.values()])
        problems = problems_of_route(row, own, found)
        if old is not None and (old.own, old.destinations, old.problems) == (own, found, problems):
            self.routes[name] = RouteConditions(
                row, facts, old.version, own, old.destinations, old.problems
            )
        else:
            self.version += 1
            self.routes[name] = RouteConditions(row, facts, self.version, own, found, problems)

    def _facts(self, route: RouteRow) -> list[object]:
        """All that the conditions of a route and of its parts follow from, but for the route table:
        as long as these are the same they need not be worked out again."""
        parts = self._parts.get(route.name)
        if parts is None:
            parts = self._parts[route.name] = [
                (
                    (route.name, row.name),
                    [
                        (
                            each.slot,
                            self._health.endpoint((route.name, row.name, str(each.address))),
                        )
                        for each in row.endpoints
                    ],
                )
                for row in route.destinations
            ]
        facts: list[object] = []
        for key, endpoints in parts:
            facts.append(self._troubles.get(key))
            for slot, known in endpoints:
                facts.append(self._failed.get(slot))
                facts.append(known.facts() if known is not None else None)
        return facts

    def _destination(
        self, route: str, row: Any, old: DestinationConditions | None, now: float
    ) -> DestinationConditions:
        before = old.endpoints if old is not None else {}
        endpoints: dict[str, Condition] = {}
        for each in row.endpoints:
            address = str(each.address)
            known = self._health.endpoint((route, row.name, address))
            found = of_endpoint(each, known, self._failures(each.slot, known, now))
            endpoints[address] = self._since(found, before.get(address), now)
        troubles = self._troubles.get((route, row.name), ())
        own = of_destination(row, list(endpoints.values()), troubles)
        names = {trouble.name: trouble.condition for trouble in troubles}
        parts = [*endpoints.values(), *names.values()]
        own = self._since(own, old.own if old is not None else None, now, parts)
        return DestinationConditions(own, endpoints, names)

    def _failures(self, slot: int, known: Any, now: float) -> Failures:
        if slot not in self._failing:
            return NONE
        count, error, since, _ = self._view.commons.failing_for(slot)
        before = known.answered if known is not None else 0
        if count < before:  # one has succeeded since
            before = 0
        return Failures(count - before, error, now - (time.monotonic() - since), before)

    # --- since when -------------------------------------------------------------------------

    def _since(
        self,
        found: Condition,
        before: Condition | None,
        now: float,
        parts: Sequence[Condition] = (),
    ) -> Condition:
        """The same with the time since when; before: what it was when it was looked at last.
        parts: what it follows from."""
        if before is not None:
            if found.word == before.word:
                same = before if found.reason == before.reason else None
                return same or found._replace(since=before.since)
            # What shared memory tells is when it began, which may be before it was so bad.
            is_exact = found.since is not None and found.since >= self._looked - 1.0
            return found if is_exact else found._replace(since=now)
        if found.since is None and found.word != HEALTHY:
            known = [
                each.since for each in parts if each.word != HEALTHY and each.since is not None
            ]
            choose = min if found.word == DEGRADED else max
            found = found._replace(since=choose(known, default=None))
        if found.since is None:
            return found._replace(since=self._at_first(now))
        return found

    def _at_first(self, now: float) -> float | None:
        """Of what has just come to be known."""
        if not self._is_first:
            return now
        # It may have been so before this process; the first of them has seen the start.
        table = self._view.table
        return float(table.started_at) if is_first_control(table) else None

    # --- for people -------------------------------------------------------------------------

    def annotated(self, route: dict[str, Any]) -> dict[str, Any]:
        """A route of the status, with the conditions of it and of all its parts."""
        found = self.of(route["name"])
        route.update((found.own if found else _HEALTHY).as_json())
        for destination in route["destinations"]:
            at = found.destinations.get(destination["name"]) if found else None
            destination.update((at.own if at else _HEALTHY).as_json())
            for endpoint in destination["endpoints"]:
                own = at.endpoints.get(endpoint["address"]) if at else None
                endpoint.update((own or _HEALTHY).as_json())
            for name in destination.get("names", ()):
                own = at.names.get(name["name"]) if at else None
                name.update((own or _HEALTHY).as_json())
        return route

    def word(self, route: str, destination: str | None = None, endpoint: str | None = None) -> str:
        """The condition of a route or of a part of it; of what is not there any more, healthy."""
        found = self.of(route)
        if found is None or destination is None:
            return found.own.word if found is not None else HEALTHY
        at = found.destinations.get(destination)
        own = at and (at.own if endpoint is None else at.endpoints.get(endpoint))
        return own.word if own else HEALTHY

    def problem_counts(self) -> dict[str, int]:
        """How many there are of each severity."""
        counts = dict.fromkeys(SEVERITIES, 0)
        for problem in self._problems():
            counts[problem.severity] += 1
        return counts

    def _problems(self) -> list[Problem]:
        now = time.time()
        behind = [(worker, since) for worker, since in self._behind.items() if now - since > BEHIND]
        gone = self._master is not None and self._master.gone
        silent = self._master.silent_since if self._master is not None else None
        found = list(
            problems_of_instance(self._view, master_gone=gone, master_silent=silent, behind=behind)
        )
        for route in self.routes.values():
            found += route.problems
        return found

    def overview(self) -> dict[str, Any]:
        """What the status says of the instance: its problems, and the last reload."""
        found = self._problems()
        return {
            "problems": [problem.as_json() for problem in worst(found)],
            "problems_total": len(found),
            "last_reload": last_reload(self._view),
        }

    def changed_after(self, version: int) -> Iterator[dict[str, Any]]:
        """The conditions of each route that have changed since, as the status has them; after 0, of
        each that has something to say."""
        for name, found in list(self.routes.items()):
            if found.version > version and (version or not found.is_plain):
                yield _as_json(name, found)


def _as_json(name: str, found: RouteConditions) -> dict[str, Any]:
    return {
        "name": name,
        **found.own.as_json(),
        "destinations": [
            {
                "name": destination,
                **at.own.as_json(),
                "endpoints": [
                    {"address": address, **own.as_json()} for address, own in at.endpoints.items()
                ],
                "names": [{"name": each, **own.as_json()} for each, own in at.names.items()],
            }
            for destination, at in found.destinations.items()
        ],
    }
