"""Lists of clients, of which the first that matches decides, as an allow and a deny list."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)

from tcpmux.config.address import Address
from tcpmux.config.settings import UNIX, Clients, Network

EVERYBODY: tuple[Clients, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"), UNIX)


def everybody_at(listen: Iterable[Address]) -> tuple[Clients, ...]:
    """Who can connect to these addresses."""
    are_unix = {bool(address.path) for address in listen}
    return tuple(one for one in EVERYBODY if (one == UNIX) in are_unix)


# To tcpmux, IPv4 is a part of IPv6, so `::/0` is everybody. To the others it is not.
_MAPPED = 0xFFFF << 32
_SIZE = {4: 1 << 32, 6: 1 << 128}
MAX_NETWORKS = 10_000  # of a list that has to be cut into pieces


class TooManyNetworks(ValueError):
    """The list can't be written as an allow and a deny list of bearable length."""


@dataclass(frozen=True, slots=True)
class ClientRule:
    accepts: bool
    clients: Clients


def allow_and_deny(
    rules: Sequence[ClientRule], *, otherwise: bool = True
) -> tuple[tuple[Clients, ...], tuple[Clients, ...]]:
    """(allow, deny) that accept exactly the clients that the rules accept, of which the first that
    matches decides; their IPv6 networks have no IPv4 clients in them. otherwise: whether those are
    accepted that no rule matches. They keep the rules' own networks where that says the same.
    Raises TooManyNetworks."""
    accepted = _accepted(rules, otherwise=otherwise)
    if accepted == _accepted([], otherwise=True):
        return (), ()
    everybody = set(EVERYBODY)
    allow = tuple(dict.fromkeys(rule.clients for rule in rules if rule.accepts))
    deny = tuple(dict.fromkeys(rule.clients for rule in rules if not rule.accepts))
    named = tuple(clients for clients in deny if clients not in everybody)
    for candidate in (((), named), (allow, ()), (allow, named), ((), deny)):
        if _meant(*candidate) == accepted:
            return candidate
    if not accepted:
        return (), EVERYBODY
    return min(
        (accepted.networks(), ()),
        ((), accepted.others().networks()),
        key=lambda lists: len(lists[0]) + len(lists[1]),
    )


def accepted_by(rules: Iterable[ClientRule], *, otherwise: bool) -> tuple[Clients, ...]:
    """Those that the rules accept, as networks that don't overlap. otherwise: whether those are
    accepted that no rule matches. Raises TooManyNetworks."""
    return _accepted(rules, otherwise=otherwise).networks()


def allow_and_deny_by_all(
    lists: Iterable[tuple[Sequence[ClientRule], bool]],
) -> tuple[tuple[Clients, ...], tuple[Clients, ...]]:
    """As allow_and_deny(), of several lists, each with its `otherwise`: a client must be accepted
    by every one of them."""
    refused: list[ClientRule] = []
    for rules, otherwise in lists:
        opposite = [ClientRule(not rule.accepts, rule.clients) for rule in rules]
        networks = _accepted(opposite, otherwise=not otherwise).networks()
        refused += [ClientRule(accepts=False, clients=clients) for clients in networks]
    allow, deny = allow_and_deny(refused)
    accepted = _accepted(refused, otherwise=True)
    if accepted and len(accepted.networks()) < len(deny):
        return accepted.networks(), ()
    return allow, deny


def _meant(allow: Sequence[Clients], deny: Sequence[Clients]) -> _Set:
    """Those that tcpmux accepts: in allow, unless that is empty, and not in deny."""
    rules = [ClientRule(accepts=False, clients=each) for one in deny for each in with_mapped(one)]
    rules += [ClientRule(accepts=True, clients=each) for one in allow for each in with_mapped(one)]
    return _accepted(rules, otherwise=not allow)


def with_mapped(clients: Clients) -> Iterator[Clients]:
    """It, and the IPv4 clients that are in it, for which networks of IPv6 have them so
    (::ffff:a.b.c.d): tcpmux and HAProxy."""
    yield clients
    if isinstance(clients, IPv6Network):
        mapped = IPv6Network((_MAPPED, 96))
        if mapped.subnet_of(clients):
            yield IPv4Network((0, 0))
        elif clients.subnet_of(mapped):
            yield IPv4Network((int(clients.network_address) - _MAPPED, clients.prefixlen - 96))


