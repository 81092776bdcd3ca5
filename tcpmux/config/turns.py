"""The round-robin schedule of endpoints of different weight: a list of turns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T", bound=Hashable)
MAX_ENDPOINT_WEIGHT = 256  # as in HAProxy
MAX_TURNS = 1000  # of one list
MAX_STEPS = 1_000_000  # each of which takes some 50 ns


def turns(weighted: Sequence[tuple[T, int]]) -> tuple[T, ...]:
    """Each item as often as its weight says (over the greatest common divisor), well mixed.

    With [(a, 2), (b, 1)]: a, b, a. Weights of 0 count as 1 if all are 0, else not at all.
    Weights that would make a list of more than MAX_TURNS are brought down in proportion.
    """
    known = [(item, weight) for item, weight in weighted if weight > 0]
    if not known:
        return tuple(dict.fromkeys(item for item, _ in weighted))
    total = sum(weight for _, weight in known)
    if total > MAX_TURNS:
        known = [(item, max(1, weight * MAX_TURNS // total)) for item, weight in known]
    divisor = math.gcd(*(weight for _, weight in known))
    if all(weight == divisor for _, weight in known):
        return tuple(item for item, _ in known)
    rounds = sum(weight for _, weight in known) // divisor
    if rounds * len(known) > MAX_STEPS:
        return _spread(known)
    # Smooth weighted round robin: whoever is owed most is next.
    owed = [0] * len(known)
    order = []
    for _ in range(rounds):
        for index, (_, weight) in enumerate(known):
            owed[index] += weight // divisor
        best = max(range(len(known)), key=owed.__getitem__)
        owed[best] -= rounds
        order.append(known[best][0])
    return tuple(order)


def whole_turns(weights: Sequence[int]) -> tuple[list[int], bool]:
    """In the same proportion, each within 1..MAX_ENDPOINT_WEIGHT and MAX_TURNS in all; whether that
    is exact."""
    divisor = math.gcd(*weights) or 1
    numbers = [weight // divisor for weight in weights]
    if not numbers or max(numbers) == 1:
        return numbers, True
    scale = min(
        Fraction(MAX_ENDPOINT_WEIGHT, max(numbers)), Fraction(MAX_TURNS, sum(numbers)), Fraction(1)
    )
    numbers = [max(1, math.floor(n * scale + Fraction(1, 2))) for n in numbers]
    divisor = math.gcd(*numbers)
    return [number // divisor for number in numbers], scale == 1


def _spread(known: Sequence[tuple[T, int]]) -> tuple[T, ...]:
    """As turns(), not quite as well mixed, in a time that does not grow with the square."""
    moments = [
        ((turn + 0.5) / weight, index)
        for index, (_, weight) in enumerate(known)
        for turn in range(weight)
    ]
    return tuple(known[index][0] for _, index in sorted(moments))
