"""The errors that a user is told about in one line, and the exit codes they end with."""

from __future__ import annotations

import time
from collections.abc import Sequence


class TcpmuxError(Exception):
    """Something could not be done; the text says what, where and what to do about it."""

    exit_code = 1


class UsageError(TcpmuxError):
    """The request itself is wrong."""

    exit_code = 2


def printable(text: str) -> str:
    """With everything escaped that could forge or split a line, or act on a terminal: control
    characters, what turns the direction of writing round, and blanks that are none."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str) -> str:
    """`1 route`, `2 routes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(texts: Sequence[str], most: int) -> str:
    """`v1, v2 and 3 more`: at most so many of them."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def clock(at: float, now: float | None = None, *, zone: bool = False) -> str:
    """`19:15:02`, in local time; with the date if that is another than now's. at, now: Unix time,
    s. zone: `19:15:02 UTC`, for whoever reads it elsewhere."""
    then, today = time.localtime(at), time.localtime(now)
    day = "" if then[:3] == today[:3] else "%Y-%m-%d "
    return time.strftime(f"{day}%H:%M:%S{' %Z' if zone else ''}", then)


def one_line(error: TcpmuxError) -> str:
    """The first of the lines of an error, and how many there are."""
    first, *more = str(error).splitlines()
    return f"{first} (and {len(more)} more: see `tcpmux check`)" if more else first
