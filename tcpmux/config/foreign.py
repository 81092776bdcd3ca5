"""What files of other proxies have in common: numbers, times, addresses and names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tcpmux.config.address import Address, Endpoint, parse_endpoint, parse_listen
from tcpmux.config.duration import format_duration
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.problems import Problem, describe, one_line
from tcpmux.config.rows import DAY, HOUR
from tcpmux.config.values import MAX_DIGITS
from tcpmux.errors import printable

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_PART = re.compile(r"([0-9]{1,20})(us|ms|[smhd]|)")
_TIME = re.compile(r"(?:[0-9]{1,20}(?:us|ms|[smhd]))*[0-9]{1,20}(?:us|ms|[smhd]|)")


def plain_name(text: str) -> str:
    """A name of ours: other characters become '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:63] or "route"


@dataclass(slots=True)
class Reader:
    path: str
    warnings: list[Problem]
    problems: list[Problem]

    def note(self, line: int, what: str, why: str) -> None:
        self.warnings.append(Problem(self.path, line, 1, one_line(what), printable(why)))

    def wrong(self, line: int, what: str, why: str) -> None:
        """A mistake: nothing is made of the file."""
        self.problems.append(Problem(self.path, line, 1, one_line(what), printable(why)))

    def weight(self, line: int, text: str) -> int:
        """As in the file; with a problem if it is none of ours."""
        digits = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
        if not digits or int(text) > MAX_WEIGHT:
            self.wrong(line, "weight", f"expected 0..{MAX_WEIGHT}, got {describe(text)}")
            return 0
        return int(text)

    def seconds(self, line: int, what: str, text: str, unit: float, most: float) -> float:
        """text: such as 30s, 1h30m or a number alone, whose unit is `unit` (s). A problem if it is
        more than `most` s. 0 is no limit there, too."""
        if not _TIME.fullmatch(text):
            self.wrong(line, what, f"expected a time such as 10s, got {describe(text)}")
            return most
        seconds = sum(int(count) * _UNITS.get(name, unit) for count, name in _PART.findall(text))
        if seconds > most:
            expected = f"expected at most {format_duration(most)}"
            self.wrong(line, what, f"{expected}, got {describe(text)}")
        return max(seconds, 0.001) if seconds else 0.0

    def connect(self, line: int, what: str, text: str, unit: float) -> float:
        seconds = self.seconds(line, what, text, unit, HOUR)
        if not seconds:
            self.note(
                line,
                f"{what} {text}",
                f"no limit is not supported: using {format_duration(HOUR)}",
            )
        return seconds or HOUR

    def idle(self, line: int, what: str, text: str, unit: float) -> float:
        return self.seconds(line, what, text, unit, 30 * DAY)

    def listen(self, line: int, text: str) -> list[Address]:
        text = re.sub(r"^\*:", ":", text)
        try:
            return parse_listen(text if ":" in text else f":{text}")
        except ValueError as error:
            self.note(line, text, str(error))
            return []

    def endpoint(self, line: int, text: str) -> Endpoint | None:
        try:
            return parse_endpoint(text)
        except ValueError as error:
            self.note(line, text, str(error))
            return None
