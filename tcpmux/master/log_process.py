"""The log process as the master sees it. Runs in the master.

It writes as a user that can't open most files, so the master opens the file, at a start and again
at SIGUSR1, and hands the descriptor over. Where the way to the file is not safe from that user,
nothing is done there as root: the log process opens it itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from tcpmux.errors import TcpmuxError
from tcpmux.log_file import open_log
from tcpmux.master.places import danger
from tcpmux.master.program import Arguments, Program
from tcpmux.privileges import User, as_user

log = logging.getLogger("tcpmux.master")


class LogProcess(Program):
    """path: what access_log.path says now. user, arguments: as of Program."""

    hang_time = 30.0  # it may wait for a disk that is slow, as the next one would
    without_it = "lines of the access log wait, and those beyond access_log.buffer are dropped"

    def __init__(
        self, user: User, path: Callable[[], str], arguments: Callable[[], Arguments | None]
    ) -> None:
        held = (signal.SIGTERM, signal.SIGUSR1)
        super().__init__("log", "tcpmux.logger.__main__", user, arguments, held)
        self._path = path
        self._link: socket.socket | None = None

    def _open_link(self) -> tuple[list[str], list[int]]:
        path = self._path()
        fd = open_for(self._user, path)
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setblocking(False)
        link = theirs.detach()
        arguments = ["--link-fd", str(link)]
        if fd is None:
            return arguments, [link]
        return [*arguments, "--file-fd", str(fd)], [link, fd]

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def reopen(self) -> None:
        """Has it write to the file that is there now; if that can't be, to the one it has."""
        path = self._path()
        try:
            fd = open_for(self._user, path)
        except TcpmuxError as error:
            log.error(  # noqa: TRY400
                "the access log is not opened again, lines go where they went: %s", error
            )
            return
        if fd is not None and self._link is not None:
            with suppress(OSError):  # it is ending, or has many of them to look at
                socket.send_fds(self._link, [b"file"], [fd])
        if fd is not None:
            os.close(fd)
        self.tell(signal.SIGUSR1)


def open_for(user: User, path: str) -> int | None:
    """A descriptor for the log process. None: it opens what the path names by itself. Raises
    TcpmuxError."""
    if not path.startswith("/"):
        return None
    why = danger(path, sticky=False)
    if not why:
        try:
            return open_log(path)
        except OSError as error:
            raise _refusal(path, error.strerror or str(error)) from None
    # What only that user can change is safe for what runs as that user.
    if user.is_root or danger(path, sticky=False, also=user.uid):
        raise _refusal(path, why)
    try:
        problem = as_user(user, lambda: _try(path))
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise _refusal(path, problem)
    return None


def _try(path: str) -> str:
    try:
        os.close(open_log(path))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _refusal(path: str, why: str) -> TcpmuxError:
    return TcpmuxError(
        f"access_log.path {path}: {why}: name a file in a directory that only root, or only the "
        "user that tcpmux runs as, may write to"
    )
