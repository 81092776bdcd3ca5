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
from tcpmux.log_file import open_log, open_log_in
from tcpmux.master.path_safety import Unsafe, danger, open_directory
from tcpmux.master.program import Arguments, Program
from tcpmux.privileges import User, as_user
from tcpmux.shm._declared import HANGING

log = logging.getLogger("tcpmux.master")


class LogProcess(Program):
    """path: what access_log.path says now. dropped: how many lines have found no room, of all
    workers. user, arguments: as of Program."""

    hang_time = 30.0  # it may wait for a disk that is slow, as the next one would
    without_it = "lines of the access log wait, and those beyond access_log.buffer are dropped"

    def __init__(
        self,
        user: User,
        path: Callable[[], str],
        dropped: Callable[[], int],
        arguments: Callable[[], Arguments | None],
    ) -> None:
        held = (signal.SIGTERM, signal.SIGUSR1)
        super().__init__("log", "tcpmux.logger.__main__", user, arguments, held)
        self._path = path
        self._link: socket.socket | None = None
        self._opened: tuple[str, int | None] | None = None  # by open_for(), for the last process
        self._hung = False
        self._dropped = dropped
        self.told = dropped()  # lines dropped of which the log has told; before: others' to tell

    def _replace(self) -> None:
        self._hung = self.presence == HANGING
        super()._replace()

    def _open_link(self) -> tuple[list[str], list[int]]:
        fd = self._open(self._path())
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setblocking(False)
        link = theirs.detach()
        arguments = ["--link-fd", str(link)]
        if fd is None:
            return arguments, [link]
        return [*arguments, "--file-fd", str(fd)], [link, fd]

    def _open(self, path: str) -> int | None:
        """As open_for(). After one that hung, maybe in the file system of the log, nothing is asked
        of that: the master must not hang there, too."""
        hung, self._hung = self._hung, False
        if not (hung and self._opened is not None and self._opened[0] == path):
            self._keep(path, open_for(self._user, path))
        assert self._opened is not None
        kept = self._opened[1]
        return None if kept is None else os.dup(kept)

    def _open_again(self, path: str) -> int | None:
        """As open_for()."""
        if self.presence == HANGING:  # maybe there
            raise TcpmuxError(f"{path}: the log process hangs: try again when it does not")
        return open_for(self._user, path)

    def _keep(self, path: str, fd: int | None) -> None:
        if self._opened is not None and self._opened[1] is not None:
            os.close(self._opened[1])
        self._opened = path, fd

    def _is_gone(self) -> None:
        if self._watch is not None:
            self.told = max(self.told, min(self._watch.told, self._dropped()))
        super()._is_gone()
        if not self._path():
            self._keep("", None)

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def reopen(self) -> None:
        """Has it write to the file that is there now; if that can't be, to the one it has."""
        path = self._path()
        try:
            fd = self._open_again(path)
        except TcpmuxError as error:
            log.warning("can't reopen the access log, lines still go to the old file: %s", error)
            return
        if fd is not None and self._link is not None:
            with suppress(OSError):  # it is ending, or has many of them to look at
                socket.send_fds(self._link, [b"file"], [fd])
        self._keep(path, fd)
        self.signal(signal.SIGUSR1)


def open_for(user: User, path: str, key: str = "access_log.path") -> int | None:
    """A descriptor for the log process. key: of routes.yaml. None: it opens what the path names by
    itself. Raises TcpmuxError."""
    if not path.startswith("/"):
        return None
    try:
        return _open_as_root(path)
    except Unsafe as error:
        why = str(error)
    except OSError as error:
        raise _refusal(key, path, error.strerror or str(error)) from None
    # What only that user can change is safe for what runs as that user.
    if user.is_root or danger(path, sticky=False, also=user.uid):
        raise _refusal(key, path, why)
    try:
        problem = as_user(user, lambda: _try(path))
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise _refusal(key, path, problem)
    return None


def _open_as_root(path: str) -> int:
    """By way of the directory's descriptor: what was found to be safe is what is opened."""
    directory = open_directory(path, sticky=False)
    try:
        return open_log_in(directory, os.path.basename(os.path.normpath(path)))
    finally:
        os.close(directory)


def _try(path: str) -> str:
    try:
        os.close(open_log(path))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _refusal(key: str, path: str, why: str) -> TcpmuxError:
    return TcpmuxError(
        f"{key} {path}: {why}: name a file in a directory that only root, or only the "
        "user that tcpmux runs as, may write to"
    )
