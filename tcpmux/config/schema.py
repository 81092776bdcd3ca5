"""The schema of routes.yaml: every key, its type, its bounds and its default.

Private to the package: what others see are the frozen types in model.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
)

from tcpmux.config.address import (
    ENDPOINT_FORMS,
    UNIX_PATH_MAX,
    Address,
    Endpoint,
    parse_endpoint,
    parse_listen,
)
from tcpmux.config.log_format import check_template
from tcpmux.config.model import MAX_WEIGHT, Buffers
from tcpmux.config.policy import (
    DestinationPolicyModel,
    EndpointLimits,
    RoutePolicyModel,
    SharedModel,
)
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
    unlike_number,
    whole,
)

MAX_WORKERS = 64
MAX_ID = (1 << 32) - 2  # of a user or a group; the one beyond means none
MAX_BUSY_POLL = 10_000  # us
MAX_ENDPOINT_WEIGHT = 100
MAX_DESTINATIONS = 64  # of a route
MAX_ROUTES = 4096
MAX_LISTENERS = 4096
MAX_ALL_DESTINATIONS = 65536
MAX_ENDPOINTS = 65536
MAX_LOG_BUFFER = 3 << 20  # bytes of each worker; what csrc/access_log.h has room for
MIN_LOG_BUFFER = 64 << 10
HOUR, DAY = 3600.0, 86400.0
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
LOG_TARGETS = ("stdout", "stderr", "syslog", "journal")


def _weight(value: Any) -> int:
    return whole(value, 0, MAX_WEIGHT)


def _workers(value: Any) -> int | None:
    value = number(value)
    if value == "auto":
        return None
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f"expected auto or 1..{MAX_WORKERS}, got {unlike_number(value)}")
    return value


def _busy_poll(value: Any) -> int | None:
    value = number(value)
    if value == "auto":
        return None
    if value == "off" or value is False:  # YAML 1.1 reads off as false
        return 0
    if type(value) is not int or not 1 <= value <= MAX_BUSY_POLL:
        raise ValueError(
            f"expected auto, off or 1..{MAX_BUSY_POLL} (microseconds), got {unlike_number(value)}"
        )
    return value


def _account(value: Any) -> str:
    """The name or the number of a user or a group."""
    if type(value) is int and 0 <= value <= MAX_ID:
        return str(value)
    is_name = isinstance(value, str) and re.fullmatch(
        r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}[$]?", value, re.ASCII
    )
    if is_name and (not value.isdecimal() or int(value) <= MAX_ID):
        return str(value)
    raise ValueError(f"expected a name or 0..{MAX_ID}, got {describe(value)}")


def _listen_address(value: Any) -> list[Address]:
    forms = "IP:port, [IPv6]:port or unix:/path"
    if not isinstance(value, str):
        raise ValueError(f"expected {forms}, got {describe(value)}")
    try:
        return parse_listen(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None


def _dns_server(value: Any) -> Address:
    text = value if isinstance(value, str) else ""
    for candidate in (text, f"{text}:53", f"[{text}]:53"):
        with suppress(ValueError):
            address = Address.parse(candidate)
            if address.path == "" and address.host not in ("::", "0.0.0.0"):  # noqa: S104
                return address
    raise ValueError(f"expected the IP or IP:port of a name server, got {describe(value)}")


def _endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str):
        raise ValueError(f"expected {ENDPOINT_FORMS}, got {describe(value)}")
    try:
        return parse_endpoint(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None


def _endpoint_entry(value: Any) -> Any:
    return value if isinstance(value, dict) else {"address": value}


def _endpoint_weight(value: Any) -> int:
    return whole(value, 1, MAX_ENDPOINT_WEIGHT)


def connect_timeout(value: Any) -> float:
    return duration(value, 0.001, HOUR)


def idle_timeout(value: Any) -> float:
    return duration(value, 0.0, 30 * DAY)


def _drain_timeout(value: Any) -> float:
    return duration(value, 0.0, 7 * DAY)


def _interval(value: Any) -> float:
    seconds = duration(value, 0.0, DAY)
    if 0.0 < seconds < 1.0:
        raise ValueError(f"expected 0s or 1s..1d, got {describe(value)}")
    return seconds


def _log_buffer(value: Any) -> int:
    range_ = MIN_LOG_BUFFER, MAX_LOG_BUFFER
    return measure(value, parse_size, format_size, range_, "size such as 1MiB")


def _log_path(value: Any) -> str:
    if value in LOG_TARGETS:
        return str(value)
    if value in ("/dev/stdout", "/dev/stderr"):  # as containers have it; no files of their own
        return str(value).removeprefix("/dev/")
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(
            f"expected an absolute path or one of {', '.join(LOG_TARGETS)}, got {describe(value)}"
        )
    return value


def _log_format(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected json or a text with {{KEY}} in it, got {describe(value)}")
    if value != "json":
        check_template(value)
    return value


def _access_log_entry(value: Any) -> Any:
    if value is None or value is False or value == "off":  # YAML 1.1 reads off as false
        return None
    return value if isinstance(value, dict) else {"path": value}


def _http(value: Any) -> Address | None:
    if value is None or value is False or value == "off":
        return None
    try:
        addresses = parse_listen(value) if isinstance(value, str) else []
    except ValueError:
        addresses = []
    if len(addresses) != 1 or addresses[0].path:
        raise ValueError(f"expected off, IP:port or [IPv6]:port, got {describe(value)}")
    return addresses[0]


def _host(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError(f"expected a host name without a port, got {describe(value)}")
    return value.lower()


def _absolute_path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"expected an absolute path, got {describe(value)}")
    return value


def _listen(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _socket_path(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or "\0" in value
        or len(value.encode()) > UNIX_PATH_MAX
    ):
        raise ValueError(
            f"expected an absolute path of at most {UNIX_PATH_MAX} bytes, got {describe(value)}"
        )
    return value


ConnectTimeout = Annotated[float, BeforeValidator(connect_timeout), WithJsonSchema(DURATION_SCHEMA)]
IdleTimeout = Annotated[float, BeforeValidator(idle_timeout), WithJsonSchema(DURATION_SCHEMA)]
EndpointAddress = Annotated[
    Endpoint, BeforeValidator(_endpoint), WithJsonSchema({"type": "string"})
]

_CONNECT_TIMEOUT = (
    "For each endpoint tried: 1ms..1h. One that refuses or does not answer in time is passed over "
    "for the destination's next; each is tried once."
)
_IDLE_TIMEOUT = "A connection on which no byte moved for so long is closed: 1ms..30d, 0s = never."


class EndpointModel(EndpointLimits):
    address: EndpointAddress = Field(
        description=f"{ENDPOINT_FORMS}. A name stands for all its addresses, and is looked up "
        "again and again; srv: for hosts, ports and weights from DNS."
    )
    weight: Annotated[
        int,
        BeforeValidator(_endpoint_weight),
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_ENDPOINT_WEIGHT}),
    ] = Field(default=1, description="Turns it takes where another takes one.")


class DestinationModel(DestinationPolicyModel, SharedModel):
    name: Name = Field(description="A version of the service. Counters stay with the name.")
    weight: Annotated[
        int,
        BeforeValidator(_weight),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT}),
    ] = Field(
        default=1,
        description="Its share is weight / sum of weights, exactly. 0 = no connections; all 0 = "
        "every connection is reset.",
    )
    endpoints: list[Annotated[EndpointModel, BeforeValidator(_endpoint_entry), OrText()]] = Field(
        description="They take turns. With none the destination's share of connections is reset."
    )
    connect_timeout: ConnectTimeout | None = Field(default=None, description=_CONNECT_TIMEOUT)
    idle_timeout: IdleTimeout | None = Field(default=None, description=_IDLE_TIMEOUT)


class RouteModel(RoutePolicyModel, SharedModel):
    name: Name = Field(description="Counters stay with the name across reloads.")
    listen: Annotated[
        list[
            Annotated[
                list[Address],
                BeforeValidator(_listen_address),
                WithJsonSchema({"type": "string"}),
            ]
        ],
        BeforeValidator(_listen),
        Field(min_length=1),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                ]
            }
        ),
    ] = Field(
        description="IP:port, [IPv6]:port, :port (every address, IPv4 and IPv6), unix:/path, or a "
        "range of ports such as :9000-9010; one or a list."
    )
    connect_timeout: ConnectTimeout | None = Field(default=None, description=_CONNECT_TIMEOUT)
    idle_timeout: IdleTimeout | None = Field(default=None, description=_IDLE_TIMEOUT)
    destinations: list[DestinationModel] = Field(min_length=1, max_length=MAX_DESTINATIONS)


class DefaultsModel(SharedModel):
    connect_timeout: ConnectTimeout = Field(default=10.0, description=_CONNECT_TIMEOUT)
    idle_timeout: IdleTimeout = Field(default=3600.0, description=_IDLE_TIMEOUT)


class AdminModel(Strict):
    socket: Annotated[
        str,
        BeforeValidator(_socket_path),
        WithJsonSchema({"type": "string", "pattern": "^/", "maxLength": UNIX_PATH_MAX}),
    ] = Field(
        default="/run/tcpmux.sock",
        description="UNIX socket of the admin API (mode 0600). A change takes effect at the next "
        "start.",
    )

    http: Annotated[
        Address | None, BeforeValidator(_http), WithJsonSchema({"type": ["string", "boolean"]})
    ] = Field(
        default=None,
        description="IP:port for the page, /metrics and the API over TCP as well; off. Needs a "
        "token_file, or insecure: true.",
    )
    token_file: Annotated[
        str | None,
        BeforeValidator(_absolute_path),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(
        default=None,
        description="A file with one line that requests over TCP must carry, as Authorization: "
        "Bearer LINE. Nobody but root and the user that starts tcpmux may read it. Read at a start "
        "and at each reload.",
    )
    insecure: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = (
        Field(
            default=False,
            description="Instead of a token_file: whoever reaches `http` may change everything.",
        )
    )
    hosts: list[Annotated[str, BeforeValidator(_host), WithJsonSchema({"type": "string"})]] = Field(
        default=[],
        description="Names that requests over TCP may ask for, besides the address itself and "
        "localhost.",
    )


class AccessLogModel(Strict):
    path: Annotated[
        str, BeforeValidator(_log_path), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(
        description="Absolute path, opened again at SIGUSR1; stdout, stderr, syslog or journal."
    )
    format: Annotated[
        str, BeforeValidator(_log_format), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(default="json", description="json, or a text such as {start_time} {route}.")
    start: Annotated[bool, BeforeValidator(boolean), WithJsonSchema({"type": "boolean"})] = Field(
        default=False, description="A line at the start of each connection as well."
    )
    interval: Annotated[float, BeforeValidator(_interval), WithJsonSchema(DURATION_SCHEMA)] = Field(
        default=0.0,
        description="A line for each open connection so often, 1s..1d; 0s = none.",
    )
    buffer: Annotated[
        int,
        BeforeValidator(_log_buffer),
        WithJsonSchema({"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)$"}),
    ] = Field(
        default=1 << 20,
        description="What may wait to be written, for each worker: 64KiB..3MiB. When it is full, "
        "lines are dropped and counted; traffic never waits.",
    )


def _buffer(low: int, high: int, others: Mapping[str, int | None] = MappingProxyType({})) -> Any:
    """A size from `low` to `high`, or one of some words."""

    def check(value: Any) -> int | None:
        word = "off" if value is False else value  # YAML 1.1 reads off as false
        if isinstance(word, str) and word in others:
            return others[word]
        example = "size such as 1MiB" + (f", {' or '.join(others)}" if others else "")
        return measure(value, parse_size, format_size, (low, high), example)

    size = {"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)$"}
    words = [*others, *([False] if "off" in others else [])]
    schema = {"anyOf": [{"enum": words}, size]} if others else size
    return Annotated[int | None, BeforeValidator(check), WithJsonSchema(schema)]


class BuffersModel(Strict):
    client: _buffer(4 << 10, 1 << 30) = Field(  # type: ignore[valid-type]
        default=16 << 10,
        description="May wait to be sent to a client that has not taken 128 KiB yet.",
    )
    endpoint: _buffer(4 << 10, 1 << 30) = Field(  # type: ignore[valid-type]
        default=16 << 10, description="The same for an endpoint."
    )
    pipe: _buffer(64 << 10, 1 << 20) = Field(  # type: ignore[valid-type]
        default=1 << 20,
        description="Size of the pipe of a connection in bulk, while there are few.",
    )
    per_source: _buffer(64 << 10, 1 << 40, {"off": 0}) = Field(  # type: ignore[valid-type]
        default=256 << 20,
        description="Memory of all connections of a client that it does not read, before they are "
        "reset.",
    )
    total: _buffer(64 << 10, 1 << 40, {"off": 0, "auto": None}) = Field(  # type: ignore[valid-type]
        default=None,
        description="The same of all connections that nobody reads. auto = a "
        "quarter of what the host gives TCP before it saves memory.",
    )

    def made(self) -> Buffers:
        return Buffers(self.client, self.endpoint, self.pipe, self.per_source, self.total)


class DnsModel(Strict):
    servers: list[
        Annotated[Address, BeforeValidator(_dns_server), WithJsonSchema({"type": "string"})]
    ] = Field(
        default=[],
        description="IP or IP:port of name servers for endpoints by name; none = those of "
        "/etc/resolv.conf.",
    )


ACCOUNT_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0, "maximum": MAX_ID}]
}


class FileModel(Strict):
    workers: Annotated[
        int | None,
        BeforeValidator(_workers),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": "auto"},
                    {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
                ]
            }
        ),
    ] = Field(
        default=None,
        description="Worker processes: auto = one for each CPU that tcpmux may run on, and no more "
        "than its CPU quota keeps busy; or 1..64.",
    )
    busy_poll: Annotated[
        int | None,
        BeforeValidator(_busy_poll),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["auto", "off", False]},
                    {"type": "integer", "minimum": 1, "maximum": MAX_BUSY_POLL},
                ]
            }
        ),
    ] = Field(
        default=None,
        description="Microseconds that a worker with nothing to do looks for work before it "
        "sleeps; auto = up to 100 where that has lately been worth it.",
    )
    drain_timeout: Annotated[
        float, BeforeValidator(_drain_timeout), WithJsonSchema(DURATION_SCHEMA)
    ] = Field(
        default=45.0,
        description="How long a stop waits for open connections: 0s..7d. What is open then is "
        "reset.",
    )
    user: Annotated[str, BeforeValidator(_account), WithJsonSchema(ACCOUNT_SCHEMA)] = Field(
        default="",
        description="The user that everything but the master runs as; default nobody, if tcpmux "
        "is started as root. Else it is the one who started it.",
    )
    group: Annotated[str, BeforeValidator(_account), WithJsonSchema(ACCOUNT_SCHEMA)] = Field(
        default="", description="Its group; default the primary one of the user."
    )
    admin: AdminModel = AdminModel()
    access_log: Annotated[
        AccessLogModel | None,
        BeforeValidator(_access_log_entry),
        OrText(),
    ] = Field(default=None, description="A line for each connection; off, a path, or a mapping.")
    buffers: BuffersModel = Field(
        default=BuffersModel(), description="Of connections whose peer does not read."
    )
    dns: DnsModel = DnsModel()
    defaults: DefaultsModel = Field(
        default=DefaultsModel(), description="For every route of all files that says nothing else."
    )
    routes: list[RouteModel] = Field(default=[], max_length=MAX_ROUTES)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a routes.yaml, for editors.

    Values that are written as ${NAME} are not foreseen by it.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FileModel.model_json_schema(),
        "title": "tcpmux routes.yaml",
    }
