"""What the route table holds, as plain values. Used in the master (to write) and control (to read).

When written, an address is a config Address; when read back, its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcpmux.config import Address


@dataclass(frozen=True, slots=True)
class EndpointRow:
    address: Address | str
    slot: int
    born: int  # generation that gave it its counter slot


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

    closed: by reason, in the order of CLOSE_REASONS. Bytes are whole; the rest are events.
    """

    opened: int
    connect_failures: int
    connect_timeouts: int
    moved_in: int
    moved_out: int
    bytes_in: int
    bytes_out: int
    closed: tuple[int, ...]

    @property
    def active(self) -> int:
        """Open now. Sums over all workers are right even while connections move."""
        return max(0, self.opened + self.moved_in - self.moved_out - sum(self.closed))

    def __add__(self, other: SlotCounters) -> SlotCounters:
        return SlotCounters(
            self.opened + other.opened,
            self.connect_failures + other.connect_failures,
            self.connect_timeouts + other.connect_timeouts,
            self.moved_in + other.moved_in,
            self.moved_out + other.moved_out,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            tuple(a + b for a, b in zip(self.closed, other.closed, strict=True)),
        )
