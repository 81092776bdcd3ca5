"""What the master does for rollouts, which control conducts: it opens the file of their state,
takes their weights, and says when nobody conducts them. Runs in the master."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tcpmux.config import Config
from tcpmux.config.model import STATE_DIR
from tcpmux.errors import listed
from tcpmux.master.duty import Duty
from tcpmux.master.weights import SetWeights

log = logging.getLogger("tcpmux.master")

ALONE_SECONDS = 30.0  # without control
MAX_NAMES = 20  # in a line
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack(SetWeights):
    """Weights without the version that was not good enough."""

    cause = "rollback"


class StateFile:
    """That of one instance, in state_dir; control gets the descriptor. problem: why there is none;
    "" = there is."""

    def __init__(self, config: Config, admin_path: str) -> None:
        self.path = os.path.join(
            config.state_dir, f"rollouts-{admin_path.strip('/').replace('/', '-')}"[:250]
        )
        self.fd, self.problem = -1, ""
        try:
            self.fd = self._opened()
        except (OSError, ValueError) as error:
            why = _why(error, self.path)
            self.problem = f"state_dir {config.state_dir}: {why}"
            level = logging.INFO if config.state_dir == STATE_DIR else logging.WARNING
            log.log(
                level,
                "no rollout can be started, as its state can't be kept: %s; make it a directory "
                "that this user can write to, or set another state_dir, and start again",
                self.problem,
            )

    def _opened(self) -> int:
        """Raises OSError, ValueError."""
        fd = os.open(self.path, _FLAGS, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            os.close(fd)
            raise ValueError(f"{self.path} is not a regular file of this user")
        return fd


def _why(error: Exception, path: str) -> str:
    if not isinstance(error, OSError):
        return str(error)
    is_link = error.errno == errno.ELOOP and os.path.islink(path)
    return f"{path} is a symbolic link" if is_link else str(error.strerror)


class RolloutWatch(Duty):
    """Says when rollouts go on without control: their weights stay, and nobody judges them.
    is_there: whether control is at work."""

    def __init__(self, is_there: Callable[[], bool]) -> None:
        self._is_there = is_there
        self._running: tuple[str, ...] = ()
        self._away_at: float | None = None
        self._said = False

    def running(self, routes: Iterable[str]) -> list[str]:
        """Those that are under way, as control says. Returns those that were before, and are not
        any more."""
        before, self._running = self._running, tuple(routes)
        return [route for route in before if route not in self._running]

    def due(self) -> float | None:
        if self._away_at is None or self._said or not self._running:
            return None
        return self._away_at + ALONE_SECONDS

    def do(self, now: float) -> None:
        if not self._running or self._is_there():
            self._away_at, self._said = None, False
            return
        if self._away_at is None:
            self._away_at = now
        elif not self._said and now >= self._away_at + ALONE_SECONDS:
            self._said = True
            log.warning(
                "control has been away for %g s: rollouts stay at their weights, and nobody judges "
                "them: %s",
                ALONE_SECONDS,
                listed(self._running, MAX_NAMES),
                extra={"event": "rollout"},
            )
