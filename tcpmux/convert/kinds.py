"""Which program a file is for, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tcpmux.config.foreign import KINDS, kind_of_text
from tcpmux.config.problems import ConfigError, Problem
from tcpmux.config.sources import Files, source_of
from tcpmux.convert.draft import Draft
from tcpmux.convert.report import Report
from tcpmux.files import Unreadable, read_file

__all__ = ["KINDS", "Input", "Reader", "Result", "kind_of", "read_input", "reader_of"]


@dataclass(frozen=True, slots=True)
class Input:
    """One file. name: as it was given."""

    name: str
    content: str


@dataclass(slots=True)
class Result:
    """settings: keys of Config that are of the instance, such as workers and drain_timeout."""

    drafts: list[Draft] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)


Reader = Callable[[Sequence[Input], Report], Result]
# tcpmux/convert/KIND has a function read(), a Reader.


def kind_of(path: str) -> str:
    """By its name, else by what is in it; "" = none of them: a file of tcpmux's own, or resources
    of Kubernetes."""
    if not isinstance(source_of(path), Files):
        return ""
    if not Path(path).is_file():
        return kind_of_text(path, "")
    return kind_of_text(path, read_input(path).content)


def reader_of(kind: str) -> Reader:
    found: Reader = import_module(f"tcpmux.convert.{kind}").read
    return found


def read_input(path: str) -> Input:
    """Raises ConfigError."""
    try:
        return Input(path, read_file(path).data.decode("utf-8"))
    except Unreadable as error:
        raise ConfigError([Problem(path, 0, 0, "", str(error))]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(path, 0, 0, "", f"can't be read: {error}")]) from None
