"""Where the diagnostic log goes. None of it waits for a reader."""

from __future__ import annotations

import logging
import os
import socket
import struct
from contextlib import suppress
from typing import Protocol

from tcpmux.errors import printable
from tcpmux.log_formats import fields
from tcpmux.output import room, write_now

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
NAME = "tcpmux"
DAEMON = 3 << 3  # the facility, syslog(3)
MAX_PACKET = 32 << 10  # bytes of a message
FINAL_FLUSH_SECONDS = 0.1  # s to wait for room at the end
STANDARD_ERROR = 2
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def priority(record: logging.LogRecord) -> int:
    """As syslog(3) has it: 3 = an error, 7 = debug."""
    return next((number for level, number in _PRIORITIES if record.levelno >= level), 7)


class Packets(Protocol):
    """A socket of another program."""

    path: str

    def packets(self, record: logging.LogRecord, text: str) -> list[bytes]: ...


class Journal:
    """The journal's own protocol, with fields: systemd.journal-fields(7)."""

    path = JOURNAL

    def packets(self, record: logging.LogRecord, text: str) -> list[bytes]:
        said = {f"TCPMUX_{key.upper()}": value for key, value in fields(record).items() if value}
        every = {
            "PRIORITY": str(priority(record)),
            "SYSLOG_IDENTIFIER": NAME,
            "SYSLOG_PID": str(record.process),
            **{key: printable(value) for key, value in said.items()},
        }
        lines = b"".join(f"{key}={value}\n".encode() for key, value in every.items())
        message = _encoded(text)[:MAX_PACKET]  # its length first, as there may be newlines in it
        return [lines + b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n"]


class Syslog:
    """As syslog(3) writes to it, which is what journald and rsyslog read there: they take the
    header of RFC 5424 for text. A line a packet."""

    path = SYSLOG

    def packets(self, record: logging.LogRecord, text: str) -> list[bytes]:
        head = f"<{DAEMON | priority(record)}>{NAME}[{record.process}]: ".encode()
        return [head + _encoded(line)[:MAX_PACKET] for line in text.splitlines()]


PACKETS: dict[str, Packets] = {"journal": Journal(), "syslog": Syslog()}


def send(target: Packets, record: logging.LogRecord, text: str) -> None:
    """With a socket for this record alone: the other program may be started anew, and this one
    fork. Raises OSError; BlockingIOError if there is no room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        for packet in target.packets(record, text):
            sock.sendto(packet, target.path)


def why_not(target: Packets) -> str:
    """Why it can't be reached; "" = it can."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(target.path)
        except OSError as error:
            return f"{target.path}: {error.strerror}"
    return ""


class Stream:
    """A descriptor: standard error, or what was put in its place."""

    def __init__(self, fd: int = STANDARD_ERROR) -> None:
        self._fd = fd
        self._begun = b""  # what is left of a line of which a part is written

    @property
    def is_journal(self) -> bool:
        """It takes lines, each with a priority in front: sd-daemon(3). The time is noted there."""
        with suppress(OSError):
            found = os.fstat(self._fd)
            return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
        return False

    def put(self, text: str, head: str = "") -> bool:
        """False: there was no room. head: in front of each line."""
        return self._write(b"".join(_encoded(f"{head}{line}\n") for line in text.splitlines()))

    def finish(self) -> bool:
        """Whether there was room for what has been begun."""
        return not self._begun or (self._write(b"") and not self._begun)

    def wait(self) -> None:
        """At the end, for room."""
        with suppress(OSError):
            room(self._fd, FINAL_FLUSH_SECONDS)

    def _write(self, line: bytes) -> bool:
        """False: there was no room for any of it. The rest of what has been begun comes first."""
        left = memoryview(self._begun + line)
        size = len(left)
        try:
            while left:
                left = left[write_now(self._fd, left) :]
        except BlockingIOError:
            if len(left) > len(line) or len(left) == size:
                self._begun = bytes(left[: len(left) - len(line)])
                return False
        except OSError:  # it takes nothing more; if it does one day, not in the middle of a line
            self._begun = b"" if len(left) == size else b"\n"
            return False
        self._begun = bytes(left)
        return True


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
