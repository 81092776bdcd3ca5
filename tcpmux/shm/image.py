"""What the route table holds, as plain values. Used in the master (to write) and control (to read).

When written, an address is a config Address; when read back, its text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.rule import Rule
from tcpmux.config.settings import BALANCES as _BALANCES
from tcpmux.shm.rule_index import EMPTY, Index
from tcpmux.shm.rules import DestinationRules, EndpointRules, RouteRules

READY, DRAINING, DISABLED = range(3)  # csrc/route_table.h: enum tm_admin_state
ADMIN_STATES = ("ready", "draining", "disabled")
HEALTHY, DOWN, EJECTED = range(3)  # enum tm_health
HEALTHS = ("up", "down", "ejected")
BALANCES = tuple(_BALANCES)  # enum tm_balance
FULL_REJECT, FULL_SPILL, FULL_QUEUE = range(3)  # enum tm_on_full
REDISTRIBUTE, REJECT, FALLBACK = range(3)  # enum tm_on_unavailable
RESET, HOLD, REFUSE = range(3)  # enum tm_on_all_unavailable
ENDS = ("reset", "held", "refused")  # what becomes of new connections, by the same
LEAVE, STAY = range(2)  # sticky.zero
FULL_SHARE = 100  # percent: no slow start, or it is over


@dataclass(frozen=True, slots=True)
class EndpointRow:
    address: Address | str
    slot: int
    since_generation: int  # it has its counter slot
    state: int = READY  # what an operator wants of it
    weight: int = 1  # turns where another takes one
    health: int = HEALTHY
    slow_start_percent: int = FULL_SHARE  # of its share that it gets now
    rules: EndpointRules = EndpointRules()
    until: int = 0  # Unix time, s: then it is READY again; 0 = when somebody says so
    state_since: int = 0  # Unix time, s: state is so; 0 = it has never been another
    health_since: int = 0  # the same of health


@dataclass(frozen=True, slots=True)
class DestinationRow:
    name: str
    weight: int  # asked for, now
    file_weight: int  # asked for by the configuration file
    effective_weight: int  # what the pick uses; only their ratio in the route matters
    ticket: int
    slot: int
    since_generation: int
    endpoints: tuple[EndpointRow, ...]
    state: int = READY
    slow_start_percent: int = FULL_SHARE
    rules: DestinationRules = DestinationRules()
    turns: tuple[int, ...] = ()  # that endpoints take, by their index; none = it serves nobody
    reserves: tuple[int, ...] = ()  # those of later tiers, for what the first can't take; in order
    panic: bool = False  # too few are healthy, so health is ignored
    unresolved: int = 0  # endpoints by name that have no address now
    state_since: int = 0  # Unix time, s: state is so; 0 = it has never been another

    @property
    def is_meant_to_serve(self) -> bool:
        """It has endpoints, be it one whose address is not known now."""
        return bool(self.endpoints) or self.unresolved > 0


NEXT_CONTEST, LATER_CONTEST = (1 << 32) - 1, (1 << 32) - 2  # they decide: csrc/sticky.h


@dataclass(frozen=True, slots=True)
class Contender:
    """csrc/sticky.h"""

    hash: int  # of a destination's name
    weight: int  # 0 = it can't win
    asked: int  # the same, whatever its state and health
    destination: int  # index of who gets the clients that it wins, or one of the two above


@dataclass(frozen=True, slots=True)
class Contest:
    """csrc/route_table.h"""

    owner: int  # hash of the name that keeps the clients that it had then; 0 = none any more
    contenders: tuple[Contender, ...]
    skip: int = 0  # how many after it are passed over to the later one


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule of a route. Weights are of the route's destinations, in order; of one that rejects all
    0."""

    rule: Rule  # its conditions, without weights
    ticket: int
    slot: int
    since_generation: int
    weights: tuple[int, ...]  # asked for, now
    file_weights: tuple[int, ...]  # asked for by the configuration file
    effective_weights: tuple[int, ...]  # what the pick uses; only their ratio matters
    contests: tuple[Contest, ...] = ()  # as of a route

    @property
    def name(self) -> str:
        return self.rule.called


@dataclass(frozen=True, slots=True)
class Convergence:
    """How live connections are brought to the weights; csrc/route_table.h has the units."""

    began_ms: int
    by_key: int
    rate: int
    rate_percent: int
    order: int
    quiet_ms: int
    deadline_ms: int
    then: int
    tolerance: int
    method: int
    goodbye: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    name: str
    ticket: int
    slot: int
    since_generation: int
    destinations: tuple[DestinationRow, ...]
    rules: RouteRules = RouteRules()
    admitted: bytes | None = None  # ranges of clients as csrc/route_table.h has them; None = all
    senders: bytes = b""  # ranges of peers that send a header of the PROXY protocol
    pick_rules: tuple[RuleRow, ...] = ()  # before the weights: the first that is met
    index: Index | None = field(default=EMPTY, compare=False)  # of these; None = to be made
    contests: tuple[Contest, ...] = ()  # of a sticky one; the last is by the weights in force
    convergence: Convergence | None = None  # None: live connections stay where they are


@dataclass(frozen=True, slots=True)
class ListenerRow:
    address: Address | str
    id: int
    route: int  # index into Image.routes


@dataclass(frozen=True, slots=True)
class Image:
    routes: tuple[RouteRow, ...]
    listeners: tuple[ListenerRow, ...]


def with_addresses(image: Image) -> Image:
    """The same image with every address, which a table tells as text, parsed."""

    def parsed(address: Address | str) -> Address:
        return Address.parse(address) if isinstance(address, str) else address

    routes = tuple(
        replace(
            route,
            destinations=tuple(
                replace(
                    destination,
                    endpoints=tuple(
                        replace(endpoint, address=parsed(endpoint.address))
                        for endpoint in destination.endpoints
                    ),
                )
                for destination in route.destinations
            ),
        )
        for route in image.routes
    )
    listeners = tuple(replace(row, address=parsed(row.address)) for row in image.listeners)
    return Image(routes, listeners)
