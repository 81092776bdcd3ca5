"""Watches for stopped guardians. Runs in the master.

A guardian looks at its worker every 25 ms and does little else, so one that has had no CPU time for
a second waits to start its worker again, or is stopped. While it is stopped nobody starts a worker
that dies again, and the connections of that worker wait.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass

from tcpmux.master._watch import process_cpu_us, process_state
from tcpmux.master.duty import Duty
from tcpmux.master.line import Worker
from tcpmux.master.program_watch import STOP_TIME, STOPS, TICK, next_tick
from tcpmux.master.workers import Workers

log = logging.getLogger("tcpmux.master")

_EVENT = {"event": "worker"}


@dataclass(slots=True)
class _Seen:
    """What is known of a guardian. Times are monotonic."""

    pid: int
    cpu_us: int = 0
    stopped_since: float | None = None
    continued_at: float | None = None
    is_told_of: bool = False  # that nothing can be done


class GuardianWatch(Duty):
    """Over the guardians of all workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._seen: dict[int, _Seen] = {}  # by worker
        self._done = time.monotonic()
        self._due = next_tick(self._done, TICK)

    def due(self) -> float:
        return self._due

    def do(self, now: float) -> None:
        """Says which are stopped, and has them go on or replaced."""
        if now < self._due:
            return
        paused = now - self._done > 2 * TICK  # this process was stopped, and maybe all were
        self._done, self._due = now, next_tick(now, TICK)
        for worker in self._workers.running:
            guardian = worker.held_guardian
            if guardian is None:
                continue
            seen = self._seen.get(worker.id)
            if seen is None or seen.pid != guardian.pid:
                seen = self._seen[worker.id] = _Seen(guardian.pid)
            before, seen.cpu_us = seen.cpu_us, process_cpu_us(guardian.pid, seen.cpu_us)
            if paused:
                seen.stopped_since = now if seen.stopped_since else None
            elif seen.cpu_us != before or process_state(guardian.pid) not in STOPS:
                self._goes_on(worker, seen)
            else:
                self._is_stopped(worker, seen, now)

    @staticmethod
    def _goes_on(worker: Worker, seen: _Seen) -> None:
        if seen.stopped_since is not None:
            log.info("guardian %d (pid %d) is running again", worker.id, seen.pid, extra=_EVENT)
        seen.stopped_since = seen.continued_at = None
        seen.is_told_of = False

    @staticmethod
    def _is_stopped(worker: Worker, seen: _Seen, now: float) -> None:
        assert worker.held_guardian is not None
        if seen.stopped_since is None:
            seen.stopped_since = now
            log.warning(
                "guardian %d (pid %d) is stopped, by a signal or a debugger: if its worker dies "
                "now, that worker's connections wait; traffic is not affected",
                worker.id,
                seen.pid,
                extra=_EVENT,
            )
        elif seen.continued_at is None and now - seen.stopped_since >= STOP_TIME:
            # Rather than to end it at once: it may be the only one that holds the connections.
            seen.continued_at = now
            log.info(
                "guardian %d (pid %d) was stopped for %g s: sending SIGCONT",
                worker.id,
                seen.pid,
                STOP_TIME,
                extra=_EVENT,
            )
            worker.held_guardian.signal(signal.SIGCONT)
        elif seen.continued_at is not None and now - seen.continued_at >= STOP_TIME:
            if worker.held is not None and not worker.held.has_ended:
                log.error(
                    "guardian %d (pid %d) does not resume: it is replaced",
                    worker.id,
                    seen.pid,
                    extra=_EVENT,
                )
                worker.held_guardian.signal(signal.SIGKILL)
            elif not seen.is_told_of:
                seen.is_told_of = True
                log.error(
                    "guardian %d (pid %d) does not resume, and its worker is dead: %d "
                    "connections wait for it",
                    worker.id,
                    seen.pid,
                    worker.live.connections,
                    extra=_EVENT,
                )
