"""The errors that a user is told about in one line, and the exit codes they end with."""

from __future__ import annotations


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


def one_line(error: TcpmuxError) -> str:
    """The first of the lines of an error, and how many there are."""
    first, *more = str(error).splitlines()
    return f"{first} (and {len(more)} more: see `tcpmux check`)" if more else first
