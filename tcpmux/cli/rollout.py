"""`tcpmux rollout`: a new version takes over step by step, and is judged at each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli import completing
from tcpmux.cli.converging import seconds
from tcpmux.cli.instance import client
from tcpmux.cli.output import human_seconds, say, say_json
from tcpmux.cli.progress import how_far
from tcpmux.cli.run import config_option
from tcpmux.cli.where import Where, admin_option
from tcpmux.errors import UsageError, clock, plural, printable
from tcpmux.rollout import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tcpmux.control.client import Client
    from tcpmux.control.schema import RolloutEnd, RolloutNow, RolloutStatus

ACTIONS = ("start", "status", "pause", "resume", "promote", "abort", "history", "simulate")
STARTS = ("start", "simulate")
SHOWN = 10  # verdicts in a status


def _read(read: Callable[[Any], Any], *, off: bool = False) -> Any:
    """A callback of an option. off: it may be that, which is None then."""

    def callback(_ctx: click.Context, _option: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return [None] if off and text == "off" else [read(text)] if off else read(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _steps(text: str) -> tuple[list[float], float]:
    """(shares, s of the shadow before them)"""
    from tcpmux.config.duration import parse_duration

    first, *rest = parts = [part.strip() for part in text.split(",")]
    word, colon, lasts = first.partition(":")
    if word.strip() == plan.SHADOW and colon:
        shadow = parse_duration(lasts.strip())
        if not shadow:
            raise ValueError(plan.NO_SHADOW)
        return list(plan.steps(rest)), shadow
    return list(plan.steps(parts)), 0.0


def _within(text: str) -> float:
    from tcpmux.config.duration import parse_duration

    return plan.early_within(parse_duration(text))


def _rate(text: str) -> float:
    from tcpmux.config.converge import rate_of

    rate, is_percent = rate_of(text)
    if is_percent:
        raise ValueError(f"expected a rate such as 200/s, got {text[:60]!r}")
    return rate / 1000


@click.command("rollout")
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("route", required=False, shell_complete=completing.route)
@click.option("--to", metavar="DESTINATION", help="The version that is to take over.")
@click.option(
    "--steps",
    callback=_read(_steps),
    metavar="LIST",
    help="Its shares, such as shadow:5m,1%,100%. [default: 1%,5%,20%,50%,100%]",
)
@click.option(
    "--bake",
    callback=seconds,
    metavar="DURATION",
    help="How long each step lasts at least. [default: 2m]",
)
@click.option(
    "--min-connections",
    type=click.IntRange(1, 10_000_000),
    metavar="N",
    help="Connections that each version must have had before a step ends. [default: 30]",
)
@click.option(
    "--max-wait",
    callback=seconds,
    metavar="DURATION",
    help="How long a step may last at most. [default: 1h]",
)
@click.option(
    "--then", type=click.Choice(plan.THENS), help="What happens after that. [default: pause]"
)
@click.option(
    "--existing",
    type=click.Choice(plan.EXISTING),
    help="What a rollback does with open connections of the new version. [default: keep]",
)
@click.option(
    "--connect-failures",
    callback=_read(plan.percent, off=True),
    metavar="PERCENT",
    help="It is worse if so many more of its connects fail; or off. [default: 1%]",
)
@click.option(
    "--resets",
    callback=_read(plan.percent, off=True),
    metavar="PERCENT",
    help="It is worse if its endpoints reset so many more; or off. [default: 1%]",
)
@click.option(
    "--early-close",
    callback=_read(plan.percent, off=True),
    metavar="PERCENT",
    help="It is worse if they close so many more early, without a byte; or off. [default: 2%]",
)
@click.option(
    "--early-within", callback=_read(_within), metavar="DURATION", help="How early. [default: 1s]"
)
@click.option(
    "--first-error",
    callback=_read(plan.percent, off=True),
    metavar="PERCENT",
    help="It is worse if so many more first answers are errors; or off. [default: 1%]",
)
@click.option(
    "--first-byte-p95",
    callback=_read(plan.factor, off=True),
    metavar="FACTOR",
    help="It is worse if its first byte takes so many times as long; or off. [default: 1.5x]",
)
@click.option(
    "--duration-p50",
    callback=_read(plan.factors),
    metavar="FACTORS",
    help="It is worse if connections last less or more than so many times as long, such as "
    "0.5x..2x. [default: off]",
)
@click.option(
    "--confidence",
    callback=_read(plan.confidence),
    metavar="P",
    help="How probable it may be that a measure condemns a good version. [default: 1e-5]",
)
@click.option("--full", is_flag=True, help="With promote: past all steps, at once.")
@click.option(
    "--wait",
    is_flag=True,
    help="With start: wait for the end, or a pause. Exits with 0 if it is promoted, else 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print status or history as JSON.")
@config_option
@click.option("--failure", callback=_read(plan.percent), metavar="PERCENT", help=(
    "With simulate: so many connects to the new version fail; of the other one none."
))  # fmt: skip
@click.option("--latency", callback=_read(plan.factor), metavar="FACTOR", help=(
    "With simulate: the new version's first byte takes so many times as long."
))  # fmt: skip
@click.option("--rate", callback=_read(_rate), metavar="RATE", help=(
    "With simulate: new connections per second of the route. [default: 200/s]"
))  # fmt: skip
@click.option("--runs", type=click.IntRange(1, 100_000), metavar="N", help=(
    "With simulate: how many rollouts. [default: 100]"
))  # fmt: skip
@admin_option
def rollout(admin: Where, action: str, route: str | None, **given: Any) -> int:
    """Have a new version of ROUTE take over step by step, and take it back if it is worse.

    ACTION is start, status, pause, resume, promote, abort, history or simulate.

    start sets the weights of the first step. In each step, the new version and the others are
    compared by what happened in that step: connects that failed, resets and early closes by
    endpoints, times to the first byte. If it is worse, by the stated effect and beyond chance, it
    gets no more connections, within about a second of the one that decides. If it is not, the next
    step follows once --bake is over and both have had --min-connections. Options that are not given
    are as `rollout:` of the route in the file says, else as the defaults below.

    pause leaves the weights as they are, and resume begins the step anew. promote goes to the next
    step without waiting, or past the last one; abort gives the others what they had before, and the
    new version nothing. The weights last until the next reload: tcpmux weight --save keeps them.

    simulate asks no instance: it draws traffic at random for the steps of the file, and prints how
    long rollouts take and how they end. ROUTE may be left out if the file has one.

    \b
    Examples:
        tcpmux rollout start tcp-echo --to v2 --steps 1%,10%,50%,100% --bake 2m
        tcpmux rollout status tcp-echo
        tcpmux rollout history tcp-echo
        tcpmux rollout simulate -c routes.yaml --failure 5% --rate 200/s
    """
    _check_options(action, given)
    if action == "simulate":
        from tcpmux.cli.rollout_simulation import simulate

        return simulate(route, _plan_values(given), given)
    instance = client(admin, reads=action in ("status", "history"))
    if action in ("status", "history"):
        return _show(instance, action, route, as_json=given["as_json"])
    if route is None:
        raise UsageError(f"{action} needs a ROUTE")
    if action == "start":
        status = instance.start_rollout(route, _plan_values(given))
    else:
        status = instance.change_rollout(route, action, full=given["full"])
    for line in _lines(status, time.time(), brief=given["wait"]):
        say(line)
    return _wait(instance, route) if given["wait"] else 0


def _check_options(action: str, given: Mapping[str, Any]) -> None:
    """Raises UsageError for one that means nothing here."""
    of = {
        "full": ("promote",), "wait": ("start",), "as_json": ("status", "history"),
        "config": ("simulate",), "failure": ("simulate",), "latency": ("simulate",),
        "rate": ("simulate",), "runs": ("simulate",),
    }  # fmt: skip
    for name, value in given.items():
        actions = of.get(name, STARTS)
        if value not in (None, False, ()) and action not in actions:
            option = {"as_json": "--json", "config": "-c"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{option} is for {' and '.join(actions)}, not for {action}")


def _plan_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are given, as the API has them."""
    keys = ("to", "steps", "bake", "min_connections", "max_wait", "then", "existing")
    values = {key: given[key] for key in keys if given[key] is not None}
    if given["steps"] is not None:
        values["steps"], values["shadow"] = given["steps"]
    judge: dict[str, Any] = {}
    for key in ("connect_failures", "resets", "early_close", "first_error", "first_byte_p95"):
        if given[key] is not None:
            (judge[key],) = given[key]
    for key in ("early_within", "duration_p50", "confidence"):
        if given[key] is not None:
            judge[key] = given[key]
    return {**values, "judge": judge} if judge else values


