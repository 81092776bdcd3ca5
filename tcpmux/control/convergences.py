"""Closes live connections, at quiet moments and at a rate, until they follow the weights. Runs in
control.

Which routes do so, since when and by what settings is in the route table; who is to leave follows
from what is relayed now. So nothing is missed when control is started anew, but for how many it has
closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tcpmux.config.converge import rate_text
from tcpmux.control.converge_request import convergence_of
from tcpmux.control.converge_text import waiting_text
from tcpmux.control.convergence import (
    Blocked,
    Candidate,
    Choice,
    Surplus,
    closes_needed,
    leaving_endpoints,
    splits_of,
    surplus,
)
from tcpmux.control.fates import STAYS, Fates, needs_facts
from tcpmux.control.pacing import Brake, Pace, Sample
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError, plural
from tcpmux.shm._connections import Relaying, is_open
from tcpmux.shm.convergence import RESET
from tcpmux.shm.image import Convergence, Image, RouteRow
from tcpmux.shm.serving import serves

if TYPE_CHECKING:
    from tcpmux.control.master_link import MasterLink
    from tcpmux.control.slices import Slices
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

TICK = 0.1  # s between orders
EVERY = 1.0  # s between looks at who is to leave
SOON = 0.25  # s at least, if there is nothing left to do of the last one
LEISURE = 20  # times as long as a look takes, at least
RETRY = 1.0  # s
ENDS_OF_IT = ("converged", "converged_late")  # reasons of ends


@dataclass(slots=True)
class Run:
    """That of one route, as control knows it. closed: since this control process has seen it."""

    wanted: Convergence
    fates: Fates = field(default_factory=Fates)
    pace: Pace = field(default_factory=Pace)
    brake: Brake = field(default_factory=Brake)
    surplus: Surplus = field(default_factory=Surplus)
    blocked: Blocked = field(default_factory=Blocked)
    chosen: list[Candidate] = field(default_factory=list)  # the next is the last
    is_known: bool = False  # surplus has been worked out
    refused: int = 0  # orders that found something under way, since the last look
    closed: int = 0
    reset: int = 0
    before: tuple[int, int] | None = None  # those of the route before it
    paused: str = ""  # why
    is_ending: bool = False

    def count(self, closed: int, reset: int) -> None:
        """Of the route, since the start of the instance."""
        if self.before is None:
            self.before = closed, reset
        self.closed, self.reset = closed - self.before[0], reset - self.before[1]

    def is_late(self, now: float) -> bool:
        return now * 1000 >= self.wanted.began_ms + self.wanted.deadline_ms

    def rate(self, total: int) -> float:
        """Connections per second."""
        wanted = self.wanted
        if wanted.rate_percent:
            return max(0.001, total * wanted.rate_percent / 100_000)
        return max(0.001, wanted.rate / 1000)


class Convergences:
    """Of the routes of a View."""

    def __init__(self, view: View, slices: Slices) -> None:
        self._view = view
        self._slices = slices
        self._master: MasterLink | None = None
        self._tasks = Tasks()
        self._runs: dict[str, tuple[RouteRow, Run]] = {}  # of routes that converge, by name
        self._image: Image | None = None  # that these are of
        self._random = Random()
        self._next_look = self._may_look = 0.0

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._tasks = Tasks(tell)
        self._tasks.keep("convergence", self._go_on)

    async def close(self) -> None:
        await self._tasks.close()

    # --- for people -------------------------------------------------------------------------

    def state(self, route: RouteRow, run: Run) -> dict[str, Any]:
        """Of a route whose live connections are to follow the weights."""
        wanted = run.wanted
        began = time.time() - time.monotonic() + wanted.began_ms / 1000
        return {
            "state": "paused" if run.paused else "converging",
            "reason": run.paused,
            "began_at": began,
            "deadline_at": began + wanted.deadline_ms / 1000,
            "rate": rate_text(wanted.rate, wanted.rate_percent),
            "surplus": _by_name(route, run.surplus),
            "closed": run.closed,
            "reset": run.reset,
            **_blocked(run),
        }

    def runs(self) -> Mapping[str, tuple[RouteRow, Run]]:
        """Of all routes that converge, by name."""
        self._refresh()
        return self._runs

    def shown(self, route: dict[str, Any]) -> dict[str, Any]:
        """The same, a route of the status, with its state."""
        found = self.runs().get(route["name"])
        return {**route, "convergence": self.state(*found) if found else None}

    async def preview(self, route: RouteRow, settings: Mapping[str, int]) -> dict[str, Any]:
        """What it would do now, with these settings instead of the route's."""
        now = time.monotonic()
        run = Run(convergence_of(route, settings, int(now * 1000)))
        await self._look_at(self._view.image()[1], {route.name: (route, run)}, now)
        needed = closes_needed(route, run.surplus)
        return {
            "connections": run.surplus.total,
            "surplus": _by_name(route, run.surplus),
            "closes": needed,
            "seconds": needed / run.rate(run.surplus.total),
            **_blocked(run),
        }

    # --- the loop ---------------------------------------------------------------------------

    async def _go_on(self) -> None:
        assert self._master is not None
        while not self._master.gone:
            began = time.monotonic()
            if not self._view.table.draining:
                try:
                    await self._step(began)
                except TcpmuxError as error:
                    log.warning(
                        "the master did not take orders to close connections, retrying: %s", error
                    )
                    await asyncio.sleep(RETRY)
            await asyncio.sleep(max(0.0, TICK - (time.monotonic() - began)))

    async def _step(self, now: float) -> None:
        image = self._refresh()
        if not self._runs:
            return
        if now >= self._next_look or (now >= self._may_look and self._is_waiting()):
            await self._look_at(image, self._runs, now)
            took = time.monotonic() - now
            self._next_look = now + max(EVERY, LEISURE * took)
            self._may_look = now + max(SOON, LEISURE * took)
        for route, run in list(self._runs.values()):
            await self._act(route, run, time.monotonic())

    def _is_waiting(self) -> bool:
        """Whether somebody has done all that the last look found, and there is more."""
        return any(
            run.surplus.by_destination and not (run.chosen or run.pace.outstanding or run.paused)
            for _, run in self._runs.values()
        )

    def _refresh(self) -> Image:
        """What is in force, with its routes that converge."""
        image = self._view.image()[1]
        if image is self._image:
            return image
        self._image = image
        before, self._runs = self._runs, {}
        for route in image.routes:
            wanted = route.convergence
            if wanted is None:
                continue
            _, run = before.get(route.name, (route, None))
            if run is None or run.wanted != wanted:
                # What was ordered counts on, whoever asks for it now.
                run = Run(wanted, pace=run.pace, brake=run.brake) if run else Run(wanted)
            run.is_known = False
            self._runs[route.name] = route, run
            self._next_look = 0.0
        return image

    # --- who is to leave --------------------------------------------------------------------

    async def _look_at(
        self, image: Image, routes: Mapping[str, tuple[RouteRow, Run]], now: float
    ) -> None:
        relaying = Relaying(
            self._view.lives,
            {
                route.slot: (0, needs_facts(route), route.rules.converge_protocol)
                for route, _ in routes.values()
            },
        )
        await self._slices.all(relaying.steps())
        for route, run in routes.values():
            rows = relaying.rows[route.slot]
            candidates = list(map(Candidate._make, rows))
            await self._slices.all(self._plan(image, route, run, candidates, relaying, now))

    def _plan(
        self,
        image: Image,
        route: RouteRow,
        run: Run,
        rows: list[Candidate],
        relaying: Relaying,
        now: float,
    ) -> Iterator[None]:
        wanted, leaving = run.wanted, leaving_endpoints(route)
        if needs_facts(route):
            found: list[Surplus] = []
            yield from run.fates.steps(image, route, rows, leaving, wanted.tolerance, found)
            run.surplus = found[0]
            rows = [one for one in map(run.fates.as_met, rows) if one.rule != STAYS]
        else:
            counts = relaying.counts[route.slot]
            run.surplus = surplus(counts, splits_of(route), leaving, wanted.tolerance)
        yield None
        choice = Choice(
            run.surplus,
            quiet=wanted.quiet_ms,
            order=wanted.order,
            most=max(1, int(run.rate(run.surplus.total) * EVERY)),
            random=self._random,
            late=run.is_late(now) and wanted.then == RESET,
        )
        yield from choice.steps(rows)
        run.chosen = choice.first()[::-1]
        run.blocked, run.refused, run.is_known = choice.blocked, 0, True

    # --- orders -----------------------------------------------------------------------------

    async def _act(self, route: RouteRow, run: Run, now: float) -> None:
        self._account(run, now)
        late = run.is_late(now)
        if run.is_known and not run.is_ending:
            if not run.surplus.by_destination and not run.pace.outstanding:
                await self._end(route, run, late=False)
                return
            if late and run.wanted.then != RESET:
                await self._end(route, run, late=True)
                return
        rate = run.rate(run.surplus.total)
        if run.brake.is_due(now):
            run.brake.add(self._sample(route, run), now)
        reason = _obstacle(route) or run.brake.reason(rate, now)
        await self._note_pause(route, run, reason)
        if reason or run.is_ending:
            return
        most = min(
            run.pace.allowed(rate, now),
            max(1, round(rate * TICK)),
            run.brake.room(rate),
        )
        orders = [run.chosen.pop() for _ in range(min(most, len(run.chosen)))]
        if orders:
            run.brake.ordered(len(orders))
            await self._order(run, orders, now, late=late)

    def _account(self, run: Run, now: float) -> None:
        """What has become of the orders."""
        for key in run.pace.outstanding:
            assert isinstance(key, tuple)
            worker, record, generation = key
            if not is_open(self._view.lives[worker], record, generation):
                run.pace.seen(key, now)
        run.refused += len(run.pace.expired(now))

    def _sample(self, route: RouteRow, run: Run) -> Sample:
        """Counts as well what this one has closed."""
        counters = self._view.counters
        names = [row.name for row in route.destinations]
        slots = array("I", [row.slot for row in route.destinations])
        read = [counters.slot(slot) for slot in slots]
        ends = counters.closed(slots, ENDS_OF_IT)
        run.count(sum(ends[::2]), sum(ends[1::2]))
        return Sample(
            sum(each.active for each in read),
            sum(ends),
            dict(zip(names, counters.connects(slots), strict=True)),
            {name: each.connect_failures for name, each in zip(names, read, strict=True)},
        )

    async def _note_pause(self, route: RouteRow, run: Run, reason: str) -> None:
        assert self._master is not None
        has_changed = bool(reason) != bool(run.paused)
        run.paused = reason
        if not has_changed:
            return
        if reason:
            level = logging.WARNING
            text = f"{route.name}: no connections are closed for the weights now: {reason}"
        else:
            level, text = (
                logging.INFO,
                f"{route.name}: connections are closed for the weights again",
            )
        await self._master.request("convergence_says", route=route.name, text=text, level=level)

    async def _order(self, run: Run, orders: list[Candidate], now: float, *, late: bool) -> None:
        assert self._master is not None
        for one in orders:
            run.pace.ordered((one.worker, one.record, one.generation), now)
        await self._master.request(
            "converge",
            ids=[one.id for one in orders],
            quiet_ms=run.wanted.quiet_ms,
            late=late,
            ordered_ms=int(now * 1000),
        )

    async def _end(self, route: RouteRow, run: Run, *, late: bool) -> None:
        """It is over, by the master's word."""
        assert self._master is not None
        self._sample(route, run)
        done = f"{plural(run.closed, 'connection')} closed"
        if run.reset:
            done += f", {run.reset} reset"
        if late:
            over = _by_name(route, run.surplus)
            left = ", ".join(f"{each['name']} {each['connections']}" for each in over)
            kept = waiting_text(_blocked(run))
            text = (
                f"{route.name}: the deadline for live connections to follow the weights is over: "
                f"{done}; too many are left: {left}{f' ({kept})' if kept else ''}; they stay"
            )
        else:
            text = f"{route.name}: live connections follow the weights: {done}"
        run.is_ending = True
        await self._master.request(
            "end_convergence",
            route=route.name,
            began_ms=run.wanted.began_ms,
            lines=[text],
            level=logging.WARNING if late else logging.INFO,
        )


def _blocked(run: Run) -> dict[str, int]:
    """As in the status."""
    return run.blocked._replace(busy=run.blocked.busy + run.refused)._asdict()


def _by_name(route: RouteRow, of: Surplus) -> list[dict[str, Any]]:
    """As in the status. A destination that the route has no longer has no name."""
    names = {row.slot: row.name for row in route.destinations}
    return [
        {"name": names.get(slot, "(removed)"), "connections": count}
        for slot, count in sorted(of.by_destination.items())
    ]


def _obstacle(route: RouteRow) -> str:
    """A destination to which clients would come back that can take none."""
    for row in route.destinations:
        if row.effective_weight and not serves(row):
            return f"{row.name} can take no connections"
    return ""
