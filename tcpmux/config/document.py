"""YAML files as plain values that remember where each of them stood."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tcpmux.config.problems import (
    ConfigError,
    Location,
    Problem,
    describe,
    one_line,
    path_text,
)
from tcpmux.config.remarks import Remarks
from tcpmux.errors import printable
from tcpmux.files import Unreadable, read_file

# libyaml is about ten times faster; not every build of PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_NODES = 1_000_000  # after aliases are expanded: a few lines of them can mean billions
DEEPEST = 32

_SCALARS = ("null", "bool", "int", "str", "float", "timestamp", "value", "merge")
_RESOLVER: Any = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TOO_MANY = f"more than {MAX_NODES} values (are there aliases of aliases?)"
# $$, ${NAME} or ${NAME:-text}; anything else after a $ is left as it is.
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{([^}]*)\}?)")
Mark = tuple[int, int]  # line and column, from 1


class Substituted(str):
    """A text in quotes, which ${NAME} needs within { }: a number where one is expected."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A file's content, and the name it has in messages. environment: what ${NAME} stands for.
    is_foreign: it is another program's, to which a $ is only a character."""

    name: str
    content: str
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_foreign: bool = False


@dataclass(slots=True)
class Document:
    """One file. marks: where each value stands; keys: where each key of a mapping stands.
    written: values that would be shown otherwise than they stand there, such as 007 and yes."""

    file: str
    value: Any = None
    marks: dict[Location, Mark] = field(default_factory=dict)
    keys: dict[Location, Mark] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    used: set[Location] = field(default_factory=set)  # resources that a route is made of
    nodes: int = 0
    is_native: bool = True  # not a resource of Kubernetes, with apiVersion and kind
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def nearest(self, location: Location) -> Location:
        """What is in the file there, or around it: what a short form stands for is not."""
        while location and location not in self.marks:
            location = location[:-1]
        return location

    def mark(self, location: Location) -> Mark:
        """Of the value there, or of the nearest one around it."""
        return self.marks.get(self.nearest(location), (1, 1))

    def key_mark(self, location: Location) -> Mark:
        """Of the key in front of the value there."""
        return self.keys[location]

    def place(self, location: Location) -> str:
        """`routes.yaml:3:5`"""
        line, column = self.mark(location)
        return f"{self.file}:{line}:{column}"

    def problem(self, location: Location, message: str, mark: Mark | None = None) -> None:
        self.problems.append(self.as_problem(location, message, mark))

    def warn(self, location: Location, message: str, mark: Mark | None = None) -> None:
        """As problem(), for what does not keep the file from being used."""
        self.warnings.append(self.as_problem(location, message, mark))

    def as_problem(self, location: Location, message: str, mark: Mark | None = None) -> Problem:
        """It, for somebody else to add."""
        if mark is None:
            location = self.nearest(location)
        line, column = mark or self.mark(location)
        return Problem(self.file, line, column, path_text(location), message)


def read_documents(path: str | Path) -> list[Document]:
    """Reads one YAML file: its documents, empty ones left out.

    Raises ConfigError if it can't be read, is not YAML or has nothing in it.
    """
    return documents_of(read_text(path))


def documents_of(text: Text) -> list[Document]:
    """As read_documents(), of what has been read."""
    found = []
    nodes = 0
    for root in _compose(text.name, text.content):
        if isinstance(root, yaml.ScalarNode) and root.tag == f"{_TAG}null":
            continue
        document = Document(
            text.name,
            is_native=not text.is_foreign and not _is_resource(root),
            nodes=nodes,
            environment=text.environment,
        )
        document.value = _Builder(document).build(root, (), 0)
        nodes = document.nodes
        found.append(document)
    if not found:
        raise ConfigError([Problem(text.name, 0, 0, "", "the file is empty")])
    return found


def variables_in(content: str) -> set[str]:
    """The names that documents_of() may ask the environment for."""
    return {found[1] for found in _VARIABLE.finditer(content) if found[1]}


