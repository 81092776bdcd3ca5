"""The configuration as the rest of the program sees it: frozen, checked, in base units."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from tcpmux.config.address import Address, Endpoint, HostName
from tcpmux.config.problems import Problem

Network = IPv4Network | IPv6Network
MAX_WEIGHT = 1_000_000
# In the order of csrc/route_table.h.
ON_UNAVAILABLE = ("redistribute", "reject", "fallback")
ON_ALL_UNAVAILABLE = ("reset", "hold", "refuse")
UNIX = "unix"  # in lists of clients: those of UNIX sockets
Clients = Network | str  # str: UNIX


@dataclass(frozen=True, slots=True)
class Check:
    """How control looks whether an endpoint is healthy: CHECK_KINDS. Times in s; fast_interval from
    the first failure on, until it is decided. fall, rise: results in a row that decide.

    port: 0 = the endpoint's own. send, expect: of kind send; expect is found anywhere in the
    answer, as it is or as a regular expression. path, host, status: of kind http; host: also the
    name that tls verifies. A check of kind tls does not verify the certificate without it.
    """

    kind: str
    interval: float = 2.0
    fast_interval: float = 1.0
    timeout: float = 1.0
    fall: int = 3
    rise: int = 2
    port: int = 0
    send: bytes = b""
    expect: bytes = b""
    is_pattern: bool = False
    path: str = "/"
    host: str = ""
    status: tuple[int, int] = (200, 399)
    tls: bool = False


CHECK_KINDS = ("tcp", "send", "tls", "http", "redis", "postgres", "mysql")


@dataclass(frozen=True, slots=True)
class Passive:
    """When endpoints are ejected for what connections meet with there; Istio's outlierDetection.

    errors: connects in a row that fail, 0 = never. ejection_time: s, times the number of ejections
    so far; each interval (s) without one takes one off. most_ejected: percent of a destination's
    endpoints, and always one. resets: one before the first byte is a suspicion; early_close: so is
    a close so soon (s) with nothing sent, 0.0 = never. So many suspicions in a row of different
    clients, and control looks for itself.
    """

    errors: int = 5
    interval: float = 10.0
    ejection_time: float = 30.0
    most_ejected: int = 10
    early_close: float = 0.0
    resets: bool = False


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP's questions to a silent peer, on both sides. idle, interval: s; idle 0 = none."""

    idle: int = 60
    interval: int = 15
    count: int = 4


@dataclass(frozen=True, slots=True)
class Rate:
    """New connections per second, and how many may come at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second from and to clients; 0 = no limit."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """max_connections: 0 = no limit. priority: it is used when none of a lower number can be."""

    max_connections: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class DestinationPolicy:
    """How a destination's endpoints are chosen, watched and limited. Times in s, 0.0 = off;
    numbers of connections 0 = no limit; panic_threshold, warmup_floor and jitter in percent."""

    balance: str = "round_robin"
    max_connections: int = 0
    on_full: str = "reject"  # reject, spill or queue
    queue_size: int = 0
    queue_timeout: float = 0.0
    panic_threshold: int = 0
    warmup: float = 0.0
    warmup_floor: int = 10
    check: Check | None = None
    passive: Passive = Passive()
    lifetime: float = 0.0
    jitter: int = 0
    half_open_timeout: float = 0.0
    keepalive: Keepalive = Keepalive()
    user_timeout: float = 0.0
    bandwidth: Bandwidth = Bandwidth()


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Limits of a route, and what happens when a destination, or every one, has nothing left.

    allow, deny: of client addresses; no allow = everybody; deny wins. fallback: the destination
    that takes over, with on_unavailable fallback. hold: s that a connection waits, with
    on_all_unavailable hold. max_connect_attempts: 0 = each endpoint once.
    """

    max_connections: int = 0
    listener_max_connections: int = 0
    source_max_connections: int = 0
    rate: Rate | None = None
    source_rate: Rate | None = None
    max_connect_attempts: int = 0
    retry_percent: int = 20
    retry_burst: int = 100
    across: bool = False
    on_unavailable: str = "redistribute"  # redistribute, reject or fallback
    fallback: str = ""
    on_all_unavailable: str = "reset"  # reset, hold or refuse
    hold: float = 0.0
    bandwidth: Bandwidth = Bandwidth()
    allow: tuple[Clients, ...] = ()
    deny: tuple[Clients, ...] = ()


@dataclass(frozen=True, slots=True)
class Destination:
    """One version of a service. weight: 0..1000000. endpoints may be empty: its share is
    rejected; one that is in it several times takes so many turns. Timeouts in s, idle 0.0 = off.
    endpoint_policies: of those that have one of their own."""

    name: str
    weight: int
    endpoints: tuple[Endpoint, ...]
    connect_timeout: float
    idle_timeout: float
    policy: DestinationPolicy = DestinationPolicy()
    endpoint_policies: tuple[tuple[Endpoint, EndpointPolicy], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Addresses to listen on and the destinations behind them. Timeouts as its destinations have
    them if they say nothing else. source: what it was made of, if that is no native file."""

    name: str
    listen: tuple[Address, ...]
    connect_timeout: float
    idle_timeout: float
    destinations: tuple[Destination, ...]
    source: str = ""
    policy: RoutePolicy = RoutePolicy()


@dataclass(frozen=True, slots=True)
class Admin:
    """socket: path of the UNIX socket of the admin API. http: the TCP address for it, None = none;
    over that, requests carry what token_file holds ("" = nothing) and ask for one of hosts.
    insecure: there may be none."""

    socket: str
    http: Address | None = None
    token_file: str = ""
    hosts: tuple[str, ...] = ()
    insecure: bool = False


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
class Config:
    """All files together. workers: None = as many as usable CPUs. busy_poll: how long a worker
    looks for events before it sleeps, in us; None = as it pays. drain_timeout in s."""

    workers: int | None
    busy_poll: int | None
    admin: Admin
    drain_timeout: float
    routes: tuple[Route, ...]
    files: tuple[Path, ...]
    dns_servers: tuple[Address, ...] = ()  # none = those of the host
    warnings: tuple[Problem, ...] = ()
    access_log: AccessLog | None = None
    buffers: Buffers = Buffers()
    user: str = ""  # name or number; "" = the default
    group: str = ""

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
