"""Where the access log goes: a file, standard output or error, syslog or the journal."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from tcpmux.log_file import open_log
from tcpmux.output import never_block, room, write_now

log = logging.getLogger("tcpmux.log")

SYSLOG = "/dev/log"
JOURNAL = "/run/systemd/journal/socket"
PRIORITY = 3 * 8 + 6  # daemon.info (RFC 3164)
NAME = "tcpmux"
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
FILE_AT_ONCE = 1 << 20  # bytes
RETRY_EVERY = 0.02  # s


class Target(Protocol):
    def write(self, lines: Sequence[str]) -> int:
        """Writes those for which there is room; returns how many, the first ones. Waits only for a
        file. Raises OSError; some may have been written."""

    def wait(self, timeout: float) -> bool:
        """Whether there is room, or an error to be told, within `timeout` s."""

    def reopen(self) -> None:
        """As a file that was moved away wants it. Raises OSError, and goes on as before."""


class Bytes:
    """Lines on a descriptor, written whole: of a line of which a part found room, the rest comes
    before the next."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once  # bytes
        self._begun = b""

    def write(self, fd: int, lines: Sequence[str]) -> int:
        if not self._finish(fd):
            return 0
        done = 0
        while done < len(lines):
            chunk, count = self._chunk(lines, done)
            left = self._put(fd, chunk)
            if not left:
                done += count
                continue
            if len(left) < len(chunk):  # some are written, and one is begun
                done += count - left.count(b"\n") + 1
                self._begun = left[: left.index(b"\n") + 1]
            break
        return done

    def _chunk(self, lines: Sequence[str], first: int) -> tuple[bytes, int]:
        """At least one line, and as many as go into one write."""
        data = f"{lines[first]}\n".encode()
        count = 1
        for line in lines[first + 1 :]:
            more = f"{line}\n".encode()
            if len(data) + len(more) > self._at_once:
                break
            data += more
            count += 1
        return data, count

    def _finish(self, fd: int) -> bool:
        if self._begun:
            self._begun = self._put(fd, self._begun)
        return not self._begun

    def _put(self, fd: int, data: bytes) -> bytes:
        """What is left of it. Raises OSError if nothing of it was written; else the next one will,
        and what was begun can still be ended."""
        left = memoryview(data)
        try:
            while left:
                left = left[write_now(fd, left) :]
        except BlockingIOError:
            pass
        except OSError:
            if len(left) == len(data):
                raise
        return bytes(left)


class File:
    """Appends to a file. link: over which the master sends a descriptor of it for each reopen();
    fd: the first of them. Without a descriptor it is opened here."""

    def __init__(self, path: str, fd: int = -1, link: socket.socket | None = None) -> None:
        self._path = path
        self._fd = fd
        self._link = None if fd < 0 else link
        self._bytes = Bytes(FILE_AT_ONCE)

    def write(self, lines: Sequence[str]) -> int:
        if self._fd < 0:
            self._fd = open_log(self._path)
        return self._bytes.write(self._fd, lines)

    def wait(self, timeout: float) -> bool:
        return self._fd < 0 or room(self._fd, timeout)

    def reopen(self) -> None:
        fd = open_log(self._path) if self._link is None else _received(self._link)
        if fd >= 0:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = fd
            self._bytes = Bytes(FILE_AT_ONCE)


def _received(link: socket.socket) -> int:
    """The last descriptor that came; -1 = none."""
    link.setblocking(False)  # recv_fds() passes no flags on
    last = -1
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(link, 16, 1)
        except OSError:
            return last
        if not data and not fds:
            return last
        for fd in fds:
            if last >= 0:
                os.close(last)
            last = fd


class Stream:
    """Standard output or error, as the master has it."""

    def __init__(self, fd: int) -> None:
        never_block(fd)
        self._fd = fd
        self._bytes = Bytes(select.PIPE_BUF)  # others may write to the same pipe

    def write(self, lines: Sequence[str]) -> int:
        return self._bytes.write(self._fd, lines)

    def wait(self, timeout: float) -> bool:
        return room(self._fd, timeout)

    def reopen(self) -> None:
        """It is somebody else's."""


class Datagrams:
    """A UNIX socket that takes a line a packet. journal: with its fields, else as syslog."""

    def __init__(self, path: str, *, journal: bool) -> None:
        self._path = path
        self._journal = journal
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[str]) -> int:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        done = 0
        try:
            for line in lines:
                self._socket.sendto(self._packet(line), self._path)
                done += 1
        except BlockingIOError:
            pass
        except OSError:
            self.reopen()
            raise
        return done

    def wait(self, timeout: float) -> bool:
        """Its queue is another's: when that has room can only be tried."""
        time.sleep(min(timeout, RETRY_EVERY))
        return True

    def _packet(self, line: str) -> bytes:
        if self._journal:  # systemd.journal-fields(7); a line has no newline in it
            return f"MESSAGE={line}\nPRIORITY=6\nSYSLOG_IDENTIFIER={NAME}\n".encode()
        return f"<{PRIORITY}>{NAME}[{os.getppid()}]: {line}".encode()

    def reopen(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_target(path: str, fd: int = -1, link: socket.socket | None = None) -> Target:
    """By what the configuration says. fd, link: as of File."""
    if path == "stdout":
        return Stream(STANDARD_OUTPUT)
    if path == "stderr":
        return Stream(STANDARD_ERROR)
    if path in ("syslog", "journal"):
        journal = path == "journal"
        return Datagrams(JOURNAL if journal else SYSLOG, journal=journal)
    return File(path, fd, link)
