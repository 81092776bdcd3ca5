"""What csrc/counters.def declares, for readers: the rows, and what is read as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.shm._declared import SLOT_COUNTERS, TIMES, counter_rows


class Row(NamedTuple):
    """One counter.

    kind: slot, close, pick, time or worker.
    scope: of kind slot, where it is shown: "" = of destinations, route, mirror = of routes that
    have one, or base = under Istio's names; of kind close, rejected = of a connection that reached
    no endpoint.
    unit: of kind close the response flag, of kind time the name of the bounds.
    """

    kind: str
    scope: str
    name: str
    unit: str
    help: str

    @property
    def metric(self) -> str:
        """Its name in /metrics. Ends and picks are labels of one; "" = those of scope base."""
        if self.kind == "slot":
            names = {
                "": f"tcpmux_{self.name}",
                "route": f"tcpmux_route_connections_{self.name}",
                "mirror": f"tcpmux_{'mirror_results' if self.unit == 'shadows' else self.name}",
            }
            return f"{names[self.scope]}_total" if self.scope in names else ""
        return {
            "close": "tcpmux_connections_closed_total",
            "pick": "tcpmux_picks_total",
            "time": f"tcpmux_{'connection_' if self.name == 'duration' else ''}{self.name}_seconds",
            "worker": f"tcpmux_worker_{self.name}_total",
        }[self.kind]


ROWS = tuple(Row(*row) for row in counter_rows())
FLAGS = {row.name: row.unit for row in ROWS if row.kind == "close"}
REJECTED = tuple(row.name for row in ROWS if row.scope == "rejected")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times of connections. buckets: how many were in each, the last above all bounds."""

    sum_us: int
    buckets: tuple[int, ...]


if TYPE_CHECKING:

    class SlotCounters:
        """Counts of one route, destination or endpoint, since the start: those of kind slot by
        their names. closed: by reason, in the order of CLOSE_REASONS; picked: in that of
        PICK_REASONS. Bytes are whole; the rest are events."""

        closed: tuple[int, ...]
        picked: tuple[int, ...]
        active: int

        def __getattr__(self, name: str) -> int: ...

    class Times:
        """Of one destination, over all workers: histograms of kind time by their names."""

        def __getattr__(self, name: str) -> Histogram: ...
else:

    class _Active:
        __slots__ = ()

        @property
        def active(self) -> int:
            """Open now. Sums over all workers are right even while connections move."""
            return max(0, self.opened + self.moved_in - self.moved_out - sum(self.closed))

    SlotCounters = make_dataclass(
        "SlotCounters", (*SLOT_COUNTERS, "closed", "picked"),
        bases=(_Active,), frozen=True, slots=True,
    )  # fmt: skip
    Times = make_dataclass("Times", TIMES, frozen=True, slots=True)


def quantile(counts: Sequence[int], bounds: Sequence[float], part: float) -> float:
    """Of a histogram, in the unit of its bounds; NaN if it is empty. Within a bucket the values are
    taken as spread evenly; what is above the last bound counts as that bound."""
    wanted = sum(counts) * part
    below, lower = 0, 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below += count
        lower = upper
    return lower if below or wanted else float("nan")
