"""The diagnostic log: how every process of tcpmux writes it, on standard error."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress
from typing import Any

from tcpmux.errors import printable
from tcpmux.output import never_block, open_standard, room, write_now

FORMAT = "%(asctime)s tcpmux %(levelname)s %(message)s"
STANDARD_ERROR = 2
LOST = "%d lines of this log were dropped: nobody took them"
FINAL_FLUSH_SECONDS = 0.1  # s to wait for room at the end
MAX_LINE = 4000  # characters
MAX_LINES = 60  # of a traceback


class LogFormatter(logging.Formatter):
    """Says who asked for it (`by` of the record) as well. A message, which may have text from
    outside in it, stays on its line, and no line is endless. Lines of a traceback are indented:
    nothing in an exception's text looks like a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        by = getattr(record, "by", "")
        text = super().formatMessage(record)
        return _bounded(f"{text} [{by}]" if by else text)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = super().formatException(ei).splitlines()
        if len(lines) > MAX_LINES:
            half = MAX_LINES // 2
            lines[half:-half] = [f"... {len(lines) - 2 * half} lines ..."]
        return "\n".join("    " + _bounded(line) for line in lines)


def _bounded(text: str) -> str:
    more = len(text) - MAX_LINE
    return printable(text) if more <= 0 else f"{printable(text[:MAX_LINE])}... {more} more"


class LogHandler(logging.Handler):
    """Writes to a descriptor and never waits. Lines for which there is no room, or no disk, or no
    reader any more, are dropped and counted; when there is room again, that is said first."""

    def __init__(self, fd: int = STANDARD_ERROR) -> None:
        super().__init__()
        self._fd = fd
        self._begun = b""  # what is left of a line of which a part is written
        self.dropped = 0  # lines, since this was last said

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a message that does not fit its arguments
            text = f"a line of the log that can't be shown: {record.msg!r}"
        if not self._flushed() or not self._write(self._encoded(text)):
            self.dropped += 1

    def _flushed(self) -> bool:
        """Whether there was room for what comes ahead of a new line."""
        if self._begun and not self._write(b""):
            return False
        if self.dropped:
            count = logging.LogRecord(
                __name__, logging.WARNING, __file__, 0, LOST, (self.dropped,), None
            )
            if not self._write(self._encoded(self.format(count))):
                return False
            self.dropped = 0
        return not self._begun

    @staticmethod
    def _encoded(text: str) -> bytes:
        return f"{text}\n".encode(errors="backslashreplace")

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

    def give_up(self) -> None:
        """At the end: once more for what could not be written."""
        with suppress(OSError):
            if room(self._fd, FINAL_FLUSH_SECONDS):
                self._flushed()


def begin_log() -> None:
    """From now on, messages from INFO upwards; neither they nor what else is written to standard
    error make this process, or one that it starts, wait for a reader."""
    open_standard()
    if sys.stderr is None:  # it was closed
        sys.stderr = open(STANDARD_ERROR, "w", closefd=False)  # noqa: SIM115
    never_block(STANDARD_ERROR)
    handler = LogHandler()
    handler.setFormatter(LogFormatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    atexit.register(_give_up, handler, os.getpid())


def say(text: str) -> None:
    """A line for whoever can't log: a guardian, a worker. Lost if there is no room for it."""
    with suppress(OSError):
        write_now(STANDARD_ERROR, f"tcpmux: {printable(text)}\n".encode())


def _give_up(handler: LogHandler, pid: int) -> None:
    """What could not be written until now never will be. Python would try once more, and make its
    failure the exit code of the process (120)."""
    if pid == os.getpid():
        handler.give_up()
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), STANDARD_ERROR)


def set_level(name: str) -> None:
    """debug, info, warning or error: what is shown. Handlers besides get INFO at any level."""
    number = getattr(logging, name.upper())
    root = logging.getLogger()
    root.setLevel(min(number, logging.INFO))
    for handler in root.handlers:
        handler.setLevel(number)
