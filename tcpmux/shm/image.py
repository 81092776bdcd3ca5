"""What the route table holds, as plain values. Used in the master (to write) and control (to read).

When written, an address is a config Address; when read back, its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcpmux.config import Address


READY, DRAINING, DISABLED = range(3)  # csrc/route_table.h: enum tm_admin_state
ADMIN_STATES = ("ready", "draining", "disabled")


@dataclass(frozen=True, slots=True)
class EndpointRow:
    address: Address | str
    slot: int
    born: int  # generation that gave it its counter slot
    state: int = READY  # what an operator wants of it; those that are READY come first


@dataclass(frozen=True, slots=True)
class DestinationRow:
    name: str
    weight: int  # asked for, now
    file_weight: int  # asked for by the configuration file
    effective_weight: int  # what the pick uses
    connect_timeout_ms: int
    idle_timeout_ms: int  # 0 = off
    ticket: int
    slot: int
    born: int
    endpoints: tuple[EndpointRow, ...]
    state: int = READY


@dataclass(frozen=True, slots=True)
class RouteRow:
    name: str
    connect_timeout_ms: int  # of destinations that say nothing else
    idle_timeout_ms: int
    ticket: int
    slot: int
    born: int
    destinations: tuple[DestinationRow, ...]


@dataclass(frozen=True, slots=True)
class ListenerRow:
    address: Address | str
    id: int
    route: int  # index into Image.routes


@dataclass(frozen=True, slots=True)
class Image:
    routes: tuple[RouteRow, ...]
    listeners: tuple[ListenerRow, ...]


@dataclass(frozen=True, slots=True)
class SlotCounters:
    """Counts of one route, destination or endpoint in one worker, since the start.

    closed: by reason, in the order of CLOSE_REASONS; picked: in that of PICK_REASONS. Bytes are
    whole; the rest are events.
    """

    opened: int
    connect_failures: int
    connect_timeouts: int
    moved_in: int
    moved_out: int
    bytes_in: int
    bytes_out: int
    closed: tuple[int, ...]
    picked: tuple[int, ...]

    @property
    def active(self) -> int:
        """Open now. Sums over all workers are right even while connections move."""
        return max(0, self.opened + self.moved_in - self.moved_out - sum(self.closed))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times of connections. buckets: how many were in each, the last above all bounds."""

    sum_us: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one destination, over all workers: csrc/counters.def says from when to when."""

    connect: Histogram
    first_byte: Histogram
    duration: Histogram
