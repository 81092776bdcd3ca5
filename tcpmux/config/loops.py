"""Routes that lead back to themselves: an endpoint is a listener of the same route, or of one from
which connections come back.

Weights and health don't matter: they change. A chain of routes that ends somewhere is fine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise

from tcpmux.config.address import Address, HostName
from tcpmux.config.model import Config

_EVERY_4, _EVERY_6 = "0.0.0.0", "::"  # noqa: S104


@dataclass(frozen=True, slots=True)
class Leg:
    """From a route to an endpoint. place: for the caller. fixed: nobody may leave it out."""

    route: str
    endpoint: Address
    place: object = None
    fixed: bool = True


@dataclass(frozen=True, slots=True)
class Loop:
    """leg: the first that is part of it; routes: all of them, from that leg's on and back to it."""

    leg: Leg
    routes: tuple[str, ...]
    listener: Address

    def __str__(self) -> str:
        if len(self.routes) == 2:
            return f"{self.leg.endpoint} is the route's own listener {self.listener}"
        return (
            f"{self.leg.endpoint} is a listener of a route that leads back here: "
            f"{' -> '.join(self.routes)}"
        )


def is_local(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of this host. Sends nothing."""
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            # Who talks to an address of its own host has that address itself.
            sock.connect((str(ip), 9))
            return ip_address(sock.getsockname()[0].partition("%")[0]) == ip
    except OSError:
        return False


@dataclass(slots=True)
class Listens:
    """Which route gets what is sent to an address."""

    routes: Mapping[Address, str]
    _ports: set[int] = field(init=False)
    _paths: dict[str, Address] | None = field(init=False, default=None)
    _local: dict[str, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._ports = {address.port for address in self.routes}

    def at(self, endpoint: Address) -> Address | None:
        """The listener that it is; None = of nobody here."""
        if endpoint.port not in self._ports:
            return None
        if endpoint.path:
            return self._at_path(endpoint.path)
        ip = ip_address(endpoint.host)
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_unspecified:  # as the kernel takes it
            ip = ip_address("127.0.0.1" if ip.version == 4 else "::1")
        # The most particular listener gets it.
        own = Address(str(ip), endpoint.port, "")
        every = (_EVERY_4, _EVERY_6) if ip.version == 4 else (_EVERY_6,)
        if own in self.routes:
            return own
        for host in every:
            found = Address(host, endpoint.port, "")
            if found in self.routes and self._is_local(ip):
                return found
        return None

    def _is_local(self, ip: IPv4Address | IPv6Address) -> bool:
        if str(ip) not in self._local:
            self._local[str(ip)] = is_local(ip)
        return self._local[str(ip)]

    def _at_path(self, path: str) -> Address | None:
        if self._paths is None:
            self._paths = {}
            for address in self.routes:
                if address.path:
                    for name in _names_of(address.path):
                        self._paths[name] = address
        return next((self._paths[name] for name in _names_of(path) if name in self._paths), None)


def _names_of(path: str) -> Iterator[str]:
    """By which the same UNIX socket is known, if it is there yet."""
    yield os.path.realpath(path)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return
    yield f"{found.st_dev}:{found.st_ino}"


def find_loops(routes: Mapping[Address, str], legs: Iterable[Leg]) -> list[Loop]:
    """routes: by what they listen on. Of each route that leads to itself every leg that does, and
    of loops through several routes one; leaving out legs that are not fixed, first those of the
    former, then of the latter until none is left."""
    listens = Listens(routes)
    loops: list[Loop] = []
    between: dict[tuple[str, str], list[tuple[Leg, Address]]] = {}
    for leg in legs:
        listener = listens.at(leg.endpoint)
        if listener is None:
            continue
        target = routes[listener]
        if target == leg.route:
            loops.append(Loop(leg, (target, target), listener))
        else:
            between.setdefault((leg.route, target), []).append((leg, listener))
    while (around := _circle(between)) is not None:
        steps = list(pairwise(around))
        loose = [step for step in steps if not any(leg.fixed for leg, _ in between[step])]
        first = loose[0] if loose else next(step for step in between if step in steps)
        at = steps.index(first)
        names = (*(step[0] for step in (*steps[at:], *steps[:at])), first[0])
        if not loose:
            leg, listener = between[first][0]
            return [*loops, Loop(leg, names, listener)]
        loops += [Loop(leg, names, listener) for leg, listener in between.pop(first)]
    return loops


def _circle(between: Iterable[tuple[str, str]]) -> list[str] | None:
    """Routes of which each leads to the next, and the last is the first."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for route, target in between:
        graph.add(target, route)
    try:
        graph.prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


LeftOut = dict[tuple[str, Address], Loop]  # of a route and an address


def left_out(config: Config, addresses: Mapping[HostName, Sequence[Address]]) -> LeftOut:
    """What names stand for and must not be used, as it leads back to its route."""
    routes = {address: route.name for route in config.routes for address in route.listen}
    if not any(addresses.values()):
        return {}
    legs = _legs(config, addresses)
    return {
        (loop.leg.route, loop.leg.endpoint): loop
        for loop in find_loops(routes, legs)
        if not loop.leg.fixed
    }


def _legs(config: Config, addresses: Mapping[HostName, Sequence[Address]]) -> Iterator[Leg]:
    for route in config.routes:
        for destination in route.destinations:
            for endpoint in dict.fromkeys(destination.endpoints):
                if isinstance(endpoint, Address):
                    yield Leg(route.name, endpoint)
                    continue
                for address in dict.fromkeys(addresses.get(endpoint, ())):
                    yield Leg(route.name, address, endpoint, fixed=False)


def without(
    route: str, addresses: Sequence[Address], loops: Collection[tuple[str, Address]]
) -> Sequence[Address]:
    """Those of a name that the route may use."""
    if not loops:
        return addresses
    return tuple(address for address in addresses if (route, address) not in loops)
