"""Changing to another build of tcpmux while traffic flows. Runs in the master.

    rehearse   the new build, as a child, loads the configuration and looks at everything that
               it is going to take over; what it says on stderr is the reason of a refusal
    exec       the master becomes the new build: same process, same descriptors
    replace    the new master has one worker after the other replaced: the worker ends between
               two turns of its loop, its guardian becomes the new build, and the new worker
               goes on as after a death

Until the exec nothing has changed. A worker's shards are with the others while it is replaced.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import setproctitle

import tcpmux
from tcpmux import programs
from tcpmux.errors import TcpmuxError
from tcpmux.master.answers import Refusal
from tcpmux.master.duty import Duty
from tcpmux.master.handoff import VARIABLE, Handoff
from tcpmux.master.line import Worker
from tcpmux.master.signals import SignalQueue
from tcpmux.master.workers import Workers
from tcpmux.privileges import User, oneself, unreachable
from tcpmux.shm._declared import PRESENT
from tcpmux.shm._table import Table
from tcpmux.worker import _guardian
from tcpmux.worker.__main__ import TRY

log = logging.getLogger("tcpmux.master")
_EVENT = {"event": "upgrade"}

TRY_TIME = 20.0  # s

REHEARSAL = "TCPMUX_REHEARSAL"  # in the environment of the child
REHEARSAL_TIME = 30.0  # s
REPLACE_TIME = 10.0  # s for one worker; it takes a tenth of a second
NONE, RUNNING, FAILED = range(3)  # csrc/route_table.h: enum tm_upgrade


class UpgradeError(TcpmuxError):
    """The new build can't take over; the text is its reason."""


def check_program(user: User) -> None:
    """In the child: guardians become this build as the user that they are, long after they could
    read what only root can. Raises UpgradeError."""
    modules = os, tcpmux, _guardian, setproctitle
    files = [sys.executable, *(str(module.__file__) for module in modules)]
    try:
        path = unreachable(user, files)
        if not path:
            _start_as(user)
    except (OSError, subprocess.SubprocessError) as error:
        raise UpgradeError(f"the new build can't be started as {user}: {error}") from None
    if path:
        raise UpgradeError(
            f"{user} may not read {path}: workers change to the new build as that user, so make "
            "it readable (or restart instead: systemctl restart tcpmux)"
        )


def _start_as(user: User) -> None:
    command = programs.quick_command(programs.GUARDIAN, [TRY], user)
    ids: dict[str, Any] = (
        {} if user == oneself() else {"user": user.uid, "group": user.gid, "extra_groups": []}
    )
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TRY_TIME,
        check=False,
        cwd="/",
        env=programs.environment(),
        **ids,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UpgradeError(
            f"the new build does not start as {user}: "
            f"{said[-1] if said else f'exit code {done.returncode}'}"
        )


class Upgrade(Duty):
    """The upgrade under way, if any. What it says of itself is in the table."""

    def __init__(self, table: Table, workers: Workers, on_checked: Callable[[], None]) -> None:
        """on_checked: called when the new build has found nothing wrong."""
        self._table = table
        self._workers = workers
        self._on_checked = on_checked
        self._child: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0
        self._left: list[Worker] = []  # to be replaced, the first of them now
        self._connections = 0

    @property
    def number(self) -> int:
        return self._table.upgrade[0]

    @property
    def under_way(self) -> bool:
        return self._child is not None or bool(self._left)

    def _note(self, state: int, error: str = "") -> None:
        self._table.upgrade = (self.number, state, error)

    def due(self) -> float | None:
        return time.monotonic() + 0.005 if self._left else self._deadline if self._child else None

    def end(self) -> None:
        """Nothing comes of it any more."""
        if self._child is not None:
            self._child.kill()

    # --- before the exec --------------------------------------------------------------------

    def rehearse(self, handoff: Handoff) -> None:
        """Starts the child. Raises Refusal if an upgrade is under way."""
        if self.under_way:
            raise Refusal("refused", f"upgrade {self.number} is under way")
        self._table.upgrade = (self.number + 1, RUNNING, "")
        log.info("upgrade %d: checking the new build", self.number, extra=_EVENT)
        saved = handoff.save()
        environment = {**os.environ, VARIABLE: str(saved), REHEARSAL: "1"}
        try:
            self._child = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                close_fds=False,
                env=environment,
            )
        except OSError as error:
            self.failed(f"can't start it: {error}")
        finally:
            os.close(saved)
            for fd in handoff.descriptors:
                os.set_inheritable(fd, False)
        self._deadline = time.monotonic() + REHEARSAL_TIME

    def child_ended(self, pid: int, status: int) -> bool:
        """Takes note of it; False if it was another child."""
        if self._child is None or pid != self._child.pid:
            return False
        child, self._child = self._child, None
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.stderr is not None
        with child.stderr:
            said = child.stderr.read().decode("utf-8", "replace").strip()
        if child.returncode == 0:
            self._on_checked()
        else:
            reason = said.splitlines()[-1] if said else f"exit code {child.returncode}"
            self.failed(reason.removeprefix("tcpmux: error: "))
        return True

    def failed(self, reason: str) -> None:
        log.warning("upgrade refused: %s; nothing changed", reason, extra=_EVENT)
        self._note(FAILED, reason)

    def become(self, handoff: Handoff, signals: SignalQueue) -> NoReturn:
        """The master becomes the new build. Raises OSError if it can't."""
        signals.defer()
        saved = handoff.save()
        try:
            os.execve(  # noqa: S606
                sys.executable,
                [sys.executable, *sys.orig_argv[1:]],
                {**os.environ, VARIABLE: str(saved)},
            )
        finally:
            signals.resume()
            os.close(saved)
            for fd in handoff.descriptors:
                os.set_inheritable(fd, False)

    # --- after it ---------------------------------------------------------------------------

    def note_interruption(self) -> None:
        """For a master that takes over from one that was killed."""
        if self._table.upgrade[1] == RUNNING:
            self._note(FAILED, "the master was killed meanwhile")

    def replace_workers(self) -> None:
        """Begins with the first worker; do() does the rest."""
        self._left = list(self._workers.running)
        self._connections = sum(worker.live.connections for worker in self._left)
        log.info("upgrade %d: replacing %d workers", self.number, len(self._left))
        self._replace_next()

    def _replace_next(self) -> None:
        while self._left and not self._left[0].is_running:
            del self._left[0]
        if not self._left:
            log.info(
                "upgrade %d: done, %d connections kept",
                self.number,
                self._connections,
                extra=_EVENT,
            )
            self._note(NONE)
            return
        worker = self._left[0]
        self._workers.replace(worker)
        self._workers.assign_shards()
        self._deadline = time.monotonic() + REPLACE_TIME

    def do(self, now: float) -> None:
        """Goes on when a worker has been replaced, ends what takes too long."""
        if self._child is not None and now >= self._deadline:
            self._child.kill()
        if not self._left:
            return
        worker = self._left[0]
        if not worker.is_running or (
            worker.live.builds != worker.replaced_from and worker.live.presence == PRESENT
        ):
            worker.replaced_from = None
            del self._left[0]
            self._workers.assign_shards()
            self._replace_next()
        elif now >= self._deadline:
            worker.replaced_from = None
            self._left.clear()
            self._workers.assign_shards()
            log.warning("upgrade %d: worker %d was not replaced", self.number, worker.id)
            self._note(FAILED, f"worker {worker.id} was not replaced; the log may say why")
