"""`tcpmux drain`, `disable` and `enable`: whether a target gets new connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing, targets
from tcpmux.cli.converging import deadline_option, left_over, plan_text, then_option
from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.stop import STATUS_TIME, waiting_for
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.asking import WaitTimeout
from tcpmux.errors import TcpmuxError, UsageError, plural, printable

if TYPE_CHECKING:
    from tcpmux.control.client import Client, Status
    from tcpmux.control.schema import ConvergeMethod, ConvergeThen

for_option = click.option(
    "--for", "for_", metavar="DURATION", help="Make it ready again after this time: 90s, 10m, 2h."
)
force_option = click.option(
    "--force",
    is_flag=True,
    help="Proceed even if no destination is left; new connections are then reset.",
)


@click.command("drain")
@click.argument("target", metavar="[TARGET|all]", required=False, shell_complete=completing.target)
@admin_option
@click.option(
    "--wait", is_flag=True, help="Wait until no connections are left, showing how many are."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait at most this long."
)
@click.option(
    "--converge",
    is_flag=True,
    help="Close open connections as well, in quiet moments: see `tcpmux converge`.",
)
@click.option(
    "--rehome",
    is_flag=True,
    help="Have them go on elsewhere instead: see `tcpmux converge --method rehome`.",
)
@deadline_option
@then_option
@for_option
@force_option
def drain(
    admin: Where,
    target: str | None,
    *,
    wait: bool,
    timeout: float | None,
    converge: bool,
    rehome: bool,
    deadline: float | None,
    then: ConvergeThen | None,
    for_: str | None,
    force: bool,
) -> int:
    """Send no new connections to TARGET, and let the open ones end.

    TARGET is ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS. The others get its share at once. A
    drain survives reloads; `tcpmux enable` ends it. ROUTE drains all of its destinations, so that
    none is left to take connections: this requires --force. DESTINATION alone is enough where only
    one has that name; ADDRESS alone is every endpoint at that address.

    With --converge, connections of TARGET are closed in quiet moments, at the rate of the route's
    `converge` (10/s), so that their clients reconnect elsewhere; at the --deadline those left stay,
    or are reset. With --rehome their endpoint changes instead, and their clients stay.

    With --for, an endpoint becomes ready again after that time, and --wait waits no longer. Without
    it, an endpoint that was drained with --for keeps the time set then.

    `all`, or no TARGET, drains the instance itself: it accepts no new connections, open ones may
    end within drain_timeout, and then it exits, as with SIGTERM.

    \b
    Examples:
        tcpmux drain tcp-echo/v1 --wait --timeout 600
        tcpmux drain tcp-echo/v1 --converge --deadline 10m --then reset --wait
        tcpmux drain tcp-echo/v1/10.0.0.7:9000 --for 10m --wait
        tcpmux drain all --wait
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout requires --wait")
    if converge and rehome:
        raise UsageError("--converge closes connections and --rehome keeps them: one of the two")
    if not (converge or rehome) and (deadline is not None or then is not None):
        raise UsageError("--deadline and --then require --converge or --rehome")
    instance = client(admin)
    if target not in (None, "all"):
        assert target is not None
        seconds = seconds_of(for_)
        found = _change(instance, target, "drain", seconds, force=force)
        if converge or rehome:
            method: ConvergeMethod = "rehome" if rehome else "close"
            for route in dict.fromkeys(each.route for each in found):
                plan = instance.converge(route, deadline=deadline, then=then, method=method)
                say(f"{printable(route)}: {plan_text(plan)}")
        if seconds:
            timeout = seconds if timeout is None else min(timeout, seconds)
        ends = converge or rehome
        return _wait(instance, found, timeout, ends_by_itself=ends) if wait else 0
    if timeout is not None or force or for_ is not None or converge or rehome:
        raise UsageError(
            "--timeout, --for, --force, --converge and --rehome require a TARGET; for the "
            "instance, set drain_timeout in the file"
        )
    pid = instance.stop()["pid"]
    if not wait:
        say(f"tcpmux (pid {pid}) is draining")
        return 0
    waiting_for(instance.with_timeout(STATUS_TIME), pid)
    say(f"drained (pid {pid})")
    return 0


@click.command("disable")
@click.argument("target", shell_complete=completing.target)
@admin_option
@for_option
@force_option
def disable(admin: Where, target: str, for_: str | None, force: bool) -> int:
    """Take TARGET out of service: no new connections; open ones stay.

    TARGET is ROUTE, ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS, as for `tcpmux drain`. Works
    like a drain, but is shown as disabled: out of service on purpose, not about to be removed.
    With --for, an endpoint becomes ready again after that time.

    \b
    Examples:
        tcpmux disable tcp-echo/v2
        tcpmux disable tcp-echo/v2/10.0.0.7:9000
    """
    _change(client(admin), target, "disable", seconds_of(for_), force=force)
    return 0


@click.command("enable")
@click.argument("target", shell_complete=completing.target)
@admin_option
def enable(admin: Where, target: str) -> int:
    """Send new connections to TARGET again.

    TARGET is ROUTE (all of its destinations), ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS.

    \b
    Example:
        tcpmux enable tcp-echo/v2
    """
    _change(client(admin), target, "enable", 0.0, force=False)
    return 0


def seconds_of(for_: str | None) -> float:
    """What --for says; 0 = it is not given. Raises UsageError."""
    if for_ is None:
        return 0.0
    from tcpmux.config.duration import parse_duration

    try:
        seconds = parse_duration(for_)
    except ValueError as error:
        raise UsageError(f"--for: {error}, got {for_}") from None
    if not seconds:
        raise UsageError(f"--for: expected more than 0, got {for_}")
    return seconds


def _change(
    instance: Client, text: str, verb: str, seconds: float, *, force: bool
) -> list[targets.Target]:
    """Does it for all that is meant, or for none; says what changed."""
    names = targets.names(instance)
    found = targets.parts(names, targets.find(names, text))
    if seconds and not all(target.endpoint for target in found):
        raise UsageError(f"--for requires an endpoint, ROUTE/DESTINATION/ADDRESS, got {text}")
    targets.change(instance, found, verb, force=force, seconds=seconds)
    return found


def _wait(
    instance: Client, found: list[targets.Target], timeout: float | None, *, ends_by_itself: bool
) -> int:
    """Until they have no connection left. Raises TcpmuxError if they do after `timeout` s, or if
    nobody ends them any more. ends_by_itself: live connections of their routes converge."""
    left, shown = -1, ""  # not known
    names = {target.route for target in found}

    def is_drained(status: Status) -> bool:
        nonlocal left, shown
        left = targets.active(status["routes"], found)
        states = [r.get("convergence") for r in status["routes"] if r["name"] in names]
        kept = "; ".join(left_over(state).partition("; next try")[0] for state in states if state)
        text = f"waiting for {plural(left, 'connection')}{f': {kept}' if kept else ''}"
        if left and text != shown:
            shown = text
            say(text)
        return not left or (ends_by_itself and not any(states))

    try:
        instance.wait_for(is_drained, timeout)
        if left:
            raise TcpmuxError(
                f"{plural(left, 'connection')} left, and none is closed any more: `tcpmux events` "
                "says why, `tcpmux conns` which; end them with `tcpmux kill`"
            )
    except WaitTimeout:
        count = plural(left, "connection") if left >= 0 else "an unknown number of connections"
        raise TcpmuxError(
            f"{count} left after {timeout:g} s: look at them with `tcpmux conns`, end them with "
            "`tcpmux kill`"
        ) from None
    say("drained: no connections are left")
    return 0
