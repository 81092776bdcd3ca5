"""What a condition is for a connection: true, false, true for a share of connections, true for some
clients, or what tcpmux can't say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from tcpmux.config.settings import Clients
from tcpmux.convert.clients import ClientRule, TooManyNetworks, accepted_by

MAX_NETWORKS = 10_000  # of a list
MAX_BITS = 1000  # of the denominator of a share
MAX_COMBINED = 1000  # of a list that is combined with others, or negated


@dataclass(frozen=True, slots=True)
class Unknown:
    """needs: the feature that tcpmux would need."""

    note: str
    needs: str


@dataclass(frozen=True, slots=True)
class Among:
    """True for these clients, which may overlap."""

    clients: tuple[Clients, ...]


Truth = bool | Fraction | Among | Unknown  # Fraction: drawn anew for each connection
MIXED = Unknown("it depends on the client and on something else", "rules by source")
TOO_FINE = Unknown("it combines too many random shares", "finer shares")
TOO_MANY = Unknown("it has too many networks", "longer lists")


@lru_cache(maxsize=256)
def none_of(clients: tuple[Clients, ...]) -> Among:
    """All others. Raises TooManyNetworks."""
    if len(clients) > MAX_COMBINED:
        raise TooManyNetworks
    return Among(accepted_by((ClientRule(False, c) for c in clients), otherwise=True))


def negated(truth: Truth) -> Truth:
    if isinstance(truth, bool):
        return not truth
    if isinstance(truth, Fraction):
        return 1 - truth
    return _guarded(lambda: none_of(truth.clients)) if isinstance(truth, Among) else truth


def all_of(truths: Iterable[Truth]) -> Truth:
    found = [truth for truth in truths if truth is not True]
    if False in found:
        return False
    unknown = [truth for truth in found if isinstance(truth, Unknown)]
    if unknown:
        return unknown[0]
    shares = [truth for truth in found if isinstance(truth, Fraction)]
    among = [truth for truth in found if isinstance(truth, Among)]
    if shares and among:
        return MIXED
    if among:
        return _guarded(lambda: _within_all(among))
    product = Fraction(1)
    for share in shares:
        product *= share
        if product.denominator.bit_length() > MAX_BITS:
            return TOO_FINE
    return product if shares else True


def any_of(truths: Iterable[Truth]) -> Truth:
    found = list(truths)
    if True in [truth for truth in found if isinstance(truth, bool)]:
        return True
    among = [truth for truth in found if isinstance(truth, Among)]
    if len(among) == len([truth for truth in found if truth is not False]) and among:
        return Among(tuple(dict.fromkeys(c for truth in among for c in truth.clients)))
    return negated(all_of([negated(truth) for truth in found]))


def _within_all(among: list[Among]) -> Among:
    first, *others = among
    for other in others:
        first = _both(first, other)
    return first


@lru_cache(maxsize=256)
def _both(one: Among, other: Among) -> Among:
    """Raises TooManyNetworks."""
    if len(other.clients) > MAX_COMBINED:
        raise TooManyNetworks
    rules = [ClientRule(False, c) for c in none_of(one.clients).clients]
    rules += [ClientRule(True, c) for c in other.clients]
    return Among(accepted_by(rules, otherwise=False))


def _guarded(work: Callable[[], Among]) -> Truth:
    try:
        return work()
    except TooManyNetworks:
        return TOO_MANY
