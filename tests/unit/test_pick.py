"""The pick: exact over any window of one period, for all weights."""

from __future__ import annotations

from collections import Counter
from math import gcd

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tcpmux.shm._pick import pick, pick_plan

small_weights = st.lists(st.integers(0, 60), min_size=1, max_size=12)
any_weights = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=64)


@given(small_weights, st.integers(0, 2**63))
@settings(deadline=None, max_examples=60)
def test_a_period_holds_exactly_the_weights(weights: list[int], start: int) -> None:
    """From whatever ticket it starts, past the range of 32 bits as well."""
    assume(any(weights))
    divisor = gcd(*weights)
    period = sum(weights) // divisor
    picked = Counter(pick(weights, start + n) for n in range(period))
    assert [picked[i] * divisor for i in range(len(weights))] == weights


@given(any_weights)
@settings(deadline=None, max_examples=60)
def test_the_stride_permutes_the_period(weights: list[int]) -> None:
    period, stride, thresholds = pick_plan(weights)
    if not any(weights):
        assert (period, thresholds[-1]) == (0, 0)
        return
    assert period * gcd(*weights) == sum(weights)
    assert gcd(stride, period) == 1
    assert thresholds[-1] == period
    assert list(thresholds) == sorted(thresholds)


@given(st.integers(1, 99))
def test_short_windows_are_even_too(weight: int) -> None:
    """No prefix of the picks strays more than one and a half connections from its due."""
    weights = [weight, 100 - weight]
    seen = 0
    for n in range(200):
        seen += pick(weights, n) == 0
        assert abs(seen - (n + 1) * weight / 100) <= 1.5
