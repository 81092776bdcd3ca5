"""GET /metrics: what Prometheus reads. Runs in control.

Text format 0.0.4, or OpenMetrics 1.0 for those who ask for it. Written here and not by the client
library: 1,000 routes are 150,000 lines, and every one of them has its labels made ready when
routes change. Names: Istio's, whose boards work as they are, and ours, tcpmux_*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

from tcpmux.control.machine import accept_queues
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US
from tcpmux.shm._shm import CLOSE_REASONS, PICK_REASONS, Live
from tcpmux.shm.counters import FLAGS, REJECTED, ROWS, Histogram, Row, SlotCounters, Times
from tcpmux.shm.image import (
    FULL_QUEUE,
    READY,
    WELL,
    DestinationRow,
    EndpointRow,
    Image,
)
from tcpmux.shm.routes import serves
from tcpmux.shm.stats import Program, is_running, programs
from tcpmux.shm.view import View

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_FLAGS = tuple(dict.fromkeys(FLAGS.values()))
_REASONS_OF_FLAG = [
    [i for i, reason in enumerate(CLOSE_REASONS) if FLAGS[reason] == flag] for flag in _FLAGS
]
_OF_WORKERS = [row for row in ROWS if row.kind == "worker"]
_OF_ROUTES = [row for row in ROWS if row.kind == "slot" and row.place == "route"]
# What the parser of a text file would take for its own.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

_LABELS = "\0"  # where they go in a template; no label can hold it
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric. kind: counter, gauge or histogram. labels: of its samples, besides those that
    say what it is of. values: as many as labels, of one destination."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ("",)
    values: Callable[[DestinationRow, SlotCounters, Times], Values] = lambda *_: ()

    def head(self, *, open_metrics: bool) -> str:
        name = self.name.removesuffix("_total") if open_metrics else self.name
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n"


def _by(label: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(f'{label}="{value}"' for value in values)


def _seconds(us: int) -> str:
    """Exact: 2500 -> 0.0025."""
    return f"{us // 1_000_000}.{us % 1_000_000:06d}".rstrip("0").removesuffix(".")


def _histogram_values(histogram: Histogram) -> Values:
    counts = tuple(accumulate(histogram.buckets))
    return (*counts, histogram.sum_us // 1_000_000, histogram.sum_us % 1_000_000, counts[-1])


def _histogram_template(name: str, bounds_us: Sequence[int]) -> str:
    lines = [f'{name}_bucket{{{_LABELS},le="{_seconds(b)}"}} %d\n' for b in bounds_us]
    lines.append(f'{name}_bucket{{{_LABELS},le="+Inf"}} %d\n')
    return "".join([*lines, f"{name}_sum{{{_LABELS}}} %d.%06d\n{name}_count{{{_LABELS}}} %d\n"])


def _help(row: Row) -> str:
    """Connects: refused, unreachable or timed out."""
    return f"{row.unit.capitalize()}: {row.help}."


def _counted(row: Row) -> _Family:
    """Of a counter that needs no words of its own."""
    name = row.name
    return _Family(row.metric, "counter", _help(row), values=lambda _, c, __: (getattr(c, name),))


_ISTIO = (
    _Family(
        "istio_tcp_connections_opened_total",
        "counter",
        "Connections given to a destination.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.opened,),
    ),
    _Family(
        "istio_tcp_connections_closed_total",
        "counter",
        "Connections that have ended, by response flag.",
        _by("response_flags", _FLAGS),
        lambda _, c, __: tuple(sum([c.closed[i] for i in of]) for of in _REASONS_OF_FLAG),
    ),
    _Family(
        "istio_tcp_received_bytes_total",
        "counter",
        "Bytes from clients, passed on; counted while a connection lives.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.bytes_in,),
    ),
    _Family(
        "istio_tcp_sent_bytes_total",
        "counter",
        "Bytes to clients; counted while a connection lives.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.bytes_out,),
    ),
)
_OWN = (
    _Family(
        "tcpmux_connections_active",
        "gauge",
        "Connections that are open.",
        values=lambda _, c, __: (c.active,),
    ),
    _Family(
        "tcpmux_connections_closed_total",
        "counter",
        "Connections that have ended, by reason.",
        _by("reason", CLOSE_REASONS),
        lambda _, c, __: c.closed,
    ),
    *(_counted(row) for row in ROWS if row.kind == "slot" and not row.place),
    _Family(
        "tcpmux_picks_total",
        "counter",
        "Times the destination was picked, by reason.",
        _by("reason", PICK_REASONS),
        lambda _, c, __: c.picked,
    ),
    _Family(
        "tcpmux_destination_weight",
        "gauge",
        "Weight asked for: by the file or, later, by an operator.",
        values=lambda row, _, __: (row.weight,),
    ),
    _Family(
        "tcpmux_destination_effective_weight",
        "gauge",
        "Weight in force; its share of the route's sum is its share of connections.",
        values=lambda row, _, __: (row.effective_weight,),
    ),
    _Family(
        "tcpmux_destination_ready",
        "gauge",
        "1, or 0 while an operator has it drained or disabled.",
        values=lambda row, _, __: (int(row.state == READY),),
    ),
    _Family(
        "tcpmux_destination_available",
        "gauge",
        "1 while it has an endpoint that can take connections.",
        values=lambda row, _, __: (int(serves(row)),),
    ),
    _Family(
        "tcpmux_destination_ramp_percent",
        "gauge",
        "Percent of its share that it gets now: less than 100 while it warms up.",
        values=lambda row, _, __: (row.ramp,),
    ),
    _Family(
        "tcpmux_destination_panic",
        "gauge",
        "1 while too few of its endpoints are healthy and all are used.",
        values=lambda row, _, __: (int(row.panic),),
    ),
    _Family(
        "tcpmux_destination_max_connections",
        "gauge",
        "Its limit; 0 = none.",
        values=lambda row, _, __: (row.rules.max_connections,),
    ),
)
_BOUNDS = {"latency": LATENCY_BOUNDS_US, "duration": DURATION_BOUNDS_US}
_HISTOGRAMS: tuple[tuple[_Family, tuple[int, ...], Callable[[Times], Histogram]], ...] = tuple(
    (
        _Family(row.metric, "histogram", f"{row.help[0].upper()}{row.help[1:]}."),
        _BOUNDS[row.unit],
        attrgetter(row.name),
    )
    for row in ROWS
    if row.kind == "time"
)
_ENDPOINT = (
    _Family("tcpmux_endpoint_connections_active", "gauge", "Connections that are open."),
    _Family("tcpmux_endpoint_connections_total", "counter", "Connects started."),
    _Family("tcpmux_endpoint_connect_failures_total", "counter", "Connects that failed."),
    _Family("tcpmux_endpoint_up", "gauge", "1, or 0 while it is down or ejected."),
    _Family("tcpmux_endpoint_ramp_percent", "gauge", "Percent of its share that it gets now."),
    _Family(
        "tcpmux_endpoint_suspicions_total",
        "counter",
        "Connections that it ended without a byte, where passive has that counted.",
    ),
)
_ROUTE = (
    _Family("tcpmux_route_connections_total", "counter", "Connections that came in."),
    _Family(
        "tcpmux_route_connections_rejected_total",
        "counter",
        "Connections that reached no endpoint, and were reset.",
    ),
    *(_Family(row.metric, "counter", _help(row)) for row in _OF_ROUTES),
)


def _label(value: object) -> str:
    return str(value).translate(_ESCAPES)


def _template(family: _Family) -> str:
    return "".join(
        f"{family.name}{{{_LABELS}{',' if more else ''}{more}}} %d\n" for more in family.labels
    )


# With numbers to be filled in, and labels before that.
_ISTIO_LINES, _OWN_LINES, _ENDPOINT_LINES, _ROUTE_LINES = (
    [_template(family) for family in families] for families in (_ISTIO, _OWN, _ENDPOINT, _ROUTE)
)
_HISTOGRAM_LINES = [_histogram_template(family.name, bounds) for family, bounds, _ in _HISTOGRAMS]


def _labelled(lines: Iterable[str], labels: str) -> list[str]:
    labels = labels.replace("%", "%%")  # of an IPv6 zone, say: no place for a number
    return [line.replace(_LABELS, labels) for line in lines]


class _Prepared:
    """The lines of everything in an image, but for the numbers."""

    def __init__(self, image: Image) -> None:
        self.destinations: list[tuple[DestinationRow, list[str], list[str]]] = []
        self.endpoints: list[tuple[EndpointRow, list[str]]] = []
        self.routes: list[tuple[int, list[str]]] = []
        for route in image.routes:
            name = _label(route.name)
            self.routes.append((route.slot, _labelled(_ROUTE_LINES, f'route="{name}"')))
            for row in route.destinations:
                version = _label(row.name)
                istio = f'destination_service="{name}",destination_version="{version}"'
                own = f'route="{name}",destination="{version}"'
                lines = [*_labelled(_ISTIO_LINES, istio), *_labelled(_OWN_LINES, own)]
                self.destinations.append((row, lines, _labelled(_HISTOGRAM_LINES, own)))
                for endpoint in row.endpoints:
                    labels = f'{own},endpoint="{_label(endpoint.address)}"'
                    self.endpoints.append((endpoint, _labelled(_ENDPOINT_LINES, labels)))


class Metrics:
    """Makes the text of what a View shows. version: of tcpmux."""

    def __init__(self, view: View, version: str) -> None:
        self._view = view
        self._version = version
        self._prepared: tuple[int, _Prepared] | None = None

    def note_change(self) -> None:
        """Prepares for the next scrape, if there has been any."""
        if self._prepared is not None:
            self._prepare()

    def _prepare(self) -> _Prepared:
        generation, image = self._view.image()
        if self._prepared is None or self._prepared[0] != generation:
            self._prepared = generation, _Prepared(image)
        return self._prepared[1]

    def text(self, *, open_metrics: bool = False) -> str:
        """The whole exposition, as of now."""
        prepared = self._prepare()
        generation, image = self._view.image()
        parts: list[str] = []
        self._put_traffic(parts, prepared, open_metrics=open_metrics)
        self._put_instance(parts, generation, open_metrics=open_metrics)
        self._put_queues(parts, image, open_metrics=open_metrics)
        self._put_waiting(parts, image, open_metrics=open_metrics)
        self._put_workers(parts, open_metrics=open_metrics)
        self._put_programs(parts, open_metrics=open_metrics)
        if open_metrics:
            parts.append("# EOF\n")
        return "".join(parts)

    def _put_traffic(self, parts: list[str], of: _Prepared, *, open_metrics: bool) -> None:
        counters = self._view.counters
        read = [
            (row, lines, histograms, counters.slot(row.slot), counters.times(row.slot))
            for row, lines, histograms in of.destinations
        ]
        for i, family in enumerate((*_ISTIO, *_OWN)):
            parts.append(family.head(open_metrics=open_metrics))
            values = family.values
            parts += [lines[i] % values(row, c, times) for row, lines, _, c, times in read]
        for i, (family, _, histogram_of) in enumerate(_HISTOGRAMS):
            parts.append(family.head(open_metrics=open_metrics))
            for _, _, histograms, _, times in read:
                histogram = histogram_of(times)
                if any(histogram.buckets):  # most of many routes are silent
                    parts.append(histograms[i] % _histogram_values(histogram))
        endpoints = [
            (
                (*_endpoint_values(row, counters.slot(row.slot)), self._view.suspicions(row.slot)),
                lines,
            )
            for row, lines in of.endpoints
        ]
        for i, family in enumerate(_ENDPOINT):
            parts.append(family.head(open_metrics=open_metrics))
            parts += [lines[i] % values[i] for values, lines in endpoints]
        routes = [(_route_values(counters.slot(slot)), lines) for slot, lines in of.routes]
        for i, family in enumerate(_ROUTE):
            parts.append(family.head(open_metrics=open_metrics))
            parts += [lines[i] % values[i] for values, lines in routes]

    def _put_instance(self, parts: list[str], generation: int, *, open_metrics: bool) -> None:
        table = self._view.table
        done, refused = table.reloads

        def put(name: str, kind: str, text: str, *samples: tuple[str, int]) -> None:
            _put(parts, _Family(name, kind, text), samples, open_metrics=open_metrics)

        put("tcpmux_info", "gauge", "Always 1.", (f'version="{_label(self._version)}"', 1))
        put("tcpmux_generation", "gauge", "Of the routes in force.", ("", generation))
        put("tcpmux_start_time_seconds", "gauge", "Unix time.", ("", table.started_at))
        put("tcpmux_workers", "gauge", "Workers that should be running.", ("", table.worker_count))
        put(
            "tcpmux_reloads_total",
            "counter",
            "Reloads, by result.",
            ('result="done"', done),
            ('result="refused"', refused),
        )
        put("tcpmux_upgrades_total", "counter", "Upgrades begun.", ("", table.upgrade[0]))
        *_, per_source, total, pipes = table.buffers
        put(
            "tcpmux_pinned_bytes",
            "gauge",
            "Kernel memory of connections whose peer has stopped reading.",
            ("", self._view.pinned),
        )
        put(
            "tcpmux_pinned_bytes_limit",
            "gauge",
            "The most of them, of all and of one client, before they are reset; 0 = no limit.",
            ('of="all"', total),
            ('of="source"', per_source),
        )
        put(
            "tcpmux_pipe_bytes_limit",
            "gauge",
            "Size of all pipes together, beyond which each is smaller; 0 = no limit.",
            ("", pipes),
        )

    def _put_queues(self, parts: list[str], image: Image, *, open_metrics: bool) -> None:
        listening = []
        for row in image.listeners:
            host, _, port = str(row.address).rpartition(":")
            if port.isdecimal() and not host.startswith("unix"):
                name = _label(image.routes[row.route].name)
                labels = f'route="{name}",listen="{row.address}"'
                listening.append(((host.strip("[]"), int(port)), labels))
        queues = accept_queues(port for (_, port), _ in listening) if listening else {}
        for i, (name, text) in enumerate(
            (
                ("tcpmux_accept_queue_length", "Connections that wait to be accepted."),
                ("tcpmux_accept_queue_limit", "The most that can wait; more are dropped."),
            )
        ):
            samples = [(labels, queues[key][i]) for key, labels in listening if key in queues]
            _put(parts, _Family(name, "gauge", text), samples, open_metrics=open_metrics)

    def _put_waiting(self, parts: list[str], image: Image, *, open_metrics: bool) -> None:
        samples = [
            (
                f'route="{_label(route.name)}",destination="{_label(row.name)}"',
                self._view.waiting(row.slot),
            )
            for route in image.routes
            for row in route.destinations
            if row.rules.on_full == FULL_QUEUE
        ]
        name, text = "tcpmux_destination_connections_waiting", "Connections that wait for a place."
        _put(parts, _Family(name, "gauge", text), samples, open_metrics=open_metrics)

    def _put_workers(self, parts: list[str], *, open_metrics: bool) -> None:
        lives = [live for live in self._view.lives if live.starts]

        def put(name: str, kind: str, text: str, value: Callable[[Live], int]) -> None:
            samples = [(f'worker="{live.worker}"', value(live)) for live in lives]
            _put(parts, _Family(name, kind, text), samples, open_metrics=open_metrics)

        put("tcpmux_worker_up", "gauge", "1 while its process runs.", is_running)
        put("tcpmux_worker_generation", "gauge", "It uses.", lambda w: w.generation_seen)
        put("tcpmux_worker_connections", "gauge", "It has open.", lambda w: w.connections)
        put("tcpmux_worker_connections_limit", "gauge", "It can have.", lambda w: w.capacity)
        put("tcpmux_worker_starts_total", "counter", "Lives of it.", lambda w: w.starts)
        put("tcpmux_worker_pipes", "gauge", "Pipes it has.", lambda w: w.pipes)
        put("tcpmux_worker_pipe_bytes", "gauge", "Size of its pipes.", lambda w: w.pipe_bytes)
        put("tcpmux_worker_open_fds", "gauge", "Open descriptors.", lambda w: w.descriptors)
        put(
            "tcpmux_worker_log_dropped_total",
            "counter",
            "Lines of the access log for which there was no room.",
            lambda w: w.log_dropped,
        )
        counted = [live.counters() for live in lives]
        for row in _OF_WORKERS:
            samples = [
                (f'worker="{live.worker}"', counts[row.name])
                for live, counts in zip(lives, counted, strict=True)
            ]
            family = _Family(row.metric, "counter", _help(row))
            _put(parts, family, samples, open_metrics=open_metrics)

    def _put_programs(self, parts: list[str], *, open_metrics: bool) -> None:
        found = list(programs(self._view.table))

        def put(name: str, kind: str, text: str, value: Callable[[Program], int]) -> None:
            samples = [(f'program="{program.name}"', value(program)) for program in found]
            _put(parts, _Family(name, kind, text), samples, open_metrics=open_metrics)

        put(
            "tcpmux_program_up",
            "gauge",
            "1 while it runs and does its work.",
            lambda p: p.is_at_work,
        )
        put("tcpmux_program_starts_total", "counter", "Processes of it.", lambda p: p.starts)
        put(
            "tcpmux_program_hangs_total",
            "counter",
            "Times that it was found stopped or hanging.",
            lambda p: p.hangs,
        )


_REJECTED = [CLOSE_REASONS.index(reason) for reason in REJECTED]


def _route_values(c: SlotCounters) -> tuple[int, ...]:
    """In the order of _ROUTE."""
    rejected = sum([c.closed[reason] for reason in _REJECTED])
    return c.opened, rejected, *(getattr(c, row.name) for row in _OF_ROUTES)


def _endpoint_values(row: EndpointRow, c: SlotCounters) -> tuple[int, ...]:
    """In the order of _ENDPOINT, but for the last, which is counted elsewhere."""
    return c.active, c.opened, c.connect_failures, int(row.health == WELL), row.ramp


def _put(
    parts: list[str], family: _Family, samples: Iterable[tuple[str, int]], *, open_metrics: bool
) -> None:
    parts.append(family.head(open_metrics=open_metrics))
    for labels, value in samples:
        name = f"{family.name}{{{labels}}}" if labels else family.name
        parts.append(f"{name} {value:d}\n")
