"""What both versions of a rollout have done, from shared memory. Runs in control."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tcpmux.rollout.judgement import NO_COUNTS, Counts, Histograms
from tcpmux.rollout.machine import Reading, Rollout
from tcpmux.shm._declared import CLOSE_REASONS
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US
from tcpmux.shm.mirror_status import COMPARED

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


def counts_of_shadows(view: View, route: RouteRow, slot: int) -> Counts:
    """Of the destination that gets copies of the route's connections. Those shadows count that have
    ended and whose end was its own doing; that answers differ is not judged."""
    counters = view.counters.slot(route.slot)
    compared = sum(getattr(counters, f"mirror_{word}") for word in COMPARED)
    connects = compared + counters.mirror_reset
    return Counts(
        connects + counters.mirror_refused,
        connects,
        counters.mirror_refused,
        counters.mirror_reset,
        agreed=counters.mirror_agreed,
        given_up=counters.mirror_late + counters.mirror_behind,
        first_byte=view.counters.times(slot).mirror_first_byte.buckets,
    )


def weights_of(route: RouteRow) -> dict[str, int]:
    return {row.name: row.weight for row in route.destinations}


def reading_of(
    view: View, rollout: Rollout, route: RouteRow, now: float, is_shadow: bool = False
) -> Reading:
    """now: monotonic, s. is_shadow: the new version gets copies, and times of the others are those
    of the same connections."""
    (new,) = (row for row in route.destinations if row.name == rollout.plan.to)
    others = [row for row in route.destinations if row.name in rollout.others]
    made = counts_of(view, new.slot)
    old = [counts_of(view, row.slot) for row in others]
    if is_shadow:
        made = counts_of_shadows(view, route, new.slot)
        old = [
            replace(each, first_byte=view.counters.times(row.slot).mirror_first_byte.buckets)
            for each, row in zip(old, others, strict=True)
        ]
    return Reading(
        now,
        made,
        sum(old, NO_COUNTS),
        bool(new.turns),
        any(row.turns for row in others),
    )
