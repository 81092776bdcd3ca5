"""What both versions of a rollout have done, from shared memory. Runs in control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpmux.rollout.judgement import NO_COUNTS, Counts, Histograms
from tcpmux.rollout.machine import Reading, Rollout
from tcpmux.shm._declared import CLOSE_REASONS
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US

if TYPE_CHECKING:
    from tcpmux.shm.image import RouteRow
    from tcpmux.shm.view import View

HISTOGRAMS = Histograms(LATENCY_BOUNDS_US, DURATION_BOUNDS_US)
_RESET = CLOSE_REASONS.index("endpoint_reset")


def counts_of(view: View, slot: int) -> Counts:
    """Of a destination, since the start of the instance. What this host fails at, and what clients
    reset, is in none of them."""
    counters, times = view.counters.slot(slot), view.counters.times(slot)
    return Counts(
        counters.opened,
        sum(times.connect.buckets),
        counters.connect_failures,
        counters.closed[_RESET],
        counters.first_errors,
        times.early_close.buckets,
        times.first_byte.buckets,
        times.duration.buckets,
    )


def weights_of(route: RouteRow) -> dict[str, int]:
    return {row.name: row.weight for row in route.destinations}


def reading_of(view: View, rollout: Rollout, route: RouteRow, now: float) -> Reading:
    """now: monotonic, s."""
    (new,) = (row for row in route.destinations if row.name == rollout.plan.to)
    others = [row for row in route.destinations if row.name in rollout.others]
    return Reading(
        now,
        counts_of(view, new.slot),
        sum((counts_of(view, row.slot) for row in others), NO_COUNTS),
        bool(new.turns),
        any(row.turns for row in others),
    )
