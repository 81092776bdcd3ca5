"""Queries for live connections, and their answers. Runs in control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any

from tcpmux.config.duration import parse_duration
from tcpmux.connection_id import parse_id
from tcpmux.control.limits import MAX_CONNECTIONS
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.operations import Operations
from tcpmux.nearest import did_you_mean
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm._readings import SORT_KEYS, Scan, is_open
from tcpmux.shm.image import DestinationRow, RouteRow
from tcpmux.shm.view import View

if TYPE_CHECKING:
    from tcpmux.control.slices import Slices
    from tcpmux.shm._live import Live
    from tcpmux.shm._readings import Row

DEFAULT_LIMIT = 1000
_FILTERS = tuple(Operations.connections.row.query)


def invalid(message: str) -> MasterRefused:
    return MasterRefused("invalid", message)


def unknown(what: str, name: str, known: list[str]) -> MasterRefused:
    """`no route named 'tcp-ecoh': did you mean tcp-echo?`."""
    hint = did_you_mean(name, known) or f"there are {', '.join(known[:20]) or 'none'}"
    return MasterRefused("not_found", f"no {what} named {name!r}: {hint}")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which connections: counter slots, ages in s; None and 0.0 = any."""

    route: int | None = None
    destination: int | None = None
    endpoint: int | None = None
    network: IPv4Network | IPv6Network | None = None
    older: float = 0.0
    idle: float = 0.0
    sort: str = "age"
    ascending: bool = False
    limit: int = DEFAULT_LIMIT


class Connections:
    """What a View shows of them, by the names in it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def filter(self, query: Mapping[str, str]) -> Filter:
        """Of the query of a URL. Raises MasterRefused for what can't be meant."""
        for key in query:
            if key not in _FILTERS:
                raise unknown("filter", key, list(_FILTERS))
        route, destination = self._names(query)
        sort = query.get("sort", "age")
        if sort.lstrip("-") not in SORT_KEYS or sort.startswith("--"):
            raise invalid(f"sort: expected one of {', '.join(SORT_KEYS)}, or one after a -")
        return Filter(
            route.slot if route else None,
            destination.slot if destination else None,
            _endpoint(query["endpoint"], destination, route) if "endpoint" in query else None,
            _network(query["client"]) if "client" in query else None,
            _seconds("older", query),
            _seconds("idle", query),
            sort.lstrip("-"),
            sort.startswith("-"),
            _limit(query.get("limit", str(DEFAULT_LIMIT))),
        )

    def _names(self, query: Mapping[str, str]) -> tuple[RouteRow | None, DestinationRow | None]:
        _, image = self._view.image()
        if "route" not in query:
            for name in ("destination", "endpoint"):
                if name in query:
                    raise invalid(f"{name}: say of which route")
            return None, None
        routes = {route.name: route for route in image.routes}
        route = routes.get(query["route"])
        if route is None:
            raise unknown("route", query["route"], list(routes))
        if "destination" not in query:
            return route, None
        destinations = {row.name: row for row in route.destinations}
        destination = destinations.get(query["destination"])
        if destination is None:
            raise unknown(
                f"destination of route {route.name}", query["destination"], list(destinations)
            )
        return route, destination

    async def rows(self, wanted: Filter, slices: Slices) -> tuple[int, list[dict[str, Any]]]:
        """How many match, and those that are told of, as GET /v1/connections has them."""
        scan = Scan(
            self._view.lives,
            route=wanted.route,
            destination=wanted.destination,
            endpoint=wanted.endpoint,
            network=wanted.network,
            older=wanted.older,
            idle=wanted.idle,
            sort=wanted.sort,
            ascending=wanted.ascending,
            limit=wanted.limit,
        )
        names: dict[int, str | None] = {}
        made = (row and self._row(row, names) for row in scan.rows())
        rows = [row for row in await slices.all(made) if row is not None]
        return scan.total, rows

    def _row(self, row: Row, names: dict[int, str | None]) -> dict[str, Any]:
        def name(slot: int) -> str | None:
            if slot not in names:
                names[slot] = self._view.table.label(slot) if slot < MAX_SLOTS else None
            return names[slot]

        (number, route, destination, endpoint, client, peer, worker, state, age, idle) = row[:10]
        (bytes_in, bytes_out, generation, picked, attempts, connect, first_byte) = row[10:]
        return {
            "id": number,
            "route": name(route),
            "destination": name(destination),
            "endpoint": name(endpoint) or peer or None,
            "client": client,
            "worker": worker,
            "state": state,
            "age": round(age, 3),
            "idle": round(idle, 3),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "generation": generation,
            "pick_reason": picked or None,
            "attempts": attempts,
            "connect_seconds": connect or None,
            "first_byte_seconds": first_byte or None,
        }

    async def open_among(self, ids: list[str], slices: Slices) -> list[str]:
        """Those of the ids that are open. Raises MasterRefused for one that is no id."""
        lives = {live.worker: live for live in self._view.lives}
        return [text for text in await slices.all(_open(ids, lives)) if text]


def _open(ids: list[str], lives: dict[int, Live]) -> Iterator[str]:
    """Each of them that is open, or ""."""
    for text in ids:
        found = parse_id(text)
        if found is None:
            raise invalid(f"{text!r} is not the id of a connection")
        worker, index, generation = found
        known = worker in lives and generation < 1 << 32
        yield text if known and is_open(lives[worker], index, generation) else ""


def _endpoint(text: str, destination: DestinationRow | None, route: RouteRow | None) -> int:
    if destination is None or route is None:
        raise invalid("endpoint: say of which destination")
    slots = {str(row.address): row.slot for row in destination.endpoints}
    if text not in slots:
        raise unknown(f"endpoint of {route.name}/{destination.name}", text, list(slots))
    return slots[text]


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        message = f"client: expected an address or a network as 10.0.0.0/8, got {text!r}"
        raise invalid(message) from None


def _seconds(name: str, query: Mapping[str, str]) -> float:
    text = query.get(name, "0s")
    try:
        return parse_duration(text) if not text.isdecimal() else float(text)
    except ValueError:
        raise invalid(f"{name}: expected a time such as 10m, got {text!r}") from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 <= int(text[:9]) <= MAX_CONNECTIONS:
        raise invalid(f"limit: expected 0..{MAX_CONNECTIONS}, got {text!r}")
    return int(text)
