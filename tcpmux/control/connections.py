"""Queries for live connections, and their answers. Runs in control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from tcpmux.config import Address
from tcpmux.config.duration import parse_duration
from tcpmux.connection_id import parse_id
from tcpmux.control.convergence import why_stays
from tcpmux.control.explanation import Word, explain, facts_asked
from tcpmux.control.limits import MAX_CONNECTIONS
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.operations import Operations
from tcpmux.nearest import did_you_mean
from tcpmux.shm._connections import GROUP_KEYS, SORT_KEYS, Scan, is_open
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm.convergence import CLOSE, REHOME
from tcpmux.shm.image import EndpointRow, RouteRow
from tcpmux.shm.stats import listens
from tcpmux.shm.view import View

if TYPE_CHECKING:
    from tcpmux.control.slices import Slices
    from tcpmux.shm._connections import Group, Row
    from tcpmux.shm._live import Live

Names = Callable[[int], str | None]  # of counter slots
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
    """Which connections: counter slots of what they are of and of rules that they have met, ages in
    s; None and 0.0 = any."""

    slots: frozenset[int] | None = None
    rules: frozenset[int] | None = None
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

    def filter(self, query: Mapping[str, str], sort_keys: Sequence[str] = SORT_KEYS) -> Filter:
        """Of the query of a URL. Raises MasterRefused for what can't be meant."""
        for key in query:
            if key not in _FILTERS:
                raise unknown("filter", key, list(_FILTERS))
        sort = query.get("sort", sort_keys[0])
        if sort.lstrip("-") not in sort_keys or sort.startswith("--"):
            raise invalid(f"sort: expected one of {', '.join(sort_keys)}, or one after a -")
        return Filter(
            self._slots(query),
            self._rules(query),
            _network(query["client"]) if "client" in query else None,
            _seconds("older", query),
            _seconds("idle", query),
            sort.lstrip("-"),
            sort.startswith("-"),
            _limit(query.get("limit", str(DEFAULT_LIMIT))),
        )

    def _slots(self, query: Mapping[str, str]) -> frozenset[int] | None:
        """Of what route, destination and endpoint name together."""
        if not query.keys() & {"route", "destination", "endpoint"}:
            return None
        routes: Sequence[RouteRow] = self._view.image()[1].routes
        of = ""
        if "route" in query:
            known = [route.name for route in routes]
            routes = [route for route in routes if route.name == query["route"]]
            of = f" of route {query['route']}"
            if not routes:
                raise unknown("route", query["route"], known)
        if not query.keys() & {"destination", "endpoint"}:
            return frozenset(route.slot for route in routes)
        rows = [row for route in routes for row in route.destinations]
        if "destination" in query:
            known = [row.name for row in rows]
            rows = [row for row in rows if row.name == query["destination"]]
            if not rows:
                raise unknown(f"destination{of}", query["destination"], known)
            of = f" of {query['route']}/{query['destination']}" if of else f" of {rows[0].name}"
        if "endpoint" not in query:
            return frozenset(row.slot for row in rows)
        endpoints = [(str(one.address), one.slot) for row in rows for one in row.endpoints]
        slots = frozenset(slot for address, slot in endpoints if address == query["endpoint"])
        if not slots:
            raise unknown(f"endpoint{of}", query["endpoint"], [text for text, _ in endpoints])
        return slots

    def route(self, name: str) -> RouteRow:
        """As it is in force. Raises MasterRefused."""
        routes = self._view.image()[1].routes
        found = next((route for route in routes if route.name == name), None)
        if found is None:
            raise unknown("route", name, [route.name for route in routes])
        return found

    def _rules(self, query: Mapping[str, str]) -> frozenset[int] | None:
        """Of those named so; of the route, if that is named as well."""
        if "rule" not in query:
            return None
        routes = self._view.image()[1].routes
        of = f" of route {query['route']}" if "route" in query else ""
        rows = [
            r
            for route in routes
            if query.get("route", route.name) == route.name
            for r in route.pick_rules
        ]
        found = frozenset(row.slot for row in rows if row.name == query["rule"])
        if not found:
            raise unknown(f"rule{of}", query["rule"], [row.name for row in rows])
        return found

    def explanation(
        self, route: str, query: Mapping[str, Sequence[str]], word: Word
    ) -> dict[str, Any]:
        """As GET /v1/routes/{route}/explanation has it. Raises MasterRefused."""
        image = self._view.image()[1]
        known = [row.name for row in image.routes]
        if route not in known:
            raise unknown("route", route, known)
        index = known.index(route)
        listen = [Address.parse(text) for text in listens(image)[index]]
        try:
            facts = facts_asked(listen, query)
        except ValueError as error:
            raise invalid(str(error)) from None
        return {**explain(image.routes[index], facts, word)}

    def names(self) -> Iterator[dict[str, Any]]:
        """Of all routes, as GET /v1/names has them."""
        for route in self._view.image()[1].routes:
            destinations = [
                {"name": row.name, "endpoints": list(dict.fromkeys(map(_address, row.endpoints)))}
                for row in route.destinations
            ]
            rules = [row.name for row in route.pick_rules]
            yield {"name": route.name, "destinations": destinations, "rules": rules}

    async def rows(self, wanted: Filter, slices: Slices) -> tuple[int, list[dict[str, Any]]]:
        """How many match, and those that are told of, as GET /v1/connections has them."""
        scan = self._scan(wanted)
        name, quiet = cache(self._name), cache(self._quiet)
        made = (row and _row(row, name, quiet) for row in scan.rows())
        rows = [row for row in await slices.all(made) if row is not None]
        return scan.total, rows

    async def groups(
        self, by: str, wanted: Filter, slices: Slices
    ) -> tuple[int, int, list[dict[str, Any]]]:
        """How many connections match, how many groups they make, and those of the groups that are
        told of, as GET /v1/connections/groups has them."""
        if by not in GROUP_KEYS:
            raise invalid(f"by: expected one of {', '.join(GROUP_KEYS)}")
        scan = self._scan(wanted)
        name = cache(self._name)
        made = (group and _group(group, name) for group in scan.groups(by))
        groups = [group for group in await slices.all(made) if group is not None]
        return scan.total, scan.group_count, groups

    def _scan(self, wanted: Filter) -> Scan:
        return Scan(
            self._view.lives,
            slots=wanted.slots,
            rules=wanted.rules,
            network=wanted.network,
            older=wanted.older,
            idle=wanted.idle,
            sort=wanted.sort,
            ascending=wanted.ascending,
            limit=wanted.limit,
            asked={
                route.slot: (route.rules.converge_protocol, _method(route) == REHOME)
                for route in self._view.image()[1].routes
                if _converges(route)
            },
        )

    def _quiet(self, slot: int) -> int:
        """How long nothing may have moved, in ms, of a route that converges."""
        routes = self._view.image()[1].routes
        found = next((route for route in routes if route.slot == slot), None)
        if found is None:
            return 0
        return found.convergence.quiet_ms if found.convergence else found.rules.converge_quiet_ms

    def _name(self, slot: int) -> str | None:
        return self._view.table.label(slot) if slot < MAX_SLOTS else None

    async def open_among(self, ids: list[str], slices: Slices) -> list[str]:
        """Those of the ids that are open. Raises MasterRefused for one that is no id."""
        lives = {live.worker: live for live in self._view.lives}
        return [text for text in await slices.all(_open(ids, lives)) if text]


