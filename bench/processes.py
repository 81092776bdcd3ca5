"""Starts and stops the programs of a run, pinned to a CPU, and leaves none behind.

Runs in the bench process. A program is ended by its pid, with all its descendants.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

STOP_SECONDS = 10.0


class ProcessError(Exception):
    """A program did not start, or did not end."""


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.005) -> bool:
    """Whether `condition` came true within `seconds`, looked at `every` so many."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Programs started inside inherit `cpu` as their only one. None pins nothing.

    The bench process itself moves for the moment of the start: that needs no code
    between fork and exec, and the program finds its CPU set before its first line.
    """
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Program:
    """A started program and all it starts: a proxy's master with its workers."""

    def __init__(
        self, command: Sequence[str], *, cpu: int | None, log: Path, directory: Path
    ) -> None:
        """Start `command` in `directory`; what it prints goes to `log`."""
        self.log = log
        with pinned(cpu), log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the bench alone, which ends its programs.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)

    @property
    def running(self) -> bool:
        """Whether the first process still lives."""
        return self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """The first process and all its living descendants."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pids(self) -> list[int]:
        """The pids of the family."""
        return [process.pid for process in self.family()]

    def log_tail(self) -> str:
        """The last lines the program printed, or a word that there are none."""
        text = self.log.read_text(errors="replace").strip()
        return "\n".join(text.splitlines()[-5:]) or "(it printed nothing)"

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to whatever is left. Raises ProcessError if any survives."""
        family = self.family()
        if self.running:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        # A supervisor replaces a worker that is killed, so look again after each round.
        alive = psutil.wait_procs(family, timeout=1.0)[1]
        for _ in range(5):
            if not alive:
                break
            for process in list(alive):
                with suppress(psutil.NoSuchProcess):
                    alive += process.children(recursive=True)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            alive = psutil.wait_procs(alive, timeout=1.0)[1]
        self._process.wait(STOP_SECONDS)
        if alive:
            raise ProcessError(f"still alive after SIGKILL: {[one.pid for one in alive]}")
