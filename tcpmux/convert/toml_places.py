"""Where each value of a TOML file stands.

Python's tomllib, and tomli before it, say what the values are, and whether the file is TOML at all;
they do not say where they found them, and neither does any other library that is kept up.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from tcpmux.config.document import DEEPEST, Mark
from tcpmux.config.problems import ConfigError, Location, Problem, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\]|\\.)*"|' + r"'[^']*'", re.DOTALL
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_VALUE = re.compile(r"[^,\]}#\r\n]+")


def read_toml(file: str, content: str) -> tuple[dict[str, Any], dict[Location, Mark]]:
    """The values, and the line and column, from 1, of each key. Raises ConfigError."""
    try:
        values = tomllib.loads(content)
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        found = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        line, column = (int(found[1]), int(found[2])) if found else (0, 0)
        told = one_line(str(error).partition(" (at ")[0])
        raise ConfigError([Problem(file, line, column, "", f"not TOML: {told}")]) from None
    except RecursionError:
        raise _too_deep(file) from None
    return values, _Places(file, content.replace("\r\n", "\n")).find()


def _too_deep(file: str, line: int = 0, column: int = 0) -> ConfigError:
    told = f"nested more than {DEEPEST} levels deep"
    return ConfigError([Problem(file, line, column, "", told)])


class _Places:
    """Goes through a text that is known to be TOML."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._at = 0
        self._line, self._start, self._counted = 1, 0, 0  # of what has been counted
        self._places: dict[Location, Mark] = {}
        self._lists: dict[Location, int] = {}  # how many [[tables]] each has

    def find(self) -> dict[Location, Mark]:
        table: Location = ()
        while self._skip() < len(self._text):
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._next_of(self._within(self._keys()))
                self._at += 2
            elif self._text[self._at] == "[":
                self._at += 1
                mark = self._mark()
                table = self._within(self._keys())
                self._places.setdefault(table, mark)
                self._at += 1
            else:
                self._pair(table, 0)
        return self._places

    def _skip(self) -> int:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _mark(self) -> Mark:
        newlines = self._text.count("\n", self._counted, self._at)
        if newlines:
            self._line += newlines
            self._start = self._text.rfind("\n", 0, self._at) + 1
        self._counted = self._at
        return self._line, self._at - self._start + 1

    def _keys(self) -> list[str]:
        """A dotted key, with what is in front of it."""
        found = []
        while True:
            self._skip()
            quoted = _STRING.match(self._text, self._at)
            plain = quoted or _PLAIN_KEY.match(self._text, self._at)
            assert plain, "not TOML"
            self._at = plain.end()
            found.append(next(iter(tomllib.loads(f"{plain[0]} = 1"))) if quoted else plain[0])
            self._skip()
            if not self._text.startswith(".", self._at):
                return found
            if len(found) >= DEEPEST:
                raise _too_deep(self._file, *self._mark())
            self._at += 1

    def _within(self, keys: list[str]) -> Location:
        """Where a table stands: its name leads through the last of each list of tables."""
        place: Location = ()
        for key in keys[:-1]:
            place = (*place, key)
            if place in self._lists:
                place = (*place, self._lists[place] - 1)
        return (*place, keys[-1])

    def _next_of(self, place: Location) -> Location:
        mark = self._mark()
        self._places.setdefault(place, mark)
        index = self._lists.get(place, 0)
        self._lists[place] = index + 1
        entry = (*place, index)
        self._places[entry] = mark
        return entry

    def _pair(self, table: Location, depth: int) -> None:
        mark = self._mark()
        place = (*table, *self._keys())
        self._places[place] = mark
        self._at += 1  # =
        self._value(place, depth)

    def _value(self, place: Location, depth: int) -> None:
        self._skip()
        self._places.setdefault(place, self._mark())
        first = self._text[self._at : self._at + 1]
        if first in ("[", "{"):
            self._at += 1
            self._collection(place, "]" if first == "[" else "}", depth + 1)
        else:
            found = _STRING.match(self._text, self._at) or _PLAIN_VALUE.match(self._text, self._at)
            assert found, "not TOML"
            self._at = found.end()

    def _collection(self, place: Location, end: str, depth: int) -> None:
        if depth > DEEPEST:
            raise _too_deep(self._file, *self._mark())
        index = 0
        while self._skip() < len(self._text) and self._text[self._at] != end:
            if end == "]":
                self._value((*place, index), depth)
            else:
                self._pair(place, depth)
            index += 1
            self._skip()
            if self._text.startswith(",", self._at):
                self._at += 1
        self._at += 1
