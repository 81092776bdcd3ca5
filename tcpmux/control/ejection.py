"""Ejects endpoints for failed connects and suspicions, and re-admits them. Runs in control.

    connects that fail      workers count them in a row (csrc/commons.h); enough, and it is ejected
    resets, early closes    only where asked for; what a client sends can bring them about, so after
                            enough of different clients control checks it itself, and acts on that
    the end of an ejection  control checks it itself first: no client is sent there before it has
                            been found healthy; then the first failure ejects it again
    failures, then quiet    of one that stays in use and has no check, control finds out whether it
                            answers again: only what is shown depends on it

To examine is a connect that has to stay open for a moment with nothing sent on it (a plain one
succeeds at an endpoint that accepts and resets), and the check that is configured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpmux.config import Check
from tcpmux.control.connecting import ProbeFailed, ProbeImpossible
from tcpmux.control.endpoint import Endpoint, Key
from tcpmux.control.probes import probe, stays_open
from tcpmux.control.tasks import Tasks
from tcpmux.shm.image import HEALTHY, READY, REJECT, DestinationRow, Image, RouteRow
from tcpmux.shm.serving import fallback_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tcpmux.shm.view import View

MAX_EJECTIONS = 10  # that ejection_time is multiplied by
AT_ONCE = 256  # examinations under way
SUSPECT_TRIES = 2  # before one that is only suspected counts as failed
IMPOSSIBLE_RETRY = 10.0  # s
SUSPECTING = 3  # different clients
SAY_AGAIN = 60.0  # s before the same is said again of one that fails and recovers all the time
QUIET = 10.0  # s without another failure
# s that a verdict to spare one holds while the route table is the same, and between two rounds of
# all that fail. Between them only those are examined with which something has happened.
JUDGED = 1.0
LOOKS = 30  # begun in a round: of thousands that fail, each has to wait for its own
CONNECT = Check("tcp")


@dataclass(slots=True)
class _Tally:
    """Of a destination's endpoints."""

    ejected: int
    healthy: int  # and wanted
    is_dead: bool  # all of those fail


