"""Problems that workers report, logged at a limited rate. Runs in the master."""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections.abc import Callable

from tcpmux.errors import printable
from tcpmux.master.line import Worker
from tcpmux.privileges import User
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

QUIET_SECONDS = 30.0  # between two lines about the same thing
LAST_ERRNO = 4096  # of Linux
ADVICE = {
    errno.EMFILE: "raise the limit of descriptors (ulimit -n, LimitNOFILE=) and restart",
    errno.ENFILE: "raise fs.file-max (sysctl)",
    errno.ENOMEM: "free memory on this host",
    errno.ENOBUFS: "free memory on this host",
}


class WorkerReports:
    """user: as whom workers run."""

    def __init__(self, table: Table, user: User) -> None:
        self._table = table
        self._user = user
        self._quiet_until: dict[tuple[str, int], float] = {}  # monotonic, by what was said
        self._told_full: set[int] = set()  # workers

    def _is_due(self, what: str, number: int = 0) -> bool:
        """Whether to say it now; if so, it is not said again for a while."""
        now = time.monotonic()
        self._quiet_until = {key: end for key, end in self._quiet_until.items() if end > now}
        if (what, number) in self._quiet_until:
            return False
        self._quiet_until[what, number] = now + QUIET_SECONDS
        return True

    def report(self, worker: Worker, others_have_room: Callable[[], bool]) -> None:
        """What that one has told and nobody has said yet."""
        self._log_full(worker, others_have_room)
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

    def _log_full(self, worker: Worker, others_have_room: Callable[[], bool]) -> None:
        if not worker.full:
            if worker.id in self._told_full:
                self._told_full.discard(worker.id)
                log.info(
                    "worker %d has room for connections again", worker.id, extra={"event": "worker"}
                )
            return
        if worker.id in self._told_full or not self._is_due("full", worker.id):
            return
        self._told_full.add(worker.id)
        others = others_have_room()
        log.log(
            logging.WARNING if others else logging.ERROR,
            "worker %d is at its limit of %d connections: %s; RLIMIT_NOFILE is %d: raise it "
            "(ulimit -n, LimitNOFILE=) and restart",
            worker.id,
            worker.live.capacity,
            "other workers accept for it"
            if others
            else "new clients wait until connections have ended",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            extra={"event": "worker"},
        )

    def _log_unaccepted(self, worker: Worker, number: int) -> None:
        if not self._is_due("unaccepted"):
            return
        log.error(
            "worker %d can't accept connections: %s; clients wait, and it tries again every "
            "0.1 s%s",
            worker.id,
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
