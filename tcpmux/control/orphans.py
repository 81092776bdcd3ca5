"""The workers of a master that is gone: watched, and told to end. Runs in control.

While the master lives, all this is its business. After a SIGKILL of the master workers go
on with the table as it is, and control is the last one who knows them. A pidfd makes sure
that the process that gets the signal is the one that was looked at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("tcpmux.control")

TITLE = b"tcpmux: worker"


def is_worker(pid: int) -> bool:
    """Whether the process with this pid calls itself a worker."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(TITLE)
    except OSError:
        return False


class OrphanedWorkers:
    """Workers by pid, each held by a pidfd until it ends.

    on_none_left is called once, from the loop, when watch() has been called and the last
    one has ended.
    """

    def __init__(
        self, on_none_left: Callable[[], None], recognise: Callable[[int], bool] = is_worker
    ) -> None:
        self._on_none_left = on_none_left
        self._recognise = recognise
        self._pidfds: dict[int, int] = {}  # pid -> pidfd

    @property
    def pids(self) -> list[int]:
        return sorted(self._pidfds)

    def watch(self, pids: Iterable[int]) -> None:
        """Takes over those that still run. OSError if pidfds are not permitted here."""
        loop = asyncio.get_running_loop()
        for pid in pids:
            if pid <= 0 or pid in self._pidfds:
                continue
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            # Asked after it is held: from here on the pid can't come to mean another process.
            if not self._recognise(pid):
                os.close(pidfd)
                continue
            self._pidfds[pid] = pidfd
            loop.add_reader(pidfd, self._ended, pid)
        if not self._pidfds:
            loop.call_soon(self._on_none_left)

    def end(self, *, now: bool) -> None:
        """Has them drain, or with `now` end at once."""
        for pidfd in self._pidfds.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGQUIT if now else signal.SIGTERM)

    def close(self) -> None:
        for pid in self.pids:
            self._forget(pid)

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        log.info("worker %d has ended, %d left", pid, len(self._pidfds))
        if not self._pidfds:
            self._on_none_left()

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
