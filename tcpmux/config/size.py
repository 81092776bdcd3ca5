"""Sizes as people write them: 512B, 64KiB, 1MiB. Powers of 1024."""

from __future__ import annotations

import re

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(B|KiB|MiB|GiB)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError if it is not a number and a unit (B, KiB, MiB, GiB)."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError("expected a size such as 64KiB or 1MiB")
    return round(float(found[1]) * UNITS[found[2]])


def format_size(size: int) -> str:
    """With the largest unit that leaves a whole number: 65536 -> 64KiB."""
    unit = next(unit for unit in reversed(UNITS) if size % UNITS[unit] == 0)
    return f"{size // UNITS[unit]}{unit}" if size else "0B"