def _is_resource(root: yaml.Node) -> bool:
    if not isinstance(root, yaml.MappingNode):
        return False
    keys = {key.value for key, _ in root.value if isinstance(key, yaml.ScalarNode)}
    return {"apiVersion", "kind"} <= keys


def _fail(file: str, line: int, column: int, message: str) -> ConfigError:
    return ConfigError([Problem(file, line, column, "", message)])


def read_text(path: str | Path) -> Text:
    """A file as text. Raises ConfigError."""
    try:
        data = read_file(path).data
    except Unreadable as error:
        raise _fail(printable(str(path)), 0, 0, str(error)) from None
    return text_of(str(path), data)


def text_of(name: str, data: bytes) -> Text:
    """What has been read, as text. Raises ConfigError."""
    try:
        return Text(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02x}"
        raise _fail(name, line, column, message) from None


def _compose(file: str, text: str) -> list[yaml.Node]:
    loader = _LOADER(text)
    try:
        return _Composer(file, loader).compose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise _fail(file, line, column, f"not YAML: {one_line(str(error.problem))}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _fail(
            file, line, 1, f"not YAML: character {error.character!r}, {one_line(str(error.reason))}"
        ) from None
    finally:
        loader.dispose()


class _Composer:
    """Puts the nodes of the documents together from events.

    PyYAML's own compose recurses, in C: a line of a hundred thousand brackets overruns the
    stack and ends the process.
    """

    def __init__(self, file: str, loader: Any) -> None:
        self._file = file
        self._loader = loader
        self._roots: list[yaml.Node] = []
        self._anchors: dict[str, yaml.Node] = {}
        self._values: dict[int, int] = {}  # id of a collection -> how many, aliases expanded
        self._open: list[tuple[Any, list[yaml.Node]]] = []  # collections, and what is in them yet

    def compose(self) -> list[yaml.Node]:
        """The root of each document."""
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.StreamEndEvent):
                return self._roots
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
            elif isinstance(event, yaml.NodeEvent):
                self._add(event)

    def _fail(self, at: Any, message: str) -> ConfigError:
        mark = at.start_mark
        return _fail(self._file, mark.line + 1, mark.column + 1, message)

    def _close(self) -> None:
        node, items = self._open.pop()
        if isinstance(node, yaml.SequenceNode):
            node.value = values = items
        else:
            node.value = list(zip(items[::2], items[1::2], strict=True))
            values = [value for key, value in node.value if key.tag != _MERGE]
        # Of one that is still open, which holds itself, the depth is what is wrong.
        self._values[id(node)] = 1 + sum(self._values.get(id(value), 1) for value in values)
        if self._values[id(node)] > MAX_NODES:
            raise self._fail(node, _TOO_MANY)

    def _add(self, event: Any) -> None:
        anchor: str | None = event.anchor
        if not isinstance(event, yaml.AliasEvent):
            node = self._node(event)
            if anchor is not None:
                self._anchors[anchor] = node
        elif anchor in self._anchors:
            node = self._anchors[anchor]
        else:
            raise self._fail(event, f"not YAML: no anchor named {one_line(str(anchor))}")
        if self._open:
            self._open[-1][1].append(node)
        else:
            self._roots.append(node)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((node, []))
            if len(self._open) > DEEPEST:
                raise self._fail(event, f"nested more than {DEEPEST} levels deep")

    def _node(self, event: Any) -> yaml.Node:
        kind: Any = yaml.MappingNode
        value: Any = []
        if isinstance(event, yaml.ScalarEvent):
            kind, value = yaml.ScalarNode, event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            kind = yaml.SequenceNode
        tag = event.tag
        if tag in (None, "!"):
            tag = self._loader.resolve(kind, value, event.implicit)
        node: yaml.Node = kind(tag, value, event.start_mark, event.end_mark)
        if isinstance(node, yaml.ScalarNode):
            node.style = event.style
        return node


