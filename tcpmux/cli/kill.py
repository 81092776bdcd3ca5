"""`tcpmux kill`: resets live connections."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli import completing
from tcpmux.cli.conns import filter_options, narrowed, print_connections
from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.where import Where, admin_option
from tcpmux.connection_id import parse_id
from tcpmux.control.limits import MAX_CONNECTIONS
from tcpmux.errors import UsageError, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tcpmux.control.client import Client

SHOWN = 10  # of those that a dry run is about


def _rate(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})(?:/(s|m))?", text, re.ASCII)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"expected a rate such as 10/s, got {text!r}")
    return int(found[1]) / (60.0 if found[2] == "m" else 1.0)


@click.command("kill")
@click.argument("what", metavar="[TARGET|ID...]", nargs=-1, shell_complete=completing.target)
@filter_options
@click.option(
    "--rate",
    callback=_rate,
    metavar="N/s",
    help="Reset at most this many per second or minute: 10/s, 30/m.",
)
@click.option(
    "--yes", is_flag=True, help="Reset the connections; without this option, only list them."
)
@admin_option
def kill(
    admin: Where, what: tuple[str, ...], *, rate: float | None, yes: bool, **filters: Any
) -> int:
    """Reset live connections, on both sides.

    Resets the connections of TARGET (ROUTE, ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS) that
    match the options, or those with the given IDs, as `tcpmux conns` shows them. Clients that
    reconnect get a destination by the current weights.

    \b
    Examples:
        tcpmux kill tcp-echo/v1 --older 1h
        tcpmux kill tcp-echo/v1 --older 1h --rate 10/s --yes
        tcpmux kill 0-17-4 --yes
    """
    instance = client(admin, reads=not yes)
    target = what[0] if len(what) == 1 and parse_id(what[0]) is None else None
    ids = () if target else what
    if bool(ids) == bool(target or any(filters.values())):
        raise UsageError("expected a TARGET, an option such as --src, or the IDs of connections")
    wanted = {} if ids else narrowed(instance, target, filters)
    if not yes:
        return _show(instance, ids, wanted)
    return _reset(instance, ids, wanted, rate)


def _show(instance: Client, ids: Sequence[str], wanted: dict[str, Any]) -> int:
    """What would be reset. Returns the exit code."""
    if ids:
        found = instance.kill(ids, dry_run=True)
        left, gone = found["left"], found["gone"]
    else:
        listed = instance.connections(limit=SHOWN, **wanted)
        left, gone = listed["total"], 0
        print_connections(listed["connections"])
        if left > len(listed["connections"]):
            say(f"and {left - len(listed['connections'])} more")
    count = plural(left, "connection")
    absent = (
        f"; {gone} of the IDs {'is' if gone == 1 else 'are'} not of an open connection"
        if gone
        else ""
    )
    again = "; add --yes to reset" if left else ""
    say(f"would reset {count}{absent}{again}")
    return 1 if ids and not left else 0


def _reset(instance: Client, ids: Sequence[str], wanted: dict[str, Any], rate: float | None) -> int:
    """Returns the exit code."""
    if ids:
        answer = instance.kill(ids, rate=rate)
        killed, gone, left = answer["killed"], answer["gone"], answer["left"]
    else:
        killed, gone, left = _reset_matching(instance, wanted, rate)
    say(f"reset {plural(killed, 'connection')}{f'; {gone} had ended already' if gone else ''}")
    if left:
        say(f"{left} not reset: their worker may be stopped; try again")
    return 1 if left else 0


def _reset_matching(
    instance: Client, wanted: dict[str, Any], rate: float | None
) -> tuple[int, int, int]:
    """All that match now, however many an answer may list; not those that come meanwhile. Returns
    how many were reset, had gone, and are left."""
    start = time.monotonic()
    killed = gone = 0
    while True:
        older = max(wanted["older"], time.monotonic() - start)
        found = instance.connections(limit=MAX_CONNECTIONS, **{**wanted, "older": older})
        answer = instance.kill([each["id"] for each in found["connections"]], rate=rate)
        killed += answer["killed"]
        gone += answer["gone"]
        if answer["left"] or found["total"] <= len(found["connections"]):
            return killed, gone, answer["left"]
