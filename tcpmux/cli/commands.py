"""The commands, each loaded when it is run: the list, help and completion load none of them."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click


class Row(NamedTuple):
    """A command. where: its module in tcpmux.cli and its name there. summary: the first sentence
    of its help."""

    name: str
    where: str
    summary: str


COMMANDS = (
    Row("run", "run.run", "Run an instance in the foreground."),
    Row(
        "check",
        "check.check",
        "Say what is wrong with configuration files, and what a start would do.",
    ),
    Row("diff", "diff.diff", "Show what would change if the running instance read these files."),
    Row("convert", "convert.convert", "Print the routes.yaml that does the same as these files."),
    Row("fmt", "fmt.fmt", "Give configuration files one layout."),
    Row("schema", "schema.schema", "Print the JSON Schema of routes.yaml."),
    Row("status", "status.status", "Show the workers, the routes and how connections were split."),
    Row(
        "routes",
        "readings.routes",
        "Show the routes: where they listen, and who gets which share.",
    ),
    Row("conns", "conns.conns", "List the live connections."),
    Row(
        "stats",
        "readings.stats",
        "Show the counters: of every destination, with the reasons of ends, and of every worker.",
    ),
    Row(
        "events",
        "readings.events",
        "Show what has happened: reloads, weight changes, deaths, with who and when.",
    ),
    Row("top", "top.top", "Watch the split, the rates and the connections, live."),
    Row("weight", "weight.weight", "Shift the traffic of a route, at once."),
    Row("undo", "small.undo", "Go back to the weights ROUTE had before they were last changed."),
    Row("drain", "drain.drain", "Give no new connections to TARGET, and let the open ones end."),
    Row(
        "disable",
        "drain.disable",
        "Take TARGET out of service: no new connections; open ones stay.",
    ),
    Row("enable", "drain.enable", "Give TARGET new connections again."),
    Row(
        "endpoint",
        "endpoint.endpoint",
        "Show endpoints and their health, or take one out of service.",
    ),
    Row("kill", "conns.kill", "Reset live connections, on both sides."),
    Row("reload", "reload.reload_", "Have the configuration files read again."),
    Row("workers", "workers.workers", "Show the workers, or change how many there are to COUNT."),
    Row("log-level", "small.log_level", "Set how much is logged, until the next start."),
    Row(
        "upgrade",
        "upgrade.upgrade",
        "Change to the build of tcpmux that is installed now, without dropping a connection.",
    ),
    Row("stop", "stop.stop", "End the instance, and wait for it."),
    Row("completion", "small.completion", "Print what makes SHELL complete commands and options."),
    Row("demo", "demo.demo", "Watch traffic being shifted, in seconds."),
)
_BY_NAME = {row.name: row for row in COMMANDS}


def named(name: str) -> click.Command:
    """The command itself. Raises KeyError."""
    module, attribute = _BY_NAME[name].where.split(".")
    command: click.Command = getattr(import_module(f"tcpmux.cli.{module}"), attribute)
    return command


def stand_ins() -> list[click.Command]:
    """One for each command, with its name and its summary only."""
    return [click.Command(row.name, short_help=row.summary) for row in COMMANDS]
