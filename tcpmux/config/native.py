"""A Config as the text of a routes.yaml: what `tcpmux convert` prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tcpmux.config.address import Endpoint
from tcpmux.config.duration import format_duration
from tcpmux.config.model import Config, Destination, Route
from tcpmux.config.schema import FileModel
from tcpmux.config.size import format_size

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
    yield from _mapping("admin", _admin(config))
    yield from _mapping("access_log", _access_log(config))
    if config.dns_servers:
        yield f"dns: {{servers: [{', '.join(scalar(str(s)) for s in config.dns_servers)}]}}"
    yield "routes:"
    for route in config.routes:
        yield from _route(route)


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
        yield f"  # {route.source}"
    yield f"  - name: {scalar(route.name)}"
    listen = [scalar(str(address)) for address in route.listen]
    several = f"[{', '.join(listen)}]"
    yield f"    listen: {listen[0] if len(listen) == 1 else several}"
    yield from _timeouts(route, _DEFAULTS.defaults.connect_timeout, _DEFAULTS.defaults.idle_timeout)
    yield "    destinations:"
    for destination in route.destinations:
        yield f"      - name: {scalar(destination.name)}"
        yield f"        weight: {destination.weight}"
        yield from _timeouts(destination, route.connect_timeout, route.idle_timeout, "        ")
        yield from _endpoints(destination.endpoints)


def _timeouts(
    part: Route | Destination, connect: float, idle: float, indent: str = "    "
) -> Iterable[str]:
    if part.connect_timeout != connect:
        yield f"{indent}connect_timeout: {format_duration(part.connect_timeout)}"
    if part.idle_timeout != idle:
        yield f"{indent}idle_timeout: {format_duration(part.idle_timeout)}"


def _endpoints(endpoints: Sequence[Endpoint]) -> Iterable[str]:
    turns = Counter(endpoints)
    if not endpoints:
        yield "        endpoints: []  # its share of connections is reset"
        return
    yield "        endpoints:"
    for endpoint, weight in turns.items():
        address = scalar(str(endpoint))
        if weight == 1:
            yield f"          - {address}"
        else:
            yield f"          - {{address: {address}, weight: {weight}}}"
