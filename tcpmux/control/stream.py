"""What the page shows, second by second, as server-sent events. Runs in control.

    table       the routes and what belongs to them: at first, and after each change
    conditions  what is wrong (problems), and routes with the conditions of all their parts: after
                a table those that are not healthy throughout, later those that have changed
    sample      every second: counters of every destination, workers, and how many connections of
                clients each route has rejected or lost; routes whose live connections are being
                brought to the weights; for one route its histograms and rules; the counts of all
                rules, if asked for
    events      what has happened

A client that reads slowly is told less, never late: nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tcpmux.control.conditions import Conditions
from tcpmux.control.convergences import Convergences
from tcpmux.control.event_log import EventLog
from tcpmux.control.figures import COLUMNS, errors, figures
from tcpmux.control.health import Health
from tcpmux.control.names import HostNames
from tcpmux.control.slices import Slices, json_parts
from tcpmux.control.timeouts import within
from tcpmux.shm import stats
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US
from tcpmux.shm.image import RouteRow, RuleRow
from tcpmux.shm.mirror_status import mirror_status
from tcpmux.shm.sticky import sticky_by
from tcpmux.shm.view import View

EVERY = 1.0  # s


def _seconds(bounds_us: tuple[int, ...]) -> list[float]:
    return [bound / 1e6 for bound in bounds_us]


BUCKETS = {
    "connect_seconds": _seconds(LATENCY_BOUNDS_US),
    "first_byte_seconds": _seconds(LATENCY_BOUNDS_US),
    "duration_seconds": _seconds(DURATION_BOUNDS_US),
}


def framed(name: str, text: str) -> bytes:
    """One event of the stream; text: JSON."""
    return f"event: {name}\ndata: {text}\n\n".encode()


class Stream:
    """Makes the events. identity: the fields of `table` that no memory has."""

    def __init__(
        self,
        view: View,
        events: EventLog,
        identity: dict[str, Any],
        health: Health,
        names: HostNames,
        slices: Slices,
        conditions: Conditions,
        convergences: Convergences,
    ) -> None:
        self._conditions = conditions
        self._convergences = convergences
        self._names = names
        self._view = view
        self._health = health
        self._events = events
        self._identity = identity
        self._slices = slices
        self._is_over = False
        self._making = asyncio.Lock()  # one does it for all that are connected
        self._made = 0.0  # monotonic
        self._sample = ""
        self._rule_counts: tuple[float, str] = (-1.0, "")  # when the sample was made; JSON
        self._table: tuple[object, bytes] = (None, b"")
        self._told: tuple[int, str] = (0, "")  # version of the conditions, and what is wrong: JSON
        self._made_conditions: tuple[object, bytes] = (None, b"")

    async def send(self, write: Any, route: str | None, *, rules: bool = False) -> None:
        """Until end(), or write(bytes) raises. It waits while the client reads slowly."""
        sent_table: object = None
        told: tuple[int, str] = (0, "")  # version of the conditions, and what is wrong
        seq = 0
        due = 0.0
        while not self._is_over:
            key = (self._view.table.generation, self._view.table.draining)
            if key != sent_table:
                sent_table = key
                await write(await self._table_for(key))
                told = (0, "")
            new = self._events.after(seq)
            if new:
                seq = new[-1]["seq"]
                await write(framed("events", json.dumps(new)))
            now = time.monotonic()
            if now >= due:
                due = due + EVERY if due + EVERY > now else now + EVERY
                sample = await self._sample_for(route, rules=rules)
                if told != self._told:
                    await write(await self._conditions_after(told[0]))
                    told = self._told
                await write(sample)
            with suppress(asyncio.TimeoutError):
                async with within(max(0.0, due - time.monotonic())):
                    await self._events.wait()

    def end(self) -> None:
        """Has every send() return."""
        self._is_over = True
        self._events.pushed()

    # --- table ------------------------------------------------------------------------------

    async def _table_for(self, key: object) -> bytes:
        async with self._making:
            if self._table[0] != key:
                text = "".join(await self._slices.all(self._table_parts()))
                self._table = key, framed("table", text)
            return self._table[1]

    def _table_parts(self) -> Iterator[str]:
        generation, image = self._view.image()
        head = {
            **self._identity,
            "time": time.time(),
            **stats.instance(self._view.table, generation),
            "columns": COLUMNS,
            "buckets": BUCKETS,
        }
        routes = (
            self._conditions.annotated(
                {
                    "name": route.name,
                    "listen": addresses,
                    "sticky": sticky_by(route.rules) or None,
                    "destinations": [
                        stats.with_endpoints(route.name, row, self._health.detail)
                        for row in route.destinations
                    ],
                    "rules": [stats.rule(route, row) for row in route.pick_rules],
                }
            )
            for route, addresses in zip(image.routes, stats.listens(image), strict=True)
        )
        return json_parts(head, "routes", routes)

    # --- conditions -------------------------------------------------------------------------

    async def _look(self) -> None:
        await self._conditions.look(self._slices, EVERY / 2)
        self._told = self._conditions.version, json.dumps(self._conditions.overview())[1:-1]

    async def _conditions_after(self, version: int) -> bytes:
        async with self._making:
            key = version, self._told
            if self._made_conditions[0] != key:
                parts = json_parts({}, "routes", self._conditions.changed_after(version))
                text = "".join(await self._slices.all(parts))
                text = f"{{{self._told[1]}, {text[1:]}"
                self._made_conditions = key, framed("conditions", text)
            return self._made_conditions[1]

    # --- sample -----------------------------------------------------------------------------

    async def _sample_for(self, route: str | None, *, rules: bool) -> bytes:
        async with self._making:
            now = time.monotonic()
            if now - self._made > EVERY / 2:
                self._made = now
                await self._look()
                lost: list[int] = []
                text = "".join(await self._slices.all(self._sample_parts(lost)))
                converging = ", ".join(await self._slices.all(self._converging()))
                self._sample = f'{text[:-1]}, "lost": {lost}, "convergences": {{{converging}}}}}'
            if rules and self._rule_counts[0] != self._made:
                counted = (
                    [self._rule_count(row) for row in of.pick_rules]
                    for of in self._view.image()[1].routes
                )
                text = "".join(await self._slices.all(json_parts({}, "rule_counts", counted)))
                self._rule_counts = self._made, text[1:-1]
            more = [self._sample[1:-1], *[self._rule_counts[1]] * rules]
        if route is not None:
            of_one = {
                "histograms": self._histograms(route),
                "rules": self._rules(route),
                "mirror": self._mirror(route),
            }
            more.append(json.dumps(of_one)[1:-1])
        return framed("sample", f"{{{', '.join(more)}}}")

    def _sample_parts(self, lost: list[int]) -> Iterator[str]:
        """lost: gets the lost connections of each route."""
        generation, image = self._view.image()
        head = {
            "time": time.time(),
            "generation": generation,
            "workers": [
                {**stats.worker(live), "fds": live.descriptors}
                for live in self._view.lives
                if live.guardian_pid
            ],
            "troubles": [*self._health.troubles(), *self._names.troubles()],
        }
        return json_parts(head, "routes", (self._counts(route, lost) for route in image.routes))

    def _counts(self, route: RouteRow, lost: list[int]) -> list[tuple[int, ...]]:
        lost.append(errors(self._view.counters.slot(route.slot)))
        return [figures(self._view.counters.slot(row.slot)) for row in route.destinations]

    def _converging(self) -> Iterator[str]:
        """The states of routes that converge, as the members of a JSON object."""
        for name, found in self._convergences.runs().items():
            yield f"{json.dumps(name)}: {json.dumps(self._convergences.state(*found))}"

    def _route(self, name: str) -> RouteRow | None:
        _, image = self._view.image()
        return next((route for route in image.routes if route.name == name), None)

    def _rules(self, name: str) -> dict[str, tuple[int, int]]:
        """Open and all connections of each rule of a route."""
        route = self._route(name)
        rows = route.pick_rules if route else ()
        return {row.name: self._rule_count(row) for row in rows}

    def _mirror(self, name: str) -> dict[str, Any] | None:
        route = self._route(name)
        if route is None:
            return None
        return mirror_status(self._view, route, self._view.counters.slot(route.slot))

    def _rule_count(self, row: RuleRow) -> tuple[int, int]:
        of = self._view.counters.slot(row.slot)
        return of.active, of.opened

    def _histograms(self, name: str) -> dict[str, Any] | None:
        route = self._route(name)
        if route is None:
            return None
        made = []
        for row in route.destinations:
            times = self._view.counters.times(row.slot)
            made.append(
                {
                    "name": row.name,
                    "connect_seconds": times.connect.buckets,
                    "first_byte_seconds": times.first_byte.buckets,
                    "duration_seconds": times.duration.buckets,
                }
            )
        return {"route": name, "destinations": made}
