"""Writes the state of rollouts to the disk, in a thread of its own. Runs in control."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tcpmux.halves import Overtaken
from tcpmux.rollout import saved

log = logging.getLogger("tcpmux.control")

WHO = ("boot", "namespace", "started_at")  # of a state: which instance it is of
DELETED = " (deleted)"  # after a path, as the kernel says it
SAVE_TIME = 0.2  # s that a change waits for the disk


class RolloutFile:
    """fd: of the state file, or None, and problem says why. failed: why it could not be written
    the last time."""

    def __init__(self, fd: int | None, problem: str) -> None:
        self._fd = fd
        self._last: int | None = None  # the number of what was written last
        self.problem = problem
        self.failed = ""
        self._disk = ThreadPoolExecutor(1, "rollouts")
        self._writing: asyncio.Future[None] | None = None

    def close(self) -> None:
        self._disk.shutdown(wait=False)

    @property
    def is_there(self) -> bool:
        return self._fd is not None

    def read(self) -> dict[str, Any]:
        """What was written last. Raises OSError, saved.Unreadable."""
        return {} if self._fd is None else saved.read(self._fd)

    async def write(self, state: Mapping[str, Any], patience: float = SAVE_TIME) -> None:
        """Waits for the disk, but not for long: what is to be done can't wait for it."""
        if self._fd is None:
            return
        try:
            why = await self._written(state, self._fd, patience)
        except (OSError, ValueError, Overtaken) as error:
            why = self._why(error)
            if why != self.failed:
                log.warning(
                    "the state of rollouts can't be saved: %s; they go on, but are forgotten if "
                    "control ends before it can",
                    why,
                )
        else:
            if self.failed and not why:
                log.info("the state of rollouts is saved again")
        self.failed = why

    def _why(self, error: Exception) -> str:
        """With the place, and what to do about it."""
        if isinstance(error, ValueError):
            return str(error)
        try:
            path = os.readlink(f"/proc/self/fd/{self._fd}")
        except OSError:
            path = "the state file"
        if isinstance(error, Overtaken):
            return f"{path}: another instance writes to it: give each a state_dir of its own"
        if isinstance(error, FileNotFoundError):
            return f"{path.removesuffix(DELETED)} has been removed: start tcpmux again"
        return f"{path}: {error.strerror if isinstance(error, OSError) else error}"

    def _replace(self, fd: int, body: bytes, state: Mapping[str, Any]) -> None:
        """In the thread. Raises OSError, Overtaken."""
        try:
            self._last = saved.write(fd, body, self._last)
        except Overtaken as error:
            self._last = error.number  # it may have been for once: an instance that ended late
            if not _is_of(state, fd):
                raise
            self._last = saved.write(fd, body)

    async def _written(self, state: Mapping[str, Any], fd: int, patience: float) -> str:
        """Why it may not be on the disk, if somebody has waited so long for it; "" = it is."""
        loop, body = asyncio.get_running_loop(), saved.fitted(state)
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing], timeout=patience)
        self._writing = loop.run_in_executor(self._disk, self._replace, fd, body, state)
        self._writing.add_done_callback(_look_at)
        done, _ = await asyncio.wait([self._writing], timeout=patience)
        for each in done:
            each.result()
        return "" if done or patience <= SAVE_TIME else f"the disk takes more than {patience:g} s"


def _is_of(state: Mapping[str, Any], fd: int) -> bool:
    """Whether this instance has written what is there: another control of it, in an upgrade. Or
    nobody has, any more."""
    try:
        there = saved.read(fd)
    except saved.Unreadable:
        return True
    return not there or all(there.get(key) == state[key] for key in WHO)


def _look_at(done: asyncio.Future[None]) -> None:
    """Nobody else may: of what took too long only the next change would say why it failed."""
    if not done.cancelled():
        done.exception()
