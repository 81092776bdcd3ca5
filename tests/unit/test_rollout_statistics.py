"""The tests that a verdict rests on, against scipy's.

The reference values are those of scipy 1.17.1: stats.fisher_exact([[a, b - a], [c, d - c]],
alternative="greater"), stats.binom.sf(a - 1, n, rate), and stats.mannwhitneyu(x, y,
alternative="greater", method="asymptotic") of the buckets' numbers, each as often as it is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, isnan, log
from statistics import NormalDist

import pytest

from tcpmux.rollout.statistics import binomial, fisher, mann_whitney, tail_quantile
from tcpmux.shm.counters import quantile

FISHER = [
    (4, 61, 0, 1204, 4.914290049511813e-06),
    (3, 3, 0, 297, 2.2446185270813228e-07),
    (6, 30, 6, 570, 7.0242639745113375e-06),
    (1, 10, 1, 10, 0.763157894736842),
    (0, 50, 3, 50, 1.0),
    (12, 100, 31, 1900, 5.322763822072514e-07),
    (500, 1000, 400, 1000, 4.226859837242813e-06),
    (40, 20000, 10, 20000, 1.1798944441722234e-05),
    (2, 2, 5, 400, 0.0002605426731678267),
]


@pytest.mark.parametrize(("bad", "of", "other", "other_of", "p"), FISHER)
def test_fishers_exact_test(bad: int, of: int, other: int, other_of: int, p: float) -> None:
    assert fisher(bad, of, other, other_of) == pytest.approx(p, rel=1e-6)


def test_fishers_test_of_nothing_and_of_what_is_extreme() -> None:
    assert fisher(0, 0, 0, 0) == 1.0
    assert fisher(5, 5, 7, 7) == 1.0
    assert fisher(1_000_000, 1_000_000, 0, 1_000_000) == 0.0
    assert fisher(0, 1_000_000, 1_000_000, 1_000_000) == 1.0


@pytest.mark.parametrize(
    ("bad", "of", "rate", "p"),
    [
        (3, 3, 0.05, 0.000125),
        (10, 100, 0.05, 0.02818829416341614),
        (60, 1000, 0.05, 0.08673217838486103),
        (500, 1000, 0.4, 1.0148030384400086e-10),
        (4, 100, 0.05, 1.0),
    ],
)
def test_a_binomial_tail(bad: int, of: int, rate: float, p: float) -> None:
    assert binomial(bad, of, rate) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize(
    ("greater", "other", "p"),
    [
        ([0, 2, 8, 10], [10, 40, 30, 5], 7.53711633736573e-07),
        ([5, 5, 5, 5], [5, 5, 5, 5], 0.5055707447173425),
        ([0, 0, 20, 80], [0, 60, 30, 10], 2.5990186239041936e-27),
        ([1, 0, 0, 0], [0, 0, 3, 900], 1.0),
        ([30, 0], [0, 900], 1.0),
    ],
)
def test_mann_and_whitneys_test(greater: list[int], other: list[int], p: float) -> None:
    assert mann_whitney(greater, other) == pytest.approx(p, rel=1e-6)


def test_mann_and_whitneys_test_of_nothing() -> None:
    assert mann_whitney([0, 0], [1, 2]) == 1.0
    assert mann_whitney([5, 0], [9, 0]) == 1.0  # all are ties


@pytest.mark.parametrize("median", [700.0, 3000.0])
def test_a_quantile_of_the_tail_is_near_that_of_a_log_normal_distribution(median: float) -> None:
    """Of one whose values are known by buckets only."""
    bounds = (100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
    counts = [0] * (len(bounds) + 1)
    values = NormalDist(log(median), 0.3)
    for i in range(10_000):
        counts[bisect_left(bounds, exp(values.inv_cdf((i + 0.5) / 10_000)))] += 1
    assert tail_quantile(counts, bounds, 0.95) == pytest.approx(exp(values.inv_cdf(0.95)), rel=0.1)


def test_a_quantile_lies_within_its_bucket() -> None:
    assert quantile([0, 10, 0], [1.0, 2.0], 0.5) == 1.5
    assert isnan(quantile([0, 0, 0], [1.0, 2.0], 0.5))
