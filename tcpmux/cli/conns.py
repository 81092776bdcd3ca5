"""`tcpmux conns` and `tcpmux kill`: the live connections, and their end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import (
    columns,
    duration_text,
    human_bytes,
    json_option,
    say,
    say_all,
    say_json,
    watch_option,
    watching,
)
from tcpmux.control.limits import MAX_CONNECTIONS
from tcpmux.control.schema import SORT_KEYS
from tcpmux.errors import UsageError, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tcpmux.control.client import Client, Connection, ConnectionList

F = TypeVar("F", bound="Callable[..., Any]")

HEADS = (
    "CLIENT",
    "ROUTE/DESTINATION",
    "ENDPOINT",
    "STATE",
    "AGE",
    "IDLE",
    "IN",
    "OUT",
    "W",
    "GEN",
    "PICK",
    "ID",
)
NUMBERS = (4, 5, 6, 7, 8, 9)
SHOWN = 10  # of those that kill is about


def _seconds(_ctx: click.Context, _option: click.Parameter, text: str) -> float:
    """`10m`, `1h30m`, `250ms`, or seconds."""
    if text == "0s":  # to load what follows takes a tenth of a second
        return 0.0
    from tcpmux.config.duration import parse_duration

    try:
        return float(text) if re.fullmatch("[0-9]{1,9}", text) else parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"expected a time such as 10m, got {text!r}") from None


_TIME: dict[str, Any] = {"metavar": "TIME", "default": "0s", "callback": _seconds}


def filter_options(command: F) -> F:
    """Which connections; as of Client.connections()."""
    for option in reversed(
        (
            click.option("--route", metavar="NAME", help="Only of this route."),
            click.option(
                "--destination", metavar="NAME", help="Only of this destination of --route."
            ),
            click.option(
                "--endpoint", metavar="ADDRESS", help="Only of this endpoint of --destination."
            ),
            click.option(
                "--src", "client", metavar="CIDR", help="Only from this network: 10.0.0.0/8."
            ),
            click.option(
                "--older",
                metavar="TIME",
                default="0s",
                callback=_seconds,
                help="Only those open for at least this long: 10m.",
            ),
            click.option(
                "--idle",
                metavar="TIME",
                default="0s",
                callback=_seconds,
                help="Only those without a byte for at least this long: 1m.",
            ),
        )
    ):
        command = option(command)
    return command


def _row(connection: Connection) -> tuple[str, ...]:
    return (
        connection["client"],
        f"{connection['route']}/{connection['destination'] or '-'}",
        connection["endpoint"] or "-",
        connection["state"],
        duration_text(connection["age"]),
        duration_text(connection["idle"]),
        human_bytes(connection["bytes_in"]),
        human_bytes(connection["bytes_out"]),
        str(connection["worker"]),
        str(connection["generation"]),
        connection["pick_reason"] or "-",
        connection["id"],
    )


def print_connections(connections: Sequence[Connection]) -> None:
    say_all(columns([HEADS, *map(_row, connections)], NUMBERS))


def _print(found: ConnectionList) -> None:
    print_connections(found["connections"])
    left = found["total"] - len(found["connections"])
    if left:
        say(f"and {left} more of {found['total']}: raise --limit, or filter")


@click.command("conns")
@filter_options
@click.option(
    "--sort", type=click.Choice(SORT_KEYS), default="age", help="Sort by this, greatest first."
)
@click.option("--reverse", is_flag=True, help="Smallest first.")
@click.option("--limit", type=click.IntRange(0, MAX_CONNECTIONS), default=1000, show_default=True)
@json_option
@watch_option
@admin_option
def conns(
    admin: str | None,
    *,
    sort: str,
    reverse: bool,
    limit: int,
    as_json: bool,
    watch: float | None,
    **filters: Any,
) -> int:
    """List the live connections.

    IN is bytes from the client so far, OUT bytes to it. W is the worker, GEN the generation of the
    routes by which the destination was picked, PICK the reason: by weight, or as the only
    destination with weight.

    \b
    Examples:
        tcpmux conns --sort bytes_out --limit 20 --watch
        tcpmux conns --route tcp-echo --destination v1 --idle 10m
        tcpmux conns --src 10.1.0.0/16 --json | jq -r '.connections[].id'
    """
    instance = client(admin)
    order = f"-{sort}" if reverse else sort

    def show() -> None:
        found = instance.connections(sort=order, limit=limit, **filters)
        if as_json:
            say_json(found)
        else:
            _print(found)

    return watching(watch, show)


def _say_what_would_be(instance: Client, wanted: Sequence[str]) -> int:
    found = instance.kill(wanted, dry_run=True)
    count = plural(found["left"], "connection")
    gone = f"; {found['gone']} of those named {'is' if found['gone'] == 1 else 'are'} not there"
    again = ": repeat it with --yes to do so" if found["left"] else ""
    say(f"would reset {count}{gone if found['gone'] else ''}{again}")
    return 0 if found["left"] or not wanted else 1


def _rate(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})(?:/(s|m))?", text, re.ASCII)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"expected a rate such as 10/s, got {text!r}")
    return int(found[1]) / (60.0 if found[2] == "m" else 1.0)


@click.command("kill")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@filter_options
@click.option(
    "--rate", callback=_rate, metavar="N/s", help="At most this many at a time: 10/s, 30/m."
)
@click.option("--yes", is_flag=True, help="Really reset them; without it, only show which.")
@admin_option
def kill(
    admin: str | None, ids: tuple[str, ...], *, rate: float | None, yes: bool, **filters: Any
) -> int:
    """Reset live connections, on both sides.

    Those whose ID is given, as `tcpmux conns` shows it, or all that the filters match; one of the
    two is needed. Clients that reconnect get a destination by the current weights.

    \b
    Examples:
        tcpmux kill --route tcp-echo --destination v1 --older 1h
        tcpmux kill --route tcp-echo --destination v1 --older 1h --rate 10/s --yes
        tcpmux kill 0-17-4 --yes
    """
    instance = client(admin)
    if bool(ids) == any(filters.values()):
        raise UsageError("name connections by ID, or give a filter such as --destination")
    wanted = list(ids)
    if not ids:
        found = instance.connections(limit=MAX_CONNECTIONS, **filters)
        wanted = [connection["id"] for connection in found["connections"]]
        if not yes:
            print_connections(found["connections"][:SHOWN])
            if found["total"] > SHOWN:
                say(f"and {found['total'] - SHOWN} more")
    if not yes:
        return _say_what_would_be(instance, wanted)
    answer = instance.kill(wanted, rate=rate)
    gone = f"; {answer['gone']} were gone" if answer["gone"] else ""
    say(f"reset {plural(answer['killed'], 'connection')}{gone}")
    if answer["left"]:
        say(f"{answer['left']} are still there: their worker may be stopped; try again")
    return 1 if answer["left"] else 0
