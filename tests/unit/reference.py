"""configs/reference.yaml beside the rows of tcpmux/config/settings.py: where each key stands, and
how one that is missing gets there."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import yaml

from tcpmux.config.check import Check
from tcpmux.config.rows import Kind, Row, rows_of
from tcpmux.config.settings import BALANCES, DestinationPolicy, EndpointPolicy, RoutePolicy
from tcpmux.config.written import text_of

Path = tuple[str | int, ...]
ROUTE: Path = ("routes", 0)
DESTINATION: Path = (*ROUTE, "destinations", 0)
ENDPOINT: Path = (*DESTINATION, "endpoints", 1)
DEFAULTS: Path = ("defaults",)
# What nothing said stands for can't be written, so there is an example.
EXAMPLES = {Kind.LIMIT: "1000", Kind.BANDWIDTH: "10MiB/s", Kind.RATE: "100/s"}
HAS_RANGE = (Kind.WHOLE, Kind.LIMIT, Kind.PERCENT, Kind.SECONDS, Kind.WHOLE_SECONDS, Kind.BANDWIDTH)


@dataclass(frozen=True)
class Entry:
    """A key that the reference has to have. inside: where it stands, without its own name."""

    inside: Path
    key: str
    row: Row
    default: Any

    @property
    def written(self) -> str:
        """Its default, or an example."""
        if self.row.kind is Kind.SECTION:
            parts = (f"{e.key}: {e.written}" for e in entries(self.row.table, self.path))
            return f"{{{', '.join(parts)}}}"
        return EXAMPLES.get(self.row.kind) or text_of(self.row, self.default)

    @property
    def path(self) -> Path:
        return (*self.inside, self.key)

    @property
    def range(self) -> str:
        """0s..30d; "" = it has none."""
        if self.row.kind not in HAS_RANGE:
            return ""
        kind = int if self.row.kind is not Kind.SECONDS else float
        return "..".join(text_of(self.row, kind(end)) for end in (self.row.low, self.row.high))


def entries(table: type, inside: Path) -> Iterator[Entry]:
    """Of one table, in order. What is written by hand is not among them."""
    defaults = {of.name: of.default for of in fields(table)}
    for key, row in rows_of(table).items():
        if row.kind is not Kind.OTHER:
            yield Entry(inside, row.key or key, row, defaults[key])


def all_entries() -> Iterator[Entry]:
    for entry in entries(DestinationPolicy, DEFAULTS):
        yield entry if entry.row.shared else Entry(DESTINATION, entry.key, entry.row, entry.default)
    yield from entries(RoutePolicy, ROUTE)
    yield from entries(EndpointPolicy, ENDPOINT)
    yield from entries(Check, (*DEFAULTS, "check"))


def leaves(entry: Entry) -> Iterator[Entry]:
    """It, or those inside."""
    if entry.row.kind is Kind.SECTION:
        for inner in entries(entry.row.table, entry.path):
            yield from leaves(inner)
    else:
        yield entry


# --- the text -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """Of a key: its line (from 0), the line after its value, and whether that is in braces."""

    line: int
    end: int
    column: int
    in_braces: bool


@lru_cache(maxsize=1)  # asked for each key in turn, of which few are missing
def nodes_of(text: str) -> Mapping[Path, Node]:
    found: dict[Path, Node] = {}

    def walk(node: yaml.Node, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, key.value)
                end = value.end_mark.line + (value.end_mark.column > 0)
                found[here] = Node(
                    key.start_mark.line, end, key.start_mark.column,
                    isinstance(value, yaml.MappingNode) and bool(value.flow_style),
                )  # fmt: skip
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for at, value in enumerate(node.value):
                walk(value, (*path, at))

    root = yaml.compose(text)
    assert root is not None
    walk(root, ())
    return found


def _last_line(lines: list[str], node: Node) -> int:
    """The last line of a value that says something."""
    at = max(node.end, node.line + 1)
    while not lines[at - 1].strip() or lines[at - 1].lstrip().startswith("#"):
        at -= 1
    return at


def with_entry(text: str, entry: Entry, after: str) -> str:
    """The reference with a key that is missing, after another one in the same place."""
    nodes, lines = nodes_of(text), text.splitlines()
    section = nodes.get(entry.inside)
    if section is not None and section.in_braces:
        line = lines[section.line]
        lines[section.line] = re.sub(r"}(?=[^}]*$)", f", {entry.key}: {entry.written}}}", line)
        return "\n".join(lines) + "\n"
    place: Path = (*entry.inside, after)
    node = nodes[place]
    at, indent = _last_line(lines, node), " " * node.column
    said = textwrap.wrap(entry.row.help, 95 - len(indent))
    lines[at:at] = [
        "", *(f"{indent}# {line}" for line in said), f"{indent}{entry.key}: {entry.written}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def ranges_of(text: str) -> dict[int, str]:
    """The comment that belongs at the end of each line: the ranges of the numbers in it."""
    nodes = nodes_of(text)
    found: dict[int, str] = {}
    for entry in all_entries():
        inner = [e for e in leaves(entry) if e.range and e.path in nodes]
        for leaf in inner:
            line = nodes[leaf.path].line
            several = len([e for e in inner if nodes[e.path].line == line]) > 1
            said = f"{leaf.key} {leaf.range}" if several else leaf.range
            found[line] = f"{found[line]}, {said}" if line in found else said
    return found


def with_ranges(text: str) -> str:
    lines = text.splitlines()
    for line, said in ranges_of(text).items():
        lines[line] = f"{lines[line].partition('  # ')[0]}  # {said}"
    return "\n".join(lines) + "\n"


def with_balances(text: str) -> str:
    """With a line for each algorithm, above its key."""
    lines = [f"  #   {name:<19} {said}\n" for name, said in BALANCES.items()]
    return re.sub(
        r"(chosen within its destination:\n)(?:  #   .*\n)+(?=  balance: )",
        rf"\1{''.join(lines)}",
        text,
    )


def made_of(text: str) -> str:
    """The reference with all that follows from the rows."""
    return with_balances(with_ranges(completed(text)))


def completed(text: str) -> str:
    """With the keys that are missing."""
    for entry in all_entries():
        for leaf in [entry] if entry.path not in nodes_of(text) else leaves(entry):
            nodes = nodes_of(text)
            if leaf.path not in nodes:
                table = [path[-1] for path in nodes if path[:-1] == leaf.inside]
                text = with_entry(text, leaf, str(_before(leaf, table)))
    return text


def _before(entry: Entry, there: list[Any]) -> Any:
    """The key after which it belongs: the one before it in its table that is there."""
    sections = [e.row.table for e in all_entries() if e.row.kind is Kind.SECTION]
    for table in (RoutePolicy, DestinationPolicy, EndpointPolicy, Check, *sections):
        rows = {row.key or key: row for key, row in rows_of(table).items()}
        if rows.get(entry.key) is entry.row:
            keys = list(rows)
            earlier = [key for key in keys[: keys.index(entry.key)] if key in there]
            return earlier[-1] if earlier else there[-1]
    raise LookupError(entry.key)
