"""`tcpmux status`: what the instance does right now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tcpmux.cli.endpoint import health_text, name_text, slow_start_percent, state_text
from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import (
    console,
    human_bytes,
    human_seconds,
    percent,
    say_json,
    table,
    watch_option,
    watching,
)
from tcpmux.errors import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from tcpmux.control.client import (
        BuffersStatus,
        DestinationStatus,
        ProgramStatus,
        RouteStatus,
        Status,
        WorkerStatus,
    )


ANSWER_TIME = 10.0  # s; it asks nobody, but control may just be starting again


def _headline(status: Status, now: float) -> str:
    return (
        f"tcpmux {status['version']} (pid {status['pid']}): {status['state']}, "
        f"generation {status['generation']}, up {human_seconds(now - status['started_at'])}"
    )


def _workers(workers: list[WorkerStatus]) -> Table:
    made = table("workers", "id", "pid", "generation", "connections", "starts")
    for worker in workers:
        pid = str(worker["pid"]) if worker["pid"] else "not running"
        if worker["state"] != "running" and worker["pid"]:
            pid += f" ({worker['state']})"
        made.add_row(
            str(worker["id"]),
            pid,
            str(worker["generation"]),
            str(worker["connections"]),
            str(worker["starts"]),
        )
    return made


def _trouble(program: ProgramStatus) -> str:
    """ "" = none."""
    if program["state"] == "running":
        return ""
    what = "is stopped or hangs" if program["pid"] else "does not run"
    pid = f" (pid {program['pid']})" if program["pid"] else ""
    return f"The {program['name']} process{pid} {what}; the log says more."


def _buffers(buffers: BuffersStatus) -> Iterator[str]:
    """Remarks about memory."""
    pinned, most = buffers["pinned_bytes"], buffers["pinned_bytes_limit"]
    if pinned:
        of = f" of at most {human_bytes(most)}" if most else ""
        yield f"Connections whose peer has stopped reading hold {human_bytes(pinned)}{of}."
    fallbacks = buffers["pipe_fallbacks_total"]
    if fallbacks:
        yield (
            f"Bulk was copied {plural(fallbacks, 'time')} rather than spliced, "
            "as no pipe could be had: raise fs.pipe-user-pages-soft, or the limit of open files."
        )


def _weight(destination: DestinationStatus) -> str:
    """The weight, and what else it could be taken for."""
    marks = []
    if destination["file_weight"] != destination["weight"]:
        marks.append(f"file: {destination['file_weight']}")
    if destination["state"] != "ready":
        marks.append(destination["state"])
    elif destination["weight"] and destination["endpoints"] and not _serves(destination):
        marks.append("no endpoint is left")
    elif destination["weight"] and destination["unresolved"] and not _serves(destination):
        marks.append("no address")
    elif slow_start_percent(destination) < 100:
        marks.append(f"slow start: {slow_start_percent(destination)}%")
    if destination["panic"]:
        marks.append("panic: health is ignored")
    return f"{destination['weight']} ({', '.join(marks)})" if marks else str(destination["weight"])


def _serves(destination: DestinationStatus) -> bool:
    return any(endpoint["turns"] for endpoint in destination["endpoints"])


def _remarks(route: RouteStatus, now: float) -> Iterator[str]:
    """A line for each endpoint that does not have its full share, and why."""
    if not route["available"]:
        yield "no destination can take connections"
    for destination in route["destinations"]:
        for name in destination["names"]:
            if name["error"]:
                yield f"{destination['name']}: {name['name']}: {name_text(name, now)}"
        for endpoint in destination["endpoints"]:
            where = f"{destination['name']}: {endpoint['address']}"
            if endpoint["health"] != "up":
                yield f"{where} is {health_text(endpoint, now)}"
            elif endpoint["health_reason"]:
                yield f"{where}: {endpoint['health_reason']}"
            if endpoint["state"] != "ready":
                yield f"{where} is {state_text(endpoint, now)}"
            percent = slow_start_percent(endpoint)
            if endpoint["health"] == "up" and percent < 100:
                yield f"{where} is in slow start: {percent}% of its share"


def _route(route: RouteStatus) -> Table:
    title = (
        f"{route['name']} on {', '.join(route['listen'])}: "
        f"{route['connections_active']} active, {route['connections_total']} total, "
        f"{route['connections_rejected_total']} rejected"
    )
    made = table(
        title, "destination", "weight", "share", "active", "total", "failures", "in", "out"
    )
    everything = sum(d["effective_weight"] for d in route["destinations"])
    for destination in route["destinations"]:
        made.add_row(
            destination["name"],
            _weight(destination),
            percent(destination["effective_weight"], everything),
            str(destination["connections_active"]),
            str(destination["connections_total"]),
            str(destination["connect_failures_total"]),
            human_bytes(destination["bytes_in_total"]),
            human_bytes(destination["bytes_out_total"]),
        )
    return made


def print_status(status: Status, now: float) -> None:
    """Tables for people. now: Unix time, s."""
    out = console()
    out.print(_headline(status, now), soft_wrap=True)
    out.print(f"config {', '.join(status['config'])}; admin {status['admin']}", soft_wrap=True)
    if status["state"] == "orphaned":
        out.print(
            "The master is gone: connections are served, but nothing can be changed. "
            "Start tcpmux again with the same file: it takes over.",
            soft_wrap=True,
        )
    if status["upgrade"]["state"] == "failed":
        out.print(f"The last upgrade failed: {status['upgrade']['error']}", soft_wrap=True)
    elif status["upgrade"]["state"] == "running":
        out.print(f"Upgrade {status['upgrade']['count']} is under way.", soft_wrap=True)
    for trouble in filter(None, map(_trouble, status.get("programs", []))):
        out.print(trouble, soft_wrap=True)
    for remark in _buffers(status["buffers"]):
        out.print(remark, soft_wrap=True)
    out.print()
    out.print(_workers(status["workers"]))
    for route in status["routes"]:
        out.print()
        out.print(_route(route))
        for remark in _remarks(route, now):
            out.print(remark, soft_wrap=True)
    if not status["routes"]:
        out.print()
        out.print(plural(0, "route"))


@click.command("status")
@admin_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The whole answer as JSON, with endpoints and more counters.",
)
@watch_option
def status(admin: str | None, as_json: bool, watch: float | None) -> int:
    """Show the workers, the routes and how connections were split.

    "weight" is marked "(file: N)" when it was set by `tcpmux weight` and the file says
    otherwise. "in" is bytes from clients, "out" bytes to them; both include open connections.

    \b
    Examples:
        tcpmux status
        tcpmux status --json | jq '.routes[0].destinations[] | {name, connections_total}'
    """
    instance = client(admin, ANSWER_TIME)

    def show() -> None:
        found = instance.status()
        if as_json:
            say_json(found)
        else:
            print_status(found, time.time())

    return watching(watch, show)
