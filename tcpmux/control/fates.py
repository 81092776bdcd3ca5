"""Where live connections of a route with rules, or of a sticky one, would go if they came now. Runs
in control."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.config import Address
from tcpmux.config.rule_match import Facts, rule_met
from tcpmux.config.settings import UNIX
from tcpmux.control.convergence import NO_RULE, PART, Candidate, Surplus, splits_of, surplus
from tcpmux.shm.image import Image, RouteRow
from tcpmux.shm.known import FIRST_BYTES, protocols, tlvs_of
from tcpmux.shm.sticky import client_key, home

if TYPE_CHECKING:
    from tcpmux.shm import _connections

_TLS = {"other": False, "tls": True, "silent": False}
STAYS = -1  # rejected, or nothing is known of it: it is left alone


class Fate(NamedTuple):
    """rule: slot of the rule that it meets, NO_RULE or STAYS. home: slot of the destination that it
    belongs to; None = it goes by ticket."""

    rule: int
    home: int | None


def needs_facts(route: RouteRow) -> bool:
    return bool(route.pick_rules) or bool(route.rules.sticky_by)


class Fates:
    """Of one route. What has been worked out of a connection holds as long as the image does."""

    def __init__(self) -> None:
        self._of: object = None
        self._known: dict[tuple[int, int, int], Fate] = {}

    def steps(
        self,
        image: Image,
        route: RouteRow,
        rows: Sequence[Candidate],
        leaving: frozenset[int],
        tolerance: int,
    ) -> Generator[None, None, Surplus]:
        """Yields None after each part of the work: with a thousand rules a single connection takes
        a while. Returns what is to leave, with the rules that connections meet now."""
        if self._of is not image:
            self._of, self._known = image, {}
        listeners = {row.id: _address(row.address) for row in image.listeners}
        before, self._known = self._known, {}
        counts: dict[tuple[int, int, int], int] = {}
        elsewhere: set[tuple[int, int]] = set()
        by_destination: dict[int, int] = {}
        for at, one in enumerate(rows):
            if at % PART == PART - 1:
                yield None
            key = one.worker, one.record, one.generation
            fate = before.get(key)
            if fate is None:
                fate = fate_of(route, one.facts, listeners)
                yield None
            self._known[key] = fate
            if fate.rule == STAYS:
                continue
            if fate.home is None:
                place = fate.rule, one.destination, one.endpoint
                counts[place] = counts.get(place, 0) + 1
            elif fate.home != one.destination or one.endpoint in leaving:
                elsewhere.add((one.worker, one.record))
                by_destination[one.destination] = by_destination.get(one.destination, 0) + 1
        result = surplus(counts, splits_of(route), leaving, tolerance)
        result.elsewhere = frozenset(elsewhere)
        for slot, many in by_destination.items():
            result.by_destination[slot] = result.by_destination.get(slot, 0) + many
        result.total = len(rows)
        return result

    def home_of(self, one: Candidate) -> int | None:
        """Slot of the destination that it belongs to; None = it goes by ticket."""
        fate = self._known.get((one.worker, one.record, one.generation))
        return None if fate is None else fate.home

    def as_met(self, one: Candidate) -> Candidate:
        """The same with the rule that it would meet now."""
        fate = self._known.get((one.worker, one.record, one.generation))
        return one if fate is None else one._replace(rule=fate.rule)


def fate_of(
    route: RouteRow, facts: _connections.Facts | None, listeners: Mapping[int, Address]
) -> Fate:
    if facts is None:
        return Fate(STAYS, None)
    ip, listener, first_bytes, sni, alpn, tlvs = facts
    word = FIRST_BYTES[first_bytes] if first_bytes < len(FIRST_BYTES) else ""
    said = Facts(
        ip_address(ip) if ip else UNIX,
        listeners.get(listener),
        _TLS.get(word),
        sni.decode("latin-1").lower(),
        tuple(each.decode("latin-1") for each in protocols(alpn)),
        tuple(tlvs_of(tlvs)),
    )
    number = rule_met([row.rule for row in route.pick_rules], said)
    rule = route.pick_rules[number] if number >= 0 else None
    if rule is not None and rule.rule.reject:
        return Fate(STAYS, None)
    key = client_key(route.rules, said) if route.rules.sticky_by else None
    own = home((rule or route).contests, key) if key is not None else None
    slot = rule.slot if rule is not None else NO_RULE
    return Fate(slot, None if own is None else route.destinations[own].slot)


def _address(address: Address | str) -> Address:
    return Address.parse(address) if isinstance(address, str) else address
