"""What becomes of every word of another proxy's files: it is in exactly one class.

A reader makes a Statement of each directive and marks its words as it translates them. A word that
nobody marks changes traffic: what this program does not know, it does not drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Any

from tcpmux.config.problems import ConfigError, Problem, one_line
from tcpmux.errors import printable

UNKNOWN = "tcpmux convert does not know it"


class Effect(Enum):
    """The classes, from the one that matters least to the one that matters most."""

    HARMLESS = "harmless"  # no effect on where, whether and for how long a connection goes
    MAPPED = "mapped"
    CHANGES = "changes traffic"  # and is not mapped


_ORDER = [*Effect]


@dataclass(slots=True, eq=False)
class Word:
    """line, column: from 1. note: what a reader of the report should know. needs: the feature that
    tcpmux would need to have it mapped."""

    text: str
    line: int
    column: int
    effect: Effect | None = None
    note: str = ""
    needs: str = ""
    is_secret: bool = False  # its text is not shown

    @property
    def shown(self) -> str:
        return "***" if self.is_secret else self.text

    def mark(self, effect: Effect, note: str = "", needs: str = "") -> None:
        """Of several marks, the one that matters most holds; of equals, the first with a note."""
        less = self.effect is None or _ORDER.index(effect) > _ORDER.index(self.effect)
        if less or (effect is self.effect and note and not self.note):
            self.effect, self.note, self.needs = effect, printable(note), needs


@dataclass(slots=True, eq=False)
class Statement:
    """One directive: a line of haproxy.cfg, a directive of nginx.conf without what is in its
    braces, a value with its key in YAML or TOML. section: what it is a part of, such as
    `backend db`; a route that is made of this section carries its remarks."""

    file: str
    words: list[Word]
    section: str = ""

    @property
    def line(self) -> int:
        return self.words[0].line

    @property
    def texts(self) -> list[str]:
        return [word.text for word in self.words]

    def __str__(self) -> str:
        return " ".join(word.shown for word in self.words)

    def mapped(self, *words: Word, note: str = "") -> None:
        """The words given, or all of them."""
        self._mark(words, Effect.MAPPED, note)

    def harmless(self, *words: Word, note: str = "") -> None:
        self._mark(words, Effect.HARMLESS, note)

    def changes(self, *words: Word, note: str, needs: str = "") -> None:
        """note: what happens to traffic without it."""
        self._mark(words, Effect.CHANGES, note, needs)

    def remark(self, note: str) -> None:
        """What a reader should know of this statement, beside its class."""
        first = self.words[0]
        if printable(note) in first.note:
            return
        first.note = f"{first.note}; {note}" if first.note else printable(note)

    def _mark(
        self, words: tuple[Word, ...], effect: Effect, note: str = "", needs: str = ""
    ) -> None:
        for word in words or self.words:
            word.mark(effect, note, needs)


@dataclass(frozen=True, slots=True)
class Finding:
    """Neighbouring words of a statement that share their class and note."""

    file: str
    line: int
    column: int
    text: str
    effect: Effect
    note: str
    needs: str
    section: str

    def __str__(self) -> str:
        told = f"{self.file}:{self.line}:{self.column}: {self.effect.value}: {one_line(self.text)}"
        return f"{told}: {self.note}" if self.note else told

    @property
    def is_left_out(self) -> bool:
        """The result lacks it: it changes traffic, or is about connections of other protocols,
        which tcpmux would need a feature for."""
        return self.effect is Effect.CHANGES or bool(self.needs)

    @property
    def remark(self) -> str:
        """In the result, where something is left out."""
        return f"NOT CONVERTED {self.file}:{self.line}: {one_line(self.text)}: {self.note}"

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "text": self.text,
            "class": self.effect.value,
            "note": self.note,
            "needs": self.needs,
        }


@dataclass(slots=True)
class Report:
    """problems: mistakes in the files; with any of them, nothing is made."""

    statements: list[Statement] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def statement(self, file: str, words: list[Word], section: str = "") -> Statement:
        made = Statement(file, words, section)
        self.statements.append(made)
        return made

    def problem(self, at: Statement, message: str, word: Word | None = None) -> None:
        """A mistake in the file, which the other proxy would refuse as well."""
        place = word or at.words[0]
        self.problems.append(
            Problem(at.file, place.line, place.column, one_line(str(at)), printable(message))
        )

    def complain(self) -> None:
        """Raises ConfigError if there are problems."""
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda p: (p.file, p.line, p.column)))

    def findings(self) -> list[Finding]:
        """Of all statements, in the files' order."""
        return [found for statement in self.statements for found in _findings(statement)]

    def changes(self) -> list[Finding]:
        return [found for found in self.findings() if found.effect is Effect.CHANGES]

    def totals(self) -> dict[str, int]:
        """Words of each class."""
        count = dict.fromkeys((effect.value for effect in _ORDER), 0)
        for statement in self.statements:
            for word in statement.words:
                count[(word.effect or Effect.CHANGES).value] += 1
        return count


def _findings(statement: Statement) -> Iterator[Finding]:
    for word in statement.words:
        word.mark(word.effect or Effect.CHANGES, UNKNOWN if word.effect is None else "")
    for (effect, note, needs), words in groupby(
        statement.words, lambda word: (word.effect, word.note, word.needs)
    ):
        run = list(words)
        text = " ".join(word.shown for word in run)
        assert effect is not None
        yield Finding(
            statement.file,
            run[0].line,
            run[0].column,
            printable(text),
            effect,
            note,
            needs,
            statement.section,
        )
