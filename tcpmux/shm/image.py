"""What the route table holds, as plain values. Used in the master (to write) and control (to read).

When written, an address is a config Address; when read back, its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpmux.config.settings import BALANCES as _BALANCES
from tcpmux.shm.rules import DestinationRules, RouteRules

if TYPE_CHECKING:
    from tcpmux.config import Address


READY, DRAINING, DISABLED = range(3)  # csrc/route_table.h: enum tm_admin_state
ADMIN_STATES = ("ready", "draining", "disabled")
WELL, DOWN, EJECTED = range(3)  # enum tm_health
HEALTHS = ("up", "down", "ejected")
BALANCES = tuple(_BALANCES)  # enum tm_balance
FULL_REJECT, FULL_SPILL, FULL_QUEUE = range(3)  # enum tm_on_full
REDISTRIBUTE, REJECT, FALLBACK = range(3)  # enum tm_on_unavailable
RESET, HOLD, REFUSE = range(3)  # enum tm_on_all_unavailable
FULL_RAMP = 100  # percent


@dataclass(frozen=True, slots=True)
class EndpointRow:
    address: Address | str
    slot: int
    born: int  # generation that gave it its counter slot
    state: int = READY  # what an operator wants of it
    weight: int = 1  # turns where another takes one
    health: int = WELL
    ramp: int = FULL_RAMP  # percent of its share that it gets now
    max_connections: int = 0  # 0 = no limit
    priority: int = 0  # its tier: it is used when none of a lower number can be
    until: int = 0  # Unix time, s: then it is READY again; 0 = when somebody says so


@dataclass(frozen=True, slots=True)
class DestinationRow:
    name: str
    weight: int  # asked for, now
    file_weight: int  # asked for by the configuration file
    effective_weight: int  # what the pick uses; only their ratio in the route matters
    connect_timeout_ms: int
    idle_timeout_ms: int  # 0 = off
    ticket: int
    slot: int
    born: int
    endpoints: tuple[EndpointRow, ...]
    state: int = READY
    ramp: int = FULL_RAMP
    rules: DestinationRules = DestinationRules()
    turns: tuple[int, ...] = ()  # that endpoints take, by their index; none = it serves nobody
    reserves: tuple[int, ...] = ()  # those of later tiers, for what the first can't take; in order
    panic: bool = False  # too few are healthy, so health is ignored
    unresolved: int = 0  # endpoints by name that have no address now

    @property
    def is_meant_to_serve(self) -> bool:
        """It has endpoints, be it one whose address is not known now."""
        return bool(self.endpoints) or self.unresolved > 0


@dataclass(frozen=True, slots=True)
class RouteRow:
    name: str
    connect_timeout_ms: int  # of destinations that say nothing else
    idle_timeout_ms: int
    ticket: int
    slot: int
    born: int
    destinations: tuple[DestinationRow, ...]
    rules: RouteRules = RouteRules()
    admitted: bytes | None = None  # ranges of clients as csrc/route_table.h has them; None = all


@dataclass(frozen=True, slots=True)
class ListenerRow:
    address: Address | str
    id: int
    route: int  # index into Image.routes


@dataclass(frozen=True, slots=True)
class Image:
    routes: tuple[RouteRow, ...]
    listeners: tuple[ListenerRow, ...]
