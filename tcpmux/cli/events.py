"""`tcpmux events`: what has happened, when, and who caused it."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import (
    Styled,
    json_option,
    painted,
    say_json,
    say_painted,
    watch_option,
    watching,
)
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.limits import MAX_EVENTS
from tcpmux.errors import printable

if TYPE_CHECKING:
    from tcpmux.control.client import Client, Event

KEPT = 1000  # by an instance
# By level: clients lose by it, or trouble. What is in order has none.
COLORS = {"error": "red", "warning": "yellow"}


def _since(_ctx: click.Context, _option: click.Parameter, text: str) -> int | float:
    try:
        return parse_since(text, datetime.now().astimezone())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            "expected a time such as 10m, 12:30 or 2026-11-28T12:30, or the number of an event, "
            f"got {text!r}"
        ) from None


def parse_since(text: str, now: datetime) -> int | float:
    """`17`: the number of an event. Else Unix time, s: `10m` ago; `12:30`, the last time that it
    was, where `now` is; `2026-11-28`, `2026-11-28T12:30`, there unless it names a zone. Raises
    ValueError."""
    if text.isascii() and text.isdecimal():
        if int(text[:20]) > MAX_EVENTS:
            raise ValueError(text)
        return int(text)
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text, re.ASCII):
        hour, minute, second = map(int, f"{text}:0".split(":")[:3])
        then = now.replace(hour=hour, minute=minute, second=second, microsecond=0, tzinfo=None)
        return (then if then <= now.replace(tzinfo=None) else then - timedelta(1)).timestamp()
    if re.match(r"[0-9]{4}-", text, re.ASCII):
        # Python 3.10 knows no Z.
        return datetime.fromisoformat(
            text.removesuffix("Z") + "+00:00" * text.endswith("Z")
        ).timestamp()
    from tcpmux.config.duration import parse_duration

    return now.timestamp() - parse_duration(text)


def _line(event: Event) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    level = event.get("level", "info")  # of a build before this one there is none
    kind = painted(printable(f"{event['kind']:<9}"), Styled("", COLORS.get(level, "")))
    by = f" [{event['by']}]" if event["by"] else ""
    return f"{when} {kind} {printable(event['text'] + by)}"


def found_since(instance: Client, since: float) -> list[Event]:
    """since: as of parse_since()."""
    if isinstance(since, int):
        return instance.events(since)
    return [event for event in instance.events() if event["time"] >= since]


@click.command("events")
@click.option(
    "--since",
    callback=_since,
    metavar="TIME|NUMBER",
    default="0",
    help=(
        "Only events since a time (10m ago: 10m; 12:30; 2026-11-28T12:30) or after the event "
        "with this number."
    ),
)
@click.option(
    "--limit",
    type=click.IntRange(1, KEPT),
    default=KEPT,
    help="Show at most this many, the latest ones.",
)
@json_option
@watch_option
@admin_option
def events(admin: Where, since: float, limit: int, as_json: bool, watch: float | None) -> int:
    """Show events: reloads, weight changes, deaths, with who caused them and when.

    Shows up to the last 1,000, including those from before an upgrade, with the user and process
    that made a request, or the signal. Times are in this machine's time zone.

    \b
    Examples:
        tcpmux events --limit 20
        tcpmux events --since 10m
        tcpmux events --since 2026-11-28T12:30
        tcpmux events --json | jq '.[] | select(.kind == "weights")'
    """
    instance = client(admin, reads=True)

    def show() -> None:
        found = found_since(instance, since)[-limit:]
        if as_json:
            say_json(found)
        else:
            for event in found:
                say_painted([_line(event)])

    return watching(watch, show)
