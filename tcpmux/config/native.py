"""A Config as the text of a routes.yaml: what `tcpmux convert` prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tcpmux.config.address import Endpoint
from tcpmux.config.duration import format_duration
from tcpmux.config.model import (
    Bandwidth,
    Buffers,
    Check,
    Config,
    Destination,
    DestinationPolicy,
    EndpointPolicy,
    Passive,
    Rate,
    Route,
    RoutePolicy,
)
from tcpmux.config.schema import FileModel
from tcpmux.config.size import format_size
from tcpmux.errors import printable

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+)?", re.ASCII)
_DEFAULTS = FileModel()


def scalar(text: str) -> str:
    """A YAML scalar that is read back as this text. Names of digits alone are quoted."""
    looks_otherwise = re.fullmatch(
        r"(?i)[0-9_.:+-]+|0[xob].*|[0-9.]+e.*|y|n|yes|no|on|off|true|false|null", text
    )
    address = re.fullmatch(r"[0-9.]+:[0-9]+", text) and text.count(".") == 3
    if _PLAIN.fullmatch(text) and (address or not looks_otherwise):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{quoted}"'


def to_text(config: Config) -> str:
    """The whole file. Where a route was made of something else, a comment says of what."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    if config.workers is not None:
        yield f"workers: {config.workers}"
    if config.busy_poll is not None:
        yield f"busy_poll: {config.busy_poll or 'off'}"
    if config.drain_timeout != _DEFAULTS.drain_timeout:
        yield f"drain_timeout: {format_duration(config.drain_timeout)}"
    for key, account in (("user", config.user), ("group", config.group)):
        if account:
            yield f"{key}: {account if account.isdecimal() else scalar(account)}"
    yield from _mapping("admin", _admin(config))
    yield from _mapping("access_log", _access_log(config))
    yield from _mapping("buffers", _buffers(config))
    if config.dns_servers:
        yield f"dns: {{servers: [{', '.join(scalar(str(s)) for s in config.dns_servers)}]}}"
    yield "routes:"
    for route in config.routes:
        yield from _route(route)


def _buffers(config: Config) -> Iterator[tuple[str, str]]:
    buffers, default = config.buffers, Buffers()
    for key in ("client", "endpoint", "pipe", "per_source", "total"):
        size = getattr(buffers, key)
        if size != getattr(default, key):
            yield key, "auto" if size is None else format_size(size) if size else "off"


def _admin(config: Config) -> Iterator[tuple[str, str]]:
    admin = config.admin
    if admin.socket != _DEFAULTS.admin.socket:
        yield "socket", scalar(admin.socket)
    if admin.http is not None:
        yield "http", scalar(str(admin.http))
    if admin.token_file:
        yield "token_file", scalar(admin.token_file)
    if admin.hosts:
        yield "hosts", f"[{', '.join(map(scalar, admin.hosts))}]"
    if admin.insecure:
        yield "insecure", "true"


def _access_log(config: Config) -> Iterator[tuple[str, str]]:
    log = config.access_log
    if log is None:
        return
    yield "path", scalar(log.path)
    if log.format != "json":
        yield "format", scalar(log.format)
    if log.start:
        yield "start", "true"
    if log.interval:
        yield "interval", format_duration(log.interval)
    yield "buffer", format_size(log.buffer)


