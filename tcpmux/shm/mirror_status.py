"""What became of the shadows of a route, as the status has it. Used in control."""

from __future__ import annotations

import time
from typing import Any

from tcpmux.shm._readings import LATENCY_BOUNDS_US, differences
from tcpmux.shm.counters import ROWS, SlotCounters, quantile
from tcpmux.shm.image import RouteRow
from tcpmux.shm.mirror import mirroring_of
from tcpmux.shm.view import View

# Counter -> the word for what became of a shadow.
FATES = {
    row.name: row.name.removeprefix("mirror_")
    for row in ROWS
    if row.kind == "slot" and row.scope == "mirror" and row.unit == "shadows"
}
COMPARED = ("agreed", "content", "bytes", "end")
_WORDS = tuple(FATES.values())  # by enum tm_shadow_fate
MOST_DIFFERENCES = 8


def results(counters: SlotCounters) -> dict[str, int]:
    """How many, by word."""
    return {word: getattr(counters, name) for name, word in FATES.items()}


def mirror_status(view: View, route: RouteRow, counters: SlotCounters) -> dict[str, Any] | None:
    """None: there is none, and never was."""
    now = mirroring_of(route)
    if not now.to and not counters.mirrored:
        return None
    found = results(counters)
    compared = sum(found[word] for word in COMPARED)
    to = route.destinations[route.rules.mirror_to]
    return {
        "to": to.name,
        "percent": now.share / 100,
        "at_run_time": bool(route.rules.mirror_at_run_time),
        "active": max(0, counters.mirrored - sum(found.values())),
        "mirrored_total": counters.mirrored,
        "skipped_total": counters.mirror_skipped,
        "results": found,
        "agreement": found["agreed"] / compared if compared else None,
        "differences": last_differences(view, route, found),
        "first_byte": _first_byte(view, [d.slot for d in route.destinations if d is not to]),
        "shadow_first_byte": _first_byte(view, [to.slot]),
    }


def last_differences(view: View, route: RouteRow, found: dict[str, int]) -> list[dict[str, Any]]:
    """Of a route's last shadows, the newest first. found: its results."""
    if not (found["content"] or found["bytes"]):
        return []
    each = [one for one in differences(view.lives) if one[1] == route.slot]
    epoch = time.time() - time.monotonic()
    return [
        {
            "result": _WORDS[fate],
            "offset": at,
            "within": within,
            "time": round(epoch + when_ms / 1000, 3),
        }
        for when_ms, _, fate, at, within in sorted(each, reverse=True)[:MOST_DIFFERENCES]
        if fate < len(_WORDS)  # anything may be in a worker's memory
    ]


def _first_byte(view: View, slots: list[int]) -> dict[str, Any]:
    """Over all of these destinations."""
    each = [view.counters.times(slot).mirror_first_byte.buckets for slot in slots]
    counts = [sum(column) for column in zip(*each, strict=True)]
    parts = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    known = any(counts)
    return {
        "count": sum(counts),
        **{
            name: quantile(counts, LATENCY_BOUNDS_US, part) / 1e6 if known else None
            for name, part in parts.items()
        },
    }
