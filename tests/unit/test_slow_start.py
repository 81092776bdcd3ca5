"""What is new or back gets its share gradually: as planned, never less than before."""

from __future__ import annotations

import pytest

from tcpmux.config import Passive
from tcpmux.config.checks import Watch
from tcpmux.config.turns import MAX_TURNS, turns
from tcpmux.control.slow_start import share_at, share_step
from tcpmux.shm._pick import pick

WATCH = Watch(None, Passive(), 20.0, 10)


def plan(elapsed: float) -> float:
    return 10 + 90 * min(1.0, elapsed / 20.0)


@pytest.mark.parametrize("step", [1, 3, 10])
def test_a_slow_start_follows_its_plan(step: int) -> None:
    percents = [share_at(ms / 1000, WATCH, step) for ms in range(0, 22_000, 7)]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (10, 100)
    for ms, percent in zip(range(0, 22_000, 7), percents, strict=True):
        assert plan(ms / 1000) - step <= percent <= plan(ms / 1000) + 1e-9


def test_connections_follow_the_plan_within_a_percent() -> None:
    """10,000 of them at an even rate, through the pick of the workers, against what was due."""
    got = due = 0.0
    for number in range(10_000):
        elapsed = number * 20.0 / 10_000
        percent = share_at(elapsed, WATCH, 1)
        got += pick([50 * 100, 50 * percent], number) == 1
        due += plan(elapsed) / (100 + plan(elapsed))
    assert abs(got - due) <= 100


def test_steps_are_as_fine_as_the_list_of_turns_allows() -> None:
    assert [share_step(n) for n in (1, 10, 11, 40, 100, 5000)] == [1, 1, 2, 4, 10, 10]
    for endpoints in (2, 10, 33, 95):
        percent = share_at(7.3, WATCH, share_step(endpoints))
        listed = turns([(0, percent), *((n, 100) for n in range(1, endpoints))])
        assert len(listed) <= MAX_TURNS
        assert abs(listed.count(0) / listed.count(1) - percent / 100) < 0.011
