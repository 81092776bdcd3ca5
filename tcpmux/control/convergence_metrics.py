"""The metrics of routes whose live connections are brought to the weights. Runs in control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tcpmux.control.metric_families import Family, label

if TYPE_CHECKING:
    from tcpmux.control.convergences import Run
    from tcpmux.shm.image import RouteRow

SURPLUS = Family(
    "tcpmux_convergence_surplus",
    "gauge",
    "Live connections that are to leave the destination; only while its route converges.",
)
PAUSED = Family(
    "tcpmux_convergence_paused",
    "gauge",
    "1 while no connections are closed, as connects fail or clients don't come back; only while "
    "the route converges.",
)


def parts(runs: Mapping[str, tuple[RouteRow, Run]], *, open_metrics: bool) -> Iterator[str]:
    """Their text. How many were closed is in tcpmux_connections_closed_total."""
    yield SURPLUS.head(open_metrics=open_metrics)
    for name, (route, run) in runs.items():
        for row in route.destinations:
            labels = f'route="{label(name)}",destination="{label(row.name)}"'
            count = run.surplus.by_destination.get(row.slot, 0)
            yield f"{SURPLUS.name}{{{labels}}} {count}\n"
    yield PAUSED.head(open_metrics=open_metrics)
    for name, (_, run) in runs.items():
        yield f'{PAUSED.name}{{route="{label(name)}"}} {int(bool(run.paused))}\n'
