"""The diagnostic log: how every process of tcpmux writes it, on standard error."""

from __future__ import annotations

import atexit
import logging
import os
import sys

from tcpmux.errors import printable

FORMAT = "%(asctime)s tcpmux %(levelname)s %(message)s"


class LogFormatter(logging.Formatter):
    """Says who asked for it (`by` of the record) as well, and keeps a message, which may have text
    from outside in it, on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        by = getattr(record, "by", "")
        text = printable(super().formatMessage(record))
        return f"{text} [{by}]" if by else text


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
