"""Where the diagnostic log of the instance goes (`log` of routes.yaml). Runs in the master.

With target file, standard error is that file: in the master, from which the others have it, so that
what Python or C write there is not lost either. After a SIGUSR1 each of them is given the new one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from contextlib import suppress

from tcpmux.config import Log
from tcpmux.errors import TcpmuxError
from tcpmux.log_file import open_log
from tcpmux.log_style import LogStyle
from tcpmux.log_targets import PACKETS, STANDARD_ERROR, why_not
from tcpmux.logs import set_style, style_in_use
from tcpmux.master.log_process import open_for
from tcpmux.privileges import User, as_user

log = logging.getLogger("tcpmux.master")

SAVED = "TCPMUX_STDERR"  # in our environment: where standard error was, also for the next build


def begin(wanted: Log, user: User) -> None:
    """From now on this process logs as wanted; if it can't, on standard error, which is told."""
    style = LogStyle(wanted.level, wanted.format, wanted.target)
    if wanted.target != "file":
        _restore()
    if wanted.target in PACKETS and why_not(PACKETS[wanted.target]):
        set_style(style)  # the first line says so
        return
    try:
        if wanted.target == "file":
            fd = open_file(wanted.file, user)
    except TcpmuxError as error:
        _restore()  # which is what says so: not a file that the build before this one had
        log.warning("%s; the log goes to standard error", error)
        style = style._replace(target="stderr")
    else:
        if wanted.target != "stderr" and SAVED not in os.environ:
            log.info("from here on the log goes to %s (log.target)", wanted.place)
        if wanted.target == "file":
            redirect(fd)
    set_style(style)


def failed(error: TcpmuxError) -> None:
    """The start has: whoever reads standard error is about to be told, and so is the log."""
    target = style_in_use().target
    if target != "stderr":
        log.error("%s", error)
    if target == "file":  # not in a rehearsal, whose standard error is a master's pipe
        _restore()


def open_file(path: str, user: User) -> int:
    """A descriptor of it, under the rules for the access log's. Raises TcpmuxError."""
    fd = open_for(user, path, "log.file")
    if fd is not None:
        return fd
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            problem = as_user(user, lambda: _hand_over(path, theirs))
            if not problem:
                return socket.recv_fds(ours, 1, 1, socket.MSG_DONTWAIT)[1][0]
        except (OSError, IndexError) as error:
            problem = str(error)
    raise TcpmuxError(f"log.file {path}: {problem}")


def _hand_over(path: str, to: socket.socket) -> str:
    try:
        socket.send_fds(to, [b"2"], [open_log(path)])
    except OSError as error:
        return error.strerror or str(error)
    return ""


def redirect(fd: int) -> None:
    """Standard error is that file from now on. The descriptor is closed."""
    if SAVED not in os.environ:
        os.environ[SAVED] = str(fcntl.fcntl(STANDARD_ERROR, fcntl.F_DUPFD, 3))
    os.dup2(fd, STANDARD_ERROR)
    os.close(fd)


def _restore() -> None:
    saved = os.environ.pop(SAVED, "")
    if saved.isdecimal():
        with suppress(OSError):
            os.dup2(int(saved), STANDARD_ERROR)
            os.close(int(saved))
