"""Where the access log goes: a file, standard output or error, syslog or the journal."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Protocol

from tcpmux.log_file import open_log

log = logging.getLogger("tcpmux.log")

SYSLOG = "/dev/log"
JOURNAL = "/run/systemd/journal/socket"
PRIORITY = 3 * 8 + 6  # daemon.info (RFC 3164)
NAME = "tcpmux"


class Target(Protocol):
    def write(self, lines: Sequence[str]) -> None:
        """Blocks until all lines are written. Raises OSError; some may have been written."""

    def reopen(self) -> None:
        """As a file that was moved away wants it. Raises OSError, and goes on as before."""


class File:
    """Appends to a file. link: over which the master sends a descriptor of it for each reopen();
    fd: the first of them. Without a descriptor it is opened here."""

    def __init__(self, path: str, fd: int = -1, link: socket.socket | None = None) -> None:
        self._path = path
        self._fd = fd
        self._link = None if fd < 0 else link

    def write(self, lines: Sequence[str]) -> None:
        if self._fd < 0:
            self._fd = open_log(self._path)
        write_all(self._fd, lines)

    def reopen(self) -> None:
        fd = open_log(self._path) if self._link is None else _received(self._link)
        if fd >= 0:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = fd


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
        self._fd = fd

    def write(self, lines: Sequence[str]) -> None:
        write_all(self._fd, lines)

    def reopen(self) -> None:
        """It is somebody else's."""


class Datagrams:
    """A UNIX socket that takes a line a packet. journal: with its fields, else as syslog."""

    def __init__(self, path: str, *, journal: bool) -> None:
        self._path = path
        self._journal = journal
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[str]) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            for line in lines:
                self._socket.sendto(self._packet(line), self._path)
        except OSError:
            self.reopen()
            raise

    def _packet(self, line: str) -> bytes:
        if self._journal:  # systemd.journal-fields(7); a line has no newline in it
            return f"MESSAGE={line}\nPRIORITY=6\nSYSLOG_IDENTIFIER={NAME}\n".encode()
        return f"<{PRIORITY}>{NAME}[{os.getppid()}]: {line}".encode()

    def reopen(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def write_all(fd: int, lines: Sequence[str]) -> None:
    """Whole lines in as few writes as it takes. Raises OSError."""
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    while data:
        data = data[os.write(fd, data) :]


def open_target(path: str, fd: int = -1, link: socket.socket | None = None) -> Target:
    """By what the configuration says. fd, link: as of File."""
    if path == "stdout":
        return Stream(sys.stdout.fileno())
    if path == "stderr":
        return Stream(sys.stderr.fileno())
    if path in ("syslog", "journal"):
        journal = path == "journal"
        return Datagrams(JOURNAL if journal else SYSLOG, journal=journal)
    return File(path, fd, link)
