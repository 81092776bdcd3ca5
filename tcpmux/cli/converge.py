"""`tcpmux converge`: live connections of a route follow its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing
from tcpmux.cli.converging import (
    deadline_option,
    done_so_far,
    left_over,
    plan_text,
    seconds,
    then_option,
)
from tcpmux.cli.instance import client
from tcpmux.cli.output import print_applied, say
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.limits import CONVERGE_METHODS, CONVERGE_ORDERS
from tcpmux.control.schema import CONVERGED
from tcpmux.errors import TcpmuxError, UsageError

if TYPE_CHECKING:
    from tcpmux.control.client import Client, Status
    from tcpmux.control.schema import ConvergeMethod, ConvergeOrder, ConvergeThen, Event


@click.command("converge")
@click.argument("route", shell_complete=completing.route)
@click.option("--rate", metavar="RATE", help="Close at most so many per second: 20/s, 1%/s.")
@click.option(
    "--quiet",
    callback=seconds,
    metavar="DURATION",
    help="Close only connections on which no byte has moved for this long: 300ms.",
)
@deadline_option
@then_option
@click.option(
    "--method",
    type=click.Choice(CONVERGE_METHODS),
    help="Close them, or rehome them: another endpoint, and their clients stay.",
)
@click.option("--order", type=click.Choice(CONVERGE_ORDERS), help="Which are closed first.")
@click.option(
    "--tolerance",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Connections more than its share that a destination may keep.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and how long it would take."
)
@click.option("--stop", is_flag=True, help="End what is in progress: connections stay.")
@click.option("--wait", is_flag=True, help="Wait for the end, showing what is left.")
@admin_option
def converge(
    admin: Where,
    route: str,
    *,
    rate: str | None,
    quiet: float | None,
    deadline: float | None,
    then: ConvergeThen | None,
    method: ConvergeMethod | None,
    order: ConvergeOrder | None,
    tolerance: int | None,
    dry_run: bool,
    stop: bool,
    wait: bool,
) -> int:
    """Close live connections of ROUTE until they follow its weights.

    Weights decide where new connections go; open ones stay where they are. This closes those that a
    destination has more than its share of, at a limited rate, and only in quiet moments: the
    endpoint spoke last, nothing is under way, and no byte has moved for --quiet. Clients that
    reconnect get a destination by the current weights. It pauses by itself while connects fail or
    clients don't come back. With --method rehome nobody reconnects: tcpmux connects to the other
    destination first, and has the connection go on there. That is for protocols whose endpoint
    keeps no state between requests, and in which the client speaks first; and for redis, whose
    state is told to the next endpoint. What is not given is as `converge:` of the route says.

    \b
    Examples:
        tcpmux converge tcp-echo --dry-run
        tcpmux converge tcp-echo --rate 20/s --quiet 300ms --deadline 5m --wait
        tcpmux converge tcp-echo --stop
    """
    instance = client(admin, reads=dry_run)
    settings = (rate, quiet, deadline, then, method, order, tolerance)
    if stop:
        if dry_run or wait or any(value is not None for value in settings):
            raise UsageError("--stop takes no other option")
        applied = instance.stop_converging(route)
        print_applied(applied, f"{route}: nothing to stop: no connections are being closed")
        return 0
    if dry_run and wait:
        raise UsageError("--dry-run changes nothing: there is nothing to wait for")
    before = _last_event(instance)
    plan = instance.converge(
        route,
        rate=rate,
        quiet=quiet,
        deadline=deadline,
        then=then,
        method=method,
        order=order,
        tolerance=tolerance,
        dry_run=dry_run,
    )
    say(f"{route}: {plan_text(plan)}")
    return wait_for_end(instance, route, before) if wait else 0


def _last_event(instance: Client) -> Event | None:
    events = instance.events()
    return events[-1] if events else None


def wait_for_end(instance: Client, route: str, before: Event | None) -> int:
    """Until it is over; says how it ended. before: the last event before it began. Returns the
    exit code: 1 if connections may be left that were to go."""
    shown = ""

    def is_over(status: Status) -> bool:
        nonlocal shown
        found = next((each for each in status["routes"] if each["name"] == route), None)
        if found is None:
            raise TcpmuxError(f"route {route} is gone")
        state = found["convergence"]
        if state is None:
            return True
        text = left_over(state).partition("; next try")[0]
        if text != shown:
            shown = text
            say(f"{route}: {done_so_far(state)}; {text}")
        return False

    instance.wait_for(is_over, None)
    events = instance.events()
    if before in events:  # else another master has begun to count anew
        del events[: events.index(before) + 1]
    ends = [
        event["text"]
        for event in events
        if event["kind"] == "converge" and event["text"].startswith(f"{route}: ")
    ]
    say(ends[-1] if ends else f"{route}: no connections are closed for the weights any more")
    return 0 if ends and ends[-1].startswith(f"{route}: {CONVERGED}") else 1
