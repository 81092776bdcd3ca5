"""What follows for destinations and routes when endpoints fail, come back, or have no address. Runs
in the master."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tcpmux.config import Config, HostName
from tcpmux.errors import listed
from tcpmux.levels import Line
from tcpmux.master.change import Known
from tcpmux.shm.image import ENDS, HEALTHY, READY, DestinationRow, Image, RouteRow
from tcpmux.shm.serving import (
    end_of,
    fallback_of,
    is_rule_unavailable,
    is_unavailable,
    serves,
    shift_elsewhere,
)

MAX_NAMED = 5  # destinations in a line
MAX_SHOWN = 3  # host names in a line


def consequences(old: Image, new: Image) -> Iterator[Line]:
    """What follows for destinations and routes, a line each; of images of the same names."""
    for before, after in zip(old.routes, new.routes, strict=True):
        if before is after:
            continue
        for was, now in zip(before.destinations, after.destinations, strict=True):
            yield from _destination_consequences(after, was, now)
        if is_unavailable(after) and not is_unavailable(before):
            end = ENDS[end_of(after)]
            yield Line(
                logging.ERROR,
                f"{after.name}: no destination with weight has a healthy endpoint: new connections "
                f"are {end}; `tcpmux endpoint` says why{_instead(after)}",
            )
        if is_unavailable(before) and not is_unavailable(after):
            yield Line(logging.INFO, f"{after.name}: takes connections again")
        yield from _rule_consequences(before, after)


def _rule_consequences(before: RouteRow, after: RouteRow) -> Iterator[Line]:
    """Of rules; that nobody serves the whole route is said besides."""
    if is_unavailable(after):
        return
    end = ENDS[end_of(after)]
    for was, now in zip(before.pick_rules, after.pick_rules, strict=True):
        was_out = is_rule_unavailable(before, was) and not is_unavailable(before)
        is_out = is_rule_unavailable(after, now)
        if is_out == was_out:
            continue
        if is_out:
            yield Line(
                logging.ERROR,
                f"{after.name}: rule {now.name}: no destination with weight has a healthy "
                f"endpoint: its connections are {end}; `tcpmux endpoint` says why",
            )
        else:
            yield Line(logging.INFO, f"{after.name}: rule {now.name}: takes connections again")


def _instead(route: RouteRow) -> str:
    """Who could take the connections of a route that nobody takes."""
    others = [row.name for row in route.destinations if serves(row) and not row.weight]
    if not others:
        return ""
    are = "is healthy and has" if len(others) == 1 else "are healthy and have"
    _, command = shift_elsewhere(route)
    return f"; {listed(others, MAX_NAMED)} {are} weight 0: `{command}`"


def _destination_consequences(
    route: RouteRow, was: DestinationRow, now: DestinationRow
) -> Iterator[Line]:
    name = f"{route.name}/{now.name}"
    healths = [endpoint.health for endpoint in now.endpoints]
    healthy = f"{healths.count(HEALTHY)} of {len(healths)} endpoints are healthy"
    if now.panic and not was.panic:
        threshold = now.rules.panic_percent
        yield Line(
            logging.WARNING,
            f"{name}: only {healthy}, panic_threshold is {threshold}%: all are used",
        )
    if was.panic and not now.panic:
        yield Line(logging.INFO, f"{name}: {healthy}: only these are used")
    if was.turns and not now.turns:
        why = "no endpoint is healthy" if now.endpoints else "it no longer has any address"
        level, share = share_of(route, now)
        yield Line(level, f"{name}: {why}: {share}")
    if now.turns and not was.turns:
        is_known = "has an address now" if was.unresolved and not was.endpoints else ""
        yield Line(logging.INFO, f"{name}: {is_known or 'has healthy endpoints again'}")


def without_addresses(config: Config, image: Image, known: Known) -> Iterator[Line]:
    """Of each destination with a name that has no address now, or none that can be used: which,
    and what follows."""
    named = {
        (route.name, destination.name): destination
        for route in config.routes
        for destination in route.destinations
    }
    for route in image.routes:
        for row in route.destinations:
            if not row.unresolved or (route.name, row.name) not in named:
                continue
            endpoints = named[route.name, row.name].endpoints
            used = {str(endpoint.address) for endpoint in row.endpoints}
            names = [
                str(endpoint)
                for endpoint in dict.fromkeys(endpoints)
                if isinstance(endpoint, HostName)
                and used.isdisjoint(map(str, known.get(endpoint, ())))
            ]
            level, then = logging.WARNING, "its other endpoints take its share"
            if not row.endpoints:
                level, then = share_of(route, row)
                if is_unavailable(route):
                    end = ENDS[end_of(route)]
                    level, then = logging.ERROR, f"new connections are {end}"
            shown = listed(names, MAX_SHOWN)
            yield Line(level, f"{route.name}/{row.name}: no address for {shown}: {then}")


def share_of(route: RouteRow, row: DestinationRow) -> tuple[int, str]:
    """Where the share of a destination goes that can't take connections; how serious that is."""
    if not row.weight or row.state != READY:
        return logging.WARNING, "it had no share"
    if row.effective_weight:
        return logging.ERROR, "its share is reset"
    if is_unavailable(route):  # which is said besides
        return logging.WARNING, "no destination with weight is left to take its share"
    fallback = fallback_of(route.rules)
    if fallback >= 0 and serves(route.destinations[fallback]):
        return logging.WARNING, "its fallback gets its share"
    return logging.WARNING, "the others get its share"
