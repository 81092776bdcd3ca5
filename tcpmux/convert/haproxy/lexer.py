"""Lines of haproxy.cfg as words: quotes, escapes, comments, environment variables (section 2.2 and
2.3 of HAProxy's manual)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tcpmux.convert.report import Word

MAX_WORDS = 64  # of a line, as in HAProxy
MAX_EXPANDED = 65_536  # characters of a line after expansion
_SPACE = " \t\r\v\f\n"
_SPECIAL = re.compile(r"[\"'\\#]")
_PLAIN_ESCAPES = " \\\"'#$"
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_VARIABLE = re.compile(
    r"\$(?:(?P<bare>\.?[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>\.?[A-Za-z_][A-Za-z0-9_]*)(?P<list>\[\*\])?(?:-(?P<default>[^}]*))?\})",
    re.ASCII,
)


class Mistake(ValueError):
    """What HAProxy would refuse in a line. column: from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


@dataclass(slots=True)
class _Scanner:
    text: str
    line: int
    environment: Mapping[str, str]
    at: int = 0
    quote: str = ""
    start: int = -1  # of the word, -1 = between words
    made: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    size: int = 0

    def run(self) -> None:
        while self.at < len(self.text):
            char = self.text[self.at]
            if self.quote != "'" and char == "\\":
                self._escape()
            elif self.quote == '"' and char == "$":
                self._variable()
            elif self.quote:
                self._quoted(char)
            elif char == "#":
                break
            elif char in _SPACE:
                self._end_word()
                self.at += 1
            elif char in "\"'":
                self._begin()
                self.quote = char
                self.at += 1
            else:
                self._emit(char, 1)
        if self.quote:
            raise Mistake(f"the quote {self.quote} is not closed", self.start + 1)
        self._end_word()

    def _begin(self) -> None:
        if self.start < 0:
            self.start = self.at

    def _emit(self, text: str, length: int) -> None:
        self._begin()
        self.made.append(text)
        self.size += len(text)
        if self.size > MAX_EXPANDED:
            raise Mistake(f"the line has more than {MAX_EXPANDED} characters", self.at + 1)
        self.at += length

    def _end_word(self) -> None:
        if self.start >= 0:
            self.words.append(Word("".join(self.made), self.line, self.start + 1))
            self.start, self.made = -1, []

    def _quoted(self, char: str) -> None:
        if char == self.quote:
            self.quote = ""
            self.at += 1
        else:
            self._emit(char, 1)

    def _escape(self) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        if not following:
            raise Mistake("a backslash at the end of the line", self.at + 1)
        if following == "x":
            digits = self.text[self.at + 2 : self.at + 4]
            if not re.fullmatch(r"[0-9A-Fa-f]{2}", digits, re.ASCII):
                raise Mistake("expected two hexadecimal digits after \\x", self.at + 1)
            self._emit(chr(int(digits, 16)), 4)
        elif following in _LETTERS:
            self._emit(_LETTERS[following], 2)
        elif following in _PLAIN_ESCAPES and not (following == "$" and not self.quote):
            self._emit(following, 2)
        else:
            self._emit("\\", 1)

    def _variable(self) -> None:
        found = _VARIABLE.match(self.text, self.at)
        if not found:
            raise Mistake("expected the name of a variable after $", self.at + 1)
        name = found["bare"] or found["name"]
        value = self.environment.get(name, found["default"])
        if value is None:
            self.missing.append(name)
            value = ""
        length = found.end() - found.start()
        if not found["list"]:
            self._emit(value, length)
            return
        first, *others = value.split() or [""]
        self._emit(first, length)
        for other in others:
            start = self.start
            self._end_word()
            self.start = start
            self._emit(other, 0)


@dataclass(frozen=True, slots=True)
class Line:
    """words: none = an empty line. missing: variables that are not set and have no default."""

    number: int
    words: list[Word]
    missing: tuple[str, ...] = ()


def words_of(text: str, number: int, environment: Mapping[str, str]) -> Line:
    """Raises Mistake."""
    if "\0" in text:
        raise Mistake("a NUL character", text.index("\0") + 1)
    scanner = _Scanner(text, number, environment)
    if _SPECIAL.search(text):
        scanner.run()
    else:
        scanner.words = raw_words(text, number)
    if len(scanner.words) > MAX_WORDS:
        raise Mistake(f"more than {MAX_WORDS} words in a line", scanner.words[MAX_WORDS].column)
    return Line(number, scanner.words, tuple(scanner.missing))


def raw_words(text: str, number: int) -> list[Word]:
    """Of a line that HAProxy does not look into."""
    return [
        Word(found[0], number, found.start() + 1)
        for found in re.finditer(r"[^ \t\r\v\f]+", text.replace("\0", " "))
    ]


def numbered(content: str) -> Iterator[tuple[int, str]]:
    """The lines of a file."""
    yield from enumerate(content.removeprefix("\ufeff").split("\n"), 1)
