"""The metrics of routes with a mirror. Runs in control."""

from __future__ import annotations

from collections.abc import Iterator

from tcpmux.control.metric_families import Family, help_of, label
from tcpmux.shm.counters import ROWS
from tcpmux.shm.image import Image
from tcpmux.shm.mirror import mirroring_of
from tcpmux.shm.mirror_status import last_differences, results
from tcpmux.shm.view import View

PERCENT = Family(
    "tcpmux_mirror_percent", "gauge", "Percentage of the route's connections that get a shadow."
)
_OF_MIRROR = [row for row in ROWS if row.kind == "slot" and row.scope == "mirror"]
COUNTED = [
    (row.name, Family(row.metric, "counter", help_of(row)))
    for row in _OF_MIRROR
    if row.unit != "shadows"
]
LAST_DIFFERENCE = Family(
    "tcpmux_mirror_last_difference_bytes",
    "gauge",
    "Bytes of the answer before the first one that differed, of the last shadow whose did. To "
    "within a part of the compared prefix.",
)
RESULTS = Family(
    "tcpmux_mirror_results_total",
    "counter",
    "Shadows that have ended, by what came of them: agreed, or how they differed, or why they were "
    "given up.",
)


def parts(view: View, image: Image, *, open_metrics: bool) -> Iterator[str]:
    """Their text, of routes that mirror now or have."""
    found = []
    for route in image.routes:
        counters = view.counters.slot(route.slot)
        if route.rules.mirror_share or counters.mirrored:
            found.append((route, f'route="{label(route.name)}"', mirroring_of(route), counters))
    yield PERCENT.head(open_metrics=open_metrics)
    for _, labels, now, _ in found:
        yield f'{PERCENT.name}{{{labels},to="{label(now.to)}"}} {now.share / 100:g}\n'
    for name, family in COUNTED:
        yield family.head(open_metrics=open_metrics)
        for _, labels, _, counters in found:
            yield f"{family.name}{{{labels}}} {getattr(counters, name)}\n"
    yield LAST_DIFFERENCE.head(open_metrics=open_metrics)
    for route, labels, _, counters in found:
        for last in last_differences(view, route, results(counters))[:1]:
            yield f"{LAST_DIFFERENCE.name}{{{labels}}} {last['offset']}\n"
    yield RESULTS.head(open_metrics=open_metrics)
    for _, labels, _, counters in found:
        for word, count in results(counters).items():
            yield f'{RESULTS.name}{{{labels},result="{word}"}} {count}\n'
