"""The diagnostic log: how every process of tcpmux writes it, on standard error."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import Any

from tcpmux.errors import printable

FORMAT = "%(asctime)s tcpmux %(levelname)s %(message)s"
LONGEST_LINE = 4000  # characters
MOST_LINES = 60  # of a traceback


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
        if len(lines) > MOST_LINES:
            half = MOST_LINES // 2
            lines[half:-half] = [f"... {len(lines) - 2 * half} lines ..."]
        return "\n".join("    " + _bounded(line) for line in lines)


def _bounded(text: str) -> str:
    more = len(text) - LONGEST_LINE
    return printable(text) if more <= 0 else f"{printable(text[:LONGEST_LINE])}... {more} more"


def begin_log() -> None:
    """From now on, messages from INFO upwards."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    atexit.register(_give_up)


def _give_up() -> None:
    """What could not be written until now never will be. Python would try once more, and make its
    failure the exit code of the process (120)."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stderr.fileno())


def set_level(name: str) -> None:
    """debug, info, warning or error: what is shown. Handlers besides get INFO at any level."""
    number = getattr(logging, name.upper())
    root = logging.getLogger()
    root.setLevel(min(number, logging.INFO))
    for handler in root.handlers:
        handler.setLevel(number)
