"""`tcpmux endpoint`: the health of endpoints, and taking one out of service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import click

from tcpmux.cli import completing, targets
from tcpmux.cli.conditions import (
    UNKNOWN,
    condition_of,
    lasting,
    routes_named,
    since_text,
    urgency,
    word,
)
from tcpmux.cli.drain import for_option, force_option, seconds_of
from tcpmux.cli.instance import client
from tcpmux.cli.output import (
    columns,
    human_seconds,
    json_option,
    percent,
    say_json,
    say_painted,
    screen_width,
    watch_option,
    watching,
    wrapped,
)
from tcpmux.cli.targets import Target
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.condition import DOWN, HEALTHY, Condition
from tcpmux.errors import TcpmuxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tcpmux.control.client import (
        Client,
        DestinationStatus,
        EndpointStatus,
        NameStatus,
        RouteStatus,
    )

    class EndpointRow(EndpointStatus):
        """With what it is of."""

        route: str
        destination: str


VERBS = ("drain", "disable", "enable", "ready")
HEADS = ("ENDPOINT", "DESTINATION", "CONDITION", "SINCE", "SHARE", "ACTIVE", "NEXT TRY", "REASON")
LINES = 40  # that are healthy
WIDE = 100  # columns of a screen that has room for the time of day
UNRESOLVED = "unresolved"  # instead of the health of an endpoint


def endpoint_note(endpoint: EndpointStatus, now: float) -> str:
    """`down since 19:04:07 (12s): connection refused; tried again in 2s`. now: Unix time, s."""
    own = condition_of(endpoint)
    if own.word == UNKNOWN:
        own = Condition(endpoint["health"], endpoint["health_reason"], endpoint["health_since"])
    text = lasting(own, now)
    if own.reason:
        text += f": {own.reason}"
    return "; ".join([text, *_what_comes(endpoint, now)])


def _what_comes(endpoint: EndpointStatus, now: float) -> Iterator[str]:
    if endpoint["next_try"] is not None:
        yield f"tried again in {human_seconds(endpoint['next_try'] - now)}"
    if endpoint["state_until"]:
        yield f"ready again in {human_seconds(endpoint['state_until'] - now)}"


def slow_start_percent(of: DestinationStatus | EndpointStatus) -> int:
    """A running instance of a build before this one has it by its former name alone."""
    return of.get("slow_start_percent", of["ramp"])


def name_note(name: NameStatus, now: float) -> str:
    """`down since 19:04:07 (12s): does not resolve (...); looked up again in 2s`. now: Unix time,
    s."""
    own = condition_of(name)
    if own.word == UNKNOWN:
        own = Condition("down", name["error"], name["since"])
    text = f"{lasting(own, now)}: {own.reason}"
    if name["next_look"] is not None:
        text += f"; looked up again in {human_seconds(name['next_look'] - now)}"
    return text


def _rows(routes: Sequence[RouteStatus], text: str | None) -> list[EndpointRow]:
    """text: what they are of, or the name of one that does not resolve. Raises TcpmuxError."""
    every: list[EndpointRow] = [
        cast("Any", endpoint) | {"route": route["name"], "destination": destination["name"]}
        for route in routes
        for destination in route["destinations"]
        for endpoint in [*destination["endpoints"], *map(_unresolved, destination["names"])]
        if endpoint is not None
    ]
    if text is None:
        return every
    own = {id(row): Target(row["route"], row["destination"], row["address"]) for row in every}
    unresolved = [
        row
        for row in every
        if row["health"] == UNRESOLVED and text in (row["address"], str(own[id(row)]))
    ]
    if unresolved:
        return unresolved
    wanted = targets.find(routes, text)
    return [row for row in every if any(target.covers(own[id(row)]) for target in wanted)]


def _unresolved(name: NameStatus) -> EndpointStatus | None:
    """A name that can't be looked up stands where its addresses would."""
    if not name["error"]:
        return None
    return {
        "address": name["name"],
        "condition": name.get("condition", DOWN),
        "condition_reason": name.get("condition_reason", name["error"]),
        "condition_since": name.get("condition_since", name["since"]),
        "state": "ready",
        "health": UNRESOLVED,
        "health_reason": name["error"],
        "health_since": name["since"],
        "next_try": name["next_look"],
        "check": "off",
        "suspected": False,
        "slow_start_percent": 100,
        "ramp": 100,
        "state_until": None,
        "priority": 0,
        "max_connections": 0,
        "turns": 0,
        "connections_active": 0,
        "connections_total": 0,
        "connect_failures_total": 0,
    }


def _place(row: EndpointRow) -> tuple[str, str]:
    return row["route"], row["destination"]


def _turns(routes: Sequence[RouteStatus]) -> dict[tuple[str, str], int]:
    """Of all endpoints of each destination."""
    return {
        (route["name"], destination["name"]): sum(e["turns"] for e in destination["endpoints"])
        for route in routes
        for destination in route["destinations"]
    }


