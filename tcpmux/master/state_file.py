"""The files in state_dir, of what outlives the instance: opened by the master, and written by
control, which gets their descriptors. Runs in the master."""

from __future__ import annotations

import errno
import logging
import os
import stat

from tcpmux.config import Config
from tcpmux.config.model import STATE_DIR

log = logging.getLogger("tcpmux.master")

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class StateFile:
    """One of an instance. kind: what is in it, in one word. problem: why there is none; "" = there
    is, and then fd is it."""

    def __init__(self, config: Config, admin_path: str, kind: str) -> None:
        self._directory = config.state_dir
        self.path = os.path.join(
            config.state_dir, f"{kind}-{admin_path.strip('/').replace('/', '-')}"[:250]
        )
        self.fd, self.problem = -1, ""
        try:
            self.fd = self._opened()
        except (OSError, ValueError) as error:
            why = _why(error, self.path)
            self.problem = f"state_dir {config.state_dir}: {why}"

    def log_problem(self, what_follows: str, default_level: int = logging.INFO) -> None:
        """default_level: if nobody has asked for that directory."""
        if self.problem:
            log.log(
                default_level if self._directory == STATE_DIR else logging.WARNING,
                "%s: %s; make it a directory that this user can write to, or set another "
                "state_dir, and start again",
                what_follows,
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
