"""What lines about many things have in common. Used in control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tcpmux.levels import Line

Say = Callable[[Line], None]  # for the log
MAX_LINES = 20  # of one sort, at a time


def bounded(lines: Sequence[Line], more: str) -> Iterator[Line]:
    """The first MAX_LINES of them, and one that says how many there are besides."""
    yield from lines[:MAX_LINES]
    left = lines[MAX_LINES:]
    if left:
        yield Line(max(line.level for line in left), f"and {len(left)} {more}")


def duration(seconds: float) -> str:
    """`5 s`, `12 min`, `3 h 20 min`."""
    whole = max(1, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
