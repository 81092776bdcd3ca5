"""The configuration as the rest of the program sees it: frozen, checked, in base units."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.address import Address, Endpoint, HostName
from tcpmux.config.fleet import Fleet
from tcpmux.config.problems import Problem
from tcpmux.config.rule import Rule
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, RoutePolicy, Timeouts
from tcpmux.rollout.plan import Plan

MAX_WEIGHT = 1_000_000
STATE_DIR = "/var/lib/tcpmux"  # the default


class _Timed:
    """Timeouts in s; idle 0.0 = off. Those of a route are of destinations that say nothing else."""

    __slots__ = ()
    policy: Timeouts

    @property
    def connect_timeout(self) -> float:
        return self.policy.connect_timeout

    @property
    def idle_timeout(self) -> float:
        return self.policy.idle_timeout


@dataclass(frozen=True, slots=True)
class Destination(_Timed):
    """One version of a service. weight: 0..1000000. endpoints may be empty: its share is
    rejected; one that is in it several times takes so many turns. endpoint_policies: of those that
    have one of their own."""

    name: str
    weight: int
    endpoints: tuple[Endpoint, ...]
    policy: DestinationPolicy = DestinationPolicy()
    endpoint_policies: tuple[tuple[Endpoint, EndpointPolicy], ...] = ()


@dataclass(frozen=True, slots=True)
class Route(_Timed):
    """Addresses to listen on and the destinations behind them. source: what it was made of, if
    that is no native file. rules: the first that a connection meets decides; without one, the
    weights. rollout: what `tcpmux rollout start` does if it says nothing else."""

    name: str
    listen: tuple[Address, ...]
    destinations: tuple[Destination, ...]
    source: str = ""
    policy: RoutePolicy = RoutePolicy()
    rules: tuple[Rule, ...] = ()
    rollout: Plan | None = None


@dataclass(frozen=True, slots=True)
class Admin:
    """socket: path of the UNIX socket of the admin API. http: the TCP address for it, None = none;
    over that, requests carry what token_file or, to read, read_only_token_file holds ("" = there is
    none) and ask for one of hosts. insecure: there may be neither."""

    socket: str
    http: Address | None = None
    token_file: str = ""
    read_only_token_file: str = ""
    hosts: tuple[str, ...] = ()
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Log:
    """Of the diagnostic log: as in tcpmux/log_style.py. file: absolute path, of target file."""

    level: str = "info"
    format: str = "text"
    target: str = "stderr"
    file: str = ""

    @property
    def place(self) -> str:
        """Where it goes, in one word."""
        return self.file or self.target


@dataclass(frozen=True, slots=True)
class AccessLog:
    """path: absolute, or stdout, stderr, syslog, journal. format: json or a template. interval
    in s, 0.0 = none. buffer: bytes of each worker."""

    path: str
    format: str
    start: bool
    interval: float
    buffer: int


@dataclass(frozen=True, slots=True)
class Buffers:
    """What connections may hold whose peer does not read, in bytes. per_source, total: 0 = no
    limit; total None = by the memory that the host has for TCP."""

    client: int = 16 << 10
    endpoint: int = 16 << 10
    pipe: int = 1 << 20
    per_source: int = 256 << 20
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """Of a TCPRoute to a parent that it names, in the Gateway API's words. accepted, resolved:
    whether the conditions Accepted and ResolvedRefs hold: their own name, or the reason why not."""

    route: str
    parent: str
    accepted: str = "Accepted"
    resolved: str = "ResolvedRefs"
    message: str = ""

    def __str__(self) -> str:
        told = f"{self.route} at {self.parent}: "
        told += "Accepted" if self.accepted == "Accepted" else f"not Accepted: {self.accepted}"
        resolved = self.resolved == "ResolvedRefs"
        told += ", ResolvedRefs" if resolved else f", not ResolvedRefs: {self.resolved}"
        return f"{told}: {self.message}" if self.message else told


@dataclass(frozen=True, slots=True)
class Config:
    """All sources together. workers: None = as many as usable CPUs. busy_poll: how long a worker
    looks for events before it sleeps, in us; None = as it pays. drain_timeout in s.
    state_dir: where what outlives the instance is kept. fleet: whose routes are among
    these; fleet_routes: the names of those."""

    workers: int | None
    busy_poll: int | None
    admin: Admin
    drain_timeout: float
    routes: tuple[Route, ...]
    dns_servers: tuple[Address, ...] = ()  # none = those of the host
    warnings: tuple[Problem, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    log: Log = Log()
    access_log: AccessLog | None = None
    buffers: Buffers = Buffers()
    user: str = ""  # name or number; "" = the default
    group: str = ""
    state_dir: str = STATE_DIR
    fleet: Fleet | None = None
    fleet_routes: frozenset[str] = frozenset()

    @property
    def unix_endpoints(self) -> list[str]:
        """Paths of the endpoints that are UNIX sockets."""
        return sorted(
            {
                endpoint.path
                for route in self.routes
                for destination in route.destinations
                for endpoint in destination.endpoints
                if isinstance(endpoint, Address) and endpoint.path
            }
        )

    @property
    def host_names(self) -> frozenset[HostName]:
        """The names whose addresses have to be looked up."""
        return frozenset(
            endpoint
            for route in self.routes
            for destination in route.destinations
            for endpoint in destination.endpoints
            if isinstance(endpoint, HostName)
        )
