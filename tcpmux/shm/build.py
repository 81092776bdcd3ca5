"""From a configuration to the image of a route table. Runs in the master."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tcpmux.config import (
    Address,
    Config,
    Destination,
    Endpoint,
    EndpointPolicy,
    HostName,
    Route,
    Rule,
)
from tcpmux.config.loops import without
from tcpmux.shm._declared import (
    MAX_RANGES,
    MAX_RULE_NAMES,
    MAX_RULE_NUMBERS,
    MAX_RULE_TEXT,
    MAX_RULE_VALUES,
    MAX_SEGMENTS,
    MAX_TURNS,
)
from tcpmux.shm.convergence import goes_on
from tcpmux.shm.image import (
    FULL_SHARE,
    HEALTHY,
    READY,
    Contest,
    DestinationRow,
    EndpointRow,
    Image,
    ListenerRow,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.mirror import Mirroring, with_mirroring
from tcpmux.shm.ranges import RANGE, admitted, ranges_of
from tcpmux.shm.rule_index import EMPTY, Index, TooMany, index_of
from tcpmux.shm.rules import DestinationRules, destination_rules, endpoint_rules, route_rules
from tcpmux.shm.serving import with_turns_and_weights
from tcpmux.shm.slots import Key, Names, TableFull, rule_key
from tcpmux.shm.sticky import carried_over, check_room

Weights = Mapping[str, Mapping[str, int]]  # ROUTE or ROUTE/RULE -> destination -> weight
Mirrors = Mapping[str, Mirroring]  # by route
Addresses = Mapping[HostName, Sequence[Address]]
Loops = Collection[tuple[str, Address]]  # a route, and what leads back to it
_EMPTY = Image((), ())
_NO_POLICY = EndpointPolicy()


class _Before:
    """What goes on from the image in force: states, health, and who is new."""

    def __init__(self, image: Image) -> None:
        self.routes = {route.name: route for route in image.routes}
        self.destinations: dict[Key, DestinationRow] = {
            (route.name, row.name): row for route in image.routes for row in route.destinations
        }
        self.endpoints: dict[Key, EndpointRow] = {
            (*key, str(endpoint.address)): endpoint
            for key, row in self.destinations.items()
            for endpoint in row.endpoints
        }


@dataclass(slots=True)
class _Builder:
    """Makes the rows of one image."""

    weights: Weights
    names: Names
    generation: int
    addresses: Addresses
    before: _Before
    loops: Loops
    mirrors: Mirrors
    used: set[Key] = field(default_factory=set)

    def number(self, key: Key) -> tuple[int, int]:
        """Slot, and generation in which it was given."""
        self.used.add(key)
        return self.names.slots.of(key, self.generation)

    def route(self, route: Route) -> RouteRow:
        key = (route.name,)
        slot, since = self.number(key)
        names = [destination.name for destination in route.destinations]
        rules = with_mirroring(route_rules(route), names, self.mirrors.get(route.name))
        before = self.before.routes.get(route.name)
        contests = carried_over(before, rules)
        return with_turns_and_weights(
            RouteRow(
                route.name,
                self.names.tickets.of(key, self.generation)[0],
                slot,
                since,
                tuple(self.destination(route, d) for d in route.destinations),
                rules,
                admitted(route.policy.allow, route.policy.deny),
                ranges_of(route.policy.accept_proxy.senders),
                tuple(self.rule(route, r, contests.get(r.called, ())) for r in route.rules),
                _index(route),
                contests.get("", ()),
                goes_on(before, rules),
            )
        )

    def rule(self, route: Route, rule: Rule, contests: tuple[Contest, ...]) -> RuleRow:
        key = rule_key(route.name, rule.called)
        slot, since = self.number(key)
        names = [destination.name for destination in route.destinations]
        in_file = dict(rule.weights)
        now = {**in_file, **self.weights.get(rule_path(route.name, rule.called), {})}
        return RuleRow(
            replace(rule, weights=()),
            self.names.tickets.of(key, self.generation)[0],
            slot,
            since,
            tuple(now.get(name, 0) for name in names),
            tuple(in_file.get(name, 0) for name in names),
            (),
            contests,
        )

    def destination(self, route: Route, destination: Destination) -> DestinationRow:
        key = (route.name, destination.name)
        slot, since = self.number(key)
        before = self.before.destinations.get(key)
        rules = destination_rules(destination)
        first = _first_percent(rules, route.name in self.before.routes)
        return DestinationRow(
            destination.name,
            self.weights.get(route.name, {}).get(destination.name, destination.weight),
            destination.weight,
            0,
            self.names.tickets.of(key, self.generation)[0],
            slot,
            since,
            tuple(self.endpoints(route, destination, rules)),
            before.state if before else READY,
            before.slow_start_percent if before else first,
            rules,
            unresolved=sum(
                not self.addresses_of(route, endpoint)
                for endpoint in set(destination.endpoints)
                if isinstance(endpoint, HostName)
            ),
            state_since=before.state_since if before else 0,
        )

    def addresses_of(self, route: Route, endpoint: Endpoint) -> Sequence[Address]:
        if isinstance(endpoint, Address):
            return (endpoint,)
        return without(route.name, self.addresses.get(endpoint, ()), self.loops)

    def endpoints(
        self, route: Route, destination: Destination, rules: DestinationRules
    ) -> Iterator[EndpointRow]:
        key = (route.name, destination.name)
        before = self.before.destinations.get(key)
        # What is new beside others that serve gets its share gradually; if all is new, at once.
        first = _first_percent(rules, before is not None and bool(before.endpoints))
        weights = Counter(
            address
            for endpoint in destination.endpoints
            for address in self.addresses_of(route, endpoint)
        )
        policies = {
            address: policy
            for endpoint, policy in destination.endpoint_policies
            for address in self.addresses_of(route, endpoint)
        }
        for address, weight in weights.items():
            policy = policies.get(address, _NO_POLICY)
            yield self.endpoint((*key, str(address)), address, weight, policy, first)

    def endpoint(
        self, key: Key, address: Address, weight: int, policy: EndpointPolicy, first_percent: int
    ) -> EndpointRow:
        before = self.before.endpoints.get(key)
        return EndpointRow(
            address,
            *self.number(key),
            before.state if before else READY,
            weight,
            before.health if before else HEALTHY,
            before.slow_start_percent if before else first_percent,
            endpoint_rules(policy),
            before.until if before else 0,
            before.state_since if before else 0,
            before.health_since if before else 0,
        )


def rule_path(route: str, rule: str) -> str:
    """As commands name it, and as key of Weights."""
    return f"{route}/{rule}"


def _index(route: Route) -> Index:
    try:
        return index_of(route.rules)
    except TooMany as error:
        raise TableFull(f"{route.name}: {error}") from None


def _first_percent(rules: DestinationRules, others_serve: bool) -> int:
    return rules.slow_start_floor if others_serve and rules.slow_start_ms else FULL_SHARE


def build_image(
    config: Config,
    weights: Weights,
    names: Names,
    listener_ids: Mapping[Address, int],
    generation: int,
    addresses: Addresses,
    before: Image = _EMPTY,
    loops: Loops = (),
    mirrors: Mirrors | None = None,
) -> Image:
    """The image for `config` with run-time `weights` on top, to be published as `generation`.

    listener_ids: of the addresses that are listened on; those of a route may be missing while
    it refuses connections. addresses: those of each host name, as often as they take turns; a name
    that is not in it has none. before: the image in force; the states and the health of its
    names go on. loops: of a route and an address that a name stands for: those are left out.
    mirrors: those set at run time.

    Gives numbers to new names in `names` and retires those no longer used: hand in a copy,
    and keep it when the image is published. Raises TableFull.
    """
    builder = _Builder(weights, names, generation, addresses, _Before(before), loops, mirrors or {})
    routes = tuple(builder.route(route) for route in config.routes)
    turns_taken = sum(
        len(d.turns) + len(d.reserves) for route in routes for d in route.destinations
    )
    _check_room(routes, turns_taken)
    listeners = tuple(
        ListenerRow(address, listener_ids[address], index)
        for index, route in enumerate(config.routes)
        for address in route.listen
        if address in listener_ids
    )
    names.slots.keep_only(builder.used)
    names.tickets.keep_only(builder.used)
    return Image(routes, listeners)


def _check_room(routes: Sequence[RouteRow], turns_taken: int) -> None:
    """Raises TableFull."""
    ranges = sum(len(route.admitted or b"") + len(route.senders) for route in routes) // RANGE
    of_rules = [route.index.sizes for route in routes if route.index]
    totals = [sum(column) for column in zip(EMPTY.sizes, *of_rules, strict=True)]
    of_sources, segments, names, numbers, values, text = totals
    check_room(routes)
    for what, count, most in (
        ("turns of endpoints", turns_taken, MAX_TURNS),
        ("ranges of client addresses", ranges + of_sources, MAX_RANGES),
        ("ranges of sources in rules", segments, MAX_SEGMENTS),
        ("names in rules", names, MAX_RULE_NAMES),
        ("ALPN protocols and TLVs in rules", values, MAX_RULE_VALUES),
        ("entries in lists of rules", numbers, MAX_RULE_NUMBERS),
        ("bytes for conditions of rules", text, MAX_RULE_TEXT),
    ):
        if count > most:
            raise TableFull(f"the configuration needs {count} {what}, of at most {most}")
