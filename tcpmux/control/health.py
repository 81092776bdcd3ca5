"""Decides which endpoints are healthy, from checks and from connects that fail. Runs in control.

Every TICK it looks at what has happened, and tells the master all that changes in one request:

    registry.py     which endpoints there are, and how each is watched
    checks.py       fall failures in a row take an endpoint out, rise successes bring it back
    ejection.py     outliers: out for what connections meet with
    unanswered.py   degraded: all its connections end without an answer; only shown
    slow_start.py   what is back, or new, gets its share gradually
    losses.py       which clients are lost meanwhile: a line, and no change
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from tcpmux.control.checks import Checks
from tcpmux.control.ejection import Ejection
from tcpmux.control.endpoint import Endpoint, Key
from tcpmux.control.left_out import LeftOut
from tcpmux.control.losses import Losses
from tcpmux.control.registry import Registry, ask_for_watches, state_of
from tcpmux.control.slow_start import share_of
from tcpmux.control.tasks import Tasks
from tcpmux.control.unanswered import Unanswered
from tcpmux.errors import TcpmuxError, plural
from tcpmux.levels import Line, Where
from tcpmux.shm.image import FULL_SHARE, HEALTHS, HEALTHY

if TYPE_CHECKING:
    from tcpmux.control.master_link import MasterLink
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

TICK = 0.1  # s
MAX_TROUBLES = 200
MAX_CONDITIONS = 10_000  # in one request, of which the master makes one generation
MAX_TEXTS = 1000  # in one request
MAX_UNSENT = 10_000  # lines that wait because the master does not take them
RETRY = 1.0  # s


class Health:
    """Watches the endpoints of the route table."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._master: MasterLink | None = None
        self._tasks = Tasks()
        self.checks = Checks(self._has_changed)
        self.registry = Registry(view, self.checks.plan_soon)
        self.ejection = Ejection(view, self._report, self._unsettle)
        self.unanswered = Unanswered(view, self._report)
        self.losses = Losses(view, self.say, self._reason)
        self.ticks = 0
        self._lines: list[Line] = []  # for the log
        self._to_ask = asyncio.Event()
        self._has_asked = asyncio.Event()  # else nothing is known of how to watch

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._tasks = self.ejection.tasks = self.checks.tasks = Tasks(tell)
        self.pushed()
        self._tasks.keep("health: asking the master", self._ask)
        self._tasks.keep("health", self._run)
        self._tasks.keep("losses of clients", self.losses.run)
        self._tasks.keep("TLVs that are left out", LeftOut(self._view).run)

    async def close(self) -> None:
        await self._tasks.close()

    # --- for people -------------------------------------------------------------------------

    def detail(self, route: str, destination: str, address: str) -> dict[str, Any]:
        """As registry.state_of()."""
        return state_of(self.registry.endpoints.get((route, destination, address)))

    def endpoint(self, key: Key) -> Endpoint | None:
        """What is known of one; None = nothing yet."""
        return self.registry.endpoints.get(key)

    def remarkable(self) -> set[Endpoint]:
        """Those of which more is known than that they are used."""
        doubted = self.checks.doubted
        doubted -= {known for known in doubted if known.is_gone or known.watch.check is None}
        return self.registry.unsettled | self.ejection.noted | self.unanswered.noted | doubted

    def troubles(self) -> list[dict[str, Any]]:
        """Those that are not up, don't have their full share yet, are suspected or would be ejected
        if others served; at most MAX_TROUBLES."""
        noted = self.ejection.noted
        found = (
            {
                "route": known.key[0],
                "destination": known.key[1],
                "address": known.key[2],
                "health": HEALTHS[known.health],
                "slow_start_percent": known.row.slow_start_percent,
                "ramp": known.row.slow_start_percent,
                **state_of(known),
            }
            for known in self.registry.unsettled | noted
            if known.row
            and (
                known.health != HEALTHY
                or known.row.slow_start_percent < FULL_SHARE
                or known in noted
            )
        )
        return list(islice(found, MAX_TROUBLES))

    # --- how to watch -----------------------------------------------------------------------

    def pushed(self) -> None:
        """The master says that it has something new to be asked for."""
        self._to_ask.set()

    async def _ask(self) -> None:
        """How endpoints are to be watched; again whenever that has changed, and until it is
        known."""
        assert self._master is not None
        while not self._master.gone:
            await self._to_ask.wait()
            self._to_ask.clear()
            try:
                watches = await ask_for_watches(self._master)
            except TcpmuxError as error:
                log.warning(
                    "the master did not send the health checks; no endpoint is checked until it "
                    "does: %s",
                    error,
                )
                self._to_ask.set()
                await asyncio.sleep(RETRY)
                continue
            if self._to_ask.is_set():
                continue  # parts of it may be older than others
            self.registry.set_watches(watches)
            self._has_asked.set()

    # --- the loop ---------------------------------------------------------------------------

    async def _run(self) -> None:
        assert self._master is not None
        await self._has_asked.wait()
        while not self._master.gone:
            now = time.monotonic()
            try:
                if self.registry.refresh(now):
                    self.ejection.watch(self.registry.routes, self.registry.endpoints)
                    self.unanswered.watch(self.registry.endpoints)
                self.checks.begin_due(now)
                self.ejection.examine(now, self.registry.unsettled)
                self.unanswered.examine(now)
                await self._send(now)
                self.ticks += 1
            except TcpmuxError as error:
                log.warning(
                    "the master did not accept changes of endpoints' health, retrying: %s",
                    error,
                )
                await asyncio.sleep(RETRY)
            await asyncio.sleep(max(0.0, TICK - (time.monotonic() - now)))
        self._log_untold()

    def _has_changed(self, endpoint: Endpoint, level: int, text: str) -> None:
        """By its checks."""
        self._unsettle(endpoint)
        self._report(level, endpoint, text)
        if not endpoint.is_down and endpoint.ejected_until:  # it was for the same trouble
            self.ejection.restore(endpoint, time.monotonic())

    def _unsettle(self, endpoint: Endpoint) -> None:
        self.registry.unsettled.add(endpoint)

    def _report(self, level: int, endpoint: Endpoint, text: str) -> None:
        """For the log, which is the master's."""
        if endpoint.now_is() != endpoint.health:
            endpoint.since = time.time()
        route, destination, address = endpoint.key
        where = Where(route, destination, address)
        self.say(Line(level, f"{route}/{destination}: endpoint {address} is {text}", where))

    def say(self, line: Line) -> None:
        """For the log, which is the master's as long as there is one, and for the events."""
        self._lines.append(line)
        if self._master is None or self._master.gone:
            self._log_untold()

    def _log_untold(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            log.log(line.level, "%s", line, extra={"where": line.where})

    def _reason(self, route: str, destination: str, address: str) -> str:
        known = self.registry.endpoints.get((route, destination, address))
        return known.reason if known else ""

    # --- the master -------------------------------------------------------------------------

    async def _send(self, now: float) -> None:
        changes = list(self._changes(now))
        if self._view.table.draining:  # it takes no more connections, and no changes
            self._log_untold()
            return
        lines, self._lines = self._lines, []
        if not (changes or lines):
            return
        assert self._master is not None
        at, sent = 0, 0
        try:
            while at < len(changes) or sent < len(lines):
                await self._master.request(
                    "conditions",
                    conditions=changes[at : at + MAX_CONDITIONS],
                    texts=[(n.level, n, n.where) for n in lines[sent : sent + MAX_TEXTS]],
                )
                at, sent = at + MAX_CONDITIONS, sent + MAX_TEXTS
        except TcpmuxError:
            unsent = lines[sent:] + self._lines
            self._lines = unsent[-MAX_UNSENT:]
            if len(unsent) > MAX_UNSENT:
                left_out = plural(len(unsent) - MAX_UNSENT, "line")
                log.warning("left out of the log: %s about endpoints' health", left_out)
            raise

    def _changes(self, now: float) -> Iterator[list[Any]]:
        """Against the route table, which is what is in force."""
        unsettled = self.registry.unsettled
        for known in list(unsettled):
            row, health = known.row, known.now_is()
            assert row is not None
            known.health = health
            if health == row.health != HEALTHY:  # as it was, and thousands may be
                known.slow_start = None
                continue
            percent = share_of(known, now)
            if health != row.health or (percent != row.slow_start_percent and health == HEALTHY):
                yield [*known.key, health, percent if health == HEALTHY else row.slow_start_percent]
            elif health == HEALTHY and percent == FULL_SHARE and not known.ejections:
                unsettled.discard(known)
        for route, name, percent in self.registry.starts.changes(now, self.registry.endpoints):
            yield [route, name, None, HEALTHY, percent]
