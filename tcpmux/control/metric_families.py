"""The metrics that every route, destination and endpoint has. Runs in control.

Names: Istio's, whose boards work as they are, and ours, tcpmux_*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

from tcpmux.control.condition import CONDITIONS
from tcpmux.shm._declared import CLOSE_REASONS, PICK_REASONS
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US
from tcpmux.shm.counters import FLAGS, ROWS, Histogram, Row, SlotCounters, Times
from tcpmux.shm.image import READY, DestinationRow
from tcpmux.shm.serving import serves

_FLAGS = tuple(dict.fromkeys(FLAGS.values()))
_REASONS_OF_FLAG = [
    [i for i, reason in enumerate(CLOSE_REASONS) if FLAGS[reason] == flag] for flag in _FLAGS
]
OF_WORKERS = [row for row in ROWS if row.kind == "worker"]
OF_ROUTES = [row for row in ROWS if row.kind == "slot" and row.scope == "route"]
# What the parser of a text file would take for its own.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

LABELS = "\0"  # where they go in a template; no label can hold it
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Family:
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


def _by(name: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(f'{name}="{value}"' for value in values)


def seconds(us: int) -> str:
    """Exact: 2500 -> 0.0025."""
    return f"{us // 1_000_000}.{us % 1_000_000:06d}".rstrip("0").removesuffix(".")


def histogram_values(histogram: Histogram) -> Values:
    counts = tuple(accumulate(histogram.buckets))
    return (*counts, histogram.sum_us // 1_000_000, histogram.sum_us % 1_000_000, counts[-1])


def _histogram_template(name: str, bounds_us: Sequence[int]) -> str:
    lines = [f'{name}_bucket{{{LABELS},le="{seconds(b)}"}} %d\n' for b in bounds_us]
    lines.append(f'{name}_bucket{{{LABELS},le="+Inf"}} %d\n')
    return "".join([*lines, f"{name}_sum{{{LABELS}}} %d.%06d\n{name}_count{{{LABELS}}} %d\n"])


def help_of(row: Row) -> str:
    """Connects: refused, unreachable or timed out."""
    return f"{row.unit.capitalize()}: {row.help}."


def _counted(row: Row) -> Family:
    """Of a counter that needs no words of its own."""
    name = row.name
    return Family(row.metric, "counter", help_of(row), values=lambda _, c, __: (getattr(c, name),))


ISTIO = (
    Family(
        "istio_tcp_connections_opened_total",
        "counter",
        "Connections assigned to a destination.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.opened,),
    ),
    Family(
        "istio_tcp_connections_closed_total",
        "counter",
        "Connections that have ended, by response flag.",
        _by("response_flags", _FLAGS),
        lambda _, c, __: tuple(sum([c.closed[i] for i in of]) for of in _REASONS_OF_FLAG),
    ),
    Family(
        "istio_tcp_received_bytes_total",
        "counter",
        "Bytes forwarded from clients, including those of open connections.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.bytes_in,),
    ),
    Family(
        "istio_tcp_sent_bytes_total",
        "counter",
        "Bytes sent to clients, including those of open connections.",
        _by("response_flags", "-"),
        lambda _, c, __: (c.bytes_out,),
    ),
)
OWN = (
    Family(
        "tcpmux_connections_active",
        "gauge",
        "Open connections.",
        values=lambda _, c, __: (c.active,),
    ),
    Family(
        "tcpmux_connections_closed_total",
        "counter",
        "Connections that have ended, by reason.",
        _by("reason", CLOSE_REASONS),
        lambda _, c, __: c.closed,
    ),
    *(_counted(row) for row in ROWS if row.kind == "slot" and not row.scope),
    Family(
        "tcpmux_picks_total",
        "counter",
        "Times the destination was picked, by reason.",
        _by("reason", PICK_REASONS),
        lambda _, c, __: c.picked,
    ),
    Family(
        "tcpmux_destination_weight",
        "gauge",
        "Configured weight: from the file or set by an operator.",
        values=lambda row, _, __: (row.weight,),
    ),
    Family(
        "tcpmux_destination_effective_weight",
        "gauge",
        "Weight in force; its share of the route's sum is its share of connections.",
        values=lambda row, _, __: (row.effective_weight,),
    ),
    Family(
        "tcpmux_destination_ready",
        "gauge",
        "0 while drained or disabled by an operator, else 1.",
        values=lambda row, _, __: (int(row.state == READY),),
    ),
    Family(
        "tcpmux_destination_available",
        "gauge",
        "1 while an endpoint can take connections.",
        values=lambda row, _, __: (int(serves(row)),),
    ),
    Family(
        "tcpmux_destination_slow_start_percent",
        "gauge",
        "Percentage of its share that it gets: below 100 during slow start.",
        values=lambda row, _, __: (row.slow_start_percent,),
    ),
    Family(
        "tcpmux_destination_ramp_percent",
        "gauge",
        "Former name of tcpmux_destination_slow_start_percent; removed in the next release.",
        values=lambda row, _, __: (row.slow_start_percent,),
    ),
    Family(
        "tcpmux_destination_panic",
        "gauge",
        "1 while health is ignored because too few endpoints are healthy.",
        values=lambda row, _, __: (int(row.panic),),
    ),
    Family(
        "tcpmux_destination_max_connections",
        "gauge",
        "Limit of connections; 0 = none.",
        values=lambda row, _, __: (row.rules.max_connections,),
    ),
)
_BOUNDS = {"latency": LATENCY_BOUNDS_US, "duration": DURATION_BOUNDS_US}
HISTOGRAMS: tuple[tuple[Family, tuple[int, ...], Callable[[Times], Histogram]], ...] = tuple(
    (
        Family(row.metric, "histogram", f"{row.help[0].upper()}{row.help[1:]}."),
        _BOUNDS[row.unit],
        attrgetter(row.name),
    )
    for row in ROWS
    if row.kind == "time"
)
ENDPOINT = (
    Family("tcpmux_endpoint_connections_active", "gauge", "Open connections."),
    Family("tcpmux_endpoint_connections_total", "counter", "Connects started."),
    Family("tcpmux_endpoint_connect_failures_total", "counter", "Connects that failed."),
    Family("tcpmux_endpoint_up", "gauge", "0 while down or ejected, else 1."),
    Family(
        "tcpmux_endpoint_slow_start_percent",
        "gauge",
        "Percentage of its share that it gets: below 100 during slow start.",
    ),
    Family(
        "tcpmux_endpoint_ramp_percent",
        "gauge",
        "Former name of tcpmux_endpoint_slow_start_percent; removed in the next release.",
    ),
    Family(
        "tcpmux_endpoint_suspicions_total",
        "counter",
        "Connections that the endpoint ended without sending a byte, if `passive` counts them.",
    ),
)
ROUTE = (
    Family("tcpmux_route_connections_total", "counter", "Accepted connections."),
    Family(
        "tcpmux_route_connections_rejected_total",
        "counter",
        "Connections that were reset without reaching an endpoint.",
    ),
    *(Family(row.metric, "counter", help_of(row)) for row in OF_ROUTES),
)
RULE = (
    Family(
        "tcpmux_rule_connections_total",
        "counter",
        "Connections that met the rule, including those that it rejects.",
    ),
    Family("tcpmux_rule_connections_active", "gauge", "Open connections."),
)
# Of routes, destinations and endpoints: in each state 1, in all others 0.
STATES = tuple(
    Family(
        f"tcpmux_{what}_state",
        "gauge",
        f"1 for the state that the {what} is in, 0 for the others.",
        _by("state", CONDITIONS),
    )
    for what in ("route", "destination", "endpoint")
)
ONE_HOT = {word: tuple(int(word == other) for other in CONDITIONS) for word in CONDITIONS}


def label(value: object) -> str:
    return str(value).translate(_ESCAPES)


def _template(family: Family) -> str:
    return "".join(
        f"{family.name}{{{LABELS}{',' if more else ''}{more}}} %d\n" for more in family.labels
    )


# With numbers to be filled in, and labels before that.
ISTIO_LINES, OWN_LINES, ENDPOINT_LINES, ROUTE_LINES, RULE_LINES, STATE_LINES = (
    [_template(family) for family in families]
    for families in (ISTIO, OWN, ENDPOINT, ROUTE, RULE, STATES)
)
HISTOGRAM_LINES = [_histogram_template(family.name, bounds) for family, bounds, _ in HISTOGRAMS]
