"""The schema of what a route does when things go wrong, and of its limits: keys that stand beside
listen and endpoints. Private to the package: others see the types of model.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from tcpmux.config.model import (
    CHECK_KINDS,
    ON_UNAVAILABLE,
    UNIX,
    Bandwidth,
    Check,
    Clients,
    EndpointPolicy,
    Keepalive,
    Passive,
    Rate,
)
from tcpmux.config.patterns import compiled
from tcpmux.config.problems import describe
from tcpmux.config.size import format_size, parse_size
from tcpmux.config.values import (
    DURATION_SCHEMA,
    Name,
    OrText,
    Strict,
    boolean,
    duration,
    measure,
    number,
    whole,
)

BALANCES = ("round_robin", "least_connections", "random_two", "source_hash", "maglev")
ON_FULL = ("reject", "spill", "queue")
MOST_CONNECTIONS = 10_000_000
MOST_PRIORITY = 100
DAY = 86400.0
MOST_RATE = 1_000_000.0  # per second
MOST_BANDWIDTH = 1 << 40  # bytes per second
MOST_BYTES = 64 * 1024  # that a check sends or expects
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/(s|m|h)", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _is_off(value: Any) -> bool:
    return value is False or value == "off"  # YAML 1.1 reads off as false


def _percent(value: Any, low: int = 0, high: int = 100) -> int:
    text = value[:-1] if isinstance(value, str) and value.endswith("%") else ""
    if not re.fullmatch("[0-9]{1,3}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"expected {low}%..{high}%, got {describe(value)}")
    return int(text)


def _count(value: Any) -> int:
    return whole(value, 1, MOST_CONNECTIONS)


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"expected one of {', '.join(names)}, got {describe(value)}")
        return value

    return check


def _from_to(low: float, high: float) -> Callable[[Any], float]:
    return lambda value: duration(value, low, high)


def _number_from_to(low: int, high: int) -> Callable[[Any], int]:
    return lambda value: whole(value, low, high)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {describe(value)}")
    return _not_too_long(value.encode("utf-8", "surrogateescape"))


def _hex(value: Any) -> bytes:
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected hexadecimal digits, got {describe(value)}") from None
    return _not_too_long(found)


def _not_too_long(value: bytes) -> bytes:
    """As much as is looked at of an answer."""
    if len(value) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes, got {len(value)}")
    return value


def _pattern(value: Any) -> bytes:
    pattern = _text(value)
    try:
        compiled(pattern)
    except ValueError as error:
        raise ValueError(
            "expected a regular expression as RE2 has them (no look-around, no backreferences), "
            f"got one that fails: {error}"
        ) from None
    return pattern


def _plain(pattern: str, what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"expected {what}, got {describe(value)}")
        return value

    return check


def _status(value: Any) -> tuple[int, int]:
    found = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", str(number(value)), re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ValueError(f"expected a status such as 200 or 200-399, got {describe(value)}")
    return first, last


def _clients(value: Any) -> Clients:
    if value == UNIX:
        return UNIX
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"expected {_network_hint(value)}, got {describe(value)}") from None


def _network_hint(value: Any) -> str:
    try:
        network = ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        return "an address, a network such as 10.0.0.0/8, or unix"
    return f"{network} (bits after the prefix must be 0)"


def _word_or_mapping(words: tuple[str, ...], example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, dict) or (isinstance(value, str) and value in words):
            return value
        raise ValueError(f"expected {', '.join(words)} or {example}, got {describe(value)}")

    return check


def _entry(key: str) -> Callable[[Any], Any]:
    """A mapping, or a text that stands for its one key."""
    return lambda value: value if isinstance(value, dict) else {key: value}


def _off_or(key: str, off: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if _is_off(value):
            return off
        return value if isinstance(value, dict) or not key else {key: value}

    return check


_PERCENT_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,3}%$"}
_RATE_SCHEMA = {"type": "string", "pattern": r"^[0-9]+([.][0-9]+)?/[smh]$"}
_BANDWIDTH_SCHEMA = {"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)/s$"}
_CLIENTS_SCHEMA = {"type": "string", "examples": ["10.0.0.0/8", UNIX]}
Percent = Annotated[int, BeforeValidator(_percent), WithJsonSchema(_PERCENT_SCHEMA)]
Seconds = Annotated[float, BeforeValidator(_from_to(0.001, DAY)), WithJsonSchema(DURATION_SCHEMA)]
OffOrSeconds = Annotated[
    float, BeforeValidator(_from_to(0.0, 30 * DAY)), WithJsonSchema(DURATION_SCHEMA)
]
Connections = Annotated[
    int,
    BeforeValidator(_count),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST_CONNECTIONS}),
]


def _whole(low: int, high: int) -> Any:
    return Annotated[
        int,
        BeforeValidator(_number_from_to(low, high)),
        WithJsonSchema({"type": "integer", "minimum": low, "maximum": high}),
    ]


def _enum(names: tuple[str, ...]) -> Any:
    return Annotated[str, BeforeValidator(_one_of(names)), WithJsonSchema({"enum": list(names)})]


# --- checks -------------------------------------------------------------------------------------


class CheckModel(Strict):
    type: _enum(("off", *CHECK_KINDS)) = Field(  # type: ignore[valid-type]
        description="tcp (connect), send (and expect), tls (handshake), http (GET); redis, "
        "postgres and mysql: what a client says first."
    )
    interval: Seconds = Field(default=2.0, description="Between two checks of an endpoint.")
    fast_interval: Seconds = Field(
        default=1.0, description="The same from the first failure on, until it is decided."
    )
    timeout: Seconds = Field(default=1.0, description="For a check as a whole.")
    fall: _whole(1, 100) = Field(  # type: ignore[valid-type]
        default=3, description="Failures in a row, and it is down."
    )
    rise: _whole(1, 100) = Field(  # type: ignore[valid-type]
        default=2, description="Successes in a row, and it is up."
    )
    port: _whole(1, 65535) | None = Field(  # type: ignore[valid-type]
        default=None, description="Another port of the endpoint's host."
    )
    send: Annotated[bytes, BeforeValidator(_text), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="send: this text first.")
    )
    send_hex: Annotated[bytes, BeforeValidator(_hex), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="send: these bytes.")
    )
    expect: Annotated[bytes, BeforeValidator(_text), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="send: a text that the answer has in it.")
    )
    expect_hex: (
        Annotated[bytes, BeforeValidator(_hex), WithJsonSchema({"type": "string"})] | None
    ) = Field(default=None, description="send: bytes that the answer has in it.")
    expect_regex: (
        Annotated[bytes, BeforeValidator(_pattern), WithJsonSchema({"type": "string"})] | None
    ) = Field(default=None, description="send: what is found in the answer; as RE2 has it.")
    path: Annotated[
        str,
        BeforeValidator(_plain(r"/[!-~]{0,1023}", "a path such as /health")),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(default="/", description="http: what to GET.")
    host: (
        Annotated[
            str,
            BeforeValidator(_plain(r"[A-Za-z0-9.:_\[\]-]{1,255}", "a host name")),
            WithJsonSchema({"type": "string"}),
        ]
        | None
    ) = Field(
        default=None,
        description="http: the Host header; tls: the name that the certificate must be for.",
    )
    status: Annotated[
        tuple[int, int],
        BeforeValidator(_status),
        WithJsonSchema({"type": ["string", "integer"], "examples": ["200-399"]}),
    ] = Field(default=(200, 399), description="http: the answers that count as healthy.")
    tls: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = Field(
        default=False, description="http: over TLS."
    )

    @model_validator(mode="after")
    def _fits(self) -> CheckModel:
        given = [key for key in ("expect", "expect_hex", "expect_regex") if getattr(self, key)]
        if len(given) > 1 or (self.send and self.send_hex):
            raise ValueError(
                "expected one of expect, expect_hex and expect_regex, and one of send and send_hex"
            )
        own = {
            "send": ("send", "send_hex", "expect", "expect_hex", "expect_regex"),
            "http": ("path", "status", "tls", "host"),
            "tls": ("host",),
        }
        fits = own.get(self.type, ())
        alien = [
            key
            for keys in own.values()
            for key in keys
            if key in self.model_fields_set and key not in fits
        ]
        if alien:
            raise ValueError(f"{alien[0]} is not for checks of type {self.type}")
        return self

    def made(self) -> Check | None:
        if self.type == "off":
            return None
        return Check(
            self.type,
            self.interval,
            min(self.fast_interval, self.interval),
            self.timeout,
            self.fall,
            self.rise,
            self.port or 0,
            self.send or self.send_hex or b"",
            self.expect or self.expect_hex or self.expect_regex or b"",
            self.expect_regex is not None,
            self.path,
            self.host or "",
            self.status,
            self.tls,
        )


class PassiveModel(Strict):
    errors: _whole(0, 1000) = Field(  # type: ignore[valid-type]
        default=5,
        description="Connects that fail in a row, and an endpoint is ejected. 0 = never.",
    )
    interval: Seconds = Field(
        default=10.0, description="Each such time without an ejection takes one off the count."
    )
    ejection_time: Seconds = Field(
        default=30.0, description="How long it is out, times the number of ejections so far."
    )
    most_ejected: Percent = Field(
        default=10,
        description="Of a destination's endpoints; one may always be, unless it is "
        "the route's last.",
    )
    resets: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = Field(
        default=False,
        description="A reset before the first byte is a suspicion: so many `errors` of different "
        "clients, and it is ejected if a check of our own fails as well.",
    )
    early_close: OffOrSeconds = Field(
        default=0.0,
        description="A close so soon, with nothing sent, is a suspicion, too; 0s = it is not.",
    )

    def made(self) -> Passive:
        return Passive(
            self.errors,
            self.interval,
            self.ejection_time,
            self.most_ejected,
            self.early_close,
            self.resets,
        )


# --- what defaults, routes and destinations may say ---------------------------------------------


class WarmupModel(Strict):
    duration: OffOrSeconds = Field(description="Until it has its full share; 0s = at once.")
    floor: Percent = Field(default=10, description="Of its share that it begins with.")


class LifetimeModel(Strict):
    duration: OffOrSeconds = Field(description="A connection is closed then; 0s = never.")
    jitter: Percent = Field(default=0, description="By up to so much earlier, at random.")


class KeepaliveModel(Strict):
    idle: Annotated[
        float, BeforeValidator(_from_to(1.0, 32767.0)), WithJsonSchema(DURATION_SCHEMA)
    ] = Field(default=60.0, description="Silence before TCP asks the peer.")
    interval: Annotated[
        float, BeforeValidator(_from_to(1.0, 32767.0)), WithJsonSchema(DURATION_SCHEMA)
    ] = Field(default=15.0, description="Between two questions.")
    count: _whole(1, 127) = Field(  # type: ignore[valid-type]
        default=4, description="Questions without an answer: the peer is gone."
    )

    def made(self) -> Keepalive:
        return Keepalive(round(self.idle), round(self.interval), self.count)


NO_KEEPALIVE = "off"


def _bandwidth(value: Any) -> int:
    text = value[:-2] if isinstance(value, str) and value.endswith("/s") else value
    if text is value and isinstance(value, str):
        raise ValueError(f"expected a rate such as 10MiB/s, got {describe(value)}")
    return measure(text, parse_size, format_size, (1, MOST_BANDWIDTH), "rate such as 10MiB/s")


BytesPerSecond = Annotated[int, BeforeValidator(_bandwidth), WithJsonSchema(_BANDWIDTH_SCHEMA)]


class BandwidthModel(Strict):
    up: BytesPerSecond = Field(default=0, description="From clients.")
    down: BytesPerSecond = Field(default=0, description="To clients.")

    def made(self) -> Bandwidth:
        return Bandwidth(self.up, self.down)


class SharedModel(Strict):
    """In defaults for all, in a route for its destinations, in a destination."""

    balance: _enum(BALANCES) | None = Field(  # type: ignore[valid-type]
        default=None,
        description="round_robin (exact over all workers), least_connections, random_two (the "
        "better of two), source_hash and maglev (a client stays with its endpoint).",
    )
    check: (
        Annotated[CheckModel, BeforeValidator(_off_or("type", {"type": "off"})), OrText()] | None
    ) = Field(default=None, description="How endpoints are checked; off, or a type.")
    passive: (
        Annotated[PassiveModel, BeforeValidator(_off_or("", {"errors": 0})), OrText()] | None
    ) = Field(default=None, description="Ejection of endpoints where connections fail; or off.")
    panic_threshold: Percent | None = Field(
        default=None,
        description="With fewer of a destination's endpoints healthy than this, all are used; "
        "0% = never.",
    )
    warmup: Annotated[WarmupModel, BeforeValidator(_entry("duration")), OrText()] | None = Field(
        default=None, description="Until a new or recovered endpoint or destination has its share."
    )
    max_connection_duration: (
        Annotated[LifetimeModel, BeforeValidator(_entry("duration")), OrText()] | None
    ) = Field(default=None, description="A connection is closed after it; 0s = never.")
    half_open_timeout: OffOrSeconds | None = Field(
        default=None,
        description="As idle_timeout, once one side has ended; 0s = as idle_timeout.",
    )
    keepalive: (
        Annotated[KeepaliveModel | Literal["off"], BeforeValidator(_off_or("", NO_KEEPALIVE))]
        | None
    ) = Field(default=None, description="TCP's questions to a silent peer, on both sides; or off.")
    tcp_user_timeout: OffOrSeconds | None = Field(
        default=None,
        description="How long sent data may stay unacknowledged; 0s = as the system has it.",
    )
    connection_bandwidth: BandwidthModel | None = Field(
        default=None, description="Of each connection; what is too much is not read."
    )


# --- routes -------------------------------------------------------------------------------------


def _rate(value: Any) -> float:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a rate such as 100/s or 30/m, got {describe(value)}")
    rate = float(found[1]) / _SECONDS[found[2]]
    if not 1e-4 <= rate <= MOST_RATE:
        raise ValueError(f"expected 1/h..{MOST_RATE:g}/s, got {describe(value)}")
    return rate


class RateModel(Strict):
    rate: Annotated[float, BeforeValidator(_rate), WithJsonSchema(_RATE_SCHEMA)] = Field(
        description="New connections: 100/s, 30/m or 10/h."
    )
    burst: _whole(1, 1_000_000) | None = Field(  # type: ignore[valid-type]
        default=None, description="That may come at once; those of a second, at least 1."
    )

    def made(self) -> Rate:
        return Rate(self.rate, self.burst or max(1, round(self.rate)))


RateEntry = Annotated[RateModel, BeforeValidator(_entry("rate")), OrText()]


class SourceModel(Strict):
    max_connections: Connections | None = Field(default=None, description="At the same time.")
    rate: RateEntry | None = Field(default=None, description="New ones.")


class FallbackModel(Strict):
    fallback: Name = Field(description="The destination that takes over.")


class HoldModel(Strict):
    hold: Seconds = Field(description="How long a connection waits for a destination.")


class RetryModel(Strict):
    attempts: _whole(1, 255) | None = Field(  # type: ignore[valid-type]
        default=None, description="Connects for one connection; each endpoint once."
    )
    budget: Percent = Field(
        default=20, description="Of first connects that may be followed by another."
    )
    burst: _whole(0, 1_000_000) = Field(  # type: ignore[valid-type]
        default=100, description="Retries beyond that."
    )
    across: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = Field(
        default=False, description="Then another destination is tried."
    )


ClientsText = Annotated[
    IPv4Network | IPv6Network | str, BeforeValidator(_clients), WithJsonSchema(_CLIENTS_SCHEMA)
]


class RoutePolicyModel(Strict):
    max_connections: Connections | None = Field(
        default=None, description="At the same time, over all workers. Further ones are reset."
    )
    listener_max_connections: Connections | None = Field(
        default=None, description="The same for each address that is listened on."
    )
    source: SourceModel = Field(
        default=SourceModel(), description="Limits of each client: an IPv4 address or an IPv6 /64."
    )
    rate: RateEntry | None = Field(
        default=None, description="New connections. Further ones are reset."
    )
    bandwidth: BandwidthModel = Field(
        default=BandwidthModel(), description="Of all connections together."
    )
    allow: list[ClientsText] = Field(
        default=[],
        description="Clients that may connect; none named = all. Addresses, networks, and unix for "
        "all of UNIX sockets.",
    )
    deny: list[ClientsText] = Field(
        default=[],
        description="Clients that may not, even if allowed.",
    )
    retry: RetryModel = Field(
        default=RetryModel(), description="Of connects that fail, before any byte was passed on."
    )
    on_unavailable: Annotated[
        FallbackModel | str,
        BeforeValidator(_word_or_mapping(ON_UNAVAILABLE[:2], "{fallback: NAME}")),
    ] = Field(
        default="redistribute",
        description="The share of a destination without a healthy endpoint: redistribute (to the "
        "others in proportion), reject (it is reset), or {fallback: NAME}.",
    )
    on_all_unavailable: Annotated[
        HoldModel | str,
        BeforeValidator(_word_or_mapping(("reset", "refuse"), "{hold: 5s}")),
    ] = Field(
        default="reset",
        description="When that is every destination: reset, refuse (stop listening), or "
        "{hold: 5s} (wait for one).",
    )


class QueueModel(Strict):
    size: _whole(1, MOST_CONNECTIONS) = Field(  # type: ignore[valid-type]
        default=1024, description="Connections that may wait, over all workers."
    )
    timeout: Seconds = Field(default=5.0, description="How long; then they are reset.")


class FullModel(Strict):
    queue: QueueModel = Field(description="Wait for a place.")


class DestinationPolicyModel(Strict):
    max_connections: Connections | None = Field(
        default=None, description="At the same time, over all workers."
    )
    on_full: Annotated[
        FullModel | str,
        BeforeValidator(_word_or_mapping(ON_FULL[:2], "{queue: {size: 100, timeout: 5s}}")),
    ] = Field(
        default="reject",
        description="What happens to more: reject (reset), spill (to the route's others), or "
        "{queue: {size: 1024, timeout: 5s}}.",
    )


class EndpointLimits(Strict):
    max_connections: Connections | None = Field(
        default=None, description="At the same time, over all workers."
    )
    priority: _whole(0, MOST_PRIORITY) | None = Field(  # type: ignore[valid-type]
        default=None, description="It takes turns only when none of a lower number can."
    )
    backup: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = Field(
        default=False, description="Short for priority: 1."
    )

    def made(self) -> EndpointPolicy:
        priority = int(self.backup) if self.priority is None else self.priority
        return EndpointPolicy(self.max_connections or 0, priority)
