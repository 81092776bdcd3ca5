"""GET /metrics: what Prometheus reads. Runs in control.

Text format 0.0.4, or OpenMetrics 1.0 for those who ask for it. Written here and not by the client
library: 1,000 routes are 150,000 lines, and every one of them has its labels made ready when
routes change. Names: Istio's, whose boards work as they are, and ours, tcpmux_*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tcpmux.control import convergence_metrics, fleet_metrics, mirror_metrics, rollout_status
from tcpmux.control.machine import accept_queues
from tcpmux.control.metric_families import (
    ENDPOINT,
    ENDPOINT_LINES,
    HISTOGRAM_LINES,
    HISTOGRAMS,
    ISTIO,
    ISTIO_LINES,
    LABELS,
    OF_ROUTES,
    OF_WORKERS,
    ONE_HOT,
    OWN,
    OWN_LINES,
    ROUTE,
    ROUTE_LINES,
    RULE,
    RULE_LINES,
    STATE_LINES,
    STATES,
    Family,
    help_of,
    histogram_values,
    label,
)
from tcpmux.shm._declared import CLOSE_REASONS
from tcpmux.shm._live import Live
from tcpmux.shm.counters import REJECTED, SlotCounters
from tcpmux.shm.image import (
    FULL_QUEUE,
    HEALTHY,
    DestinationRow,
    EndpointRow,
    Image,
    RouteRow,
)
from tcpmux.shm.stats import Program, is_running, programs
from tcpmux.shm.view import View

if TYPE_CHECKING:
    from tcpmux.control.conditions import Conditions
    from tcpmux.control.convergences import Convergences
    from tcpmux.control.fleet.agent import Agent
    from tcpmux.control.rollouts import Rollouts
    from tcpmux.control.slices import Slices

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def _labelled(lines: Iterable[str], labels: str) -> list[str]:
    labels = labels.replace("%", "%%")  # of an IPv6 zone, say: no place for a number
    return [line.replace(LABELS, labels) for line in lines]


_REJECTED = [CLOSE_REASONS.index(reason) for reason in REJECTED]


class _Prepared:
    """The lines of everything in an image, but for the numbers."""

    def __init__(self, generation: int, image: Image) -> None:
        self.generation = generation
        self.image = image
        self.destinations: list[tuple[DestinationRow, list[str], list[str]]] = []
        self.endpoints: list[tuple[EndpointRow, list[str]]] = []
        self.routes: list[tuple[int, list[str]]] = []
        self.rules: list[tuple[int, list[str]]] = []
        # In the order of STATES: the names of each, and its lines.
        self.states: tuple[list[tuple[tuple[str, ...], str]], ...] = ([], [], [])

    def add(self, route: RouteRow) -> None:
        name = label(route.name)
        self.routes.append((route.slot, _labelled(ROUTE_LINES, f'route="{name}"')))
        self._add_state((route.name,), f'route="{name}"')
        for rule in route.pick_rules:
            labels = f'route="{name}",rule="{label(rule.name)}"'
            self.rules.append((rule.slot, _labelled(RULE_LINES, labels)))
        for row in route.destinations:
            version = label(row.name)
            istio = f'destination_service="{name}",destination_version="{version}"'
            own = f'route="{name}",destination="{version}"'
            lines = [*_labelled(ISTIO_LINES, istio), *_labelled(OWN_LINES, own)]
            self.destinations.append((row, lines, _labelled(HISTOGRAM_LINES, own)))
            self._add_state((route.name, row.name), own)
            for endpoint in row.endpoints:
                labels = f'{own},endpoint="{label(endpoint.address)}"'
                self.endpoints.append((endpoint, _labelled(ENDPOINT_LINES, labels)))
                self._add_state((route.name, row.name, str(endpoint.address)), labels)

    def _add_state(self, key: tuple[str, ...], labels: str) -> None:
        at = len(key) - 1
        (line,) = _labelled(STATE_LINES[at : at + 1], labels)
        self.states[at].append((key, line))


class Metrics:
    """Makes the text of what a View shows. version: of tcpmux. conditions: have to be looked at
    first."""

    def __init__(
        self,
        view: View,
        version: str,
        conditions: Conditions,
        convergences: Convergences | None = None,
        rollouts: Rollouts | None = None,
        agent: Agent | None = None,
    ) -> None:
        self._agent = agent
        self._rollouts = rollouts
        self._convergences = convergences
        self._view = view
        self._version = version
        self._conditions = conditions
        self._prepared: _Prepared | None = None

    async def note_change(self, slices: Slices) -> None:
        """Prepares for the next scrape, if there has been any."""
        if self._prepared is not None:
            await slices.all(self._preparing())

    def _preparing(self) -> Iterator[str]:
        """Steps with nothing to say, after which self._prepared is of the image in force then."""
        generation, image = self._view.image()
        if self._prepared is not None and self._prepared.generation == generation:
            return
        prepared = _Prepared(generation, image)
        for route in image.routes:
            prepared.add(route)
            yield ""
        self._prepared = prepared

    def text(self, *, open_metrics: bool = False) -> str:
        """The whole exposition, as of now."""
        return "".join(self.parts(open_metrics=open_metrics))

    def parts(self, *, open_metrics: bool = False) -> Iterator[str]:
        """text() in short steps."""
        yield from self._preparing()
        prepared = self._prepared
        assert prepared is not None
        yield from self._traffic(prepared, open_metrics=open_metrics)
        parts: list[str] = []
        self._put_instance(parts, prepared.generation, open_metrics=open_metrics)
        self._put_buffers(parts, open_metrics=open_metrics)
        self._put_queues(parts, prepared.image, open_metrics=open_metrics)
        self._put_waiting(parts, prepared.image, open_metrics=open_metrics)
        self._put_workers(parts, open_metrics=open_metrics)
        self._put_programs(parts, open_metrics=open_metrics)
        runs = self._convergences.runs() if self._convergences else {}
        parts += convergence_metrics.parts(runs, open_metrics=open_metrics)
        under_way = self._rollouts.runs if self._rollouts else {}
        ends = self._rollouts.ends if self._rollouts else {}
        failures = self._rollouts.hooks.failures if self._rollouts else {}
        parts += rollout_status.parts(under_way.values(), ends, failures, open_metrics=open_metrics)
        parts += mirror_metrics.parts(self._view, prepared.image, open_metrics=open_metrics)
        parts += fleet_metrics.parts(self._agent, open_metrics=open_metrics)
        if open_metrics:
            parts.append("# EOF\n")
        yield "".join(parts)

    def _traffic(self, of: _Prepared, *, open_metrics: bool) -> Iterator[str]:
        counters = self._view.counters
        read = []
        for row, lines, histograms in of.destinations:
            read.append((row, lines, histograms, counters.slot(row.slot), counters.times(row.slot)))
            yield ""
        for i, family in enumerate((*ISTIO, *OWN)):
            yield family.head(open_metrics=open_metrics)
            values = family.values
            for row, lines, _, c, times in read:
                yield lines[i] % values(row, c, times)
        for i, (family, _, histogram_of) in enumerate(HISTOGRAMS):
            yield family.head(open_metrics=open_metrics)
            for _, _, histograms, _, times in read:
                histogram = histogram_of(times)
                if any(histogram.buckets):  # most of many routes are silent
                    yield histograms[i] % histogram_values(histogram)
        yield from self._endpoints(of, open_metrics=open_metrics)
        yield from self._routes(of, open_metrics=open_metrics)
        yield from self._rules(of, open_metrics=open_metrics)
        yield from self._states(of, open_metrics=open_metrics)

    def _states(self, of: _Prepared, *, open_metrics: bool) -> Iterator[str]:
        for family, states in zip(STATES, of.states, strict=True):
            yield family.head(open_metrics=open_metrics)
            for key, line in states:
                yield line % ONE_HOT[self._conditions.word(*key)]

    def _endpoints(self, of: _Prepared, *, open_metrics: bool) -> Iterator[str]:
        read = []
        for row, lines in of.endpoints:
            values = _endpoint_values(row, self._view.counters.slot(row.slot))
            read.append(((*values, self._view.suspicions(row.slot)), lines))
            yield ""
        yield from _by_family(ENDPOINT, read, open_metrics=open_metrics)

    def _routes(self, of: _Prepared, *, open_metrics: bool) -> Iterator[str]:
        read = []
        for slot, lines in of.routes:
            read.append((_route_values(self._view.counters.slot(slot)), lines))
            yield ""
        yield from _by_family(ROUTE, read, open_metrics=open_metrics)

    def _rules(self, of: _Prepared, *, open_metrics: bool) -> Iterator[str]:
        read = []
        for slot, lines in of.rules:
            counters = self._view.counters.slot(slot)
            read.append(((counters.opened, counters.active), lines))
            yield ""
        yield from _by_family(RULE, read, open_metrics=open_metrics)

    def _put_instance(self, parts: list[str], generation: int, *, open_metrics: bool) -> None:
        table = self._view.table
        done, refused = table.reloads

        def put(name: str, kind: str, text: str, *samples: tuple[str, int]) -> None:
            _put(parts, Family(name, kind, text), samples, open_metrics=open_metrics)

        put("tcpmux_info", "gauge", "Always 1.", (f'version="{label(self._version)}"', 1))
        put("tcpmux_generation", "gauge", "Generation of the routes in force.", ("", generation))
        put(
            "tcpmux_start_time_seconds",
            "gauge",
            "Start of the instance, in seconds since the epoch.",
            ("", table.started_at),
        )
        put("tcpmux_workers", "gauge", "Workers that should be running.", ("", table.worker_count))
        put(
            "tcpmux_reloads_total",
            "counter",
            "Reloads, by result.",
            ('result="done"', done),
            ('result="refused"', refused),
        )
        reloaded_at, refused_for = table.last_reload
        put(
            "tcpmux_last_reload_successful",
            "gauge",
            "0 if the last reload was refused, else 1.",
            ("", int(not refused_for)),
        )
        put(
            "tcpmux_last_reload_timestamp_seconds",
            "gauge",
            "Time of the last reload, or of the start, in seconds since the epoch.",
            ("", reloaded_at or table.started_at),
        )
        put(
            "tcpmux_drain_state",
            "gauge",
            "1 while the instance drains: it accepts no new connections and will exit.",
            ("", int(table.draining)),
        )
        put(
            "tcpmux_problems",
            "gauge",
            "Current problems. error: clients lose connections; warning: redundancy is lost.",
            *(
                (f'severity="{severity}"', count)
                for severity, count in self._conditions.problem_counts().items()
            ),
        )
        put("tcpmux_upgrades_total", "counter", "Upgrades started.", ("", table.upgrade[0]))

    def _put_buffers(self, parts: list[str], *, open_metrics: bool) -> None:
        *_, per_source, total, pipes = self._view.table.buffers

        def put(name: str, text: str, *samples: tuple[str, int]) -> None:
            _put(parts, Family(name, "gauge", text), samples, open_metrics=open_metrics)

        put(
            "tcpmux_pinned_bytes",
            "Kernel memory of connections whose peer has stopped reading.",
            ("", self._view.pinned),
        )
        put(
            "tcpmux_pinned_bytes_limit",
            "Limit of that memory, in total and per client, above which connections are reset; 0 "
            "= none.",
            ('of="all"', total),
            ('of="source"', per_source),
        )
        put(
            "tcpmux_pipe_bytes_limit",
            "Total size of all pipes above which pipes get smaller; 0 = no limit.",
            ("", pipes),
        )

    def _put_queues(self, parts: list[str], image: Image, *, open_metrics: bool) -> None:
        listening = []
        for row in image.listeners:
            host, _, port = str(row.address).rpartition(":")
            if port.isdecimal() and not host.startswith("unix"):
                name = label(image.routes[row.route].name)
                labels = f'route="{name}",listen="{row.address}"'
                listening.append(((host.strip("[]"), int(port)), labels))
        queues = accept_queues(port for (_, port), _ in listening) if listening else {}
        for i, (name, text) in enumerate(
            (
                ("tcpmux_accept_queue_length", "Connections waiting to be accepted."),
                (
                    "tcpmux_accept_queue_limit",
                    "Maximum length of the queue; further connections are dropped.",
                ),
            )
        ):
            samples = [(labels, queues[key][i]) for key, labels in listening if key in queues]
            _put(parts, Family(name, "gauge", text), samples, open_metrics=open_metrics)

    def _put_waiting(self, parts: list[str], image: Image, *, open_metrics: bool) -> None:
        samples = [
            (
                f'route="{label(route.name)}",destination="{label(row.name)}"',
                self._view.waiting(row.slot),
            )
            for route in image.routes
            for row in route.destinations
            if row.rules.on_full == FULL_QUEUE
        ]
        name, text = "tcpmux_destination_connections_waiting", "Connections in the queue."
        _put(parts, Family(name, "gauge", text), samples, open_metrics=open_metrics)

    def _put_workers(self, parts: list[str], *, open_metrics: bool) -> None:
        lives = [live for live in self._view.lives if live.starts]

        def put(name: str, kind: str, text: str, value: Callable[[Live], int]) -> None:
            samples = [(f'worker="{live.worker}"', value(live)) for live in lives]
            _put(parts, Family(name, kind, text), samples, open_metrics=open_metrics)

        put("tcpmux_worker_up", "gauge", "1 while the worker's process runs.", is_running)
        put(
            "tcpmux_worker_generation",
            "gauge",
            "Generation of the route table in use.",
            lambda w: w.generation_seen,
        )
        put("tcpmux_worker_connections", "gauge", "Open connections.", lambda w: w.connections)
        put(
            "tcpmux_worker_connections_limit",
            "gauge",
            "Maximum number of connections.",
            lambda w: w.capacity,
        )
        put("tcpmux_worker_starts_total", "counter", "Process starts.", lambda w: w.starts)
        put("tcpmux_worker_pipes", "gauge", "Open pipes.", lambda w: w.pipes)
        put("tcpmux_worker_pipe_bytes", "gauge", "Sum of pipe sizes.", lambda w: w.pipe_bytes)
        put("tcpmux_worker_open_fds", "gauge", "Open descriptors.", lambda w: w.descriptors)
        put(
            "tcpmux_worker_log_dropped_total",
            "counter",
            "Access log lines dropped because the buffer was full.",
            lambda w: w.log_dropped,
        )
        counted = [live.counters() for live in lives]
        for row in OF_WORKERS:
            samples = [
                (f'worker="{live.worker}"', counts[row.name])
                for live, counts in zip(lives, counted, strict=True)
            ]
            family = Family(row.metric, "counter", help_of(row))
            _put(parts, family, samples, open_metrics=open_metrics)

    def _put_programs(self, parts: list[str], *, open_metrics: bool) -> None:
        found = list(programs(self._view.table))

        def put(name: str, kind: str, text: str, value: Callable[[Program], int]) -> None:
            samples = [(f'program="{program.name}"', value(program)) for program in found]
            _put(parts, Family(name, kind, text), samples, open_metrics=open_metrics)

        put(
            "tcpmux_program_up",
            "gauge",
            "1 while the program runs and makes progress.",
            lambda p: p.is_at_work,
        )
        put("tcpmux_program_starts_total", "counter", "Process starts.", lambda p: p.starts)
        put(
            "tcpmux_program_hangs_total",
            "counter",
            "Times the program was found stopped or hanging.",
            lambda p: p.hangs,
        )


def _route_values(c: SlotCounters) -> tuple[int, ...]:
    """In the order of ROUTE."""
    rejected = sum([c.closed[reason] for reason in _REJECTED])
    return c.opened, rejected, *(getattr(c, row.name) for row in OF_ROUTES)


def _by_family(
    families: Sequence[Family],
    read: Sequence[tuple[Sequence[float], Sequence[str]]],
    *,
    open_metrics: bool,
) -> Iterator[str]:
    """read: of each thing its values and its lines, both in the order of the families."""
    for i, family in enumerate(families):
        yield family.head(open_metrics=open_metrics)
        for values, lines in read:
            yield lines[i] % values[i]


def _endpoint_values(row: EndpointRow, c: SlotCounters) -> tuple[int, ...]:
    """In the order of ENDPOINT, but for the last, which is counted elsewhere."""
    return (
        c.active,
        c.opened,
        c.connect_failures,
        int(row.health == HEALTHY),
        row.slow_start_percent,
        row.slow_start_percent,  # by its former name
    )


def _put(
    parts: list[str], family: Family, samples: Iterable[tuple[str, int]], *, open_metrics: bool
) -> None:
    parts.append(family.head(open_metrics=open_metrics))
    for labels, value in samples:
        name = f"{family.name}{{{labels}}}" if labels else family.name
        parts.append(f"{name} {value:d}\n")