def _show(instance: Client, what: str, route: str | None, *, as_json: bool) -> int:
    found = instance.rollouts(route)
    if as_json:
        say_json(found)
        return 0
    now = time.time()
    for status in found:
        lines = _lines(status, now) if what == "status" else _history(status, now)
        for line in lines:
            say(line)
    if not found:
        say("no rollout has been started")
    return 0


def _lines(status: RolloutStatus, now: float, *, brief: bool = False) -> Iterator[str]:
    """brief: without what has happened by now, as somebody tells that later."""
    found, name = status["rollout"], printable(status["route"])
    if found is None:
        if status["history"]:
            yield f"{name}: no rollout is under way"
        yield from list(_history(status, now))[-1:]
        yield from _hooks(status)
        return
    yield f"{name}: {_head(found)}"
    if found["reason"]:
        yield f"  {printable(found['reason'])}"
    elif found["waits"]:
        yield f"  {printable(found['waits'])}"
    for each in found["findings"]:
        yield f"  {printable(each['text'])}"
    yield from _hooks(status)
    if status.get("unsaved"):  # an older build does not say
        yield f"  its state can't be saved: {printable(status['unsaved'])}"
    for verdict in () if brief else found["verdicts"][-SHOWN:]:
        yield f"  {clock(verdict['time'], now)}  {printable(verdict['text'])}"


