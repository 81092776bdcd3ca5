"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tcpmux.errors import TcpmuxError, printable

Location = tuple[str | int, ...]
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. line and column count from 1; 0 = the file as a whole."""

    file: str
    line: int
    column: int
    where: str  # routes[0].destinations[1].weight; "" = the file as a whole
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.where, self.message) if part)


class ConfigError(TcpmuxError):
    """The configuration can't be used. Its text is one line for each problem."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def path_text(location: Location) -> str:
    """('routes', 0, 'name') -> routes[0].name"""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{one_line(step)}" if text else one_line(step)
    return text


def one_line(text: str) -> str:
    """Printable, and short enough for a message."""
    shown = printable(text)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."


def describe(value: Any) -> str:
    """A value as it stood in the file: for "expected ..., got {this}"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value == "":
        return "an empty string"
    return one_line(str(value))
