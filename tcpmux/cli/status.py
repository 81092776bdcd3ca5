"""`tcpmux status`: what is wrong, and what the instance does right now."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing
from tcpmux.cli.conditions import (
    condition_of,
    lasting,
    problem_lines,
    routes_named,
    split,
    urgency,
    word,
)
from tcpmux.cli.converging import converging, left_over
from tcpmux.cli.endpoint import endpoint_note, name_note, slow_start_percent
from tcpmux.cli.instance import client
from tcpmux.cli.output import (
    Styled,
    columns,
    human_bytes,
    human_seconds,
    painted,
    percent,
    say_json,
    say_painted,
    screen_width,
    watch_option,
    watching,
    wrapped,
)
from tcpmux.cli.progress import how_far, mirror_headline
from tcpmux.cli.text import shares_of_clients, width
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.condition import HEALTHY
from tcpmux.control.ends import in_words
from tcpmux.errors import plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tcpmux.control.client import (
        BuffersStatus,
        DestinationStatus,
        RouteStatus,
        RuleStatus,
        Status,
        WorkerStatus,
    )


ANSWER_TIME = 10.0  # s; it asks nobody, but control may just be starting again
IN_FULL = 10  # routes: so many are shown as a whole
RULES = 10  # shown of a route that is not named
LINES = 30  # routes that are healthy, or too many: a line each
PROBLEMS = 10  # shown
WORKERS = 8  # a line each, if there is nothing to say of any


def _headline(status: Status, now: float) -> str:
    return (
        f"tcpmux {status['version']} (pid {status['pid']}): {status['state']}, "
        f"generation {status['generation']}, up {human_seconds(now - status['started_at'])}"
    )


# --- the instance -----------------------------------------------------------------------------


def _workers(status: Status) -> Iterator[str]:
    workers = status["workers"]
    as_wanted = all(
        worker["state"] == "running"
        and worker["pid"]
        and worker["generation"] >= status["generation"]
        for worker in workers
    )
    if as_wanted and len(workers) > WORKERS:
        count = sum(worker["connections"] for worker in workers)
        yield f"{plural(len(workers), 'worker')} running, {plural(count, 'connection')}"
        return
    rows: list[tuple[str, ...]] = [("WORKER", "PID", "GENERATION", "CONNECTIONS", "STARTS")]
    rows += [
        (
            str(worker["id"]),
            _pid(worker),
            str(worker["generation"]),
            str(worker["connections"]),
            str(worker["starts"]),
        )
        for worker in workers
    ]
    yield from columns(rows, (2, 3, 4))


def _pid(worker: WorkerStatus) -> str:
    if not worker["pid"]:
        return Styled("not running", "red")
    if worker["state"] == "running":
        return str(worker["pid"])
    return Styled(f"{worker['pid']} ({worker['state']})", "yellow")


def _buffers(buffers: BuffersStatus) -> Iterator[str]:
    """Remarks about memory."""
    pinned, most = buffers["pinned_bytes"], buffers["pinned_bytes_limit"]
    if pinned:
        of = f" of at most {human_bytes(most)}" if most else ""
        yield f"Connections whose peer has stopped reading hold {human_bytes(pinned)}{of}."
    fallbacks = buffers["pipe_fallbacks_total"]
    if fallbacks:
        yield (
            f"Bulk was copied {plural(fallbacks, 'time')} rather than spliced, as no pipe was "
            "available: raise fs.pipe-user-pages-soft, or the limit of open files."
        )


# --- a route ----------------------------------------------------------------------------------


def _weight(destination: DestinationStatus) -> str:
    """The weight, and what else it could be taken for."""
    marks = []
    if destination["file_weight"] != destination["weight"]:
        marks.append(f"file: {destination['file_weight']}")
    if slow_start_percent(destination) < 100:
        marks.append(f"slow start: {slow_start_percent(destination)}%")
    return f"{destination['weight']} ({', '.join(marks)})" if marks else str(destination["weight"])


def _destinations(route: RouteStatus, most: int | None) -> Iterator[str]:
    heads = ("DESTINATION", "CONDITION", "SHARE", "WEIGHT", "ACTIVE", "TOTAL", "FAILURES")
    rows: list[tuple[str, ...]] = [(*heads, "IN", "OUT")]
    whole = sum(d["effective_weight"] for d in route["destinations"])
    for destination in route["destinations"]:
        rows.append(
            (
                destination["name"],
                word(condition_of(destination)),
                percent(destination["effective_weight"], whole),
                _weight(destination),
                str(destination["connections_active"]),
                str(destination["connections_total"]),
                str(destination["connect_failures_total"]),
                human_bytes(destination["bytes_in_total"]),
                human_bytes(destination["bytes_out_total"]),
            )
        )
    yield from columns(rows, range(2, 9), optional=(8, 7, 5, 6), most=most)


def _rules(route: RouteStatus, most: int | None, *, details: bool) -> Iterator[str]:
    """details: also of all conditions that there are many of."""
    rules = route.get("rules", [])  # an older build has none
    if not rules:
        return
    rows = [("RULE", "CONDITIONS", "TO", "ACTIVE", "TOTAL")]
    rows += [
        (
            rule["name"],
            rule["conditions"],
            _goes_to(rule),
            str(rule["connections_active"]),
            str(rule["connections_total"]),
        )
        for rule in (rules if details else rules[:RULES])
    ]
    yield from columns(rows, (3, 4), optional=(3, 1), most=most)
    if len(rules) > RULES and not details:
        yield f"and {plural(len(rules) - RULES, 'rule')} (ROUTE shows them)"


def _goes_to(rule: RuleStatus) -> str:
    """The shares of its connections, or what becomes of them."""
    if rule["reject"]:
        return "rejected"
    if not rule["available"]:
        return Styled("nobody is available", "red")
    shown = split(rule)
    changed = any(d["weight"] != d["file_weight"] for d in rule["destinations"])
    return f"{shown} (file: {_in_file(rule)})" if changed else shown


def _in_file(rule: RuleStatus) -> str:
    weights = ((d["name"], d["file_weight"]) for d in rule["destinations"])
    return ", ".join(f"{name} {weight}" for name, weight in weights)


def _remarks(route: RouteStatus, now: float, *, every: bool) -> Iterator[tuple[str, str]]:
    """(what, text) of each endpoint and name that there is something to say of; or of every."""
    for destination in route["destinations"]:
        for name in destination["names"]:
            if name["error"]:
                yield f"{destination['name']}: {name['name']}", name_note(name, now)
        for endpoint in destination["endpoints"]:
            own = condition_of(endpoint)
            if every or own.word != HEALTHY or own.reason:
                yield f"{destination['name']}: {endpoint['address']}", endpoint_note(endpoint, now)


def _ends(route: RouteStatus) -> Iterator[str]:
    found = in_words(route["closed"], route)
    if not found:
        yield "no connection has ended"
        return
    rows = [("ENDED", "REASON"), *((str(count), text) for count, text in found)]
    yield from columns(rows, (0,))


def _head(route: RouteStatus, now: float, most: int | None) -> str:
    own = condition_of(route)
    name = painted(route["name"], Styled("", "bold"))
    room = None if most is None else most - width(f"{printable(route['name'])}  ")
    return f"{name}  {painted(lasting(own, now, room), word(own))}"


def _figures(route: RouteStatus) -> str:
    return (
        f"{route['connections_active']} active, {route['connections_total']} total, "
        f"{route['connections_rejected_total']} rejected"
    )


def _route(route: RouteStatus, now: float, most: int | None, *, details: bool) -> Iterator[str]:
    """All of it. details: also of what is healthy, and why connections ended."""
    inner = None if most is None else most - 2
    yield _head(route, now, most)
    reason = condition_of(route).reason
    if reason:
        yield from wrapped(reason, "  ", most)
    yield from wrapped(f"on {', '.join(route['listen'])}: {_figures(route)}", "  ", most)
    if route.get("sticky"):  # an older build does not say
        yield from wrapped(shares_of_clients(str(route["sticky"])), "  ", most)
    state = route.get("convergence")  # an older build does not say
    if state:
        yield from wrapped(converging(state, now), "  ", most)
    for line in _progress(route):
        yield from wrapped(line, "  ", most)
    for line in _destinations(route, inner):
        yield f"  {line}"
    for line in _rules(route, inner, details=details):
        yield f"  {line}"
    for what, text in _remarks(route, now, every=details):
        yield from wrapped(f"{what} is {text}", "  ", most)
    if details:
        for line in _ends(route):
            yield f"  {line}"


def _progress(route: RouteStatus) -> Iterator[str]:
    """Of its rollout and its mirror; an older build has neither."""
    rollout, mirror = route.get("rollout"), route.get("mirror")
    if rollout:
        why = f"; {printable(rollout['reason'])}" if rollout["reason"] else ""
        yield f"rollout {how_far(rollout)}{why}"
    if mirror and mirror["percent"]:
        yield mirror_headline(mirror)


def _line(route: RouteStatus, most: int | None) -> str:
    """One for a route that is healthy, or one of too many."""
    own = condition_of(route)
    reason = f"  ({own.reason})" if own.reason else ""
    state = route.get("convergence")
    if state:
        reason += f"  (converging: {left_over(state)})"
    rollout = route.get("rollout")
    if rollout:
        reason += f"  (rollout {how_far(rollout)})"
    line = f"  {route['connections_active']} active  {printable(split(route) + reason)}"
    room = None if most is None else most - len(f"{printable(route['name'])}  {own.word}")
    return f"{_short_head(route)}{line if room is None else line[: max(0, room)]}"


def _short_head(route: RouteStatus) -> str:
    own = condition_of(route)
    return f"{printable(route['name'])}  {painted(own.word, word(own))}"


def _routes(
    routes: Sequence[RouteStatus], now: float, most: int | None, *, named: bool, whole: bool
) -> Iterator[str]:
    """named: they were asked for. whole: all are to be shown as a whole."""
    ordered = sorted(routes, key=lambda route: urgency(condition_of(route)))
    in_full = [
        route
        for route in ordered
        if whole or named or len(ordered) <= IN_FULL or condition_of(route).word != HEALTHY
    ]
    if not (whole or named):
        in_full = in_full[:IN_FULL]
    for route in in_full:
        yield ""
        yield from _route(route, now, most, details=named)
    folded = ordered[len(in_full) :]
    if folded:
        yield ""
    for route in folded[:LINES]:
        yield _line(route, most)
    rest = folded[LINES:]
    if rest:
        counts = Counter(condition_of(route).word for route in rest)
        told = ", ".join(f"{count} {at}" for at, count in counts.items())
        yield f"and {plural(len(rest), 'route')}: {told} (--all or ROUTE shows them)"


def status_lines(
    status: Status, now: float, most: int | None, *, names: Sequence[str] = (), whole: bool = False
) -> Iterator[str]:
    """For people. now: Unix time, s. most: columns of the screen, None = no limit. names: of the
    routes that are to be shown, none = all. whole: nothing is left out."""
    yield painted(_headline(status, now), Styled("", "bold"))
    yield from wrapped(f"config {', '.join(status['config'])}; admin {status['admin']}", "", most)
    if fleet := status.get("fleet"):
        yield f"fleet {fleet['name']}: this is host {fleet['host']}, at change {fleet['epoch']}"
    if status["upgrade"]["state"] == "running":
        yield f"Upgrade {status['upgrade']['count']} is under way."
    problems = [
        problem
        for problem in status.get("problems", ())
        if not names or problem["route"] is None or problem["route"] in names
    ]
    if "problems" not in status:
        yield "This instance runs an older build, which reports no problems: tcpmux upgrade"
    total = len(problems) if names else status.get("problems_total", 0)
    if total:
        yield ""
        shown = len(problems) if whole else PROBLEMS
        yield from problem_lines(problems, total, shown, now, most)
    for remark in _buffers(status["buffers"]):
        yield from wrapped(remark, "", most)
    if not names:
        yield ""
        yield from _workers(status)
    routes = routes_named(status["routes"], names)
    yield from _routes(routes, now, most, named=bool(names), whole=whole)
    if not routes:
        yield ""
        yield plural(0, "route")


@click.command("status")
@click.argument("route", nargs=-1, shell_complete=completing.route)
@click.option("--all", "whole", is_flag=True, help="Show every route and problem in full.")
@admin_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the whole answer as JSON, with endpoints and more counters.",
)
@watch_option
def status(
    admin: Where, route: tuple[str, ...], as_json: bool, watch: float | None, *, whole: bool
) -> int:
    """Show what is wrong, the workers, the routes and how connections were split.

    Problems come first, the worst on top, each with what to do about it. With many routes those
    that are healthy take one line each; name a ROUTE to see it with all endpoints and why its
    connections ended.

    "WEIGHT" is marked "(file: N)" when it was set by `tcpmux weight` and differs from
    the file. "IN" is bytes from clients, "OUT" bytes to them; both include open connections.

    \b
    Examples:
        tcpmux status
        tcpmux status shop
        tcpmux status --json | jq '.problems[] | {severity, route, text}'
    """
    instance = client(admin, ANSWER_TIME, reads=True)

    def show() -> None:
        found = instance.status()
        if as_json:
            say_json({**found, "routes": routes_named(found["routes"], route)})
        else:
            now, most = time.time(), screen_width()
            say_painted(status_lines(found, now, most, names=route, whole=whole))

    return watching(watch, show)