def _lines(
    found: Sequence[EndpointRow], turns: Mapping[tuple[str, str], int], now: float, *, whole: bool
) -> Iterator[str]:
    """The worst first. turns: as _turns(). whole: all, however many are healthy."""
    ordered = sorted(found, key=lambda row: urgency(condition_of(row)))
    healthy = [row for row in ordered if condition_of(row).word == HEALTHY]
    left_out = 0 if whole else max(0, len(healthy) - LINES)
    shown = ordered[: len(ordered) - left_out]
    most = screen_width()
    wide = most is None or most >= WIDE
    heads = HEADS if wide else tuple(head.replace("SINCE", "FOR") for head in HEADS)
    rows = [heads, *(_cells(row, now, turns[_place(row)], wide=wide) for row in shown)]
    if most is None:
        yield from columns(rows, (3, 4, 5, 6))
    else:  # the reason would not fit beside the rest
        lines = columns([row[:-1] for row in rows], (3, 4, 5, 6), optional=(5, 4, 6, 1), most=most)
        yield next(lines)
        for row, line in zip(rows[1:], lines, strict=True):
            yield line
            if row[-1] != "-":
                yield from wrapped(row[-1], "    ", most)
    if left_out:
        yield f"and {left_out} healthy: --all shows them"


def _cells(row: EndpointRow, now: float, turns: int, *, wide: bool) -> tuple[str, ...]:
    """turns: of all endpoints of its destination. wide: there is room for the time of day."""
    own = condition_of(row)
    reason, slow = own.reason, slow_start_percent(row)
    if slow < 100 and "slow start" not in reason:
        reason = "; ".join(filter(None, (reason, f"slow start: {slow}% of its share")))
    since, next_try, until = own.since, row["next_try"], row["state_until"]
    lasts = "-"
    if since:
        lasts = since_text(since, now) if wide else human_seconds(now - since)
    comes = f"{human_seconds(next_try - now)}" if next_try else "-"
    return (
        row["address"],
        f"{row['route']}/{row['destination']}",
        word(own),
        lasts,
        percent(row["turns"], turns) if row["turns"] else "-",
        str(row["connections_active"]),
        f"ready in {human_seconds(until - now)}" if until else comes,
        reason or "-",
    )


@click.command("endpoint")
@click.argument("target", required=False, shell_complete=completing.endpoint)
@click.argument(
    "verb",
    metavar="[drain|disable|enable]",
    required=False,
    shell_complete=completing.words("drain", "disable", "enable"),
)
@for_option
@click.option(
    "--route",
    "only",
    metavar="ROUTE",
    multiple=True,
    help="Only in this route; may be repeated. [default: in every route that has the address]",
)
@click.option("--all", "whole", is_flag=True, help="Show every endpoint, also the healthy ones.")
@force_option
@json_option
@watch_option
@admin_option
def endpoint(
    admin: Where,
    target: str | None,
    verb: str | None,
    for_: str | None,
    only: tuple[str, ...],
    force: bool,
    as_json: bool,
    watch: float | None,
    whole: bool,
) -> int:
    """Show endpoints and their condition, or take one out of service.

    Without TARGET, shows all endpoints, the worst first: their condition, since when and why, and
    when they will be tried again. TARGET is a route, ROUTE/DESTINATION or
    ROUTE/DESTINATION/ADDRESS; an ADDRESS alone is that endpoint in all routes that have it, or in
    those that --route names. "SHARE" is the part of its destination's connections that an endpoint
    gets.

    drain and disable send an endpoint no new connections; with --for it becomes ready again after
    that time. enable (or ready) returns it to service. A change applies to all of these routes
    or, if it is refused for one of them, to none.

    \b
    Examples:
        tcpmux endpoint
        tcpmux endpoint shop/v2
        tcpmux endpoint 10.0.0.7:9000 drain --for 10m
        tcpmux endpoint 10.0.0.7:9000 drain --route shop
        tcpmux endpoint 10.0.0.7:9000 ready
    """
    instance = client(admin, reads=verb is None)
    if verb is not None:
        assert target is not None
        return _change(instance, target, verb, for_, only, force=force)
    if for_ or force:
        raise UsageError("--for and --force require drain or disable")

    def show() -> None:
        routes = routes_named(instance.routes(), only)
        found = _rows(routes, target)
        if as_json:
            say_json(found)
        else:
            lines = _lines(found, _turns(routes), time.time(), whole=whole or target is not None)
            say_painted(lines)

    return watching(watch, show)


def _change(
    instance: Client,
    text: str,
    verb: str,
    for_: str | None,
    only: Sequence[str],
    *,
    force: bool,
) -> int:
    if verb not in VERBS:
        raise UsageError(f"expected one of {', '.join(VERBS)}, got {verb}")
    if for_ is not None and verb not in ("drain", "disable"):
        raise UsageError("--for requires drain or disable")
    seconds = seconds_of(for_)
    routes = routes_named(instance.routes(), only)
    found = [target for target in targets.find(routes, text) if target.endpoint]
    if not found:
        raise TcpmuxError(f"{text} is not an endpoint: use `tcpmux {verb} {text}`")
    targets.change(instance, found, verb, force=force, seconds=seconds)
    return 0
