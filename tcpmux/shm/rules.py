"""The numbers of the route table that follow from the settings of a route, a destination or an
endpoint: one for each rule of config/settings.py, in the order of csrc/rules.def."""

from __future__ import annotations

from dataclasses import make_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tcpmux.config.model import Destination, Route
from tcpmux.config.needs import kept_tlvs, reading
from tcpmux.config.rows import numbers, rules_of
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, RoutePolicy
from tcpmux.shm._address import address_hash

if TYPE_CHECKING:

    class Rules:
        """Numbers by name."""

        def __init__(self, *in_order: int, **by_name: int) -> None: ...
        def __getattr__(self, name: str) -> int: ...

    class RouteRules(Rules): ...

    class DestinationRules(Rules): ...

    class EndpointRules(Rules): ...
else:

    def _rules(name: str, table: type) -> type:
        """The struct of csrc/rules.def: one number for each rule of the table."""
        defaults = numbers(table())
        rows = [(rule.name, int, defaults.get(rule.name, 0)) for rule in rules_of(table)]
        return make_dataclass(name, rows, frozen=True, slots=True)

    RouteRules = _rules("RouteRules", RoutePolicy)
    DestinationRules = _rules("DestinationRules", DestinationPolicy)
    EndpointRules = _rules("EndpointRules", EndpointPolicy)


def route_rules(route: Route) -> RouteRules:
    """The numbers that workers read: csrc/rules.def."""
    policy = route.policy
    names = [destination.name for destination in route.destinations]
    fallback = names.index(policy.fallback) if policy.fallback else 0
    mirrored = names.index(policy.mirror.to) if policy.mirror.to else 0
    kept = replace(policy, accept_proxy=replace(policy.accept_proxy, keep=kept_tlvs(route)))
    salt = address_hash(policy.sticky.group or route.name) if policy.sticky.is_on else 0
    given = numbers(kept) | {
        "preread": reading(route),
        "fallback": fallback,
        "mirror_to": mirrored,
        "sticky_salt": salt,
    }
    return RouteRules(**given)


def destination_rules(destination: Destination) -> DestinationRules:
    """The numbers that workers read: csrc/rules.def."""
    return DestinationRules(**numbers(destination.policy))


@lru_cache(1024)  # many endpoints have the same
def endpoint_rules(policy: EndpointPolicy) -> EndpointRules:
    """The numbers that workers read: csrc/rules.def."""
    return EndpointRules(**numbers(policy))
