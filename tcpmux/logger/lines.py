"""A line of the access log: its keys, and how none of its bytes can be taken for another."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Line = Mapping[str, "str | int | float | None"]

_CLOSED_BY = {
    "finished": "both",
    "client_reset": "client",
    "endpoint_reset": "endpoint",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """To make times of day of what is monotonic. offset in s."""

    offset: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.time() - time.monotonic())

    def text(self, monotonic: float) -> str:
        """2026-01-31T23:59:59.123Z."""
        at = round((monotonic + self.offset) * 1000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 1000))}.{at % 1000:03d}Z"


def closed_by(reason: str) -> str:
    """Who ended the connection: client, endpoint, both or, for every other reason, proxy."""
    return _CLOSED_BY.get(reason, "proxy")


def escape(text: str) -> str:
    r"""Printable ASCII as it is, everything else, quotes and backslashes as JSON writes them, so
    that no byte of it ends a line or a field."""
    return json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def as_json(line: Line) -> str:
    """One object without blanks around its parts."""
    return json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f")


def writer(template: str) -> Callable[[Line], str]:
    """What makes text of a line: JSON for "json", else the template with its {KEY}s filled in;
    what is not known is "-"."""
    if template == "json":
        return as_json
    parts = list(string.Formatter().parse(template))

    def fill(line: Line) -> str:
        made = []
        for text, key, _, _ in parts:
            made.append(escape(text).replace('\\"', '"') if text else "")
            if key is not None:
                value = line[key]
                made.append("-" if value is None or value == "" else escape(str(value)))
        return "".join(made)

    return fill
