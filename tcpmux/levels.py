"""How serious a line of the log is: one rule for every process.

ERROR    clients lose by it: connections are reset, held or refused; or a part of tcpmux has
         failed, or stays out of service until somebody mends it
WARNING  redundancy is lost: an endpoint or a name is out and others get its share; or something
         is not as the configuration wants it: a limit turns clients away, a file is refused,
         lines of a log are lost
INFO     what somebody has asked for, done or refused, and what works again
"""

from __future__ import annotations

import logging

_KNOWN = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class Line(str):
    """A line for the log and the events, with the level that it has there."""

    level: int

    def __new__(cls, level: int, text: str) -> Line:
        line = super().__new__(cls, text)
        line.level = level
        return line


def level_of(text: str) -> int:
    """A text that says nothing of it is information."""
    return text.level if isinstance(text, Line) else logging.INFO


def level_from(value: object) -> int:
    """As another process tells it; what is no level is worth a look."""
    return value if type(value) is int and value in _KNOWN else logging.ERROR
