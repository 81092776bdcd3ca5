"""Decides which endpoints are healthy, from checks and from connects that fail. Runs in control.

Every TICK it looks at what has happened, and tells the master all that changes in one request:

    checks      fall failures in a row take an endpoint out, rise successes bring it back
    ejection    for what connections meet with (ejection.py)
    ramps       what is back, or new, gets its share gradually

What is in force is in the route table; a new control process goes on from there.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from tcpmux.config import Address, Check
from tcpmux.config.checks import Watch, from_message
from tcpmux.control.ejection import Ejection
from tcpmux.control.endpoint import NO_WATCH, Endpoint, Key, Ramp, going_on, ramp_at, ramp_step
from tcpmux.control.probes import ProbeFailed, ProbeImpossible, knock, probe
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError
from tcpmux.shm.image import (
    DOWN,
    EJECTED,
    FULL_RAMP,
    HEALTHS,
    WELL,
    DestinationRow,
    EndpointRow,
    Image,
    RouteRow,
)

if TYPE_CHECKING:
    from tcpmux.control.master_link import MasterLink
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

TICK = 0.1  # s
AT_ONCE = 512  # checks under way
JITTER = 0.1  # of an interval, so that checks don't come in step
MOST_TROUBLES = 200
IMPOSSIBLE_AGAIN = 10.0  # s
MOST_CONDITIONS = 10_000  # in one request, of which the master makes one generation
MOST_TEXTS = 1000  # in one request
MOST_UNTOLD = 10_000  # that wait because the master does not take them
ASK_AGAIN = 1.0  # s


class Health:
    """Watches the endpoints of the route table."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._master: MasterLink | None = None
        self._watches: dict[tuple[str, str], Watch] = {}
        self._endpoints: dict[Key, Endpoint] = {}
        self._destinations: dict[Key, Ramp] = {}
        self._seen: Image | None = None
        # Of what is seen, what has to be looked at each time; most are healthy and are not.
        self._routes: dict[str, RouteRow] = {}
        self._warming: list[tuple[RouteRow, DestinationRow, Watch]] = []
        self._restless: set[Endpoint] = set()  # not up, or not yet as if nothing had been
        self._queue: list[tuple[float, int, Endpoint]] = []  # heap of checks that are due
        self._order = 0
        self.looks = 0  # turns of the loop
        self._checking = 0  # checks under way that have a task
        self._texts: list[tuple[int, str]] = []  # with the level that each has in the log
        self._tasks = Tasks()
        self._ejection = Ejection(view, self._say, self._unsettle)
        self._to_ask = asyncio.Event()
        self._say_impossible = 0.0  # monotonic; not again before
        self._has_asked = asyncio.Event()  # else there is nothing to go by

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._tasks = self._ejection.tasks = Tasks(tell)
        self.pushed()
        self._tasks.keep("health: asking the master", self._ask)
        self._tasks.keep("health", self._run)

    async def close(self) -> None:
        await self._tasks.close()

    # --- for people -------------------------------------------------------------------------

    def detail(self, route: str, destination: str, address: str) -> dict[str, Any]:
        """Of an endpoint, what the status shows of its health: reason, since and next_try in
        Unix time (None = there is no next)."""
        known = self._endpoints.get((route, destination, address))
        if known is None:
            return {
                "health_reason": "",
                "health_since": None,
                "next_try": None,
                "check": "off",
                "suspected": False,
            }
        now = time.monotonic()
        check = known.watch.check
        next_try = known.due if known.is_down else known.ejected_until
        return {
            "health_reason": known.reason,
            "health_since": known.since,
            "next_try": time.time() + max(0.0, next_try - now) if next_try else None,
            "check": check.kind if check else "off",
            "suspected": bool(known.suspected),
        }

    def troubles(self) -> list[dict[str, Any]]:
        """Those that are not up, don't have their full share yet, are suspected or would be ejected
        if others served; at most MOST_TROUBLES."""
        noted = self._ejection.noted
        found = (
            {
                "route": known.key[0],
                "destination": known.key[1],
                "address": known.key[2],
                "health": HEALTHS[known.health],
                "ramp": known.row.ramp,
                **self.detail(known.key[0], known.key[1], str(known.address)),
            }
            for known in self._restless | noted
            if known.row and (known.health != WELL or known.row.ramp < FULL_RAMP or known in noted)
        )
        return list(islice(found, MOST_TROUBLES))

    # --- what is to be watched --------------------------------------------------------------

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
                watches = await self._asked(self._master)
            except TcpmuxError as error:
                log.warning(
                    "the master does not tell how to check endpoints, and none is checked until it "
                    "does: %s",
                    error,
                )
                self._to_ask.set()
                await asyncio.sleep(ASK_AGAIN)
                continue
            if self._to_ask.is_set():
                continue  # parts of it may be older than others
            self._watches = watches
            self._seen = None  # look at every endpoint again
            self._has_asked.set()

    async def _asked(self, master: MasterLink) -> dict[tuple[str, str], Watch]:
        watches: dict[tuple[str, str], Watch] = {}
        first: int | None = 0
        while first is not None:
            answer = await master.request("checks", first=first)
            told = list(map(from_message, answer["watches"]))
            for route, destination, number in answer["checks"]:
                watches[route, destination] = told[number]
            first = answer["next"]
        return watches

    def _look_at_image(self, now: float) -> None:
        _, image = self._view.image()
        if image is self._seen:
            return
        self._seen = image
        before, self._endpoints = self._endpoints, {}
        ramps, self._destinations = self._destinations, {}
        self._routes = {route.name: route for route in image.routes}
        self._warming = []
        restless, self._restless = self._restless, set()
        for route in image.routes:
            for row in route.destinations:
                watch = self._watches.get((route.name, row.name), NO_WATCH)
                if watch.warmup or row.ramp < FULL_RAMP:
                    self._warming.append((route, row, watch))
                whole: Key = (route.name, row.name, None)
                if row.ramp < FULL_RAMP:
                    self._destinations[whole] = ramps.get(whole) or going_on(row.ramp, watch, now)
                for endpoint in row.endpoints:
                    key: Key = (route.name, row.name, str(endpoint.address))
                    known = before.get(key)
                    if known is None or known.slot != endpoint.slot:
                        known = self._new(key, endpoint, now)
                    self._endpoints[key] = known
                    known.ramp_step = ramp_step(len(row.endpoints))
                    self._take_note(known, endpoint, watch, now)
                    if known in restless:
                        self._restless.add(known)
        self._ejection.watch(self._routes, self._endpoints)

    def _new(self, key: Key, row: EndpointRow, now: float) -> Endpoint:
        known = Endpoint(key, row.slot, Address.parse(str(row.address)), row.health)
        known.calm_since = now
        known.failures_before = self._view.commons.failures(row.slot)[0]
        if row.health != WELL:
            known.failed_check = known.ejected_for = (
                "found before the control process was restarted"
            )
        return known

    def _take_note(self, known: Endpoint, row: EndpointRow, watch: Watch, now: float) -> None:
        if known.row is None:
            known.is_down = row.health == DOWN
            if row.health == EJECTED:
                known.ejected_until = now + watch.passive.ejection_time
        known.row = row
        if row.ramp < FULL_RAMP and known.ramp is None:
            known.ramp = going_on(row.ramp, watch, now)
        if watch.check is None:
            known.is_down, known.due = False, 0.0
        elif watch.check != known.watch.check:
            known.streak = 0
            # Soon, but not all at the same time.
            self._plan(known, now + random.uniform(0, min(1.0, watch.check.interval)))
        if not watch.passive.errors:
            known.ejected_until = 0.0
        known.watch = watch
        if row.health != WELL or row.ramp < FULL_RAMP:
            self._restless.add(known)

    # --- the loop ---------------------------------------------------------------------------

    async def _run(self) -> None:
        assert self._master is not None
        await self._has_asked.wait()
        while not self._master.gone:
            now = time.monotonic()
            try:
                self._look_at_image(now)
                self._begin_checks(now)
                self._ejection.look(now, self._restless)
                await self._tell(now)
                self.looks += 1
            except TcpmuxError as error:
                log.warning(
                    "the master does not take changes of endpoints' health, it is told again: %s",
                    error,
                )
                await asyncio.sleep(ASK_AGAIN)
            await asyncio.sleep(max(0.0, TICK - (time.monotonic() - now)))

    def _plan(self, endpoint: Endpoint, due: float) -> None:
        endpoint.due = due
        self._order += 1
        heapq.heappush(self._queue, (due, self._order, endpoint))

    def _begin_checks(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now and self._checking < AT_ONCE:
            due, _, endpoint = heapq.heappop(self._queue)
            if (
                due != endpoint.due  # another has been planned
                or endpoint.is_checking
                or self._endpoints.get(endpoint.key) is not endpoint
                or endpoint.watch.check is None
            ):
                continue
            self._begin_check(endpoint, endpoint.watch.check)

    def _begin_check(self, endpoint: Endpoint, check: Check) -> None:
        if check.kind == "tcp" and not check.port:
            try:
                if knock(endpoint.address):
                    self._result(endpoint, check, "")
                    return
            except ProbeFailed as error:
                self._result(endpoint, check, str(error))
                return
            except ProbeImpossible as error:
                self._put_off(endpoint, check, error)
                return
        endpoint.is_checking = True
        self._checking += 1
        self._tasks.once("a check", self._check(endpoint, check))

    async def _check(self, endpoint: Endpoint, check: Check) -> None:
        reason = ""
        try:
            await probe(endpoint.address, check)
        except ProbeFailed as error:
            reason = str(error)
        except ProbeImpossible as error:
            self._put_off(endpoint, check, error)
            return
        finally:
            endpoint.is_checking = False
            self._checking -= 1
        if endpoint.watch.check == check:
            self._result(endpoint, check, reason)
        elif endpoint.watch.check is not None:  # another one, which has waited for this to end
            self._plan(endpoint, time.monotonic())

    def _put_off(self, endpoint: Endpoint, check: Check, error: ProbeImpossible) -> None:
        """Nothing has been found out."""
        now = time.monotonic()
        if now >= self._say_impossible:
            self._say_impossible = now + IMPOSSIBLE_AGAIN
            log.warning("endpoints can't be checked: %s", error)
        self._plan(endpoint, now + check.interval)

    def _result(self, endpoint: Endpoint, check: Check, reason: str) -> None:
        """reason: "" = it is healthy."""
        endpoint.checked += 1
        endpoint.streak = endpoint.streak + 1 if bool(reason) != endpoint.is_down else 0
        needed = check.rise if endpoint.is_down else check.fall
        if reason:
            endpoint.failed_check = reason
        if endpoint.streak >= needed:
            endpoint.is_down = not endpoint.is_down
            endpoint.streak = 0
            self._restless.add(endpoint)
            said = f"{check.kind} check: {reason}" if reason else f"{check.kind} check"
            level = logging.WARNING if reason else logging.INFO
            self._say(level, endpoint, f"{'down' if reason else 'up'}, {said}, {needed} in a row")
            if not reason and endpoint.ejected_until:  # it was for the same trouble
                self._ejection.take_back(endpoint, time.monotonic())
        undecided = endpoint.streak > 0 and not endpoint.is_down
        interval = check.fast_interval if undecided else check.interval
        self._plan(endpoint, time.monotonic() + interval * random.uniform(1 - JITTER, 1))

    def _unsettle(self, endpoint: Endpoint) -> None:
        self._restless.add(endpoint)

    def _say(self, level: int, endpoint: Endpoint, what: str) -> None:
        if endpoint.now_is() != endpoint.health:
            endpoint.since = time.time()
        route, destination, address = endpoint.key
        self._texts.append((level, f"{route}/{destination}: endpoint {address} is {what}"))

    # --- the master -------------------------------------------------------------------------

    async def _tell(self, now: float) -> None:
        changes = list(self._changes(now))
        texts, self._texts = self._texts, []
        if self._view.table.draining or not (changes or texts):
            return  # draining, it takes no more connections, and no changes
        assert self._master is not None
        at, told = 0, 0
        try:
            while at < len(changes) or told < len(texts):
                await self._master.request(
                    "conditions",
                    conditions=changes[at : at + MOST_CONDITIONS],
                    texts=texts[told : told + MOST_TEXTS],
                )
                at, told = at + MOST_CONDITIONS, told + MOST_TEXTS
        except TcpmuxError:
            untold = texts[told:] + self._texts
            self._texts = untold[-MOST_UNTOLD:]
            if len(untold) > MOST_UNTOLD:
                left_out = len(untold) - MOST_UNTOLD
                log.warning(
                    "%d lines about changes of endpoints' health are left out of the log", left_out
                )
            raise

    def _changes(self, now: float) -> Iterator[list[Any]]:
        """Against the route table, which is what is in force."""
        for known in list(self._restless):
            row, health = known.row, known.now_is()
            assert row is not None
            if health != WELL:
                known.ramp = None
            elif row.health != WELL and known.watch.warmup and known.ramp is None:
                known.ramp = Ramp(now, known.watch.warmup_floor)
            percent = FULL_RAMP
            if known.ramp is not None:
                percent = ramp_at(now - known.ramp.began, known.watch, known.ramp_step)
                if percent == FULL_RAMP:
                    known.ramp = None
            known.health = health
            if health != row.health or (percent != row.ramp and health == WELL):
                yield [*known.key, health, percent if health == WELL else row.ramp]
            elif health == WELL and percent == FULL_RAMP and not known.ejections:
                self._restless.discard(known)
        yield from self._destination_changes(now)

    def _destination_changes(self, now: float) -> Iterator[list[Any]]:
        for route, row, watch in self._warming:
            key: Key = (route.name, row.name, None)
            # It begins anew as soon as one of its endpoints is back.
            if watch.warmup and not row.turns and self._is_coming_back(route, row):
                self._destinations[key] = Ramp(now, watch.warmup_floor)
            ramp = self._destinations.get(key)
            percent = ramp_at(now - ramp.began, watch, 1) if ramp else FULL_RAMP
            if percent == FULL_RAMP:
                self._destinations.pop(key, None)
            if percent != row.ramp:
                yield [*key, WELL, percent]

    def _is_coming_back(self, route: RouteRow, row: DestinationRow) -> bool:
        return any(
            endpoint.health != WELL
            and self._endpoints[route.name, row.name, str(endpoint.address)].now_is() == WELL
            for endpoint in row.endpoints
        )
