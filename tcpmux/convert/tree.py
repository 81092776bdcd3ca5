"""Files that are trees of keys and values (YAML, JSON, TOML), each value of them a statement.

A reader asks a Node for what it knows. What it reads is marked as mapped; what nobody reads stays
unmarked, which changes traffic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tcpmux.config.document import DEEPEST, Document, Mark, Text, documents_of
from tcpmux.config.problems import ConfigError, Location, Problem, describe, path_text
from tcpmux.convert.kinds import Input
from tcpmux.convert.report import Effect, Report, Statement, Word
from tcpmux.convert.toml_places import read_toml
from tcpmux.errors import printable

T = TypeVar("T")
Fold = Callable[[str], str]
# KEY: (class, note, needed feature), of keys that need no more than that.
Classes = Mapping[str, tuple[Effect, str, str]]


@dataclass(slots=True, eq=False)
class Node:
    """A value. path: its keys as they are written. fields, entries: what it contains; else value
    is a scalar, and statement says it. One that is not in the file has nothing of these, and at:
    the statement nearest to where it would be."""

    path: Location
    value: Any = None
    fields: dict[str, Node] = field(default_factory=dict)
    entries: list[Node] = field(default_factory=list)
    statement: Statement | None = None
    report: Report = field(default_factory=Report)
    at: Statement | None = None
    exists: bool = True

    def __bool__(self) -> bool:
        return self.exists

    def __getitem__(self, key: str) -> Node:
        """What stands under a key, which is false if there is nothing."""
        found = self.fields.get(key)
        if found is not None:
            return found
        if self.statement is not None and self.value in (None, {}, []):
            self._read_as_empty()
        elif self.statement is not None:
            self.problem(f"expected a mapping, got {describe(self.value)}")
        elif self.entries:
            self.problem("expected a mapping, got a list")
        return Node((*self.path, key), report=self.report, at=self.place, exists=False)

    def __iter__(self) -> Iterator[Node]:
        """The entries of a list."""
        if self.fields:
            self.problem("expected a list, got a mapping")
        elif self.statement is not None and self.value in (None, [], {}):
            self._read_as_empty()
        elif self.statement is not None:
            self.problem(f"expected a list, got {describe(self.value)}")
        return iter(self.entries)

    def _read_as_empty(self) -> None:
        """Who asks for what is in it knows what it means that there is nothing."""
        for word in self.words():
            if word.effect is None:
                word.effect = Effect.MAPPED

    @property
    def key(self) -> str:
        return str(self.path[-1]) if self.path else ""

    @property
    def place(self) -> Statement | None:
        """The first statement of it, or the one nearest to where it would be."""
        return next(self.statements(), self.at)

    def statements(self) -> Iterator[Statement]:
        if self.statement is not None:
            yield self.statement
        for child in (*self.fields.values(), *self.entries):
            yield from child.statements()

    def words(self) -> Iterator[Word]:
        return (statement.words[0] for statement in self.statements())

    @property
    def is_unread(self) -> bool:
        """Nothing of it has been read."""
        return all(word.effect is None for word in self.words())

    # --- what becomes of it, with all that it contains -------------------------------------------

    def mapped(self, note: str = "") -> None:
        for word in self.words():
            word.mark(Effect.MAPPED)
            if word.effect is Effect.MAPPED and not word.note:
                word.note = printable(note)

    def harmless(self, note: str = "") -> None:
        """Although it may have been read."""
        for word in self.words():
            if word.effect is not Effect.CHANGES:
                word.effect, word.note = Effect.HARMLESS, printable(note)

    def changes(self, note: str, needs: str = "") -> None:
        """Said once, where it begins."""
        for index, word in enumerate(self.words()):
            if index:
                word.effect, word.note = Effect.HARMLESS, "part of a value that is not converted"
            else:
                word.effect, word.note, word.needs = Effect.CHANGES, printable(note), needs

    def remark(self, note: str) -> None:
        """What a reader should know of what is in the file or, by a default, is not."""
        if self.place is not None and note not in self.place.words[0].note:
            self.place.remark(note)

    def problem(self, message: str) -> None:
        if self.place is not None:
            self.report.problem(self.place, message)

    def sort_out(self, classes: Classes) -> None:
        """Gives the keys in it the classes of a table."""
        for key, child in self.fields.items():
            if key in classes:
                effect, note, needs = classes[key]
                if effect is Effect.CHANGES:
                    child.changes(note, needs)
                else:
                    child.harmless(note)

    def name_section(self, name: str) -> None:
        """Makes all of it a section of that name."""
        for statement in self.statements():
            statement.section = name

    # --- scalars ---------------------------------------------------------------------------------

    def read(self, parse: Callable[[Any], T], default: T) -> T:
        """Raises nothing: what parse() refuses with ValueError is a problem."""
        if self.statement is None or self.value is None:
            if self.fields or self.entries:
                self.problem(f"expected a value, got {'a mapping' if self.fields else 'a list'}")
            elif self.statement is not None:
                self.mapped()
            return default
        try:
            found = parse(self.value)
        except ValueError as error:
            self.problem(str(error))
            return default
        self.mapped()
        return found

    def text(self, default: str = "") -> str:
        return self.read(_text, default)

    def integer(self, default: int = 0, low: int = 0, high: int = 2**32 - 1) -> int:
        return self.read(lambda value: _integer(value, low, high), default)

    def flag(self, default: bool = False) -> bool:
        return self.read(_flag, default)


def quoted(text: str) -> str:
    """A regular expression that finds this text, of ASCII, and is readable in YAML."""
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        raise ValueError(f"expected a string, got {describe(value)}")
    return str(value)


def _integer(value: Any, low: int, high: int) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        raise ValueError(f"expected a whole number, got {describe(value)}")
    if not low <= int(text) <= high:
        raise ValueError(f"expected a number from {low} to {high}, got {text}")
    return int(text)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, got {describe(value)}")
    return str(value).lower() == "true"


# --- files ---------------------------------------------------------------------------------------


def read_tree(file: Input, report: Report, fold: Fold) -> list[Node]:
    """The roots of what is in the file: of TOML and JSON one, of YAML as many as it has documents.
    fold: what a key is looked for by. Raises ConfigError if it can't be read at all."""
    if file.name.endswith(".toml"):
        values, places = read_toml(file.name, file.content)
        return [_Builder(file.name, places, {}, report, fold).build(values, ())]
    content = file.content
    if content.lstrip().startswith("{"):  # JSON may be indented by tabs, which YAML has not
        content = content.replace("\t", " ")
    found = []
    for document in documents_of(Text(file.name, content, is_foreign=True)):
        report.problems += document.problems
        places = _places(document)
        builder = _Builder(file.name, places, document.written, report, fold)
        found.append(builder.build(document.value, ()))
    return found


