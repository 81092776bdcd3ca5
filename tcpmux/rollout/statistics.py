"""The tests that a verdict rests on. Pure functions of counts.

All are one-sided: p is how probable it is to find the second version at least so much worse if
both were equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import erfc, exp, lgamma, log, sqrt

NEGLIGIBLE = 1e-17  # of a sum


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def fisher(bad: int, of: int, other_bad: int, other_of: int) -> float:
    """Fisher's exact test: how probable `bad` or more are among these `of`, if the same number of
    bad ones in all were spread over both at random."""
    every, all_bad = of + other_of, bad + other_bad
    if bad <= max(0, all_bad - other_of):
        return 1.0
    # The first term by logarithms, each other from the one before it.
    whole = _log_choose(every, of)
    term = exp(_log_choose(all_bad, bad) + _log_choose(every - all_bad, of - bad) - whole)
    total, k = term, bad
    while k < min(all_bad, of):
        ratio = (all_bad - k) * (of - k) / ((k + 1) * (other_of - all_bad + k + 1))
        term *= ratio
        total += term
        k += 1
        if ratio < 1 and term < NEGLIGIBLE * total:
            break
    if total == 0.0 and bad * every <= of * all_bad:
        return 1.0  # so far below what is to be expected that the first term is none
    return min(1.0, total)


def binomial(bad: int, of: int, rate: float) -> float:
    """How probable `bad` or more of `of` are if each is so with this probability, 0 < rate < 1; 1
    if that is no more than is to be expected."""
    if bad <= of * rate:
        return 1.0
    term = exp(_log_choose(of, bad) + bad * log(rate) + (of - bad) * log(1 - rate))
    total = term
    for k in range(bad, of):
        term *= (of - k) * rate / ((k + 1) * (1 - rate))
        total += term
        if term < NEGLIGIBLE * total:
            break
    return min(1.0, total)


def mann_whitney(greater: Sequence[int], other: Sequence[int]) -> float:
    """Mann and Whitney's test of two histograms with the same buckets, whose values are known to be
    in the order of buckets and no better: within one they are ties. By the normal distribution,
    corrected for ties and for continuity."""
    n, m = sum(greater), sum(other)
    if not n or not m:
        return 1.0
    below = [0, *accumulate(other)]
    wins = sum(g * (b + o / 2) for g, b, o in zip(greater, below, other, strict=False))
    every = n + m
    ties = sum((g + o) ** 3 - (g + o) for g, o in zip(greater, other, strict=True))
    variance = n * m / 12 * (every + 1 - ties / (every * (every - 1)))
    if variance <= 0:
        return 1.0
    z = (wins - n * m / 2 - 0.5) / sqrt(variance)
    return erfc(z / sqrt(2)) / 2


def _deviation(share: float) -> float:
    """In standard deviations, where a normal distribution has so much below it."""
    low, high = -9.0, 9.0
    for _ in range(40):
        middle = (low + high) / 2
        if erfc(-middle / sqrt(2)) / 2 < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def tail_quantile(counts: Sequence[int], bounds: Sequence[float], part: float) -> float:
    """As that of tcpmux.shm.counters, of times that are known by buckets some times as wide as one
    another: within one, logarithms of values are taken as spread like a part of a normal
    distribution. With even spread what is twice as slow, in the same bucket, would seem to be
    hardly slower."""
    every = sum(counts)
    wanted, below, lower = every * part, 0, bounds[0] / 2
    if not every:
        return float("nan")
    for count, upper in zip(counts, bounds, strict=False):
        if count and below + count >= wanted:
            known = (min(max(n, 0.5), every - 0.5) / every for n in (below, below + count))
            a, b = map(_deviation, known)
            at = (_deviation(part) - a) / (b - a) if b > a else 1.0
            return float(lower * (upper / lower) ** min(1.0, max(0.0, at)))
        below += count
        lower = upper
    return lower
