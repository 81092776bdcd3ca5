"""Writing to standard output or error, which other processes have, too, without waiting.

O_NONBLOCK belongs to the open file, not to the descriptor: set on what was inherited, it would
change a terminal, or a pipe's other writers, for everybody. So

    a pipe, a terminal   opened anew: an open file of our own, which may be non-blocking; it takes
                         the descriptor's place, so that processes started from here have it too
    a socket             MSG_DONTWAIT, for each call
    anything else        a file does not block
    where that fails     as after a change of user: no more at a time than poll(2) says there is
                         room for
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from contextlib import suppress

AT_ONCE = 512  # bytes; PIPE_BUF is at least that (POSIX)


def open_standard() -> None:
    """Has something open as descriptors 0 to 2: a file that got such a number would be taken for
    standard error."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def never_block(fd: int) -> None:
    """Gives a pipe or a terminal at this descriptor an open file of its own, if that can be."""
    with suppress(OSError):
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or os.isatty(fd)):
            return
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        own = os.open(f"/proc/self/fd/{fd}", flags)
        os.dup2(own, fd)
        os.close(own)


def write_now(fd: int, data: bytes | memoryview) -> int:
    """Writes as much as there is room for; returns how many bytes that was. Raises OSError;
    BlockingIOError if there is no room."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    if stat.S_ISREG(mode) or not os.get_blocking(fd):
        return os.write(fd, data)
    if not room(fd, 0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(fd, data[:AT_ONCE])


def room(fd: int, timeout: float) -> bool:
    """Waits up to `timeout` s for room, or for an error that the next write tells."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(max(0.0, timeout) * 1000))
