"""Whether a process is there, and who sent a message over a UNIX socket, as the kernel tells it.

A pid that stands in shared memory or in a message is a claim: it may be wrong, old, or -1, which
means every process to kill(2). Here is what can be asked without harm; who may be signalled is in
tcpmux/master/held.py.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tcpmux.peer import CREDENTIALS
from tcpmux.programs import GUARDIAN

# Linux 6.5: a descriptor of the sender with each message (unix(7)). Python has no names for them.
SO_PASSPIDFD = 76
SCM_PIDFD = 4


def has_ended(pidfd: int) -> bool:
    """Also if nobody has reaped it yet."""
    return ends_within(pidfd, 0.0)


def ends_within(pidfd: int, timeout: float) -> bool:
    """The same, after waiting for it for up to `timeout` s."""
    poll = select.poll()  # select() knows no number from 1024 on
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def is_alive(pid: int) -> bool:
    """Whether some process has this pid and has not ended. Needs no right to look at it, so it
    works where /proc hides others' processes."""
    if pid <= 0:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # not permitted in some containers
        try:
            os.kill(pid, 0)  # signal 0 asks, and does nothing
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True
    try:
        return not has_ended(pidfd)
    finally:
        os.close(pidfd)


def uid_of(pid: int) -> int:
    """The real user of a process; -1 if that can't be seen."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("Uid:"):
                return int(line.split()[1])
    return -1


def is_called(pid: int, name: str, uid: int) -> bool | None:
    """Whether a process has this name among those of tcpmux, as setproctitle gives it, and runs as
    `uid`, which is less than to be ours. A guardian that becomes the next build's has it also while
    that program loads. None: /proc does not show it, or it is between two programs."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if not arguments:
        return None
    is_loading = name == "guardian" and GUARDIAN.encode() in arguments.split(b"\0")
    is_titled = arguments.startswith(f"tcpmux: {name}".encode())
    return (is_titled or is_loading) and uid_of(pid) == uid


@dataclass(slots=True)
class Sender:
    """Who sent a message. pidfd: of that process, close() ends it; -1 = this kernel gives none,
    or the process was gone already (`gone`)."""

    pid: int
    uid: int
    gid: int
    pidfd: int = -1
    gone: bool = False

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Truncated(ValueError):
    """Descriptors that were sent have not arrived: this process has too many, or may have few."""


def identify_senders(sock: socket.socket) -> None:
    """From now on receive() knows who sent what comes over this UNIX socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)


def receive(
    sock: socket.socket, size: int, most_fds: int = 0
) -> tuple[bytes, list[int], Sender | None]:
    """A packet of at most `size` bytes, the descriptors that came with it, and who sent it.

    Descriptors beyond `most_fds` are closed. Raises OSError, Truncated if there was no room in
    this process for what was sent, and ValueError for a packet that is longer.
    """
    space = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4)
    space += socket.CMSG_SPACE(4 * most_fds) if most_fds else 0
    data, ancillary, flags, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    fds, sender = _unpack(ancillary)
    lost = flags & socket.MSG_CTRUNC and most_fds
    if lost or flags & socket.MSG_TRUNC:
        close_all(fds)
        if sender is not None:
            sender.close()
        raise Truncated if lost else ValueError(f"a packet of more than {size} bytes")
    close_all(fds[most_fds:])
    return data, fds[:most_fds], sender


def _unpack(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[list[int], Sender | None]:
    fds = array.array("i")
    sender = None
    pidfd: int | None = None
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif kind == socket.SCM_CREDENTIALS and len(content) == CREDENTIALS.size:
            pid, uid, gid = CREDENTIALS.unpack(content)
            sender = Sender(pid, uid, gid) if pid > 0 else None
        elif kind == SCM_PIDFD and len(content) == fds.itemsize:
            (pidfd,) = struct.unpack("=i", content)
    if pidfd is not None and sender is not None:
        sender.pidfd, sender.gone = max(pidfd, -1), pidfd < 0
    elif pidfd is not None and pidfd >= 0:
        os.close(pidfd)
    return list(fds), sender


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
