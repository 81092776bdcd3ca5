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


@dataclass(frozen=True, slots=True)
class Split:
    """By client: the first part that a client is in decides."""

    parts: tuple[tuple[tuple[Clients, ...], bool | Fraction], ...]
    otherwise: bool | Fraction


# Fraction: drawn anew for each connection.
Truth = bool | Fraction | Among | Split | Unknown
TOO_FINE = Unknown("it combines too many random shares", "finer shares")
MAX_PARTS = 1000  # of a Split
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
    if isinstance(truth, Split):
        parts = tuple((clients, _opposite(value)) for clients, value in truth.parts)
        return Split(parts, _opposite(truth.otherwise))
    return _guarded(lambda: none_of(truth.clients)) if isinstance(truth, Among) else truth


def _opposite(value: bool | Fraction) -> bool | Fraction:
    return not value if isinstance(value, bool) else 1 - value


def split_of(truth: Among | Split | bool | Fraction) -> Split:
    if isinstance(truth, Among):
        return Split(((truth.clients, True),), otherwise=False)
    return truth if isinstance(truth, Split) else Split((), truth)


def all_of(truths: Iterable[Truth]) -> Truth:
    found = [truth for truth in truths if truth is not True]
    if False in found:
        return False
    unknown = [truth for truth in found if isinstance(truth, Unknown)]
    if unknown:
        return unknown[0]
    shares = [truth for truth in found if isinstance(truth, Fraction)]
    among = [truth for truth in found if isinstance(truth, Among)]
    if among and len(among) == len(found):
        return _guarded(lambda: _within_all(among))
    if len(shares) < len(found):
        splits = [split_of(truth) for truth in found if not isinstance(truth, Unknown)]
        return _guarded(lambda: _all_by_client(splits))
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
    if len(among) < len(found):  # no list of all others is needed
        found = [split_of(truth) if isinstance(truth, Among) else truth for truth in found]
    return negated(all_of([negated(truth) for truth in found]))


def _all_by_client(splits: list[Split]) -> Truth:
    """Raises TooManyNetworks."""
    whole = splits[0]
    for other in splits[1:]:
        made = []
        for clients, value in (*whole.parts, (None, whole.otherwise)):
            for others, second in (*other.parts, (None, other.otherwise)):
                both = within(clients, others)
                if both is None or both:
                    product = all_of([value, second])
                    if isinstance(product, Unknown):
                        return product
                    assert isinstance(product, bool | Fraction)
                    made.append((both, product))
        if len(made) > MAX_PARTS:
            return TOO_MANY
        whole = Split(tuple((c, v) for c, v in made if c is not None), made[-1][1])
    return whole


def within(
    one: tuple[Clients, ...] | None, other: tuple[Clients, ...] | None
) -> tuple[Clients, ...] | None:
    """Those that are in both; None = every client. Raises TooManyNetworks."""
    if one is None or other is None or one == other:
        return other if one is None else one
    return _both(Among(one), Among(other)).clients


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


def _guarded(work: Callable[[], Truth]) -> Truth:
    try:
        return work()
    except TooManyNetworks:
        return TOO_MANY
