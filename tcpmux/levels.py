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
from typing import NamedTuple

_KNOWN = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class Where(NamedTuple):
    """What a line is about; "" = none, or several."""

    route: str = ""
    destination: str = ""
    endpoint: str = ""


NOWHERE = Where()


class Line(str):
    """A line for the log and the events, with the level that it has there."""

    level: int
    where: Where

    def __new__(cls, level: int, text: str, where: Where = NOWHERE) -> Line:
        line = super().__new__(cls, text)
        line.level = level
        line.where = where
        return line


def level_of(text: str) -> int:
    """A text that says nothing of it is information."""
    return text.level if isinstance(text, Line) else logging.INFO


def where_of(text: str) -> Where:
    return text.where if isinstance(text, Line) else NOWHERE


def level_from(value: object) -> int:
    """As another process tells it; what is no level is worth a look."""
    return value if type(value) is int and value in _KNOWN else logging.ERROR


def where_from(value: object) -> Where:
    """As another process tells it."""
    if isinstance(value, list) and len(value) == 3:
        return Where(*map(str, value))
    return NOWHERE
