"""The figures of a destination that are shown over time. Runs in control."""

from __future__ import annotations

from tcpmux.shm._declared import CLOSE_REASONS
from tcpmux.shm.counters import REJECTED, SlotCounters

COLUMNS = (
    "connections_total",
    "connections_active",
    "bytes_in_total",
    "bytes_out_total",
    "connect_failures_total",
    "errors_total",
)
# Ends that are nobody's wish.
ERRORS = (*REJECTED, "worker_lost")
_ERRORS = [CLOSE_REASONS.index(reason) for reason in ERRORS]


def figures(c: SlotCounters) -> tuple[int, ...]:
    """In the order of COLUMNS."""
    return c.opened, c.active, c.bytes_in, c.bytes_out, c.connect_failures, errors(c)


def errors(c: SlotCounters) -> int:
    """Connections of clients that were rejected or lost."""
    return sum([c.closed[i] for i in _ERRORS])
