"""Closes live connections, at quiet moments and at a rate, until they follow the weights; or has
them go on elsewhere. Runs in control.

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
from tcpmux.control.converge_obstacles import missing_in, obstacle
from tcpmux.control.converge_request import convergence_of
from tcpmux.control.converge_text import waiting_text
from tcpmux.control.convergence import (
    NO_RULE,
    Blocked,
    Candidate,
    Choice,
    Surplus,
    by_name,
    closes_needed,
    leaving_endpoints,
    splits_of,
    surplus,
)
from tcpmux.control.fates import STAYS, Fates, needs_facts
from tcpmux.control.limits import CONVERGE_METHODS
from tcpmux.control.pacing import UNANSWERED, Brake, Pace, Sample, Telling
from tcpmux.control.rehoming import Move, account, moves_of
from tcpmux.control.schema import CONVERGED
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError, plural
from tcpmux.shm._connections import Relaying, is_open
from tcpmux.shm.convergence import REHOME, RESET
from tcpmux.shm.image import Convergence, Image, RouteRow

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
ENDS_OF_IT = ("converged", "converged_late", "rehomed")  # reasons of ends


@dataclass(slots=True)
class Run:
    """That of one route, as control knows it. obstacle, missing: of converge_obstacles.py, with the
    image in force. closed, rehomed, reset: since this control process has seen it. slots: of
    destinations that it has had. refusals: orders that found something under way, by connection;
    refused: how many, since the last look."""

    wanted: Convergence
    fates: Fates = field(default_factory=Fates)
    pace: Pace = field(default_factory=Pace)
    brake: Brake = field(default_factory=Brake)
    telling: Telling = field(default_factory=Telling)
    slots: set[int] = field(default_factory=set)
    obstacle: str = ""
    missing: str = ""
    surplus: Surplus = field(default_factory=Surplus)
    blocked: Blocked = field(default_factory=Blocked)
    chosen: list[Candidate] = field(default_factory=list)  # the next is the last
    is_known: bool = False  # surplus has been worked out
    at_look: tuple[int, int] | None = None  # how many were relayed then, and had been closed
    refusals: dict[object, int] = field(default_factory=dict)
    refused: int = 0
    moves: list[Move] = field(default_factory=list)  # chosen, with method rehome
    closed: int = 0
    rehomed: int = 0
    reset: int = 0
    before: tuple[int, int, int] | None = None  # those of the route before it
    paused: str = ""  # why
    is_ending: bool = False

    def count(self, closed: int, reset: int, rehomed: int) -> None:
        """Of the route, since the start of the instance."""
        if self.before is None:
            self.before = closed, reset, rehomed
        self.closed, self.reset = closed - self.before[0], reset - self.before[1]
        self.rehomed = rehomed - self.before[2]

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
        self._began = time.monotonic()

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
            "surplus": by_name(route, run.surplus),
            "method": CONVERGE_METHODS[wanted.method],
            "closed": run.closed,
            "rehomed": run.rehomed,
            "reset": run.reset,
            **_blocked(run),
        }

    def runs(self) -> Mapping[str, tuple[RouteRow, Run]]:
        """Of all routes that converge, by name."""
        self._refresh()
        return self._runs

    def shown(self, route: dict[str, Any]) -> dict[str, Any]:
        """A route of the status, with its state."""
        found = self.runs().get(route["name"])
        route["convergence"] = self.state(*found) if found else None
        return route

    async def preview(self, route: RouteRow, settings: Mapping[str, int]) -> dict[str, Any]:
        """What it would do now, with these settings instead of the route's."""
        now = time.monotonic()
        run = Run(convergence_of(route, settings, int(now * 1000)))
        await self._look_at(self._view.image()[1], {route.name: (route, run)}, now)
        needed = closes_needed(route, run.surplus)
        if run.wanted.method == REHOME:
            needed = sum(run.surplus.by_destination.values())
        return {
            "connections": run.surplus.total,
            "surplus": by_name(route, run.surplus),
            "closes": needed,
            "method": CONVERGE_METHODS[run.wanted.method],
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
            if run is None:
                # Another control process may just have ordered some.
                is_old = wanted.began_ms / 1000 < self._began
                run = Run(wanted, pace=Pace(self._began) if is_old else Pace())
            elif run.wanted != wanted:
                # What was ordered counts on, whoever asks for it now.
                run = Run(wanted, run.fates, run.pace, run.brake, run.telling, run.slots)
            run.is_known = False
            run.obstacle, run.missing = obstacle(route), missing_in(route, wanted)
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
                route.slot: (
                    0,
                    needs_facts(route),
                    route.rules.converge_protocol,
                    run.wanted.method == REHOME,
                )
                for route, run in routes.values()
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
        wanted, leaving = run.wanted, leaving_endpoints(route, run.wanted.method)
        if needs_facts(route):
            run.surplus = yield from run.fates.steps(image, route, rows, leaving, wanted.tolerance)
            rows = [one for one in map(run.fates.as_met, rows) if one.rule != STAYS]
        else:
            counts = relaying.counts[route.slot]
            # Rules that they have met are no longer there.
            rows = [one if one.rule == NO_RULE else one._replace(rule=NO_RULE) for one in rows]
            run.surplus = surplus(counts, splits_of(route), leaving, wanted.tolerance)
        yield None
        late = run.is_late(now) and wanted.then == RESET
        choice = Choice(
            run.surplus,
            quiet=wanted.quiet_ms,
            order=wanted.order,
            most=max(1, int(run.rate(run.surplus.total) * EVERY)) + len(run.pace.outstanding),
            random=self._random,
            late=late,
            refusals=run.refusals,
        )
        yield from choice.steps(rows)
        run.chosen = choice.first()[::-1]
        run.moves = []
        if wanted.method == REHOME and not late:
            own = {one: run.fates.home_of(one) for one in run.chosen}
            run.moves = moves_of(run.surplus, run.chosen[::-1], own, run.pace.outstanding)[::-1]
            run.chosen = []
        run.blocked, run.refused, run.is_known, run.at_look = choice.blocked, 0, True, None
        run.refusals = {key: n for key, n in run.refusals.items() if self._is_open(key)}

    # --- orders -----------------------------------------------------------------------------

    async def _act(self, route: RouteRow, run: Run, now: float) -> None:
        self._account(run, now)
        late = run.is_late(now)
        if run.is_known and not run.is_ending and await self._ends(route, run, late=late):
            return
        closes = late or run.wanted.method != REHOME
        reason = self._reason(route, run, now, closes=closes)
        await self._note_pause(route, run, reason)
        if reason or run.is_ending:
            return
        rate = run.rate(run.surplus.total)
        most = min(run.pace.allowed(rate, now), max(1, round(rate * TICK)))
        if closes:
            most = min(most, run.brake.room(rate))
        orders = [run.chosen.pop() for _ in range(min(most, len(run.chosen)))]
        if orders:
            run.brake.ordered(len(orders))
            await self._order(run, orders, now, late=late)
        moves = [run.moves.pop() for _ in range(min(most, len(run.moves)))]
        if moves and not closes:
            await self._rehome(run, moves, now)

    async def _ends(self, route: RouteRow, run: Run, *, late: bool) -> bool:
        """Whether there is nothing left to do, or no time for it; says so."""
        if not run.surplus.by_destination and not run.pace.outstanding:
            if late or not run.missing:
                await self._end(route, run, late=False)
                return True
        elif late and run.wanted.then != RESET:
            await self._end(route, run, late=True)
            return True
        return False

    def _reason(self, route: RouteRow, run: Run, now: float, *, closes: bool) -> str:
        """Why nothing may be ordered now; "" = it may."""
        if run.brake.is_due(now) or (run.is_known and not run.at_look):
            run.brake.add(self._sample(route, run), now)
        rate = run.rate(run.surplus.total)
        reason = run.obstacle or run.brake.reason(rate, now, come_back=closes)
        if run.is_known and not run.surplus.by_destination:
            reason = reason or run.missing
        return reason

    def _account(self, run: Run, now: float) -> None:
        """What has become of the orders."""
        account(self._view.lives, run.pace, now)
        for key in run.pace.outstanding:
            if not isinstance(key, Move) and not self._is_open(key):
                run.pace.seen(key, now)
        for key in run.pace.expired(now):
            run.refused += 1
            of = key[:3] if isinstance(key, Move) else key
            run.refusals[of] = run.refusals.get(of, 0) + 1

    def _is_open(self, key: object) -> bool:
        assert isinstance(key, tuple)
        worker, record, generation = key
        return bool(is_open(self._view.lives[worker], record, generation))

    def _sample(self, route: RouteRow, run: Run) -> Sample:
        """Counts as well what this one has closed, also at destinations that are gone."""
        counters = self._view.counters
        known = {row.slot: row.name for row in route.destinations}
        run.slots |= {*known, *run.surplus.by_destination}
        slots = array("I", sorted(run.slots))
        names = [known.get(slot, f"({slot})") for slot in slots]
        read = [counters.slot(slot) for slot in slots]
        ends = counters.closed(slots, ENDS_OF_IT)
        run.count(closed := sum(ends[::3]), reset := sum(ends[1::3]), sum(ends[2::3]))
        gone = closed + reset
        live = sum(each.active for each in read)
        if run.is_known:  # those that wait for a connect are not back yet
            run.at_look = run.at_look or (run.surplus.total, gone)
            live = min(live, run.at_look[0] + run.at_look[1] - gone)
        return Sample(
            live,
            gone,
            dict(zip(names, counters.connects(slots), strict=True)),
            {name: each.connect_failures for name, each in zip(names, read, strict=True)},
            self._unanswered(route),
        )

    def _unanswered(self, route: RouteRow) -> dict[str, int]:
        """How many connections in a row an endpoint of each destination that gets new ones has
        ended without a byte."""
        gaining = [row for row in route.destinations if row.turns]
        owner = {each.slot: row.name for row in gaining for each in row.endpoints}
        found: dict[str, int] = {}
        for slot, count, _, _ in self._view.commons.unanswered(array("I", owner), UNANSWERED):
            found[owner[slot]] = max(count, found.get(owner[slot], 0))
        return found

    async def _note_pause(self, route: RouteRow, run: Run, reason: str) -> None:
        assert self._master is not None
        run.paused = reason
        if not run.telling.is_due(time.monotonic(), is_paused=bool(reason)):
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

    async def _rehome(self, run: Run, moves: list[Move], now: float) -> None:
        assert self._master is not None
        for move in moves:
            run.pace.ordered(move, now)
        await self._master.request(
            "rehome",
            moves=[(move.id, move.to) for move in moves],
            quiet_ms=run.wanted.quiet_ms,
            ordered_ms=int(now * 1000),
        )

    async def _end(self, route: RouteRow, run: Run, *, late: bool) -> None:
        """It is over, by the master's word. late: there was no time for all of it."""
        assert self._master is not None
        self._sample(route, run)
        done = f"{plural(run.closed, 'connection')} closed"
        if run.wanted.method == REHOME:
            done = f"{plural(run.rehomed, 'connection')} rehomed"
        if run.reset:
            done += f", {run.reset} reset"
        if late:
            over = by_name(route, run.surplus)
            left = ", ".join(f"{each['name']} {each['connections']}" for each in over)
            kept = waiting_text(_blocked(run))
            text = (
                f"{route.name}: the deadline for live connections to follow the weights is over: "
                f"{done}; too many are left: {left}{f' ({kept})' if kept else ''}; they stay"
            )
        elif run.missing:
            text = (
                f"{route.name}: the deadline for live connections to follow the weights is over: "
                f"{done}; {run.missing}: others have its share"
            )
        elif run.surplus.stuck:
            stay = plural(run.surplus.stuck, "connection")
            text = f"{route.name}: nothing has weight where {stay} would go: they stay; {done}"
        else:
            text = f"{route.name}: {CONVERGED}: {done}"
        run.is_ending = True
        await self._master.request(
            "end_convergence",
            route=route.name,
            began_ms=run.wanted.began_ms,
            text=text,
            level=logging.WARNING if late or run.missing or run.surplus.stuck else logging.INFO,
        )


def _blocked(run: Run) -> dict[str, int]:
    """As in the status."""
    return run.blocked._replace(busy=run.blocked.busy + run.refused)._asdict()
