"""How fast connections are closed for the weights, and when that pauses."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from tcpmux.control.pacing import (
    FIRST_HOLD,
    MIN_LEAD,
    RECENT,
    RETURN_TIME,
    Brake,
    Pace,
    Sample,
    Telling,
)


def sample(closed: int = 0, *, connects: int = 0, failures: int = 0, live: int = 1000) -> Sample:
    """Failures are of v2 alone."""
    return Sample(live, closed, {"v1": 0, "v2": connects}, {"v1": 0, "v2": failures})


@pytest.mark.parametrize("rate", [0.5, 1.0, 7.3, 20.0, 500.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_second_sees_more_than_the_rate(rate: float, seed: int) -> None:
    """However late a worker carries out what it was told, and however late that is seen."""
    random = Random(seed)
    pace, now = Pace(), 100.0
    ends: list[float] = []
    due: list[tuple[float, float, int]] = []  # carried out, seen
    for number in range(600):
        now += random.uniform(0.05, 0.15)
        for at, seen, key in [each for each in due if each[1] <= now]:
            pace.seen(key, now)
            due.remove((at, seen, key))
        pace.expired(now)
        for order in range(min(pace.allowed(rate, now), max(1, int(rate / 10)))):
            key = number * 1000 + order
            pace.ordered(key, now)
            if random.random() < 0.9:  # else it finds something under way
                at = now + random.choice([0.001, random.uniform(0, 0.99)])
                ends.append(at)
                due.append((at, at + random.uniform(0, 0.1), key))
    ends.sort()
    window = max(1.0, 1 / rate)
    most = max(1, int(rate))
    assert len(ends) > 20 * min(rate, 2)
    assert all(late - early > window for early, late in zip(ends, ends[most:], strict=False))


def test_an_order_that_was_not_carried_out_counts_no_longer() -> None:
    pace = Pace()
    pace.ordered("a", 0.0)
    assert pace.allowed(1, 1.0) == 0
    assert pace.expired(1.0) == []
    assert pace.expired(1.3) == ["a"]
    assert pace.allowed(1, 1.3) == 1
    pace.seen("a", 1.4)  # too late: it was another end
    assert pace.allowed(1, 1.4) == 1


@pytest.mark.parametrize(("rate", "window"), [(10, 1.0), (0.1, 10.0)])
def test_who_takes_over_orders_none_until_those_of_the_other_no_longer_count(
    rate: float, window: float
) -> None:
    pace = Pace(since=100.0)
    assert pace.allowed(rate, 100.0 + window) == 0
    assert pace.allowed(rate, 100.1 + window) == max(1, int(rate))


def test_a_pause_that_comes_and_goes_is_told_a_few_times() -> None:
    telling, told = Telling(), []
    for tick in range(600):  # 5 min
        is_paused = tick % 4 < 2
        if telling.is_due(tick / 2, is_paused=is_paused):
            told.append(is_paused)
    assert told[:4] == [True, False, True, False]
    assert 10 <= len(told) <= 15
    assert all(one != other for one, other in pairwise(told))
    assert telling.is_due(900, is_paused=not told[-1])


def test_a_version_that_refuses_stops_it() -> None:
    brake = Brake()
    brake.add(sample(), 0.0)
    assert brake.reason(10, 0.0) == ""
    brake.add(sample(2, connects=1, failures=1), 0.5)
    assert brake.reason(10, 0.5).startswith("1 of 2 connects to v2 failed just now")
    assert brake.reason(10, 0.5 + FIRST_HOLD - 0.1)


def test_each_failed_try_holds_longer_and_a_good_one_forgets_it() -> None:
    brake, now, failures = Brake(), 0.0, 0
    held = []
    brake.add(sample(), now)
    for _ in range(6):
        failures += 1
        now += 0.5
        brake.add(sample(failures=failures), now)
        began = now
        while brake.reason(10, now):
            now += 0.5
            brake.add(sample(failures=failures), now)
        held.append(now - began)
    assert held == [5, 10, 20, 40, 60, 60]
    now += 200
    brake.add(sample(failures=failures), now)
    assert not brake.reason(10, now)
    brake.add(sample(failures=failures + 1), now + 0.5)
    assert brake.reason(10, now + 0.5).endswith("next try in 5 s")


def test_few_failures_among_many_connects_do_not() -> None:
    brake = Brake()
    brake.add(sample(), 0.0)
    brake.add(sample(connects=3, failures=2), 1.0)
    assert not brake.reason(10, 1.0)


def test_old_failures_do_not() -> None:
    brake = Brake()
    brake.add(sample(failures=100), 0.0)
    assert not brake.reason(10, 0.0)
    brake.add(sample(failures=100), RECENT + 1)
    assert not brake.reason(10, RECENT + 1)


def test_clients_that_do_not_come_back_stop_it_for_a_while() -> None:
    brake = Brake()
    brake.add(sample(), 0.0)
    brake.add(sample(MIN_LEAD - 1, connects=0), 1.0)
    assert not brake.reason(1, 1.0)
    brake.add(sample(MIN_LEAD + 1, connects=1), 1.5)
    assert brake.reason(1, 1.5) == (
        f"{MIN_LEAD + 1} connections were closed within 30 s, and 1 have come"
    )
    brake.add(sample(MIN_LEAD + 1, connects=2), 2.0)
    assert not brake.reason(1, 2.0)
    brake.add(sample(MIN_LEAD + 2, connects=2), 2.5)
    assert brake.reason(1, 2.5)
    brake.add(sample(MIN_LEAD + 2, connects=2), 2.5 + RETURN_TIME)
    assert not brake.reason(1, 2.5 + RETURN_TIME)


def test_a_high_rate_may_be_further_ahead() -> None:
    brake = Brake()
    brake.add(sample(), 0.0)
    brake.add(sample(99), 1.0)
    assert brake.room(20) == 1
    brake.add(sample(100), 2.0)
    assert brake.reason(20, 2.0)


def test_at_most_half_of_the_connections_are_away() -> None:
    brake = Brake()
    brake.add(sample(live=10), 0.0)
    assert brake.room(50) == 5
    brake.ordered(4)
    assert brake.room(50) == 1
    brake.add(sample(4, live=6), 1.0)
    assert brake.room(50) == 1
    brake.add(sample(5, live=5), 2.0)
    assert brake.reason(50, 2.0) == "5 connections were closed within 30 s, and 0 have come"


def test_a_version_that_accepts_and_closes_stops_it() -> None:
    """Until it has answered somebody; a try of it now and then finds out."""
    brake = Brake()

    def after(count: int, now: float) -> str:
        brake.add(sample(connects=100)._replace(unanswered={"v2": count}), now)
        return brake.reason(10, now)

    assert not after(0, 0.0)
    assert not after(4, 1.0)
    assert after(6, 1.5).startswith("v2 ended the last 6 connections without an answer")
    assert after(6, 1.5 + FIRST_HOLD - 0.1)
    assert not after(6, 1.5 + FIRST_HOLD)
    assert after(7, 2.0 + FIRST_HOLD).endswith("next try in 10 s")
    assert not after(0, 30.0)
