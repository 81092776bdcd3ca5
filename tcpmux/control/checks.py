"""The checks that are configured: when each is due, and what its results mean. Runs in control.

fall failures in a row take an endpoint out, rise successes bring it back.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections.abc import Callable

from tcpmux.config import Check
from tcpmux.control.connecting import ProbeFailed, ProbeImpossible, connect_at_once
from tcpmux.control.endpoint import Endpoint
from tcpmux.control.probes import probe
from tcpmux.control.tasks import Tasks

log = logging.getLogger("tcpmux.control")

AT_ONCE = 512  # checks under way
JITTER = 0.1  # of an interval, so that checks don't come in step
LOG_EVERY = 10.0  # s, that this host can't check


class Checks:
    """Of all endpoints. changed: hears of each that goes down or comes up, with the level and the
    words of that for the log."""

    def __init__(self, changed: Callable[[Endpoint, int, str], None]) -> None:
        self.tasks = Tasks()
        self.doubted: set[Endpoint] = set()  # used, and some checks have failed
        self._changed = changed
        self._queue: list[tuple[float, int, Endpoint]] = []  # heap of checks that are due
        self._order = 0
        self._under_way = 0  # that have a task
        self._log_again = 0.0  # monotonic; that this host can't check

    def plan_soon(self, endpoint: Endpoint, check: Check, now: float) -> None:
        """Of many that are new, not all at the same time."""
        self._plan(endpoint, now + random.uniform(0, min(1.0, check.interval)))

    def begin_due(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now and self._under_way < AT_ONCE:
            due, _, endpoint = heapq.heappop(self._queue)
            if (
                due == endpoint.due  # else another has been planned
                and not endpoint.is_checking
                and not endpoint.is_gone
                and endpoint.watch.check is not None
            ):
                self._begin(endpoint, endpoint.watch.check)

    def _plan(self, endpoint: Endpoint, due: float) -> None:
        endpoint.due = due
        self._order += 1
        heapq.heappush(self._queue, (due, self._order, endpoint))

    def _begin(self, endpoint: Endpoint, check: Check) -> None:
        if check.kind == "tcp" and not check.port:
            try:
                if connect_at_once(endpoint.address):
                    self._result(endpoint, check, "")
                    return
            except ProbeFailed as error:
                self._result(endpoint, check, str(error))
                return
            except ProbeImpossible as error:
                self._put_off(endpoint, check, error)
                return
        endpoint.is_checking = True
        self._under_way += 1
        self.tasks.once("a check", self._check(endpoint, check))

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
            self._under_way -= 1
        if endpoint.watch.check == check:
            self._result(endpoint, check, reason)
        elif endpoint.watch.check is not None:  # another one, which has waited for this to end
            self._plan(endpoint, time.monotonic())

    def _put_off(self, endpoint: Endpoint, check: Check, error: ProbeImpossible) -> None:
        """Nothing has been found out."""
        now = time.monotonic()
        if now >= self._log_again:
            self._log_again = now + LOG_EVERY
            log.warning("can't check endpoints: %s", error)
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
            said = f"{check.kind} check: {reason}" if reason else f"{check.kind} check"
            text = f"{'down' if reason else 'up'}, {said}, {needed} in a row"
            self._changed(endpoint, logging.WARNING if reason else logging.INFO, text)
        undecided = endpoint.streak > 0 and not endpoint.is_down
        if undecided:
            self.doubted.add(endpoint)
        else:
            self.doubted.discard(endpoint)
        interval = check.fast_interval if undecided else check.interval
        self._plan(endpoint, time.monotonic() + interval * random.uniform(1 - JITTER, 1))
