"""Who hands how many connections to whom, so that the workers have equal shares."""

from __future__ import annotations

import random

import pytest

from tcpmux.master.balance import MIN_SURPLUS, SURPLUS_SHARE, plan_moves


def after(counts: dict[int, int]) -> dict[int, int]:
    result = dict(counts)
    for giver, taker, number in plan_moves(counts):
        assert number > 0
        assert giver != taker
        result[giver] -= number
        result[taker] += number
    return result


@pytest.mark.parametrize(
    "counts", [{}, {0: 100}, {0: 0, 1: 0}, {0: 5, 1: 3}, {3: 101, 5: 100, 6: 99}]
)
def test_nothing_to_move(counts: dict[int, int]) -> None:
    assert plan_moves(counts) == []


def test_the_surplus_goes_to_those_with_least() -> None:
    assert plan_moves({0: 40, 1: 20, 2: 30, 3: 30}) == [(0, 1, 10)]
    assert after({0: 100, 1: 0, 2: 0}) == {0: 34, 1: 33, 2: 33}
    assert after({0: 0, 1: 0, 2: 9}) == {0: 3, 1: 3, 2: 3}


def test_any_counts_become_equal() -> None:
    """Equal to one, or close enough to be left alone; and then there is nothing more to do."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    moved = 0
    for _ in range(500):
        most = chance.choice([3, 50, 5000])
        counts = {worker: chance.randint(0, most) for worker in range(chance.randint(1, 64))}
        result = after(counts)
        moved += result != counts
        mean = sum(counts.values()) / len(counts)
        assert sum(result.values()) == sum(counts.values())
        assert min(result.values()) >= 0
        assert max(result.values()) <= mean + max(MIN_SURPLUS, SURPLUS_SHARE * mean)
        if result != counts:
            assert max(result.values()) - min(result.values()) <= 1
        assert plan_moves(result) == []
    assert moved > 100
