"""The end of an instance: it serves what it has, for a while. Runs in the master."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tcpmux.errors import plural
from tcpmux.master.changes import QUEUE_SECONDS
from tcpmux.master.duty import Duty, earliest
from tcpmux.master.listeners import Listeners
from tcpmux.master.supervisor import Supervisor
from tcpmux.master.workers import Workers
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

KILL_SECONDS = 2.0  # between SIGQUIT and SIGKILL for a worker that has to end
MARGIN_SECONDS = 15.0  # to end in, on top of drain_timeout
REPORT_SECONDS = 5.0  # between two lines
RUNNING_STATE, DRAINING_STATE = 1, 2  # csrc/route_table.h: enum tm_state


class Stopping(Duty):
    """drain_timeout: s, as the configuration has it now."""

    def __init__(
        self,
        table: Table,
        workers: Workers,
        listeners: Listeners,
        supervisor: Supervisor,
        drain_timeout: Callable[[], float],
    ) -> None:
        self._table = table
        self._workers = workers
        self._listeners = listeners
        self._supervisor = supervisor
        self._drain_timeout = drain_timeout
        self._reset_at: float | None = None  # monotonic; set = draining
        self._kill_at: float | None = None  # monotonic; set = ending at once
        self._next_report = 0.0

    @property
    def draining(self) -> bool:
        return self._reset_at is not None

    def begin(self, why: str, *, at_once: bool = False, by: str = "") -> None:
        """Serves what is queued, stops listening, and waits for connections to end, or resets
        them at once."""
        if not self.draining:
            timeout = self._drain_timeout()
            log.info(
                "%s: no new connections; %s",
                why,
                "ending at once" if at_once else f"waiting up to {timeout:g} s for open ones",
                extra={"event": "stop", "by": by},
            )
            self._supervisor.stopping(f"{why}: draining", timeout + MARGIN_SECONDS)
            self._table.set_state(DRAINING_STATE)
            every = list(self._listeners.by_address.values())
            self._workers.remove_listeners(every, QUEUE_SECONDS)
            self._listeners.close_all(keep_files=self._supervisor.has_store)
            self._workers.drain()
            self._reset_at = time.monotonic() + timeout
            self._next_report = time.monotonic() + REPORT_SECONDS
        if at_once:
            self._reset(why)

    def hurry(self, why: str) -> None:
        """Begins, or if it has begun already, resets what is open."""
        if self.draining:
            self._reset(f"a second {why}")
        else:
            self.begin(why)

    def due(self) -> float | None:
        if not self.draining:
            return None
        return earliest(self._reset_at, self._kill_at, self._next_report)

    def do(self, now: float) -> None:
        if not self.draining:
            return
        if self._kill_at is not None and now >= self._kill_at:
            self._workers.kill_all()
            self._kill_at = None
        elif self._reset_at is not None and now >= self._reset_at:
            self._reset("drain_timeout has expired")
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            left = self._connections
            self._supervisor.status(f"draining, {plural(left, 'connection')} left")
            if left:
                log.info("draining: %s left", plural(left, "connection"))

    @property
    def _connections(self) -> int:
        return sum(worker.live.connections for worker in self._workers.running)

    def _reset(self, why: str) -> None:
        if self._kill_at is None:
            left = self._connections
            level = logging.WARNING if left else logging.INFO
            log.log(level, "%s: resetting %s", why, plural(left, "connection"))
            self._workers.quit()
            self._kill_at = time.monotonic() + KILL_SECONDS
            self._reset_at = float("inf")
