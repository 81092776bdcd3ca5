"""`tcpmux endpoint`: the health of endpoints, and taking one out of service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tcpmux.cli import targets
from tcpmux.cli.drain import force_option
from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import (
    columns,
    human_seconds,
    json_option,
    say_all,
    say_json,
    watch_option,
    watching,
)
from tcpmux.errors import TcpmuxError, UsageError

if TYPE_CHECKING:
    from tcpmux.control.client import Client, DestinationStatus, EndpointStatus, NameStatus

VERBS = ("drain", "disable", "enable", "ready")
HEADS = (
    "ENDPOINT",
    "DESTINATION",
    "HEALTH",
    "SHARE",
    "STATE",
    "ACTIVE",
    "SINCE",
    "NEXT TRY",
    "REASON",
)


def health_text(endpoint: EndpointStatus, now: float) -> str:
    """`down for 12s (connection refused), tried again in 2s`. now: Unix time, s."""
    since, reason = endpoint["health_since"], endpoint["health_reason"]
    text = endpoint["health"]
    if since is not None:
        text += f" for {human_seconds(now - since)}"
    if reason:
        text += f" ({reason})"
    if endpoint["next_try"] is not None:
        text += f", tried again in {human_seconds(endpoint['next_try'] - now)}"
    return text


def slow_start_percent(of: DestinationStatus | EndpointStatus) -> int:
    """A running instance of a build before this one has it by its former name alone."""
    return of.get("slow_start_percent", of["ramp"])


def name_text(name: NameStatus, now: float) -> str:
    """`Domain name not found for 12s, looked up again in 2s`. now: Unix time, s."""
    text = name["error"]
    if name["since"] is not None:
        text += f" for {human_seconds(now - name['since'])}"
    if name["next_look"] is not None:
        text += f", looked up again in {human_seconds(name['next_look'] - now)}"
    return text


def state_text(endpoint: EndpointStatus, now: float) -> str:
    """`draining, for another 9m 12s`."""
    until = endpoint["state_until"]
    return endpoint["state"] + (f", {human_seconds(until - now)} more" if until else "")


def _rows(instance: Client, address: str | None) -> list[dict[str, object]]:
    found = [
        {"route": route["name"], "destination": destination["name"], **endpoint}
        for route in instance.routes()
        for destination in route["destinations"]
        for endpoint in [*destination["endpoints"], *map(_unresolved, destination["names"])]
        if endpoint is not None and address in (None, endpoint["address"])
    ]
    if address is not None and not found:
        raise TcpmuxError(f"there is no endpoint {address}: `tcpmux endpoint` lists them")
    return found


def _unresolved(name: NameStatus) -> EndpointStatus | None:
    """A name that can't be looked up stands where its addresses would."""
    if not name["error"]:
        return None
    return {
        "address": name["name"],
        "condition": name["condition"],
        "condition_reason": name["condition_reason"],
        "condition_since": name["condition_since"],
        "state": "ready",
        "health": "unresolved",
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


def _show(found: list[dict[str, object]], now: float) -> None:
    rows: list[tuple[str, ...]] = [HEADS]
    for row in found:
        endpoint: EndpointStatus = row  # type: ignore[assignment]
        since, next_try = endpoint["health_since"], endpoint["next_try"]
        rows.append(
            (
                endpoint["address"],
                f"{row['route']}/{row['destination']}",
                endpoint["health"],
                f"{slow_start_percent(endpoint)}%" if endpoint["turns"] else "-",
                state_text(endpoint, now),
                str(endpoint["connections_active"]),
                human_seconds(now - since) if since else "-",
                human_seconds(next_try - now) if next_try else "-",
                endpoint["health_reason"] or "-",
            )
        )
    say_all(columns(rows, (3, 5, 6, 7)))


@click.command("endpoint")
@click.argument("address", required=False)
@click.argument("verb", metavar="[drain|disable|enable]", required=False)
@click.option(
    "--for", "for_", metavar="DURATION", help="Make it ready again after this time: 90s, 10m, 2h."
)
@force_option
@json_option
@watch_option
@admin_option
def endpoint(
    admin: str | None,
    address: str | None,
    verb: str | None,
    for_: str | None,
    force: bool,
    as_json: bool,
    watch: float | None,
) -> int:
    """Show endpoints and their health, or take one out of service.

    Without ADDRESS all are shown: whether they are healthy, since when, why not, and when they
    will be tried again. ADDRESS is one of them, in all routes that have it. drain and disable
    send it no new connections; with --for it becomes ready again after that time. enable (or
    ready) puts it back.

    \b
    Examples:
        tcpmux endpoint
        tcpmux endpoint 10.0.0.7:9000 drain --for 10m
        tcpmux endpoint 10.0.0.7:9000 ready
    """
    instance = client(admin)
    if verb is not None:
        assert address is not None
        return _change(instance, address, verb, for_, force=force)
    if for_ or force:
        raise UsageError("--for and --force go with drain or disable")

    def show() -> None:
        found = _rows(instance, address)
        if as_json:
            say_json(found)
        else:
            _show(found, time.time())

    return watching(watch, show)


def _change(instance: Client, address: str, verb: str, for_: str | None, *, force: bool) -> int:
    if verb not in VERBS:
        raise UsageError(f"expected one of {', '.join(VERBS)}, got {verb}")
    seconds = 0.0
    if for_ is not None:
        if verb not in ("drain", "disable"):
            raise UsageError("--for goes with drain or disable")
        from tcpmux.config.duration import parse_duration

        try:
            seconds = parse_duration(for_)
        except ValueError as error:
            raise UsageError(f"--for: {error}, got {for_}") from None
    found = [target for target in targets.find(instance.routes(), address) if target.endpoint]
    if not found:
        raise TcpmuxError(f"{address} is no endpoint: use `tcpmux {verb} {address}`")
    targets.change(instance, found, verb, force=force, seconds=seconds)
    return 0
