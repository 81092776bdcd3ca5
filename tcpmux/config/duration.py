"""Durations as people write them: 250ms, 10s, 1h30m, 2d."""

from __future__ import annotations

import re

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError if it is no sequence of number and unit (d, h, m, s, ms)."""
    if text == "0":
        return 0.0
    seconds, at = 0.0, 0
    while part := _PART.match(text, at):
        seconds += float(part[1]) * UNITS[part[2]]
        at = part.end()
    if at == 0 or at != len(text):
        raise ValueError("expected a duration such as 10s, 250ms or 1h30m")
    return round(seconds, 6)


def format_duration(seconds: float) -> str:
    """As short as it gets: 5400 -> 1h30m, 0.25 -> 250ms, 0 -> 0s."""
    left, parts = round(seconds * 1000), []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