def _mapping(key: str, values: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = [f"  {name}: {value}" for name, value in values]
    if lines:
        yield f"{key}:"
        yield from lines


def _route(route: Route) -> Iterator[str]:
    if route.source:
        yield f"  # {printable(route.source)}"
    yield f"  - name: {scalar(route.name)}"
    listen = [scalar(str(address)) for address in route.listen]
    several = f"[{', '.join(listen)}]"
    yield f"    listen: {listen[0] if len(listen) == 1 else several}"
    yield from _timeouts(route, _DEFAULTS.defaults.connect_timeout, _DEFAULTS.defaults.idle_timeout)
    yield from (f"    {key}: {value}" for key, value in _route_policy(route.policy))
    yield "    destinations:"
    for destination in route.destinations:
        yield f"      - name: {scalar(destination.name)}"
        yield f"        weight: {destination.weight}"
        yield from _timeouts(destination, route.connect_timeout, route.idle_timeout, "        ")
        for key, value in _destination_policy(destination.policy):
            yield f"        {key}: {value}"
        yield from _endpoints(destination.endpoints, dict(destination.endpoint_policies))


def _timeouts(
    part: Route | Destination, connect: float, idle: float, indent: str = "    "
) -> Iterable[str]:
    if part.connect_timeout != connect:
        yield f"{indent}connect_timeout: {format_duration(part.connect_timeout)}"
    if part.idle_timeout != idle:
        yield f"{indent}idle_timeout: {format_duration(part.idle_timeout)}"


def _endpoints(
    endpoints: Sequence[Endpoint], policies: Mapping[Endpoint, EndpointPolicy]
) -> Iterable[str]:
    turns = Counter(endpoints)
    if not endpoints:
        yield "        endpoints: []  # its share of connections is reset"
        return
    yield "        endpoints:"
    for endpoint, weight in turns.items():
        address = scalar(str(endpoint))
        policy = policies.get(endpoint, EndpointPolicy())
        others = {
            "weight": weight if weight != 1 else 0,
            "max_connections": policy.max_connections,
            "priority": policy.priority,
        }
        more = "".join(f", {key}: {value}" for key, value in others.items() if value)
        yield f"          - {{address: {address}{more}}}" if more else f"          - {address}"


Pairs = Iterator[tuple[str, str]]


def _flow(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}"


def _durations(of: object, defaults: object, *keys: str) -> Pairs:
    for key in keys:
        if getattr(of, key) != getattr(defaults, key):
            yield key, format_duration(getattr(of, key))


def _numbers(of: object, defaults: object, *keys: str, unit: str = "") -> Pairs:
    for key in keys:
        if getattr(of, key) != getattr(defaults, key):
            yield key, f"{getattr(of, key)}{unit}"


def _rate(rate: Rate) -> str:
    hourly = rate.per_second * 3600
    text = f"{rate.per_second:.6f}".rstrip("0").rstrip(".") + "/s"
    if abs(rate.per_second - round(rate.per_second, 6)) > 1e-9 and hourly == round(hourly):
        text = f"{hourly:.0f}/h"
    return _flow([("rate", text), ("burst", str(rate.burst))])


def _bandwidth(bandwidth: Bandwidth) -> Pairs:
    for key in ("up", "down"):
        if getattr(bandwidth, key):
            yield key, f"{format_size(getattr(bandwidth, key))}/s"


def _route_policy(policy: RoutePolicy) -> Pairs:
    plain = RoutePolicy()
    yield from _numbers(policy, plain, "max_connections", "listener_max_connections")
    if policy.rate:
        yield "rate", _rate(policy.rate)
    yield from _mapped("source", _source(policy))
    yield from _mapped("bandwidth", _bandwidth(policy.bandwidth))
    for key, networks in (("allow", policy.allow), ("deny", policy.deny)):
        if networks:
            yield key, f"[{', '.join(scalar(str(network)) for network in networks)}]"
    yield from _mapped("retry", _retry(policy))
    if policy.on_unavailable == "fallback":
        yield "on_unavailable", _flow([("fallback", scalar(policy.fallback))])
    else:
        yield from _numbers(policy, plain, "on_unavailable")
    if policy.on_all_unavailable == "hold":
        yield "on_all_unavailable", _flow([("hold", format_duration(policy.hold))])
    else:
        yield from _numbers(policy, plain, "on_all_unavailable")


def _mapped(key: str, pairs: Iterable[tuple[str, str]]) -> Pairs:
    """As a mapping, if there is anything in it."""
    found = list(pairs)
    if found:
        yield key, _flow(found)


def _source(policy: RoutePolicy) -> Pairs:
    if policy.source_max_connections:
        yield "max_connections", str(policy.source_max_connections)
    if policy.source_rate:
        yield "rate", _rate(policy.source_rate)


def _retry(policy: RoutePolicy) -> Pairs:
    plain = RoutePolicy()
    if policy.max_connect_attempts:
        yield "attempts", str(policy.max_connect_attempts)
    if policy.retry_percent != plain.retry_percent:
        yield "budget", f"{policy.retry_percent}%"
    if policy.retry_burst != plain.retry_burst:
        yield "burst", str(policy.retry_burst)
    if policy.across:
        yield "across", "true"


def _destination_policy(policy: DestinationPolicy) -> Pairs:
    plain = DestinationPolicy()
    yield from _numbers(policy, plain, "max_connections")
    if policy.on_full == "queue":
        wait = format_duration(policy.queue_timeout)
        queue = _flow([("size", str(policy.queue_size)), ("timeout", wait)])
        yield "on_full", _flow([("queue", queue)])
    else:
        yield from _numbers(policy, plain, "on_full")
    yield from _numbers(policy, plain, "balance")
    if policy.check is not None:
        yield "check", _flow(_check(policy.check))
    if policy.passive.errors:
        yield from _mapped("passive", _passive(policy.passive))
    else:
        yield "passive", "off"
    yield from _numbers(policy, plain, "panic_threshold", unit="%")
    yield from _times(policy)


def _times(policy: DestinationPolicy) -> Pairs:
    plain = DestinationPolicy()
    for key, duration, part, percent in (
        ("warmup", policy.warmup, "floor", policy.warmup_floor),
        ("max_connection_duration", policy.lifetime, "jitter", policy.jitter),
    ):
        if duration:
            yield key, _flow([("duration", format_duration(duration)), (part, f"{percent}%")])
    yield from _durations(policy, plain, "half_open_timeout")
    if policy.keepalive.idle:
        alive = _durations(policy.keepalive, plain.keepalive, "idle", "interval")
        count = _numbers(policy.keepalive, plain.keepalive, "count")
        yield from _mapped("keepalive", [*alive, *count])
    else:
        yield "keepalive", "off"
    if policy.user_timeout:
        yield "tcp_user_timeout", format_duration(policy.user_timeout)
    yield from _mapped("connection_bandwidth", _bandwidth(policy.bandwidth))


def _passive(passive: Passive) -> Pairs:
    plain = Passive()
    yield from _numbers(passive, plain, "errors")
    yield from _durations(passive, plain, "interval", "ejection_time", "early_close")
    yield from _numbers(passive, plain, "most_ejected", unit="%")
    if passive.resets:
        yield "resets", "on"


def _check(check: Check) -> Pairs:
    plain = Check(check.kind)
    yield "type", check.kind
    yield from _durations(check, plain, "interval", "fast_interval", "timeout")
    yield from _numbers(check, plain, "fall", "rise", "port")
    if check.send:
        yield "send_hex", scalar(check.send.hex())
    if check.expect and check.is_pattern:
        yield "expect_regex", scalar(check.expect.decode("utf-8", "surrogateescape"))
    elif check.expect:
        yield "expect_hex", scalar(check.expect.hex())
    for key in ("path", "host"):
        if getattr(check, key) != getattr(plain, key):
            yield key, scalar(getattr(check, key))
    if check.status != plain.status:
        yield "status", f"{check.status[0]}-{check.status[1]}"
    if check.tls:
        yield "tls", "true"
