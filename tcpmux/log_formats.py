"""What a line of the diagnostic log looks like: as text or as JSON."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from tcpmux.errors import printable
from tcpmux.levels import NOWHERE

FULL = "%(asctime)s tcpmux %(levelname)s %(message)s"
SHORT = "%(levelname)s %(message)s"  # for who notes time and name by himself
MAX_LINE = 4000  # characters
MAX_LINES = 60  # of a traceback


class LogFormatter(logging.Formatter):
    """Says who asked for it (`by` of the record) as well. A message, which may have text from
    outside in it, stays on its line, and no line is endless. Lines of a traceback are indented:
    nothing in an exception's text looks like a message."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return utc(record.created)

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


class JsonFormatter(LogFormatter):
    """One object on one line, of ASCII alone; `traceback` only if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "message": _bounded(record.getMessage()),
            **{key: _bounded(value) if value else None for key, value in fields(record).items()},
            "pid": record.process,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"))


# Of each format: with the time and the name of the program, and without.
FORMATTERS: dict[str, tuple[logging.Formatter, logging.Formatter]] = {
    "text": (LogFormatter(FULL), LogFormatter(SHORT)),
    "json": (JsonFormatter(), JsonFormatter()),
}


def fields(record: logging.LogRecord) -> dict[str, str]:
    """What a record says besides its text; "" = it does not."""
    return {
        "process": record.name.removeprefix("tcpmux."),
        "event": getattr(record, "event", ""),
        "by": getattr(record, "by", ""),
        **getattr(record, "where", NOWHERE)._asdict(),
    }


def utc(moment: float) -> str:
    """2026-01-31T23:59:59.123Z, of a Unix time in s."""
    at = int(moment * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 1000))}.{at % 1000:03d}Z"


def _bounded(text: str) -> str:
    more = len(text) - MAX_LINE
    return printable(text) if more <= 0 else f"{printable(text[:MAX_LINE])}... {more} more"
