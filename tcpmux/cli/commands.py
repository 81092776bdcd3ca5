"""The commands, each loaded when it is run: the list, help and completion load none of them."""

from __future__ import annotations

from importlib import import_module

import click

from tcpmux.control.operation import Command
from tcpmux.control.operations import OPERATIONS

# Those that ask nobody, before and after those of the operations.
_FIRST = (
    Command("run", "Run an instance in the foreground."),
    Command("check", "Check configuration files, and show what a start would do."),
    Command("convert", "Print the routes.yaml that is equivalent to these files."),
    Command("fmt", "Format configuration files."),
    Command("schema", "Print the JSON Schema of routes.yaml."),
)
_LAST = (
    Command(
        "completion",
        "Print the completion script for SHELL.",
        "small.completion",
    ),
    Command("demo", "Watch traffic being shifted, in seconds."),
)
COMMANDS = (*_FIRST, *(command for row in OPERATIONS for command in row.commands), *_LAST)
_BY_NAME = {row.name: row for row in COMMANDS}


def named(name: str) -> click.Command:
    """The command itself. Raises KeyError."""
    module, attribute = (_BY_NAME[name].where or f"{name}.{name}").split(".")
    command: click.Command = getattr(import_module(f"tcpmux.cli.{module}"), attribute)
    return command


def stand_ins() -> list[click.Command]:
    """One for each command, with its name and its summary only."""
    return [click.Command(row.name, short_help=row.summary) for row in COMMANDS]
