"""Changing weights in the text of a routes.yaml, and nothing else of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from tcpmux.config.document import Document, read_documents
from tcpmux.config.problems import ConfigError, Location, Problem
from tcpmux.config.rewrite import NotWritten, Target, rewrite
from tcpmux.config.sources import sources_of
from tcpmux.errors import TcpmuxError
from tcpmux.files import Unreadable, read_file


class NotSaved(TcpmuxError):
    """The file stays as it is; the text says why."""


class _Edit(NamedTuple):
    """At a position that counts from 1, `replaces` characters become `text`."""

    line: int
    column: int
    replaces: int
    text: str


def save_weights(
    names: Sequence[str], route: str, weights: Mapping[str, int], rule: str = ""
) -> Path:
    """Writes weights of a route's destinations, or of those of one of its rules, into the file that
    has it; returns that file. names: of the sources that the file may belong to. rule: as
    Rule.called.

    All else in it stays as it is, to the byte. It is replaced as a whole or not at all, and only
    if nobody has written to it meanwhile; where its path is a link, the file that it leads to.
    Raises NotSaved, ConfigError.
    """
    path, number, index = _find(names, route)
    try:
        target = Target.of(path)
        text = read_file(target.path).data.decode("utf-8")
    except (NotWritten, Unreadable) as error:
        raise NotSaved(str(error)) from None
    documents = read_documents(path)
    lines = text.split("\n")
    values: list[Any] = [copy.deepcopy(document.value) for document in documents]
    wanted = values[number]["routes"][index]
    if rule:
        here = ("routes", index, "rules", _rule_at(documents[number], wanted, rule))
        edits = _rule_edits(documents[number], lines, here, wanted["rules"][here[-1]], weights)
    else:
        edits = _edits(documents[number], lines, index, weights)
        for destination in wanted["destinations"]:
            if destination["name"] in weights:
                destination["weight"] = weights[destination["name"]]
    for edit in sorted(edits, reverse=True):
        line, at = lines[edit.line - 1], edit.column - 1
        lines[edit.line - 1] = line[:at] + edit.text + line[at + edit.replaces :]
    _replace(target, "\n".join(lines), values)
    return path


def _find(names: Sequence[str], route: str) -> tuple[Path, int, int]:
    """The file, which of its documents, and which of the routes there."""
    problems: list[Problem] = []
    for path in (path for source in sources_of(names) for path in source.files(problems)):
        for number, document in enumerate(read_documents(path)):
            routes = document.value.get("routes") if isinstance(document.value, dict) else None
            for index, found in enumerate(routes or ()):
                if document.is_native and isinstance(found, dict) and found.get("name") == route:
                    return path, number, index
    if problems:
        raise ConfigError(problems)
    raise NotSaved(
        f"route {route} is in no routes.yaml of {', '.join(names)}: change the resource "
        "that it is made of, or write it out with `tcpmux convert`"
    )


def _edits(
    document: Document, lines: Sequence[str], index: int, weights: Mapping[str, int]
) -> list[_Edit]:
    edits = []
    destinations = document.value["routes"][index].get("destinations") or []
    left = dict(weights)
    for at, destination in enumerate(destinations):
        here = ("routes", index, "destinations", at)
        name = destination.get("name") if isinstance(destination, dict) else None
        if name not in left:
            continue
        weight = left.pop(name)
        if "weight" in destination:
            edits.append(_other_number(document, lines, (*here, "weight"), weight))
        else:
            edits.append(_new_weight(lines, *document.key_mark((*here, "name")), weight))
    if left:
        raise NotSaved(f"{document.file}: no destination named {', '.join(left)} in that route")
    return edits


def _rule_at(document: Document, route: Any, name: str) -> int:
    """Which of the route's rules is called so."""
    from tcpmux.config.rule_schema import RuleModel  # with pydantic

    for number, value in enumerate(route.get("rules") or ()):
        with suppress(ValidationError):
            if RuleModel.model_validate(value).made().called == name:
                return number
    raise NotSaved(f"{document.file}: no rule named {name} in that route")


def _rule_edits(
    document: Document, lines: Sequence[str], here: Location, rule: Any, weights: Mapping[str, int]
) -> list[_Edit]:
    """Changes `rule` as well. `to: v2` becomes weights."""
    if "to" in rule:
        whole = {rule["to"]: 1, **weights}
        line, column = document.key_mark((*here, "to"))
        end_line, end = document.mark((*here, "to"))
        end += len(_plain_scalar(lines[end_line - 1][end - 1 :]))
        if line != end_line:
            raise NotSaved(f"{document.file}:{line}:{column}: edit it by hand: give it weights")
        del rule["to"]
        rule["weights"] = whole
        told = ", ".join(f"{name}: {weight}" for name, weight in whole.items())
        return [_Edit(line, column, end - column, f"weights: {{{told}}}")]
    edits = []
    for name, weight in weights.items():
        if name in rule["weights"]:
            edits.append(_other_number(document, lines, (*here, "weights", name), weight))
        elif weight:
            first = (*here, "weights", next(iter(rule["weights"])))
            edits.append(_new_entry(lines, *document.key_mark(first), f"{name}: {weight}"))
        else:
            continue
        rule["weights"][name] = weight
    return edits


def _other_number(document: Document, lines: Sequence[str], at: Location, number: int) -> _Edit:
    """Raises NotSaved if what stands there is no plain number."""
    line, column = document.mark(at)
    old = _plain_scalar(lines[line - 1][column - 1 :])
    if not old.isdigit():
        raise NotSaved(f"{document.file}:{line}:{column}: {old} is not a number: edit it by hand")
    return _Edit(line, column, len(old), str(number))


def _new_entry(lines: Sequence[str], line: int, column: int, entry: str) -> _Edit:
    """In front of the first one of a mapping: on its line in a { }, else on a line of its own."""
    is_flow = lines[line - 1][: column - 1].strip(" -")
    end = ", " if is_flow else f"\n{' ' * (column - 1)}"
    return _Edit(line, column, 0, entry + end)


def _new_weight(lines: Sequence[str], line: int, column: int, weight: int) -> _Edit:
    """For a destination that has none: after the line of its name, or before it in a { }."""
    text = lines[line - 1]
    if text[: column - 1].strip(" -"):
        return _Edit(line, column, 0, f"weight: {weight}, ")
    end = "\r" if text.endswith("\r") else ""
    at = len(text) - len(end) + 1
    return _Edit(line, at, 0, f"{end}\n{' ' * (column - 1)}weight: {weight}")


def _plain_scalar(rest: str) -> str:
    end = next((i for i, c in enumerate(rest) if c in ",}] \t\r#"), len(rest))
    return rest[:end]


def _replace(target: Target, text: str, expected: Sequence[Any]) -> None:
    def check(name: str) -> None:
        with suppress(ConfigError):
            if [document.value for document in read_documents(name)] == expected:
                return
        raise NotSaved(
            f"{target.path}: its weights use YAML anchors and can't be changed separately: edit "
            f"them by hand"
        )

    try:
        rewrite(target, text.encode(), check)
    except NotWritten as error:
        raise NotSaved(str(error)) from None