def _converges(route: RouteRow) -> bool:
    """Whether its file or somebody says how."""
    rules = route.rules
    return bool(
        route.convergence
        or rules.converge_when
        or rules.converge_protocol
        or rules.converge_method != CLOSE
    )


def _method(route: RouteRow) -> int:
    return route.convergence.method if route.convergence else route.rules.converge_method


def _row(row: Row, name: Names, quiet: Callable[[int], int]) -> dict[str, Any]:
    (number, route, destination, endpoint, client, peer, worker, state, age, idle) = row[:10]
    (bytes_in, bytes_out, generation, picked, attempts, connect, first_byte, known) = row[10:18]
    rule, unique_id, rehomed, moment, endpoint_spoke_last = row[18:]
    stays = None
    if moment is not None:
        idle_ms = int(idle * 1000)
        stays = why_stays(moment, idle_ms, quiet(route), endpoint_spoke_last=endpoint_spoke_last)
    return {
        "id": number,
        "unique_id": unique_id,
        "route": name(route),
        "destination": name(destination),
        "rule": name(rule),
        "endpoint": name(endpoint) or peer or None,
        "client": client,
        "peer": known.peer or None,
        "proxy_tlvs": known.tlvs or None,
        "worker": worker,
        "state": state,
        "age": round(age, 3),
        "idle": round(idle, 3),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "generation": generation,
        "pick_reason": picked or None,
        "attempts": attempts,
        "rehomed": rehomed,
        "stays": stays,
        "connect_seconds": connect or None,
        "first_byte_seconds": first_byte or None,
        "sni": known.sni or None,
        "alpn": [*known.alpn],
    }


def _group(group: Group, name: Names) -> dict[str, Any]:
    key, connections, bytes_in, bytes_out, age = group
    made: dict[str, Any] = dict.fromkeys(GROUP_KEYS)
    parts: Sequence[int | bytes] = key
    for level, part in zip(GROUP_KEYS, parts, strict=False):
        if isinstance(part, bytes):
            made["client"] = str(ip_address(part)) if part else "unix:"
        else:
            made[level] = name(part)
    return {
        **made,
        "connections": connections,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "age": round(age, 3),
    }


def _address(endpoint: EndpointRow) -> str:
    return str(endpoint.address)


def _open(ids: list[str], lives: dict[int, Live]) -> Iterator[str]:
    """Each of them that is open, or ""."""
    for text in ids:
        found = parse_id(text)
        if found is None:
            raise invalid(f"{text!r} is not the id of a connection")
        worker, index, generation = found
        known = worker in lives and generation < 1 << 32
        yield text if known and is_open(lives[worker], index, generation) else ""


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
