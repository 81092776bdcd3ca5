"""The diagnostic log: how every process of tcpmux writes it."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
from collections.abc import Callable

from tcpmux.log_formats import FORMATTERS
from tcpmux.log_style import DEFAULT, LogStyle
from tcpmux.log_targets import PACKETS, STANDARD_ERROR, Stream, priority, send
from tcpmux.output import never_block, open_standard

LOST = "%d lines of this log were dropped: nobody took them"
CANT_SEND = "can't log to %s: %s: %s; the log goes to standard error meanwhile"
SENDS_AGAIN = "the log goes to %s again"


class LogHandler(logging.Handler):
    """Never waits. Lines for which there is no room, or no disk, or no reader any more, are dropped
    and counted; when there is room again, that is said first. What can't be had where it belongs
    goes to standard error."""

    def __init__(self, style: LogStyle = DEFAULT, fd: int = STANDARD_ERROR) -> None:
        super().__init__()
        self._stream = Stream(fd)
        self._failing = False  # the target can't be reached, and that was said
        self.dropped = 0  # lines, since this was last said
        self.restyle(style)

    def restyle(self, style: LogStyle) -> None:
        self._target, self._packets = style.target, PACKETS.get(style.target)
        self.full, self.short = FORMATTERS[style.format]
        self.setLevel(style.level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        if not (self._said_lost() and self._put(record)):
            self.dropped += 1

    def _said_lost(self) -> bool:
        """Whether there was room for what comes ahead of a new line."""
        if not self._stream.finish():
            return False
        if self.dropped:
            if not self._put(_record(logging.WARNING, LOST, self.dropped)):
                return False
            self.dropped = 0
        return self._stream.finish()

    def _put(self, record: logging.LogRecord) -> bool:
        if self._packets is not None:
            try:
                send(self._packets, record, _text(self.short, record))
            except BlockingIOError:
                return False
            except OSError as error:
                self._tell(CANT_SEND, self._target, self._packets.path, error.strerror)
            else:
                if self._failing:
                    self._failing = False
                    self._write(_record(logging.INFO, SENDS_AGAIN, self._target))
                return True
        return self._write(record)

    def _tell(self, text: str, *arguments: object) -> None:
        """Once, on standard error."""
        if not self._failing:
            self._failing = self._write(_record(logging.WARNING, text, *arguments))

    def _write(self, record: logging.LogRecord) -> bool:
        if self._stream.is_journal:
            return self._stream.put(_text(self.short, record), f"<{priority(record)}>")
        return self._stream.put(_text(self.full, record))

    def give_up(self) -> None:
        """At the end: once more for what could not be written."""
        self._stream.wait()
        self._said_lost()


def _record(level: int, text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("tcpmux.log", level, __file__, 0, text, arguments, None)


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return formatter.format(record)
    except Exception:  # a message that does not fit its arguments
        shown = _record(record.levelno, "a line of the log that can't be shown: %r", record.msg)
        return formatter.format(shown)


# --- of this process ------------------------------------------------------------------------------


class _Own:
    """Of this process. number, stderr: of follow(), if it was called."""

    style = DEFAULT
    number: Callable[[], int] | None = None
    stderr: socket.socket | None = None


def begin_log() -> None:
    """From now on, messages from INFO upwards on standard error; neither they nor what else is
    written there make this process, or one that it starts, wait for a reader."""
    open_standard()
    if sys.stderr is None:  # it was closed
        sys.stderr = open(STANDARD_ERROR, "w", closefd=False)  # noqa: SIM115
    never_block(STANDARD_ERROR)
    handler = LogHandler()
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    atexit.register(_give_up, handler, os.getpid())


def set_style(style: LogStyle) -> None:
    """How this process logs from now on. Handlers besides get INFO at any level."""
    _Own.style = style
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, LogHandler):
            handler.restyle(style)
    root.setLevel(min(getattr(logging, style.level.upper()), logging.INFO))


def style_in_use() -> LogStyle:
    return _Own.style


def follow(number: Callable[[], int], stderr: socket.socket | None = None) -> None:
    """What holds at each refresh(). number: LogStyle.number; stderr: over which descriptors of
    another standard error come."""
    _Own.number, _Own.stderr = number, stderr
    refresh()


def refresh() -> None:
    if _Own.stderr is not None:
        _take_stderr(_Own.stderr)
    if _Own.number is not None and _Own.number() != _Own.style.number:
        set_style(LogStyle.from_number(_Own.number()))


def _take_stderr(link: socket.socket) -> None:
    link.setblocking(False)  # recv_fds() passes no flags on
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(link, 16, 1)
        except OSError:
            return
        for fd in fds:
            os.dup2(fd, STANDARD_ERROR)
            os.close(fd)
        if not data:
            return


def say(who: str, text: str) -> None:
    """An error of whoever is no program that logs: a guardian, a worker. Lost if there is no room
    for it."""
    refresh()
    record = _record(logging.ERROR, "%s: %s", who, text)
    record.name = f"tcpmux.{who}"
    LogHandler(_Own.style).handle(record)


def _give_up(handler: LogHandler, pid: int) -> None:
    """What could not be written until now never will be. Python would try once more, and make its
    failure the exit code of the process (120)."""
    if pid == os.getpid():
        handler.give_up()
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), STANDARD_ERROR)
