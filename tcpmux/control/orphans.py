"""The workers of a master that is gone: watches them, and stops them on request. Runs in control.

While the master lives, all this is its business. After a SIGKILL of the master workers go
on with the table as it is, and control is the last one who knows them. A worker that dies has
another incarnation as long as its guardian is there, so both are watched, and looked for again
each time one of them ends. A pidfd makes sure that the process that gets the signal is the one
that was looked at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from tcpmux.processes import is_alive, is_called

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("tcpmux.control")

SEARCH_EVERY = 0.5  # s: a worker may have a new incarnation, or another guardian


def _is_called(pid: int, name: str) -> bool:
    """Also where /proc hides it: only those of our user can be signalled from here."""
    found = is_called(pid, name, os.getuid())
    return is_alive(pid) if found is None else found


def is_worker(pid: int) -> bool:
    """Whether the process with this pid calls itself a worker."""
    return _is_called(pid, "worker")


def is_guardian(pid: int) -> bool:
    return _is_called(pid, "guardian")


class OrphanedWorkers:
    """Workers and guardians by pid, each held by a pidfd until it ends.

    on_none_left is called once, from the loop, when watch() has been called and the last
    one has ended.
    """

    def __init__(self, on_none_left: Callable[[], None]) -> None:
        self._on_none_left = on_none_left
        self._list: Callable[[], Iterable[tuple[int, int]]] = tuple
        self._pidfds: dict[int, int] = {}  # pid -> pidfd
        self._workers: set[int] = set()  # those of them that are workers
        self._order: signal.Signals | None = None
        self._next_search: asyncio.TimerHandle | None = None
        self._over = False

    @property
    def pids(self) -> list[int]:
        """Of the workers."""
        return sorted(self._workers)

    def watch(self, workers: Callable[[], Iterable[tuple[int, int]]]) -> None:
        """Takes over those that still run. workers: the (guardian's, worker's) pid of each worker
        as it is now; 0 = none. OSError if pidfds are not permitted here."""
        self._list = workers
        self._search()

    def end(self, *, now: bool) -> None:
        """Has them drain, or with `now` end at once; those whose next incarnation is still to come,
        then."""
        self._order = signal.SIGQUIT if now else signal.SIGTERM
        for pid in self._workers:
            self._send(pid)

    def close(self) -> None:
        self._over = True
        if self._next_search is not None:
            self._next_search.cancel()
        for pid in list(self._pidfds):
            self._forget(pid)

    def _search(self) -> None:
        if self._over:
            return
        for guardian, worker in self._list():
            self._hold(guardian, is_guardian)
            if self._hold(worker, is_worker):
                self._workers.add(worker)
                self._send(worker)
        loop = asyncio.get_running_loop()
        if self._next_search is not None:
            self._next_search.cancel()
        if self._pidfds:
            self._next_search = loop.call_later(SEARCH_EVERY, self._search)
        else:
            self._over = True
            loop.call_soon(self._on_none_left)

    def _hold(self, pid: int, recognise: Callable[[int], bool]) -> bool:
        """True: it runs, and was not known yet."""
        if pid <= 0 or pid in self._pidfds:
            return False
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        # Asked after it is held: from here on the pid can't come to mean another process.
        if not recognise(pid):
            os.close(pidfd)
            return False
        self._pidfds[pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, pid)
        return True

    def _send(self, worker: int) -> None:
        if self._order is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfds[worker], self._order)

    def _ended(self, pid: int) -> None:
        was_worker = pid in self._workers
        self._forget(pid)
        self._search()
        if was_worker:
            log.info("worker %d has ended, %d left", pid, len(self._workers))

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        self._workers.discard(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
