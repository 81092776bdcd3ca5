"""Problems that workers report, logged at a limited rate. Runs in the master."""

from __future__ import annotations

import logging
import resource
import time

from tcpmux.errors import printable
from tcpmux.master.line import Worker
from tcpmux.privileges import User
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

DENIED_SECONDS = 30.0  # between two lines about an endpoint that lets nobody in
CRAMPED_SECONDS = 30.0  # between two lines about workers without room for listeners


class WorkerReports:
    """user: as whom workers run."""

    def __init__(self, table: Table, user: User) -> None:
        self._table = table
        self._user = user
        self._next_cramped = 0.0  # monotonic
        self._denied: dict[int, float] = {}  # counter slot -> when it is said again; monotonic

    def report(self, worker: Worker) -> None:
        """What that one has told and nobody has said yet."""
        if worker.denied is not None:
            self._log_denied(worker.denied)
            worker.denied = None
        if worker.cramped:
            self._log_cramped(worker)
            worker.cramped = False

    def _log_cramped(self, worker: Worker) -> None:
        now = time.monotonic()
        if now < self._next_cramped:
            return
        self._next_cramped = now + CRAMPED_SECONDS
        log.error(
            "worker %d has too few descriptors for all listening sockets: clients of some of them "
            "wait until connections have ended; RLIMIT_NOFILE is %d: raise it (ulimit -n, "
            "LimitNOFILE=) and restart",
            worker.id,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            extra={"event": "worker"},
        )

    def _log_denied(self, slot: int) -> None:
        now = time.monotonic()
        if slot >= MAX_SLOTS or now < self._denied.get(slot, 0.0):
            return
        self._denied = {known: until for known, until in self._denied.items() if until > now}
        self._denied[slot] = now + DENIED_SECONDS
        log.error(
            "user %s may not connect to endpoint %s: permission denied, connections to it fail; "
            "open the socket and the directories on its way to that user, or set `user`",
            self._user.name,
            printable(self._table.label(slot)),
            extra={"event": "denied"},
        )