class _Builder:
    """Turns composed nodes into values. Never calls a constructor that a tag names."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def build(self, node: yaml.Node, location: Location, depth: int) -> Any:
        document = self._document
        mark = (node.start_mark.line + 1, node.start_mark.column + 1)
        document.marks.setdefault(location, mark)
        document.nodes += 1
        if document.nodes > MAX_NODES:
            raise _fail(document.file, *mark, _TOO_MANY)
        if depth > DEEPEST:
            raise _fail(document.file, *mark, f"nested more than {DEEPEST} levels deep")
        expected = {"MappingNode": "map", "SequenceNode": "seq"}.get(type(node).__name__)
        if expected and node.tag != _TAG + expected:
            document.problem(location, f"tags are not supported, got {one_line(node.tag)}", mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.build(item, (*location, index), depth + 1)
                for index, item in enumerate(node.value)
            ]
        return self._scalar(node, location, mark)

    def _mapping(self, node: yaml.MappingNode, location: Location, depth: int) -> dict[str, Any]:
        document = self._document
        found: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                document.problem(location, "expected a name as key", mark)
                continue
            if key_node.tag == _MERGE:
                merged.append(value_node)
                continue
            key = key_node.value
            here = (*location, key)
            if key in found:
                line, column = document.keys[here]
                document.problem(here, f"given twice, first at line {line} column {column}", mark)
                continue
            document.keys[here] = mark
            found[key] = self.build(value_node, here, depth + 1)
        for value_node in merged:
            self._merge(value_node, found, location, depth)
        return found

    def _merge(
        self, node: yaml.Node, found: dict[str, Any], location: Location, depth: int
    ) -> None:
        """`<<: *anchor`: what the mapping has not itself comes from there."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                mark = (source.start_mark.line + 1, source.start_mark.column + 1)
                self._document.problem(location, "expected a mapping after <<", mark)
                continue
            if depth > DEEPEST:
                return
            given = yaml.MappingNode(
                source.tag,
                [(k, v) for k, v in source.value if getattr(k, "value", None) not in found],
                source.start_mark,
                source.end_mark,
            )
            found.update(self._mapping(given, location, depth + 1))

    def _substituted(self, text: str, location: Location, mark: Mark) -> str | None:
        """With what the environment has for ${NAME}; None if it hasn't, which is noted."""
        wrong: list[str] = []
        environment = self._document.environment

        def value(found: re.Match[str]) -> str:
            name, default, unreadable = found.groups()
            if unreadable is not None:
                wrong.append(
                    "expected ${NAME} or ${NAME:-default} ($$ is a dollar sign), "
                    f"got {describe(found[0])}"
                )
            elif name is not None and not environment.get(name) and default is None:
                wrong.append(
                    f"environment variable {name} is not set: set it, or write ${{{name}:-default}}"
                )
            else:
                return "$" if name is None else environment.get(name) or default or ""
            return ""

        substituted = _VARIABLE.sub(value, text)
        for message in wrong[:1]:
            self._document.problem(location, message, mark)
        return None if wrong else substituted

    def _scalar(self, node: yaml.Node, location: Location, mark: Mark) -> Any:
        text: str = node.value
        tag = node.tag.removeprefix(_TAG)
        if self._document.is_native and "$" in text and tag == "str":
            substituted = self._substituted(text, location, mark)
            if substituted is None:
                return text
            text = substituted
            if getattr(node, "style", None) is not None:
                return Substituted(text)
            # Plain: as if it had stood in the file.
            tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)
        if tag not in _SCALARS:
            message = f"tags are not supported, got {describe(node.tag)}"
            self._document.problem(location, message, mark)
        value = _value(tag, text)
        if isinstance(value, int) and describe(value) != text:
            self._document.written[location] = text
        return value


def _value(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int":
        try:
            # YAML 1.1 reads 010 as 8 and 1:30 as 90; nobody means that in a weight or a port.
            return int(text.replace("_", ""))
        except ValueError:
            return text
    return text
