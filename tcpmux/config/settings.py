"""Every setting of a route, a destination or an endpoint, one row each.

A row is a field of a table below. It says the key of routes.yaml (its name), type, default, range,
unit, help, and where its number goes in the route table that workers read (`rule`): rows.py. From
it follow:

    the key and its JSON Schema       keys.py
    the frozen configuration          the table itself
    `tcpmux convert`                  written.py: texts()
    the struct that workers read      csrc/rules.def, which csrc/tables.py makes of this file
    its numbers                       rows.py: numbers(), used by tcpmux/shm
    what a reload changes, as text    written.py: rule_text()
    configs/reference.yaml            tests/unit/test_settings.py compares, and adds what is missing

The build runs this file before anything is compiled or installed: it may import nothing that needs
more than the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from tcpmux.config.converge import Converge
from tcpmux.config.mirror import Mirror
from tcpmux.config.preread import Preread
from tcpmux.config.proxy_header import AcceptProxy as AcceptProxy  # noqa: PLC0414  (rows of here)
from tcpmux.config.proxy_header import SendProxy as SendProxy  # noqa: PLC0414
from tcpmux.config.rows import (
    DAY,
    HOUR,
    MAX_CONNECTIONS,
    bandwidth,
    flag,
    limit,
    other,
    percent,
    rate,
    seconds,
    section,
    whole,
    whole_seconds,
    word,
)
from tcpmux.config.sticky import Sticky

if TYPE_CHECKING:
    from tcpmux.config.check import Check

UNIX = "unix"  # in lists of clients: those of UNIX sockets
Network = IPv4Network | IPv6Network
Clients = Network | str  # str: UNIX

# Words for a setting, with what each means, in the order of the enum in csrc/route_table.h.
# That of BALANCES is made of this, and the function of each is in csrc/conn/endpoint.c.
BALANCES = {
    "round_robin": "in turn, exactly, across all workers",
    "least_connections": "the one with the fewest open connections, across all workers",
    "random_two": "the less loaded of two chosen at random: for hundreds of endpoints",
    "source_hash": "by the client's address; when an endpoint is removed, only its clients move",
    "maglev": "as source_hash, with a lookup table: as fast with 1,000 endpoints as with two",
}
ON_FULL = {
    "reject": "reset",
    "spill": "to the route's other destinations, by weight",
    "queue": "wait for a place until the timeout, then reset",
}
ON_UNAVAILABLE = {
    "redistribute": "to the other destinations, in proportion",
    "reject": "reset",
    "fallback": "to the destination that is named",
}
ON_ALL_UNAVAILABLE = {
    "reset": "reset new connections",
    "hold": "keep new connections waiting",
    "refuse": "stop listening",
}


def listed(words: Mapping[str, str]) -> str:
    return "; ".join(f"{name} ({text})" for name, text in words.items()) + "."


# --- sections -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """New connections per second, and how many may come at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Passive:
    """When endpoints are ejected for what connections meet with there; Istio's outlierDetection.
    Times in s. Control does it; workers count suspicions."""

    errors: int = whole(
        "Consecutive failed connects that eject an endpoint; 0 = never.",
        5,
        0,
        1000,
        "connects",
    )
    interval: float = seconds(
        "Time without an ejection that takes one off the number of ejections.", 10.0, 0.001, DAY
    )
    ejection_time: float = seconds(
        "Duration of an ejection, multiplied by the number of ejections so far.", 30.0, 0.001, DAY
    )
    most_ejected: int = percent(
        "Percentage of a destination's endpoints that may be ejected; one always may, unless it "
        "is the route's last.",
        10,
    )
    early_close: float = seconds(
        "A close this early, with nothing sent, also counts as a suspicion; 0s = never.",
        0.0, rule="early_close_ms",
    )  # fmt: skip
    resets: bool = flag(
        "Count a reset before the first byte as a suspicion: after `errors` of them, from "
        "different clients, the endpoint is checked, and ejected if the check fails.",
        False, rule="resets",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SlowStart:
    """How the share of what is new or has recovered grows. duration in s, 0.0 = at once."""

    duration: float = seconds(
        "Time until the full share is reached; 0s = at once.",
        0.0,
        rule="slow_start_ms",
        required=True,
    )
    floor: int = percent(
        "Percentage of the share to begin with.", 10, rule="slow_start_floor", raised_to=1
    )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a connection may be open. duration in s, 0.0 = no limit."""

    duration: float = seconds(
        "Age at which a connection is closed; 0s = never.", 0.0, rule="lifetime_ms", required=True
    )
    jitter: int = percent("Close up to this much earlier, at random.", 0, rule="lifetime_jitter")


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP's questions to a silent peer, on both sides. idle, interval: s; idle 0 = none."""

    idle: int = whole_seconds(
        "Idle time before the first keepalive probe.", 60, 1, 32767, rule="keepalive_s"
    )
    interval: int = whole_seconds(
        "Time between two probes.", 15, 1, 32767, rule="keepalive_interval_s"
    )
    count: int = whole(
        "Unanswered probes after which the connection is closed.",
        4, 1, 127, "questions", rule="keepalive_count",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second from and to clients; 0 = no limit."""

    up: int = bandwidth("From clients.", rule="up")
    down: int = bandwidth("To clients.", rule="down")


@dataclass(frozen=True, slots=True)
class Queue:
    """Of connections that wait for a place in a destination. timeout in s."""

    size: int = whole(
        "Connections that may wait, across all workers.",
        1024, 1, MAX_CONNECTIONS, "connections", rule="queue_size",
    )  # fmt: skip
    timeout: float = seconds(
        "How long a connection waits before it is reset.", 5.0, 0.001, DAY, rule="queue_ms"
    )


@dataclass(frozen=True, slots=True)
class Source:
    """Limits of each client: an IPv4 address or an IPv6 /64."""

    max_connections: int = limit("Concurrent connections.", rule="source_max_connections")
    rate: Rate | None = rate("New ones.", "source_interval_ns", "source_burst")


@dataclass(frozen=True, slots=True)
class Retry:
    """Of connects that fail. attempts: 0 = each endpoint once."""

    attempts: int = limit(
        "Connects for one connection, each to another endpoint.",
        255,
        rule="max_attempts",
        unit="connects",
    )
    budget: int = percent("Retries, as a percentage of first connects.", 20, rule="retry_percent")
    burst: int = whole(
        "Retries allowed beyond the budget.", 100, 0, 1_000_000, "connects", rule="retry_burst"
    )
    across: bool = flag(
        "Try another destination when all endpoints of one have failed.", False, rule="across"
    )


# --- of a route, of a destination, of an endpoint ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In s. A route has those of its destinations that say nothing else, to be shown."""

    connect_timeout: float = seconds(
        "Time limit of a connect to one endpoint, 1ms..1h. If it fails, the destination's next "
        "endpoint is tried; each is tried once.",
        10.0, 0.001, HOUR, rule="connect_timeout_ms",
    )  # fmt: skip
    idle_timeout: float = seconds(
        "Close a connection on which no byte moved for this long: 1ms..30d, 0s = never.",
        HOUR, rule="idle_timeout_ms",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoutePolicy(Timeouts):
    """Limits of a route, and what happens when a destination, or every one, has nothing left.

    allow, deny: of client addresses; no allow = everybody; deny wins. fallback: the destination
    that takes over, with on_unavailable fallback. hold: s that a connection waits, with
    on_all_unavailable hold.
    """

    max_connections: int = limit(
        "Concurrent connections, across all workers; further ones are reset.",
        rule="max_connections",
    )
    listener_max_connections: int = limit(
        "The same for each address that is listened on.", rule="listener_max_connections"
    )
    source: Source = section("Limits of each client: an IPv4 address or an IPv6 /64.", Source())
    rate: Rate | None = rate(
        "Rate of new connections; further ones are reset.", "interval_ns", "burst"
    )
    bandwidth: Bandwidth = section("Bandwidth of all connections together.", Bandwidth())
    allow: tuple[Clients, ...] = other(
        "Clients that may connect: addresses, networks, and unix for clients of UNIX sockets; "
        "empty = all.",
        (),
    )
    deny: tuple[Clients, ...] = other("Clients that may not connect, even if allowed.", ())
    accept_proxy: AcceptProxy = other(
        "The PROXY protocol, versions 1 and 2: a header that says who the client is, in front of "
        "connections from a load balancer.",
        AcceptProxy(), table=AcceptProxy,
    )  # fmt: skip
    preread: Preread = other(
        "The client's first bytes before the pick: whether they are TLS, and the server's name "
        "(SNI) and the protocols (ALPN) of its ClientHello.",
        Preread(), table=Preread,
    )  # fmt: skip
    sticky: Sticky = other(
        "A client gets the same destination each time, as long as the weights allow; shares are "
        "then of clients.",
        Sticky(), table=Sticky,
    )  # fmt: skip
    converge: Converge = other(
        "Live connections follow the weights: surplus ones are closed at quiet moments, so that "
        "their clients come again.",
        Converge(), table=Converge,
    )  # fmt: skip
    mirror: Mirror = other(
        "A copy of what some clients send, for another destination: its answers are compared with "
        "those that the clients get, and dropped.",
        Mirror(), table=Mirror,
    )  # fmt: skip
    retry: Retry = section("Retries of failed connects, before any byte was forwarded.", Retry())
    on_unavailable: str = other(
        "What becomes of the share of a destination without a healthy endpoint: redistribute (to "
        "the others in "
        "proportion), reject (it is reset), or {fallback: NAME}.",
        "redistribute", words=ON_UNAVAILABLE, rule="on_unavailable", unit="tm_on_unavailable",
    )  # fmt: skip
    fallback: str = other(
        "The destination that takes over.", "", rule="fallback", unit="index of a destination"
    )
    on_all_unavailable: str = other(
        "What happens to new connections when no destination has a healthy endpoint: reset, "
        "refuse (stop listening), or {hold: 5s} (wait for "
        "one).",
        "reset", words=ON_ALL_UNAVAILABLE, rule="on_all_unavailable", unit="tm_on_all_unavailable",
    )  # fmt: skip
    hold: float = other(
        "How long a connection waits for a destination.", 0.0, rule="hold_ms", unit="ms"
    )


@dataclass(frozen=True, slots=True)
class DestinationPolicy(Timeouts):
    """How a destination's endpoints are chosen, watched and limited. Times in s, 0.0 = off;
    numbers of connections 0 = no limit."""

    send_proxy: SendProxy = section(
        "The PROXY protocol: a header that says who the client is, which endpoints are sent first; "
        "1, 2 or a mapping, 0 = none.",
        SendProxy(), short="version",
    )  # fmt: skip
    balance: str = word(
        "Which endpoint a connection is given: " + listed(BALANCES),
        "round_robin", BALANCES, rule="balance", unit="tm_balance",
    )  # fmt: skip
    max_connections: int = limit(
        "Concurrent connections, across all workers.", rule="max_connections", shared=False
    )
    on_full: str = other(
        "What happens beyond max_connections: reject (reset), spill (to the route's others), or "
        "{queue: {size: "
        "1024, timeout: 5s}}.",
        "reject", words=ON_FULL, rule="on_full", unit="tm_on_full", shared=False,
    )  # fmt: skip
    queue: Queue = other("Wait for a free place.", Queue(0, 0.0), table=Queue, shared=False)
    check: Check | None = other("How endpoints are checked; off, or a type.", None)
    passive: Passive = section(
        "Ejection of endpoints where connections fail; or off.", Passive(), off="errors"
    )
    panic_threshold: int = percent(
        "If fewer of a destination's endpoints are healthy, all are used regardless of health; 0% "
        "= never.",
        0, rule="panic_percent",
    )  # fmt: skip
    slow_start: SlowStart = section(
        "Gradual increase of the share of a new or recovered endpoint or destination.",
        SlowStart(), short="duration", former="warmup",
    )  # fmt: skip
    max_connection_duration: Lifetime = section(
        "Close a connection at this age; 0s = never.", Lifetime(), short="duration"
    )
    half_open_timeout: float = seconds(
        "idle_timeout of a connection that one side has closed; 0s = idle_timeout.",
        0.0,
        rule="half_open_ms",
    )
    keepalive: Keepalive = section(
        "TCP keepalive on both sides of a connection, or off.", Keepalive(), off="idle"
    )
    tcp_user_timeout: float = seconds(
        "How long sent data may stay unacknowledged; 0s = the system's default.",
        0.0, rule="user_timeout_ms",
    )  # fmt: skip
    connection_bandwidth: Bandwidth = section(
        "Bandwidth of each connection; beyond it, data is not read.", Bandwidth()
    )


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """Of a single endpoint."""

    max_connections: int = limit(
        "Concurrent connections, across all workers.", rule="max_connections"
    )
    priority: int = whole(
        "Used only when no endpoint with a lower number can take connections.",
        0,
        0,
        100,
        "tier",
        rule="priority",
    )
