"""Which rules no connection gets to, as an earlier one takes all of theirs; as far as a look at
two of them tells."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from tcpmux.config.address import Address
from tcpmux.config.rule import Rule
from tcpmux.config.settings import UNIX, Clients

_BITS = 128  # of an address; IPv4 is a part of IPv6
_EVERY_ADDRESS = (0, 0)
_MOST_KEYS = 1000  # of one rule
_Net = tuple[int, int]  # first address, and how many of its bits count; UNIX is none


@dataclass(frozen=True, slots=True)
class Clientele:
    """Who may come to a route. listen: where. addresses: some of them have one; others come by a
    UNIX socket, and no header names one."""

    listen: frozenset[Address]
    addresses: bool

    @property
    def unix(self) -> bool:
        return any(address.path for address in self.listen)

    def of(self, rule: Rule) -> frozenset[Address]:
        """Where those of a rule come."""
        if not rule.ports and not rule.listen:
            return self.listen
        return frozenset(address for address in self.listen if rule.is_for(address))


@dataclass(frozen=True, slots=True)
class _Reach:
    """The connections of a rule: those that have one value of each of these, for which () = any.
    tls: None = either."""

    listeners: frozenset[Address]
    nets: frozenset[_Net]
    unix: bool
    any_client: bool
    sni: tuple[str, ...]
    alpn: frozenset[str]
    tlvs: tuple[tuple[int, frozenset[bytes]], ...]
    tls: bool | None

    @classmethod
    def of(cls, rule: Rule, clientele: Clientele) -> _Reach:
        named = bool(rule.sources)
        nets = [_net(source) for source in rule.sources if not isinstance(source, str)]
        return cls(
            clientele.of(rule),
            frozenset(nets if named else [_EVERY_ADDRESS] * clientele.addresses),
            UNIX in rule.sources if named else clientele.unix,
            not named,
            rule.sni,
            frozenset(rule.alpn),
            tuple((kind, frozenset(values)) for kind, values in rule.tlvs),
            True if rule.sni or rule.alpn else rule.tls,
        )

    def has_all_of(self, other: _Reach) -> bool:
        sent = dict(other.tlvs)
        return (
            self.tls in (None, other.tls)
            and self.listeners >= other.listeners
            and self._has_clients_of(other)
            and (not self.alpn or (bool(other.alpn) and self.alpn >= other.alpn))
            and all(kind in sent and values >= sent[kind] for kind, values in self.tlvs)
            and self._has_names_of(other)
        )

    def _has_clients_of(self, other: _Reach) -> bool:
        if self.any_client:
            return True
        lengths = {bits for _, bits in self.nets}
        return (self.unix or not other.unix) and all(
            any(wider in self.nets for wider in _wider(net, lengths)) for net in other.nets
        )

    def _has_names_of(self, other: _Reach) -> bool:
        if not self.sni:
            return True
        there = {*self.sni}
        return bool(other.sni) and all(
            any(name in there for name in _patterns(sni)) for sni in other.sni
        )


class _Seen:
    """Rules, by what they are about: one that has all connections of another is under one of the
    other's keys."""

    def __init__(self) -> None:
        self._at: dict[tuple[Hashable, ...], list[int]] = {}
        self._bits: set[int] = set()
        self._reaches: dict[int, _Reach] = {}

    def add(self, number: int, reach: _Reach, listen: Collection[Address]) -> None:
        axes: list[Collection[Hashable]] = [
            reach.listeners if len(reach.listeners) < len(listen) else (),
            () if reach.any_client else (*reach.nets, *[UNIX] * reach.unix),
            reach.sni,
            reach.alpn,
            [(kind, value) for kind, values in reach.tlvs[:1] for value in values],
        ]
        while prod(len(axis) or 1 for axis in axes) > _MOST_KEYS:
            axes[max(range(len(axes)), key=lambda n: len(axes[n]))] = ()
        for key in product(*(axis or (None,) for axis in axes)):
            self._at.setdefault(key, []).append(number)
        self._bits |= {bits for _, bits in reach.nets}
        self._reaches[number] = reach

    def first_with_all_of(self, reach: _Reach) -> int | None:
        """The one whose connections all of these are."""
        net = next(iter(reach.nets), None)
        clients: Iterable[Hashable] = () if net is None else _wider(net, self._bits)
        axes: list[Iterable[Hashable]] = [
            [*reach.listeners][:1],
            clients if net is not None else [UNIX],
            _patterns(reach.sni[0]) if reach.sni else (),
            [*reach.alpn][:1],
            [(kind, value) for kind, values in reach.tlvs for value in [*values][:1]],
        ]
        found = (
            number
            for key in product(*((None, *axis) for axis in axes))
            for number in self._at.get(key, ())
        )
        fitting = (number for number in found if self._reaches[number].has_all_of(reach))
        return min(fitting, default=None)


def shadowed(rules: Sequence[Rule], clientele: Clientele) -> Iterator[tuple[int, int]]:
    """The numbers of each that no connection gets to, and of the one before it that takes them."""
    seen = _Seen()
    for number, rule in enumerate(rules):
        reach = _Reach.of(rule, clientele)
        if not reach.listeners:
            continue  # nobody gets to it anyway
        by = seen.first_with_all_of(reach)
        if by is None:
            seen.add(number, reach, clientele.listen)
        else:
            yield number, by


def _net(source: Clients) -> _Net:
    assert not isinstance(source, str)
    first, bits = int(source.network_address), source.prefixlen
    return (first + (0xFFFF << 32), bits + 96) if source.version == 4 else (first, bits)


def _wider(net: _Net, lengths: Iterable[int]) -> Iterator[_Net]:
    """Those of these numbers of bits that it is in, itself too."""
    first, own = net
    for bits in lengths:
        if bits <= own:
            yield first >> (_BITS - bits) << (_BITS - bits), bits


def _patterns(name: str) -> Iterator[str]:
    """Those that stand for it, or for all that it stands for."""
    yield name
    rest = name.removeprefix("*.") if name.startswith("*.") else name
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
