"""Problems that workers report, logged at a limited rate. Runs in the master."""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tcpmux.errors import printable
from tcpmux.master.duty import earliest
from tcpmux.master.line import Worker
from tcpmux.privileges import User
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

QUIET_SECONDS = 30.0  # between two lines about the same thing
SETTLED_SECONDS = 5.0  # without a failed accept; workers report one each second
LAST_ERRNO = 4096  # of Linux
ADVICE = {
    errno.EMFILE: "raise the limit of descriptors (ulimit -n, LimitNOFILE=) and restart",
    errno.ENFILE: "raise fs.file-max (sysctl)",
    errno.ENOMEM: "free memory on this host",
    errno.ENOBUFS: "free memory on this host",
}


class WorkerReports:
    """user: as whom workers run. others_have_room: for what that one can't take."""

    def __init__(
        self, table: Table, user: User, others_have_room: Callable[[Worker], bool]
    ) -> None:
        self._table = table
        self._user = user
        self._others_have_room = others_have_room
        self._quiet_until: dict[tuple[str, int], float] = {}  # monotonic, by what was said
        self._full: set[int] = set()  # workers
        self._told_full: set[int] = set()
        self._unaccepted_at: float | None = None  # monotonic, the last; None = accept works
        self._told_unaccepted = False
        self._times: Counter[tuple[str, int]] = Counter()  # it came about, and is not said yet

    def due(self) -> float | None:
        """Monotonic time, s, when look() has something to do; None = never."""
        settled = None if self._unaccepted_at is None else self._unaccepted_at + SETTLED_SECONDS
        unsaid = self._full - self._told_full
        return earliest(settled, *(self._quiet_until.get(("full", n), 0.0) for n in unsaid))

    def look(self, now: float, workers: Sequence[Worker]) -> None:
        """At what is said some time after it has come about. now: monotonic, s. workers: all."""
        if self._unaccepted_at is not None and now >= self._unaccepted_at + SETTLED_SECONDS:
            self._unaccepted_at = None
            if self._told_unaccepted:
                self._told_unaccepted = False
                log.info(
                    "connections are accepted again: for %g s no accept has failed",
                    SETTLED_SECONDS,
                    extra={"event": "worker"},
                )
        there = {worker.id for worker in workers}
        self._full &= there
        self._told_full &= there
        for worker in workers:
            if worker.id in self._full - self._told_full:
                self._log_full(worker)

    def _times_unsaid(self, what: str, number: int = 0) -> str:
        """For a line that is said now."""
        times = self._times.pop((what, number), 1)
        return f", {times} times since this was last said" if times > 1 else ""

    def _is_due(self, what: str, number: int = 0) -> bool:
        """Whether to say it now; if so, it is not said again for a while."""
        now = time.monotonic()
        self._quiet_until = {key: end for key, end in self._quiet_until.items() if end > now}
        if (what, number) in self._quiet_until:
            return False
        self._quiet_until[what, number] = now + QUIET_SECONDS
        return True

    def report(self, worker: Worker) -> None:
        """What that one has told and nobody has said yet."""
        self._log_full(worker)
        if worker.unaccepted is not None:
            self._log_unaccepted(worker, worker.unaccepted)
            worker.unaccepted = None
        if worker.denied is not None:
            self._log_denied(worker.denied)
            worker.denied = None
        if worker.cramped:
            self._log_cramped(worker)
            worker.cramped = False

    def _log_cramped(self, worker: Worker) -> None:
        if not self._is_due("cramped"):
            return
        log.error(
            "worker %d has too few descriptors for all listening sockets: clients of some of them "
            "wait until connections have ended; RLIMIT_NOFILE is %d: raise it (ulimit -n, "
            "LimitNOFILE=) and restart",
            worker.id,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            extra={"event": "worker"},
        )

    def _log_full(self, worker: Worker) -> None:
        if not worker.full:
            self._full.discard(worker.id)
            if worker.id in self._told_full:
                self._told_full.discard(worker.id)
                log.info(
                    "worker %d has room for connections again", worker.id, extra={"event": "worker"}
                )
            return
        if worker.id not in self._full:
            self._full.add(worker.id)
            self._times["full", worker.id] += 1
        if worker.id in self._told_full or not self._is_due("full", worker.id):
            return
        self._told_full.add(worker.id)
        others = self._others_have_room(worker)
        log.log(
            logging.WARNING if others else logging.ERROR,
            "worker %d is at its limit of %d connections%s: %s; RLIMIT_NOFILE is %d: raise it "
            "(ulimit -n, LimitNOFILE=) and restart",
            worker.id,
            worker.live.capacity,
            self._times_unsaid("full", worker.id),
            "other workers accept for it"
            if others
            else "new clients wait until connections have ended",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            extra={"event": "worker"},
        )

    def _log_unaccepted(self, worker: Worker, number: int) -> None:
        if self._unaccepted_at is None:
            self._times["unaccepted", 0] += 1
        self._unaccepted_at = time.monotonic()
        if not self._is_due("unaccepted"):
            return
        self._told_unaccepted = True
        log.error(
            "worker %d can't accept connections%s: %s; clients wait, and it tries again every "
            "0.1 s%s",
            worker.id,
            self._times_unsaid("unaccepted"),
            os.strerror(number) if number < LAST_ERRNO else f"error {number}",
            f": {ADVICE[number]}" if number in ADVICE else "",
            extra={"event": "worker"},
        )

    def _log_denied(self, slot: int) -> None:
        if slot >= MAX_SLOTS or not self._is_due("denied", slot):
            return
        log.error(
            "user %s may not connect to endpoint %s: permission denied, connections to it fail; "
            "open the socket and the directories on its way to that user, or set `user`",
            self._user.name,
            printable(self._table.label(slot)),
            extra={"event": "denied"},
        )
