"""The last hour of every destination, for plots, and what happened in it. Runs in control.

A point every STEP, of all routes that have had a connection and of their destinations. Memory is
bounded: POINTS values of 4 bytes for each figure are 10 KB for a destination and 1.4 KB for a
route, and at most MAX_SERIES have a history, so that all of it is less than 30 MB.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import deque
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tcpmux.control.connections import unknown
from tcpmux.control.figures import errors
from tcpmux.control.slices import json_parts
from tcpmux.shm._readings import LATENCY_BOUNDS_US
from tcpmux.shm.counters import quantile

if TYPE_CHECKING:
    from tcpmux.control.event_log import EventLog
    from tcpmux.control.slices import Slices
    from tcpmux.shm.counters import quantile
    from tcpmux.shm.image import DestinationRow, Image, RouteRow
from tcpmux.shm.view import View

STEP = 10.0  # s
POINTS = 360
MAX_SERIES = 3000  # routes and destinations
# As schema.DestinationHistory has them.
RATES = ("connections", "bytes_in", "bytes_out", "connect_failures")
OTHERS = ("weight", "connect_p50_seconds", "connect_p99_seconds")
# Kinds of events that explain a change in a plot. Each has a deque of its own, so that an endpoint
# that comes and goes displaces no change of weights.
MARKED = (
    "weights", "state", "reload", "refused", "health", "names", "worker", "workers", "upgrade",
    "kill", "converge", "rollout", "start",
)  # fmt: skip
MARKS_OF_A_KIND = 100


class Series:
    """The points of one route or destination: a ring for each of some columns."""

    def __init__(self, width: int) -> None:
        self._rings = array("f", [math.nan]) * (POINTS * width)
        self._width = width
        self._slot = -1
        self._time = 0.0
        self._counts: Sequence[int] = ()
        self.last = -POINTS  # number of its newest point

    def grown(self, now: float, slot: int, counts: Sequence[int]) -> tuple[float, list[int]]:
        """By how much counts have grown since the last time, and in how many seconds: NaN if there
        was none. now: monotonic, s."""
        seconds = now - self._time if slot == self._slot else math.nan
        before = self._counts if slot == self._slot else counts
        self._slot, self._time, self._counts = slot, now, counts
        return seconds, [new - old for new, old in zip(counts, before, strict=True)]

    def put(self, number: int, values: Sequence[float]) -> None:
        """The point of this number, one value for each column."""
        if self.last >= 0:  # else nothing is known before, and that is there
            for missed in range(max(self.last + 1, number - POINTS + 1), number):
                self._write(missed, [math.nan] * self._width)
        self._write(number, values)
        self.last = number

    def _write(self, number: int, values: Sequence[float]) -> None:
        for column, value in enumerate(values):
            self._rings[column * POINTS + number % POINTS] = value

    def column(self, column: int, first: int, last: int) -> list[float | None]:
        """The points of these numbers; None = not known."""
        known = range(self.last - POINTS + 1, self.last + 1)
        ring = self._rings[column * POINTS : (column + 1) * POINTS]
        values = (ring[i % POINTS] if i in known else math.nan for i in range(first, last + 1))
        return [None if math.isnan(v) else float(f"{v:.4g}") for v in values]


class History:
    """Of one instance, since control was started; a reload loses nothing."""

    def __init__(self, view: View, events: EventLog, slices: Slices) -> None:
        self._view = view
        self._events = events
        self._slices = slices
        self._series: dict[tuple[str, ...], Series] = {}  # by route, or route and destination
        self._first: int | None = None  # number of the oldest point
        self._last = -1  # and of the newest
        self._time = time.time()  # of the newest point, s
        self._seq = 0  # of the newest event that has been looked at
        self._marks: dict[str, deque[dict[str, Any]]] = {
            kind: deque(maxlen=MARKS_OF_A_KIND) for kind in MARKED
        }

    async def run(self) -> None:
        """Adds a point again and again."""
        while True:
            await asyncio.sleep(STEP - time.monotonic() % STEP)
            async for _ in self._slices.each(self.steps(time.monotonic())):
                pass

    def steps(self, now: float) -> Iterator[None]:
        """Adds a point, a step for each route. now: monotonic, s."""
        _, image = self._view.image()
        number, taken = round(now / STEP), time.time()
        if len(self._series) >= MAX_SERIES:
            self._forget_what_is_gone(image)
        for route in image.routes:
            self._add(route, number, now)
            yield
        if self._first is None:
            self._first = number
        self._last, self._time = number, taken

    def parts(self, name: str | None) -> Iterator[str]:
        """The JSON of schema.History, a destination at a time. Raises MasterRefused."""
        _, image = self._view.image()
        routes = {route.name: route for route in image.routes}
        if name is not None and name not in routes:
            raise unknown("route", name, list(routes))
        self._add_marks(routes)
        first = self._last + 1
        if self._first is not None:
            first = max(self._first, self._last - POINTS + 1)
        marks = [
            mark
            for kept in self._marks.values()
            for mark in kept
            if mark["time"] > self._time - POINTS * STEP
            and (name is None or mark["route"] in (None, name))
        ]
        last = self._last
        head = {
            "time": self._time,
            "step": STEP,
            "points": last - first + 1,
            "marks": sorted(marks, key=lambda mark: float(mark["time"])),
            "lost": [] if name is None else self._told((name,), ("lost",), first, last)["lost"],
        }
        rows = () if name is None else routes[name].destinations
        destinations = (
            {"name": row.name, **self._told((str(name), row.name), (*RATES, *OTHERS), first, last)}
            for row in rows
        )
        return json_parts(head, "destinations", destinations)

    def _told(
        self, key: tuple[str, ...], columns: Sequence[str], first: int, last: int
    ) -> dict[str, list[float | None]]:
        series = self._series.get(key) or Series(len(columns))
        return {name: series.column(i, first, last) for i, name in enumerate(columns)}

    def _add(self, route: RouteRow, number: int, now: float) -> None:
        counters = self._view.counters.slot(route.slot)
        if not counters.opened:
            return
        series = self._series_of((route.name,), 1)
        if series is not None:
            seconds, lost = series.grown(now, route.slot, [errors(counters)])
            series.put(number, [lost[0] / seconds])
        for row in route.destinations:
            series = self._series_of((route.name, row.name), len(RATES) + len(OTHERS))
            if series is not None:
                self._add_destination(series, row, number, now)

    def _add_destination(
        self, series: Series, row: DestinationRow, number: int, now: float
    ) -> None:
        c = self._view.counters.slot(row.slot)
        connects = self._view.counters.times(row.slot).connect.buckets
        counts = (c.opened, c.bytes_in, c.bytes_out, c.connect_failures, *connects)
        seconds, grown = series.grown(now, row.slot, counts)
        latencies = [
            quantile(grown[len(RATES) :], LATENCY_BOUNDS_US, part) / 1e6 for part in (0.5, 0.99)
        ]
        rates = [value / seconds for value in grown[: len(RATES)]]
        series.put(number, [*rates, row.effective_weight, *latencies])

    def _series_of(self, key: tuple[str, ...], width: int) -> Series | None:
        """None: there are too many."""
        series = self._series.get(key)
        if series is None and len(self._series) < MAX_SERIES:
            series = self._series[key] = Series(width)
        return series

    def _forget_what_is_gone(self, image: Image) -> None:
        there = {(route.name, row.name) for route in image.routes for row in route.destinations}
        there_too = {(route.name,) for route in image.routes}
        self._series = {k: s for k, s in self._series.items() if k in there or k in there_too}

    def _add_marks(self, routes: Container[str]) -> None:
        for event in self._events.after(self._seq):
            self._seq = event["seq"]
            if event["kind"] in self._marks:
                mark = {key: event[key] for key in ("time", "kind", "level", "text")}
                mark["route"] = event["route"] if event["route"] in routes else None
                self._marks[event["kind"]].append(mark)
