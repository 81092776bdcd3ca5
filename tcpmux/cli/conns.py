"""`tcpmux conns`: the live connections, one by one or in groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcpmux.cli import completing, targets
from tcpmux.cli.instance import client
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
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.converge_text import WORDS
from tcpmux.control.limits import MAX_CONNECTIONS
from tcpmux.control.schema import GROUP_KEYS, GROUP_SORT_KEYS, SORT_KEYS
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tcpmux.control.client import Client, Connection, ConnectionGroups, ConnectionList
    from tcpmux.control.schema import GroupKey

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
# Columns in front of the last one, each where there is something in it.
EXTRA: dict[str, Callable[[Connection], str | None]] = {
    "RULE": lambda connection: connection.get("rule"),
    "VIA": lambda connection: connection.get("peer"),
    "SERVER NAME": lambda connection: connection.get("sni"),
    "STAYS": lambda connection: WORDS.get(connection.get("stays") or ""),
    "TLVS": lambda connection: connection.get("proxy_tlvs"),
}
GROUP_HEADS = ("CONNECTIONS", "IN", "OUT", "OLDEST")
ROWS = 1000  # by default


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
            click.option(
                "--route",
                metavar="NAME",
                help="Only connections of this route.",
                shell_complete=completing.route,
            ),
            click.option(
                "--destination",
                metavar="NAME",
                help="Only connections of destinations with this name.",
                shell_complete=completing.part("destination"),
            ),
            click.option(
                "--endpoint",
                metavar="ADDRESS",
                help="Only connections to this endpoint address.",
                shell_complete=completing.part("endpoint"),
            ),
            click.option(
                "--rule",
                metavar="NAME",
                help="Only connections that have met rules with this name.",
                shell_complete=completing.rule,
            ),
            click.option(
                "--src",
                "client",
                metavar="CIDR",
                help="Only connections from this address or network: 10.0.0.0/8.",
            ),
            click.option(
                "--older",
                **_TIME,
                help="Only connections at least this old: 10m.",
            ),
            click.option(
                "--idle",
                **_TIME,
                help="Only connections idle for at least this long: 1m.",
            ),
        )
    ):
        command = option(command)
    return command


def narrowed(instance: Client, target: str | None, filters: dict[str, Any]) -> dict[str, Any]:
    """The filters, and what TARGET adds to them. Raises TcpmuxError if they contradict."""
    if target is None:
        return filters
    found = targets.find_in(instance, target)
    named = found[0].as_json() if len(found) == 1 else {"endpoint": found[0].last_name}
    for name, value in named.items():
        if filters[name] not in (None, value):
            raise UsageError(f"{target} contradicts --{name} {filters[name]}: use one of the two")
    return {**filters, **named}


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
    rows = [HEADS, *map(_row, connections)]
    for head, text in EXTRA.items():
        cells = [text(connection) for connection in connections]
        if any(cells):
            more = (head, *(cell or "-" for cell in cells))
            rows = [(*row[:-1], cell, row[-1]) for row, cell in zip(rows, more, strict=True)]
    say_all(columns(rows, NUMBERS))


def _print(found: ConnectionList) -> None:
    print_connections(found["connections"])
    left = found["total"] - len(found["connections"])
    if left:
        say(f"and {left} more of {found['total']}: raise --limit, or filter")


def _print_groups(found: ConnectionGroups, by: GroupKey) -> None:
    head = {"client": "CLIENT", "route": "ROUTE", "destination": "ROUTE/DESTINATION"}
    rows = [(head.get(by, "ROUTE/DESTINATION/ENDPOINT"), *GROUP_HEADS)]
    levels = ("client",) if by == "client" else GROUP_KEYS[: GROUP_KEYS.index(by) + 1]
    rows += [
        (
            "/".join(str(group[level] or "-") for level in levels),
            str(group["connections"]),
            human_bytes(group["bytes_in"]),
            human_bytes(group["bytes_out"]),
            duration_text(group["age"]),
        )
        for group in found["groups"]
    ]
    say_all(columns(rows, (1, 2, 3, 4)))
    left = found["groups_total"] - len(found["groups"])
    if left:
        say(f"and {left} more of {found['groups_total']}: raise --limit, or filter")


def _sort_key(by: str | None, sort: str | None) -> str:
    keys = GROUP_SORT_KEYS if by else SORT_KEYS
    if sort is not None and sort not in keys:
        what = f"--by {by}" if by else "connections"
        raise UsageError(f"{what} can be sorted by {', '.join(keys)}, not by {sort}")
    return sort or keys[0]


@click.command("conns")
@click.argument("target", required=False, shell_complete=completing.target)
@filter_options
@click.option("--by", type=click.Choice(GROUP_KEYS), help="Count connections, grouped by this.")
@click.option(
    "--sort",
    type=click.Choice(tuple(dict.fromkeys((*SORT_KEYS, *GROUP_SORT_KEYS)))),
    help="Sort by this, greatest first. [default: age; with --by: connections]",
)
@click.option("--reverse", is_flag=True, help="Smallest first.")
@click.option("--limit", type=click.IntRange(0, MAX_CONNECTIONS), default=ROWS, show_default=True)
@json_option
@watch_option
@admin_option
def conns(
    admin: Where,
    target: str | None,
    *,
    by: GroupKey | None,
    sort: str | None,
    reverse: bool,
    limit: int,
    as_json: bool,
    watch: float | None,
    **filters: Any,
) -> int:
    """List the live connections.

    TARGET is ROUTE, ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS; without it, all connections are
    listed. The options narrow the list further.

    IN is bytes from the client so far, OUT bytes to it. W is the worker, GEN the generation of the
    routes by which the destination was picked, PICK the reason: by weight, or as the only
    destination with weight. RULE is the rule of the route that it has met, VIA the load balancer
    whose PROXY header named the client, TLVS what is kept of that header. STAYS is why `tcpmux
    converge` could not have it go elsewhere now: busy, in a transaction, subscribed. With --by,
    OLDEST is the age of the oldest connection of a group.

    \b
    Examples:
        tcpmux conns --sort bytes_out --limit 20 --watch
        tcpmux conns tcp-echo/v1 --idle 10m
        tcpmux conns tcp-echo --by client
        tcpmux conns tcp-echo --rule testers
        tcpmux conns --src 10.1.0.0/16 --json | jq -r '.connections[].id'
    """
    key = _sort_key(by, sort)
    instance = client(admin, reads=True)
    order: Any = f"-{key}" if reverse else key  # one that it takes, by _sort_key()
    wanted = narrowed(instance, target, filters)

    def show() -> None:
        if by is not None:
            groups = instance.connection_groups(by, sort=order, limit=limit, **wanted)
            say_json(groups) if as_json else _print_groups(groups, by)
            return
        found = instance.connections(sort=order, limit=limit, **wanted)
        say_json(found) if as_json else _print(found)

    return watching(watch, show)