def _end_of(path: Location) -> str:
    """Its last two keys: `clusters[1].weight`."""
    names = [index for index, step in enumerate(path) if isinstance(step, str)]
    return path_text(path[names[-2] :] if len(names) > 1 else path)


def _places(document: Document) -> dict[Location, Mark]:
    return {**document.marks, **document.keys}


@dataclass(slots=True)
class _Builder:
    file: str
    places: dict[Location, Mark]
    written: dict[Location, str]
    report: Report
    fold: Fold

    def build(self, value: Any, path: Location) -> Node:
        node = Node(path, report=self.report)
        if len(path) > DEEPEST:
            told = f"nested more than {DEEPEST} levels deep"
            raise ConfigError([Problem(self.file, *self._mark(path), "", told)])
        if isinstance(value, dict) and value:
            for key, child in value.items():
                made = self.build(child, (*path, key))
                if node.fields.setdefault(self.fold(key), made) is not made:
                    made.problem(f"{printable(key)} is given twice")
        elif isinstance(value, list) and value:
            node.entries = [self.build(child, (*path, i)) for i, child in enumerate(value)]
        else:
            node.value = value
            text = f"{_end_of(path)}: {self._shown(value, path)}" if path else "the file"
            word = Word(printable(text), *self._mark(path))
            node.statement = self.report.statement(self.file, [word])
        return node

    def _mark(self, path: Location) -> Mark:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def _shown(self, value: Any, path: Location) -> str:
        if path in self.written:
            return self.written[path]
        if value is None:
            return "null"
        if isinstance(value, (dict, list)):
            return str(value)  # {} or []
        return str(value).lower() if isinstance(value, bool) else str(value)
