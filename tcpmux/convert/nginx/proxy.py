"""How a server treats its connections: the proxy_* directives, its own or those of stream {}."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tcpmux.config.duration import format_duration
from tcpmux.config.preread import Preread
from tcpmux.config.rows import DAY, HOUR, MAX_BANDWIDTH, rows_of
from tcpmux.config.settings import Retry
from tcpmux.convert.nginx.scope import Scope, is_on
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import milliseconds, number, size
from tcpmux.convert.report import Report

MAX_ATTEMPTS = 255
PREREAD_NOTE = (
    "tcpmux resets clients whose ClientHello is malformed, and goes on with the first byte that is "
    "not of TLS, where nginx waits for five"
)
PREREAD = Preread(timeout=30.0, silent="reject")  # of ssl_preread
# nginx tries every server once, whatever other connections do.
RETRIES = Retry(budget=100, burst=1_000_000)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """connect, idle: s. attempts: 0 = every server once. up, down: bytes per second, 0 = no limit.
    keepalive: towards servers. send_proxy: version of the header to servers; 0 = none. The defaults
    are nginx's."""

    connect: float = 60.0
    idle: float = 600.0
    attempts: int = 0
    up: int = 0
    down: int = 0
    keepalive: bool = False
    has_tls: bool = False
    send_proxy: int = 0
    preread: Preread = PREREAD

    @property
    def retry(self) -> Retry:
        if self.attempts == 1:
            return Retry(attempts=1)
        return replace(RETRIES, attempts=self.attempts)


Handler = Callable[[Behaviour, Directive, Report], Behaviour]


def seconds_of(one: Directive, report: Report, most: float) -> float | None:
    """Of its only argument: more than 0 and at most so many s; None = in the report."""
    word = one.at.words[1]
    found = milliseconds(word.text)
    if found is None:
        report.problem(one.at, "expected a time such as 10s or 1h30m", word)
    elif not found:
        one.at.changes(note="with 0, nginx closes connections at once; tcpmux has no such timeout")
    elif found > most * 1000:
        one.at.changes(note=f"it is above {format_duration(most)}, tcpmux's maximum")
    else:
        one.at.mapped()
        return found / 1000
    return None


def _connect(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    return replace(so_far, connect=seconds_of(one, report, HOUR) or so_far.connect)


def _idle(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    return replace(so_far, idle=seconds_of(one, report, 30 * DAY) or so_far.idle)


def _rate(one: Directive, report: Report) -> int:
    word = one.at.words[1]
    found = size(word.text)
    if "$" in word.text:
        one.at.changes(
            note="tcpmux sets no limit: it has the same rate for all connections",
            needs="rates by variable",
        )
    elif found is None:
        report.problem(one.at, "expected a size such as 512k", word)
    elif found > MAX_BANDWIDTH:
        one.at.changes(note=f"it is above {MAX_BANDWIDTH} bytes per second, tcpmux's maximum")
    else:
        one.at.mapped()
        return found
    return 0


def _up(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    return replace(so_far, up=_rate(one, report))


def _down(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    return replace(so_far, down=_rate(one, report))


def _half_close(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    note = "tcpmux relays a half-close, and waits for the other side"
    one.at.mapped(note="" if is_on(one, report) else note)
    return so_far


def _next(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    one.at.mapped()
    return so_far if is_on(one, report) else replace(so_far, attempts=1)


def _tries(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    found = number(one.argument())
    if found is None:
        report.problem(one.at, "expected a number", one.at.words[1])
        return so_far
    one.at.mapped()
    tries = 0 if found > MAX_ATTEMPTS else found  # more than servers can be tried
    return replace(so_far, attempts=so_far.attempts or tries)


def _next_timeout(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    found = milliseconds(one.argument())
    if found is None:
        report.problem(one.at, "expected a time such as 10s", one.at.words[1])
    elif found:
        one.at.changes(note="tcpmux has no time limit for all attempts together")
    else:
        one.at.mapped()
    return so_far


def _keepalive(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    one.at.mapped()
    return replace(so_far, keepalive=is_on(one, report))


def _tls(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    if is_on(one, report):
        one.at.changes(note="tcpmux does not encrypt connections to servers", needs="TLS")
        return replace(so_far, has_tls=True)
    one.at.harmless(note="off")
    return so_far


def _send_proxy(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    if is_on(one, report):
        one.at.mapped()
        return replace(so_far, send_proxy=1)
    one.at.harmless(note="off")
    return so_far


def _bind(so_far: Behaviour, one: Directive, _: Report) -> Behaviour:
    if one.argument() == "off":
        one.at.harmless(note="off")
    else:
        one.at.changes(
            note="servers see the source address that the system chooses", needs="source addresses"
        )
    return so_far


def _preread(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    if is_on(one, report):
        one.at.mapped(note=PREREAD_NOTE)
        return replace(so_far, preread=replace(so_far.preread, is_asked=True))
    one.at.harmless(note="off")
    return so_far


def _preread_timeout(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    if not so_far.preread.is_asked:
        one.at.harmless(note="nothing is read here before a server is chosen")
        return so_far
    timeout = seconds_of(one, report, DAY) or so_far.preread.timeout
    return replace(so_far, preread=replace(so_far.preread, timeout=timeout))


def _preread_size(so_far: Behaviour, one: Directive, report: Report) -> Behaviour:
    found = size(one.argument())
    limit = rows_of(Preread)["limit"]
    if found is None:
        report.problem(one.at, "expected a size such as 16k", one.at.words[1])
    elif not so_far.preread.is_asked:
        one.at.harmless(note="nothing is read here before a server is chosen")
    elif not limit.low <= found <= limit.high:
        one.at.changes(note="tcpmux reads ClientHellos of at most 512 bytes to 60 KiB")
    else:
        one.at.mapped(note="tcpmux counts without the heads of TLS records")
        return replace(so_far, preread=replace(so_far.preread, limit=found))
    return so_far


HANDLERS: dict[str, Handler] = {
    "proxy_bind": _bind,
    "proxy_connect_timeout": _connect,
    "proxy_download_rate": _down,
    "proxy_half_close": _half_close,
    "proxy_next_upstream": _next,
    "proxy_next_upstream_timeout": _next_timeout,
    "proxy_next_upstream_tries": _tries,
    "proxy_protocol": _send_proxy,
    "proxy_socket_keepalive": _keepalive,
    "proxy_ssl": _tls,
    "proxy_timeout": _idle,
    "proxy_upload_rate": _up,
    "ssl_preread": _preread,
    "preread_timeout": _preread_timeout,
    "preread_buffer_size": _preread_size,
}


def behaviour(server: Scope, stream: Scope, report: Report) -> Behaviour:
    found = Behaviour()
    for name, handler in HANDLERS.items():
        one = server.settings.get(name) or stream.settings.get(name)
        if one is not None:
            found = handler(found, one, report)
    return found
