"""Slow start: what is back, or new, gets its share gradually. Runs in control.

Endpoints and whole destinations; a share is told to the master as percent (`slow_start_percent` in
the status).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tcpmux.control.endpoint import Endpoint, Key, SlowStart
from tcpmux.shm.image import FULL_SHARE, HEALTHY, DestinationRow, RouteRow

if TYPE_CHECKING:
    from tcpmux.config.checks import Watch

MAX_SHARE_STEP = 10  # percent


def share_at(elapsed: float, watch: Watch, step: int) -> int:
    """Percent of its share after so many seconds; never less than the floor."""
    if elapsed >= watch.slow_start:
        return FULL_SHARE
    percent = (
        watch.slow_start_floor + (FULL_SHARE - watch.slow_start_floor) * elapsed / watch.slow_start
    )
    return max(watch.slow_start_floor, int(percent) // step * step)


def share_step(endpoints: int) -> int:
    """Percent. Turns are whole numbers: with finer steps a large destination's list of them would
    be too long (tcpmux.config.turns: MAX_TURNS)."""
    return min(max(1, -(-endpoints // 10)), MAX_SHARE_STEP)


def resumed(percent: int, watch: Watch, now: float) -> SlowStart:
    """From a share that another control process has told of."""
    span = max(1, FULL_SHARE - watch.slow_start_floor)
    done = max(0, percent - watch.slow_start_floor) / span
    return SlowStart(now - done * watch.slow_start)


def share_of(known: Endpoint, now: float) -> int:
    """Percent that an endpoint should have now; begins and ends its slow start."""
    row, watch = known.row, known.watch
    assert row is not None
    if known.now_is() != HEALTHY:
        known.slow_start = None
        return FULL_SHARE
    if row.health != HEALTHY and watch.slow_start and known.slow_start is None:
        known.slow_start = SlowStart(now)
    if known.slow_start is None:
        return FULL_SHARE
    percent = share_at(now - known.slow_start.began, watch, known.share_step)
    if percent == FULL_SHARE:
        known.slow_start = None
    return percent


class DestinationStarts:
    """Of whole destinations: those that can have a slow start, and those that are in one."""

    def __init__(self) -> None:
        self._starting: dict[tuple[str, str], SlowStart] = {}
        self._before: dict[tuple[str, str], SlowStart] = {}
        self._watched: list[tuple[RouteRow, DestinationRow, Watch]] = []

    def begin_image(self) -> None:
        """All destinations are told anew, by add()."""
        self._before, self._starting = self._starting, {}
        self._watched = []

    def add(self, route: RouteRow, row: DestinationRow, watch: Watch, now: float) -> None:
        if watch.slow_start or row.slow_start_percent < FULL_SHARE:
            self._watched.append((route, row, watch))
        if row.slow_start_percent < FULL_SHARE:
            key = route.name, row.name
            self._starting[key] = self._before.get(key) or resumed(
                row.slow_start_percent, watch, now
            )

    def changes(
        self, now: float, endpoints: Mapping[Key, Endpoint]
    ) -> Iterator[tuple[str, str, int]]:
        """(route, destination, percent) of those whose share is to be another one."""
        for route, row, watch in self._watched:
            key = route.name, row.name
            # It begins anew as soon as one of its endpoints is back.
            if watch.slow_start and not row.turns and _is_coming_back(route, row, endpoints):
                self._starting[key] = SlowStart(now)
            start = self._starting.get(key)
            percent = share_at(now - start.began, watch, 1) if start else FULL_SHARE
            if percent == FULL_SHARE:
                self._starting.pop(key, None)
            if percent != row.slow_start_percent:
                yield *key, percent


def _is_coming_back(
    route: RouteRow, row: DestinationRow, endpoints: Mapping[Key, Endpoint]
) -> bool:
    return any(
        endpoint.health != HEALTHY
        and endpoints[route.name, row.name, str(endpoint.address)].now_is() == HEALTHY
        for endpoint in row.endpoints
    )