def _hooks(status: RolloutStatus) -> Iterator[str]:
    """Those that have failed. What one is waited for because of is told by that."""
    found = status["rollout"]
    known = f"{found['waits']} {found['reason']}" if found else ""
    for hook in status["hooks"]:
        if hook["text"] not in known:
            yield f"  hook: {printable(hook['text'])}"


def _head(found: RolloutNow) -> str:
    if not found["step"]:
        return how_far(found)
    count = plural(found["versions"][0]["connections"], "connection")
    return f"{how_far(found)}, for {human_seconds(found['step_seconds'])}: {count} to it"


def _history(status: RolloutStatus, now: float) -> Iterator[str]:
    name = printable(status["route"])
    for end in status["history"]:
        yield f"{name}: {_end(end, now)}"
    found = status["rollout"]
    if found is not None:
        why = f": {printable(found['reason'])}" if found["reason"] else ""
        since = f"{printable(found['to'])} since {clock(found['began_at'], now)}"
        yield f"{name}: {since}: {found['state']}{why}"
    elif not status["history"]:
        yield f"{name}: no rollout has been started"


def _end(end: RolloutEnd, now: float) -> str:
    why = f": {printable(end['text'])}" if end["text"] else ""
    began, ended = clock(end["began"], now), clock(end["ended"], now)
    return f"{printable(end['to'])}, {began} to {ended}: {end['end']}{why}"


def _wait(instance: Client, route: str) -> int:
    """Until it is over or paused, saying what happens. Returns 0 if it was promoted."""
    told = 0
    while True:
        (status,) = instance.rollouts(route)
        found = status["rollout"]
        verdicts = found["verdicts"] if found else status["history"][-1]["verdicts"]
        for verdict in verdicts[told:]:
            say(f"{printable(route)}: {printable(verdict['text'])}")
        told = len(verdicts)
        if found is None:
            end = status["history"][-1]
            say(f"{printable(route)}: {_end(end, time.time())}")
            return 0 if end["end"] == "promoted" else 1
        if found["state"] == "paused":
            say(f"{printable(route)}: paused: {printable(found['reason'])}")
            return 1
        time.sleep(0.5)