class Ejection:
    """Of all endpoints. report: tells what an endpoint is from now on, with the level of that in
    the log. unsettle: has one watched closely until it is as if nothing had happened."""

    def __init__(
        self,
        view: View,
        report: Callable[[int, Endpoint, str], None],
        unsettle: Callable[[Endpoint], None],
    ) -> None:
        self.tasks = Tasks()
        self.noted: set[Endpoint] = set()  # spared or suspected
        self._view = view
        self._report = report
        self._unsettle = unsettle
        self._routes: Mapping[str, RouteRow] = {}
        self._endpoints: Mapping[Key, Endpoint] = {}
        self._by_slot: dict[int, Endpoint] = {}
        self._slots = array("I")
        self._counts = array("Q")  # as moved() has them
        self._next_round = 0.0  # monotonic
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._looks_left = 0
        self._image: Image | None = None
        self._is_changed = False  # the route table, since the last examination

    def watch(self, routes: Mapping[str, RouteRow], endpoints: Mapping[Key, Endpoint]) -> None:
        """From now on these."""
        self._routes, self._endpoints = routes, endpoints
        watched = (known for known in endpoints.values() if known.watch.passive.errors)
        self._by_slot = {known.slot: known for known in watched}
        self._slots = array("I", self._by_slot)
        self._counts = array("Q", bytes(16 * len(self._slots)))
        self._next_round = 0.0
        for known in list(self.noted):
            if self._by_slot.get(known.slot) is not known:
                known.spared = known.suspected = ""
                self.noted.discard(known)

    def examine(self, now: float, unsettled: Iterable[Endpoint]) -> None:
        """unsettled: all that are ejected or have been not long ago."""
        for endpoint in unsettled:
            if now >= endpoint.ejected_until:
                self._advance(endpoint, now)
        self._tallies.clear()
        image = self._view.image()[1]
        self._is_changed, self._image = image is not self._image, image
        slots, self._looks_left = array("I", self._view.commons.moved(self._slots, self._counts)), 0
        if self._is_changed or now >= self._next_round:
            slots, self._looks_left, self._next_round = self._slots, LOOKS, now + JUDGED
        failing = self._view.commons.failing(slots)
        calm = set(slots).difference(failing) if self.noted else ()
        for slot in failing:
            self._examine(self._by_slot[slot], now)
        if calm:
            for endpoint in [each for each in self.noted if each.slot in calm]:
                self._note(endpoint, spared="", suspected="")

    def restore(self, endpoint: Endpoint, now: float) -> None:
        """It is no longer ejected."""
        endpoint.ejected_until = 0.0
        endpoint.calm_since = now
        endpoint.failures_before = self._view.commons.failures(endpoint.slot)[0]
        endpoint.answered = endpoint.failures_before
        endpoint.on_trial = True

    # --- what workers have counted ----------------------------------------------------------

    def _advance(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.ejected_until:
            if now >= endpoint.ejected_until and not endpoint.is_examined:
                self._begin(endpoint, "an examination after an ejection", self._after_ejection)
            return
        self._count(endpoint)
        if endpoint.ejections and now - endpoint.calm_since >= endpoint.watch.passive.interval:
            endpoint.ejections -= 1
            endpoint.calm_since = now
            if not endpoint.failures_before:  # else a success shows
                endpoint.on_trial = False

    def _count(self, endpoint: Endpoint) -> int:
        """Failures in a row that count."""
        in_a_row = self._view.commons.failures(endpoint.slot)[0]
        if in_a_row < endpoint.answered:
            endpoint.answered = 0
        if in_a_row < endpoint.failures_before:  # a success in between
            endpoint.failures_before = 0
            endpoint.on_trial = False
        return in_a_row - endpoint.failures_before

    def _examine(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.ejected_until or endpoint.is_down:
            return
        errors = endpoint.watch.passive.errors
        if endpoint.watch.check is None and now >= endpoint.look_again:
            self._look_again(endpoint, now)
        if endpoint.spared and now < endpoint.spared_until and not self._is_changed:
            return
        if self._is_failing(endpoint):
            count = self._count(endpoint)
            what = "connects in a row" if count > 1 else "connect after the last ejection"
            self._eject(endpoint, f"{count} {what} failed", now)
            return
        in_a_row, _, clients = self._view.commons.suspicions(endpoint.slot)
        if in_a_row < errors or clients < min(SUSPECTING, errors):
            self._note(endpoint, spared="", suspected="")
        elif now >= endpoint.examine_again and not endpoint.is_examined:
            self._begin(endpoint, "an examination of a suspect", self._suspect)

    def _note(
        self, endpoint: Endpoint, *, spared: str, suspected: str, level: int = logging.WARNING
    ) -> None:
        if spared and spared != endpoint.spared:
            now = time.monotonic()
            text, at = endpoint.spared_said
            if spared != text or now - at >= SAY_AGAIN:
                endpoint.spared_said = spared, now
                self._report(level, endpoint, spared)
        if suspected and not endpoint.suspected:
            self._report(level, endpoint, suspected)
        endpoint.spared, endpoint.suspected = spared, suspected
        if spared or suspected:
            self.noted.add(endpoint)
        else:
            self.noted.discard(endpoint)

    # --- a check of our own ------------------------------------------------------------------

    def _begin(
        self, endpoint: Endpoint, name: str, work: Callable[[Endpoint], Coroutine[None, None, None]]
    ) -> None:
        async def examined() -> None:
            try:
                await work(endpoint)
            finally:
                endpoint.is_examined = False

        endpoint.is_examined = True
        self.tasks.once(name, examined())

    async def _wrong_with(self, endpoint: Endpoint) -> str | None:
        """What is wrong with it: "" = nothing; None = this host could not check it."""
        check = endpoint.watch.check or CONNECT
        async with self._at_once:
            try:
                if (
                    check.kind == "tcp" or check.port
                ):  # else it goes where clients go, and says more
                    await stays_open(endpoint.address, check, endpoint.watch.passive.early_close)
                if check.kind != "tcp" or check.port:
                    await probe(endpoint.address, check)
            except ProbeFailed as error:
                return str(error)
            except ProbeImpossible:
                return None
        return ""

    async def _after_ejection(self, endpoint: Endpoint) -> None:
        wrong = await self._wrong_with(endpoint)
        now = time.monotonic()
        if endpoint.is_gone or not endpoint.ejected_until:
            return
        if wrong is None:
            endpoint.ejected_until = now + IMPOSSIBLE_RETRY
        elif wrong:
            endpoint.ejected_for = f"still failing after an ejection: {wrong}"
            seconds = self._extend(endpoint, now)
            self._report(logging.WARNING, endpoint, f"ejected for another {seconds:g} s: {wrong}")
        else:
            self.restore(endpoint, now)
            what = "back after its ejection: a check has succeeded"
            self._report(logging.INFO, endpoint, what)

    async def _suspect(self, endpoint: Endpoint) -> None:
        for _ in range(SUSPECT_TRIES):
            wrong = await self._wrong_with(endpoint)
            if not wrong:
                break
        now = time.monotonic()
        endpoint.examine_again = now + endpoint.watch.passive.interval
        in_a_row, _, clients = self._view.commons.suspicions(endpoint.slot)
        if (
            wrong is None
            or endpoint.ejected_until
            or endpoint.is_down
            or in_a_row < endpoint.watch.passive.errors  # it has answered meanwhile
            or endpoint.is_gone
        ):
            return
        what = f"{in_a_row} connections in a row, of {clients} clients or more, had no answer"
        if wrong:
            self._tallies.clear()
            self._eject(endpoint, f"{what}, and a check fails: {wrong}", now)
        else:
            suspected = f"suspected: {what}; a check succeeds, so it stays in use"
            self._note(endpoint, spared="", suspected=suspected)

    def _look_again(self, endpoint: Endpoint, now: float) -> None:
        """Connects there have failed: once that is some time ago it is asked how it is."""
        if not self._looks_left or endpoint.is_examined:
            return
        in_a_row, _, _, last = self._view.commons.failing_for(endpoint.slot)
        endpoint.look_again = max(last, now - QUIET) + QUIET
        if in_a_row > endpoint.answered and now - last >= QUIET:
            self._looks_left -= 1
            self._begin(endpoint, "a look at one that connects have failed with", self._looked)

    async def _looked(self, endpoint: Endpoint) -> None:
        in_a_row = self._view.commons.failures(endpoint.slot)[0]
        wrong = await self._wrong_with(endpoint)
        endpoint.look_again = time.monotonic() + QUIET
        if wrong == "":
            endpoint.answered = in_a_row

    # --- out --------------------------------------------------------------------------------

    def _extend(self, endpoint: Endpoint, now: float) -> float:
        endpoint.ejections = min(endpoint.ejections + 1, MAX_EJECTIONS)
        seconds = endpoint.watch.passive.ejection_time * endpoint.ejections
        endpoint.ejected_until = now + seconds
        return seconds

    def _eject(self, endpoint: Endpoint, why: str, now: float) -> None:
        route = self._routes[endpoint.key[0]]
        row = next(d for d in route.destinations if d.name == endpoint.key[1])
        tally = self._tally(route, row)
        most = endpoint.watch.passive.most_ejected
        is_too_many = tally.ejected + 1 > max(1, len(row.endpoints) * most // 100)
        # The limit keeps those that stay from being overrun. If they all fail it has clients lose.
        if is_too_many and not (tally.is_dead and self._is_relieved(route, row)):
            spared = f"failing, but stays in use: most_ejected is {most}%"
            self._note(endpoint, spared=spared, suspected="")
            endpoint.spared_until = now + JUDGED
        elif not self._others_serve(endpoint, route, row):
            spared = "failing, but stays in use: nothing else could serve its connections"
            endpoint.spared_until = now + JUDGED
            self._note(endpoint, spared=spared, suspected="", level=logging.ERROR)
        else:
            self._note(endpoint, spared="", suspected="")
            tally.ejected += 1
            tally.healthy -= self._serves(endpoint)
            seconds = self._extend(endpoint, now)
            endpoint.ejected_for = why
            self._unsettle(endpoint)
            self._report(logging.WARNING, endpoint, f"ejected for {seconds:g} s: {why}")

    def _serves(self, endpoint: Endpoint) -> bool:
        row = endpoint.row
        return row is not None and row.state == READY and endpoint.now_is() == HEALTHY

    def _tally(self, route: RouteRow, row: DestinationRow) -> _Tally:
        """Worked out once for all that fail at the same time."""
        key = route.name, row.name
        if key not in self._tallies:
            same = [self._endpoints[route.name, row.name, str(e.address)] for e in row.endpoints]
            serving = list(filter(self._serves, same))
            self._tallies[key] = _Tally(
                sum(1 for each in same if each.ejected_until),
                len(serving),
                all(map(self._is_failing, serving)),
            )
        return self._tallies[key]

    def _is_failing(self, endpoint: Endpoint) -> bool:
        errors = endpoint.watch.passive.errors
        return errors > 0 and self._count(endpoint) >= (1 if endpoint.on_trial else errors)

    def _others_serve(self, endpoint: Endpoint, route: RouteRow, row: DestinationRow) -> bool:
        """Whether somebody gets its connections: another of its destination, backups among them,
        or another destination that gets its share. Else nothing would be better."""

        tally = self._tally(route, row)
        others = tally.healthy - self._serves(endpoint)
        return (row.state == READY and others > 0) or self._is_relieved(route, row)

    def _is_relieved(self, route: RouteRow, row: DestinationRow) -> bool:
        """Whether another destination gets its share once none of its endpoints is healthy."""

        def serves(destination: DestinationRow) -> bool:
            return destination.state == READY and self._tally(route, destination).healthy > 0

        if route.rules.on_unavailable == REJECT:
            return False
        fallback = fallback_of(route.rules)
        return any(
            other is not row and (other.weight or index == fallback) and serves(other)
            for index, other in enumerate(route.destinations)
        )
