"""The schema of what is of a whole instance in routes.yaml: admin, log, access_log, buffers,
dns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from tcpmux.config.address import (
    UNIX_PATH_MAX,
    Address,
    parse_listen,
)
from tcpmux.config.log_format import check_template
from tcpmux.config.model import AccessLog, Admin, Buffers, Log
from tcpmux.config.problems import describe
from tcpmux.config.rows import DAY
from tcpmux.config.size import format_size, parse_size
from tcpmux.config.values import (
    DURATION_SCHEMA,
    Flag,
    Strict,
    duration,
    measure,
)
from tcpmux.log_style import FORMATS, LEVELS, TARGETS

MAX_LOG_BUFFER = 3 << 20  # bytes of each worker; what csrc/access_log.h has room for
MIN_LOG_BUFFER = 64 << 10
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
LOG_TARGETS = ("stdout", "stderr", "syslog", "journal")


def _dns_server(value: Any) -> Address:
    text = value if isinstance(value, str) else ""
    for candidate in (text, f"{text}:53", f"[{text}]:53"):
        with suppress(ValueError):
            address = Address.parse(candidate)
            if address.path == "" and address.host not in ("::", "0.0.0.0"):  # noqa: S104
                return address
    raise ValueError(f"expected the IP or IP:port of a name server, got {describe(value)}")


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
        raise ValueError(f"expected json or a template with {{KEY}} in it, got {describe(value)}")
    if value != "json":
        check_template(value)
    return value


def access_log_entry(value: Any) -> Any:
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


def absolute_path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"expected an absolute path, got {describe(value)}")
    return value


def socket_path(value: Any) -> str:
    """One that a UNIX socket may have. Raises ValueError."""
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


class AdminModel(Strict):
    socket: Annotated[
        str,
        BeforeValidator(socket_path),
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
        "token_file, a read_only_token_file, or insecure: true.",
    )
    token_file: Annotated[
        str | None,
        BeforeValidator(absolute_path),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(
        default=None,
        description="A file with one line, the token that requests over TCP must carry "
        "(Authorization: Bearer TOKEN). Nobody but root and the user that starts tcpmux may read "
        "it. Read at a start and at each reload.",
    )
    read_only_token_file: Annotated[
        str | None,
        BeforeValidator(absolute_path),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(
        default=None,
        description="A file with a token that permits reading but no changes, for dashboards and "
        "Prometheus. Without a token_file nothing can be changed over TCP.",
    )
    insecure: Flag = Field(
        default=False,
        description="Require no token: everybody who can reach `http` may change everything.",
    )
    hosts: list[Annotated[str, BeforeValidator(_host), WithJsonSchema({"type": "string"})]] = Field(
        default=[],
        description=(
            "Host names accepted in requests over TCP, besides the address itself and localhost."
        ),
    )

    def made(self, given: str) -> Admin:
        """given: the socket if no file names one."""
        named = self.socket if "socket" in self.model_fields_set or not given else given
        token_file, viewers = self.token_file or "", self.read_only_token_file or ""
        return Admin(named, self.http, token_file, viewers, tuple(self.hosts), self.insecure)


def _word(words: Sequence[str]) -> Any:
    def check(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError(f"expected one of {', '.join(words)}, got {describe(value)}")
        return value

    return Annotated[str, BeforeValidator(check), WithJsonSchema({"enum": list(words)})]


class LogModel(Strict):
    level: _word(LEVELS) = Field(  # type: ignore[valid-type]
        default="info", description=f"Lowest level that is logged: {', '.join(LEVELS)}."
    )
    format: _word(FORMATS) = Field(  # type: ignore[valid-type]
        default="text", description="text, or json: one object per line."
    )
    target: _word(TARGETS) = Field(  # type: ignore[valid-type]
        default="stderr",
        description="stderr, journal, syslog, or file. A change takes effect at the next start.",
    )
    file: Annotated[
        str | None,
        BeforeValidator(absolute_path),
        WithJsonSchema({"type": "string", "pattern": "^/"}),
    ] = Field(
        default=None,
        description="With target file: absolute path, opened again at SIGUSR1. A change takes "
        "effect at the next start.",
    )

    @model_validator(mode="after")
    def _has_file(self) -> LogModel:
        if (self.target == "file") != (self.file is not None):
            raise ValueError("target file and a path at `file` belong together")
        return self

    def made(self) -> Log:
        return Log(self.level, self.format, self.target, self.file or "")


class AccessLogModel(Strict):
    path: Annotated[
        str, BeforeValidator(_log_path), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(
        description="Absolute path, reopened on SIGUSR1; or stdout, stderr, syslog or journal."
    )
    format: Annotated[
        str, BeforeValidator(_log_format), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(default="json", description="json, or a template such as {start_time} {route}.")
    start: Flag = Field(default=False, description="Also write a line when a connection starts.")
    interval: Annotated[float, BeforeValidator(_interval), WithJsonSchema(DURATION_SCHEMA)] = Field(
        default=0.0,
        description=(
            "Also write a line for each open connection at this interval, 1s..1d; 0s = never."
        ),
    )
    buffer: Annotated[
        int,
        BeforeValidator(_log_buffer),
        WithJsonSchema({"type": "string", "pattern": "^[0-9]+([.][0-9]+)?(B|KiB|MiB|GiB)$"}),
    ] = Field(
        default=1 << 20,
        description=(
            "Buffer of each worker for lines not written yet, 64KiB..3MiB. When it is full, "
            "lines are dropped and counted; traffic is never delayed."
        ),
    )

    def made(self) -> AccessLog:
        return AccessLog(self.path, self.format, self.start, self.interval, self.buffer)


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
        description="Unsent data that the kernel keeps for a client that has not yet read 128 KiB.",
    )
    endpoint: _buffer(4 << 10, 1 << 30) = Field(  # type: ignore[valid-type]
        default=16 << 10, description="The same for an endpoint."
    )
    pipe: _buffer(64 << 10, 1 << 20) = Field(  # type: ignore[valid-type]
        default=1 << 20,
        description=(
            "Pipe size of a connection that transfers bulk data, while there are few of them."
        ),
    )
    per_source: _buffer(64 << 10, 1 << 40, {"off": 0}) = Field(  # type: ignore[valid-type]
        default=256 << 20,
        description=(
            "Memory that a client may hold with data it does not read, on all its "
            "connections, before they are reset."
        ),
    )
    total: _buffer(64 << 10, 1 << 40, {"off": 0, "auto": None}) = Field(  # type: ignore[valid-type]
        default=None,
        description="The same for all connections together. auto = a "
        "quarter of the TCP memory at which the host starts to economize.",
    )

    def made(self) -> Buffers:
        return Buffers(self.client, self.endpoint, self.pipe, self.per_source, self.total)


class DnsModel(Strict):
    servers: list[
        Annotated[Address, BeforeValidator(_dns_server), WithJsonSchema({"type": "string"})]
    ] = Field(
        default=[],
        description=(
            "Name servers for the host names of endpoints, as IP or IP:port; none = those of "
            "/etc/resolv.conf."
        ),
    )