def without_mapped(clients: Clients) -> tuple[Clients, ...]:
    """It as tcpmux must have it, for which IPv4 is a part of IPv6, of a program for which it is
    not: without ::ffff:0:0/96."""
    if isinstance(clients, IPv6Network) and clients.overlaps(IPv6Network((_MAPPED, 96))):
        return accepted_by([ClientRule(accepts=True, clients=clients)], otherwise=False)
    return (clients,)


def _accepted(rules: Iterable[ClientRule], *, otherwise: bool) -> _Set:
    found = _Set()
    undecided = {
        version: _Ranges([first for first, _ in ranges], [last for _, last in ranges])
        for version, ranges in _EVERY.items()
    }
    unix: bool | None = None
    for rule in rules:
        if isinstance(rule.clients, str):
            unix = rule.accepts if unix is None else unix
            continue
        taken = undecided[rule.clients.version].cut(rule.clients)
        if rule.accepts:
            found.ranges[rule.clients.version] += taken
    if otherwise:
        for version, ranges in undecided.items():
            found.ranges[version] += zip(ranges.first, ranges.last, strict=True)
    found.unix = otherwise if unix is None else unix
    found.join()
    return found


_EVERY = {
    4: [(0, _SIZE[4] - 1)],
    6: [(0, _MAPPED - 1), (_MAPPED + _SIZE[4], _SIZE[6] - 1)],
}


@dataclass(slots=True)
class _Set:
    """Of clients: ranges of addresses as numbers, by IP version, and those of UNIX sockets. IPv4
    is not in version 6."""

    ranges: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {4: [], 6: []})
    unix: bool = False

    def __bool__(self) -> bool:
        return self.unix or any(self.ranges.values())

    def join(self) -> None:
        """Neighbours become one range, so that equal sets compare equal."""
        for version, ranges in self.ranges.items():
            joined: list[tuple[int, int]] = []
            for first, last in sorted(ranges):
                if joined and joined[-1][1] == first - 1:
                    joined[-1] = joined[-1][0], last
                else:
                    joined.append((first, last))
            self.ranges[version] = joined

    def others(self) -> _Set:
        """Those that are not in it, which has been joined."""
        found = _Set(unix=not self.unix)
        for version, every in _EVERY.items():
            ranges = self.ranges[version]
            for start, end in every:
                inside = [one for one in ranges if start <= one[0] <= end]
                edges = [start - 1, *(edge for one in inside for edge in one), end + 1]
                found.ranges[version] += [
                    (before + 1, after - 1)
                    for before, after in zip(edges[::2], edges[1::2], strict=True)
                    if before + 1 < after
                ]
        return found

    def networks(self) -> tuple[Clients, ...]:
        """Raises TooManyNetworks."""
        found: list[Clients] = []
        for first, last in self.ranges[4]:
            found += summarize_address_range(IPv4Address(first), IPv4Address(last))
        for first, last in self.ranges[6]:
            found += summarize_address_range(IPv6Address(first), IPv6Address(last))
        if len(found) > MAX_NETWORKS:
            raise TooManyNetworks(f"the list would need {len(found)} networks")
        return (*found, UNIX) if self.unix else tuple(found)


@dataclass(slots=True)
class _Ranges:
    """Ranges that do not meet, in order."""

    first: list[int]
    last: list[int]

    def cut(self, network: Network) -> list[tuple[int, int]]:
        """Takes these addresses away; those that were there."""
        low = int(network.network_address)
        high = low + network.num_addresses - 1
        start, end = bisect_left(self.last, low), bisect_right(self.first, high)
        taken = [
            (max(first, low), min(last, high))
            for first, last in zip(self.first[start:end], self.last[start:end], strict=True)
        ]
        if taken:
            left = [
                (self.first[start], low - 1) if self.first[start] < low else None,
                (high + 1, self.last[end - 1]) if self.last[end - 1] > high else None,
            ]
            rest = [one for one in left if one is not None]
            self.first[start:end] = [first for first, _ in rest]
            self.last[start:end] = [last for _, last in rest]
        return taken
