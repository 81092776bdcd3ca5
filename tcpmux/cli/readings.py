"""`tcpmux routes` and `stats`: the routes and the counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing, targets
from tcpmux.cli.conditions import condition_of, word
from tcpmux.cli.instance import client
from tcpmux.cli.output import (
    Styled,
    columns,
    human_bytes,
    json_option,
    painted,
    percent,
    say,
    say_all,
    say_json,
    say_painted,
    screen_width,
    watch_option,
    watching,
)
from tcpmux.cli.targets import Target
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.ends import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from tcpmux.control.client import DestinationStatus, RouteStatus, Status


def _route_rows(routes: list[RouteStatus]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("ROUTE", "LISTEN", "DESTINATION", "CONDITION", "WEIGHT", "SHARE", "ENDPOINTS")
    ]
    for route in routes:
        whole = sum(d["effective_weight"] for d in route["destinations"])
        name, listen = route["name"], ",".join(route["listen"])
        for d in route["destinations"]:
            endpoints = [
                e["address"] if e["state"] == "ready" else f"{e['address']} ({e['state']})"
                for e in d["endpoints"]
            ]
            weight = str(d["weight"])
            if d["weight"] != d["file_weight"]:
                weight += f" (file: {d['file_weight']})"
            share = percent(d["effective_weight"], whole)
            text = ",".join(endpoints) or "none"
            rows.append((name, listen, d["name"], word(condition_of(d)), weight, share, text))
            name = listen = ""
    return rows


@click.command("routes")
@json_option
@watch_option
@admin_option
def routes(admin: Where, as_json: bool, watch: float | None) -> int:
    """Show the routes: where they listen, and the share of each destination.

    \b
    Example:
        tcpmux routes
    """
    instance = client(admin, reads=True)

    def show() -> None:
        found = instance.routes()
        if as_json:
            say_json(found)
        else:
            say_painted(columns(_route_rows(found), (4, 5)))

    return watching(watch, show)


def _stats_rows(routes: Sequence[RouteStatus]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("ROUTE/DESTINATION", "ACTIVE", "TOTAL", "FAILURES", "IN", "OUT", "ENDED")
    ]
    for route in routes:
        for d in route["destinations"]:
            ended = ", ".join(f"{reason} {n}" for reason, n in d["closed"].items() if n)
            rows.append((f"{route['name']}/{d['name']}", *_counts(d), ended or "-"))
    return rows


def _counts(d: DestinationStatus) -> tuple[str, ...]:
    return (
        str(d["connections_active"]),
        str(d["connections_total"]),
        str(d["connect_failures_total"]),
        human_bytes(d["bytes_in_total"]),
        human_bytes(d["bytes_out_total"]),
    )


def _named_lines(
    routes: Sequence[RouteStatus], wanted: AbstractSet[Target], most: int | None
) -> Iterator[str]:
    """Of what was asked for: why connections ended, in words, which is counted for routes and
    destinations. routes: narrowed() to what is wanted. most: columns of the screen, None = no
    limit."""
    for number, route in enumerate(routes):
        if number:
            yield ""
        yield painted(route["name"], Styled("", "bold"))
        heads = ("DESTINATION", "ACTIVE", "TOTAL", "FAILURES", "IN", "OUT")
        whole = Target(route["name"])
        named = [d for d in route["destinations"] if {whole, Target(*_path(route, d))} & wanted]
        rows = [heads, *((d["name"], *_counts(d)) for d in named), *_endpoint_rows(route, wanted)]
        yield from columns(rows, range(1, 6), optional=(4, 5), most=most)
        ends = [("route", in_words(route["closed"], route))] if whole in wanted else []
        ends += [(d["name"], in_words(d["closed"])) for d in named]
        ended = [(name, str(n), text) for name, counted in ends for n, text in counted]
        if ended:
            yield ""
            yield from columns([("OF", "ENDED", "REASON"), *ended], (1,))


def _path(route: RouteStatus, destination: DestinationStatus) -> tuple[str, str]:
    return route["name"], destination["name"]


def _endpoint_rows(route: RouteStatus, wanted: AbstractSet[Target]) -> Iterator[tuple[str, ...]]:
    """Of those that were asked for by themselves. Their bytes are not counted."""
    for d in route["destinations"]:
        for e in d["endpoints"]:
            if Target(*_path(route, d), e["address"]) in wanted:
                counts = (e["connections_active"], e["connections_total"])
                failures = e["connect_failures_total"]
                yield (f"{d['name']}/{e['address']}", *map(str, (*counts, failures)), "-", "-")


def _worker_rows(status: Status) -> list[tuple[str, ...]]:
    names = list(status["workers"][0]["counters"]) if status["workers"] else []
    rows = [("WORKER", *(name.upper() for name in names))]
    rows += [
        (str(worker["id"]), *(str(worker["counters"][name]) for name in names))
        for worker in status["workers"]
    ]
    return rows


@click.command("stats")
@click.argument("target", nargs=-1, shell_complete=completing.target)
@json_option
@watch_option
@admin_option
def stats(admin: Where, target: tuple[str, ...], as_json: bool, watch: float | None) -> int:
    """Show the counters of every destination, including why connections ended, and of every worker.

    They are counted since the start of the instance, through reloads and upgrades. TARGET is a
    route, ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS; DESTINATION or ADDRESS alone is
    enough where it is unambiguous; an ADDRESS means every endpoint that has it. With a TARGET, the
    reasons are in words, and include those of connections that never reached a destination.

    \b
    Examples:
        tcpmux stats --watch
        tcpmux stats shop
        tcpmux stats shop/v2 10.0.0.7:9000
    """
    instance = client(admin, reads=True)

    def show() -> None:
        found = instance.status()
        wanted = targets.find_all(found["routes"], target)
        named = targets.narrowed(found["routes"], wanted) if target else found["routes"]
        if as_json:
            say_json({"routes": named, "workers": found["workers"]})
            return
        if target:
            say_painted(_named_lines(named, {*wanted}, screen_width()))
            return
        say_all(columns(_stats_rows(named), range(1, 6)))
        say("")
        say_all(columns(_worker_rows(found), range(1, 99)))

    return watching(watch, show)
