"""Verdicts: how soon a version that is worse is found, and that one that is as good is not.

Each test draws by a seed of its own, so that it has the same outcome each time.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from tcpmux.rollout.judgement import Counts, Histograms, Judge, Limits, Names, Verdict
from tcpmux.rollout.machine import Do
from tcpmux.rollout.plan import Plan
from tcpmux.rollout.simulation import Model, Traffic, simulated
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US

HISTOGRAMS = Histograms(LATENCY_BOUNDS_US, DURATION_BOUNDS_US)
ROLLOUTS = int(os.environ.get("TCPMUX_ROLLOUTS", "20"))  # that are healthy
NAMES = Names("v2", "v1")


def decided(
    share: float, new: Model, old: Model, most: int, random: Random
) -> tuple[int, Verdict | None]:
    """After how many connections of the new version, and how. Looks after each connection."""
    judge = Judge(Limits(), NAMES, HISTOGRAMS)
    a, b = (Traffic(model, LATENCY_BOUNDS_US, random) for model in (new, old))
    owed = 0.0
    while a.counts.opened < most:
        owed += 1 / share - 1
        b.add(int(owed))
        owed %= 1.0
        a.add(1)
        verdict = judge.look(a.counts, b.counts)
        if verdict.kind in ("worse", "sick"):
            return a.counts.opened, verdict
    return most + 1, None


def test_one_that_always_fails_has_three_connections_at_one_percent() -> None:
    after, verdict = decided(0.01, Model(failures=1.0), Model(), 10, Random(1))
    assert after == 3
    assert verdict is not None
    assert verdict.text == (
        "v2: 3 of 3 connects failed, v1: 0 of 297; p = 2.2e-7 < 2.5e-6 (1.0e-5, look 1 in window 1)"
    )


def test_one_that_fails_twenty_times_as_often_is_found() -> None:
    """20 % against 1 %, at a weight of 5 %: in the middle after some 40 connections, and nearly
    always by 100. With so few of both, Fisher's test can't tell sooner at that confidence."""
    random = Random(2)
    after = sorted(
        decided(0.05, Model(failures=0.2), Model(failures=0.01), 200, random)[0] for _ in range(60)
    )
    assert 25 <= after[30] <= 50
    assert after[56] <= 100
    assert after[59] <= 200


@pytest.mark.parametrize("spread", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("median", [700.0, 3000.0, 40_000.0])
def test_one_that_is_twice_as_slow_is_found(median: float, spread: float) -> None:
    random = Random(3)
    old, new = Model(median=median, spread=spread), Model(median=2 * median, spread=spread)
    for _ in range(2):
        after, verdict = decided(0.05, new, old, 300, random)
        assert after <= 300
        assert verdict is not None
        assert "first byte p95" in verdict.text


def test_one_that_resets_and_one_that_closes_early_are_found() -> None:
    for model, word in ((Model(resets=0.5), "reset"), (Model(early=0.5), "without a byte")):
        after, verdict = decided(0.05, model, Model(), 100, Random(4))
        assert after <= 40
        assert verdict is not None
        assert word in verdict.text


def test_where_both_fail_nothing_is_said_of_the_new_one() -> None:
    for failures in (0.2, 0.6, 1.0):
        _, verdict = decided(
            0.2, Model(failures=failures), Model(failures=failures), 100, Random(5)
        )
        assert verdict is not None
        assert verdict.kind == "sick"
        assert "v1 fails as well" in verdict.text


def test_one_that_is_much_worse_than_one_that_fails_is_worse_all_the_same() -> None:
    _, verdict = decided(0.2, Model(failures=1.0), Model(failures=0.1), 100, Random(6))
    assert verdict is not None
    assert verdict.kind == "worse"


def test_a_difference_below_the_stated_effect_is_none_however_sure_it_is() -> None:
    judge = Judge(Limits(), NAMES, HISTOGRAMS)
    verdict = judge.look(Counts(100_000, 99_200, 800), Counts(100_000, 100_000, 0))
    assert verdict.findings[0].p < 1e-100
    assert verdict.kind == "good"


def test_what_could_be_worse_is_in_doubt() -> None:
    judge = Judge(Limits(), NAMES, HISTOGRAMS)
    assert judge.look(Counts(30, 28, 2), Counts(3000, 3000, 0)).kind == "doubtful"


def test_times_of_another_time_condemn_nobody() -> None:
    """Machines that are busier than before make every version slower."""
    random = Random(7)
    new, old = (Traffic(Model(median=us), LATENCY_BOUNDS_US, random) for us in (9000.0, 3000.0))
    new.add(1000)
    old.add(1000)
    kinds = {}
    for is_same in (True, False):
        judge = Judge(Limits(), NAMES, HISTOGRAMS, 3, is_same)
        verdict = judge.look(new.counts, old.counts)
        kinds[verdict.kind] = verdict.text
        assert judge.look(new.counts, old.counts).kind == "doubtful"
    assert kinds.keys() == {"worse", "doubtful"}
    assert ", v1 before: " in kinds["doubtful"]
    judge = Judge(Limits(), NAMES, HISTOGRAMS, 3, is_same=False)
    assert judge.look(Counts(1000, 500, 500), Counts(1000, 1000)).kind == "worse"


def test_one_that_does_not_answer_is_in_doubt() -> None:
    """Nothing else tells of it: it accepts, and its clients give up."""
    answered = Counts(200, 200, first_byte=(0, 200))
    for is_same in (True, False):
        judge = Judge(Limits(), NAMES, HISTOGRAMS, 3, is_same)
        assert judge.look(Counts(30, 30), answered).kind == "doubtful"
        verdict = judge.look(Counts(30, 30, first_byte=(0, 20)), answered)
        assert verdict.kind == "doubtful"
        assert verdict.text.startswith("v2: 20 of 30 connections answered, v1")
        assert judge.look(Counts(30, 30, first_byte=(0, 29)), answered).kind == "good"
        assert judge.look(Counts(3, 3), answered).kind != "worse"
        assert judge.look(Counts(30, 30), Counts(200, 200)).kind == "good"  # nobody is answered
    off = Judge(Limits(first_byte_p95=None), NAMES, HISTOGRAMS)
    assert off.look(Counts(30, 30), answered).kind == "good"


def test_one_that_is_faster_has_no_small_p() -> None:
    """The metric of it is one to alert on."""
    new, old = Counts(200, 200, first_byte=(200, 0)), Counts(200, 200, first_byte=(0, 200))
    found = Judge(Limits(), NAMES, HISTOGRAMS).look(new, old).findings[-1]
    assert (found.measure, found.p > 0.9) == ("first_byte", True)
    shorter, longer = ((0,) * n + (200,) + (0,) * (20 - n) for n in (5, 15))
    judge = Judge(Limits(duration_p50=(0.5, 2.0)), NAMES, HISTOGRAMS)
    assert (
        judge.look(Counts(200, 200, duration=shorter), Counts(200, 200, duration=longer)).kind
        == "worse"
    )


def test_looking_again_at_the_same_events_condemns_nobody() -> None:
    """A look is spent on each event: between two there is none."""
    judge = Judge(Limits(), NAMES, HISTOGRAMS)
    few = Counts(3, 0, 3)
    assert judge.look(few, Counts(20, 20, 0)).kind == "doubtful"
    assert judge.look(few, Counts(100_000, 100_000, 0)).kind == "doubtful"
    assert judge.look(Counts(4, 0, 4), Counts(100_000, 100_000, 0)).kind == "worse"


def test_later_windows_have_less_to_spend() -> None:
    new, old = Counts(3, 0, 3), Counts(297, 297, 0)
    kinds = [Judge(Limits(), NAMES, HISTOGRAMS, w).look(new, old).kind for w in (1, 2, 5)]
    assert kinds == ["worse", "worse", "doubtful"]


def test_what_is_off_is_not_judged() -> None:
    limits = Limits(connect_failures=None, resets=None, early_close=None, first_byte_p95=None)
    found = Judge(limits, NAMES, HISTOGRAMS).look(Counts(100, 0, 100), Counts(100, 100, 0))
    assert found == Verdict("good", "", ())


def test_a_simulated_step_lasts_no_longer_than_a_real_one() -> None:
    """However seldom the new version has a connection."""
    plan = Plan("v2", (0.00001, 1.0), bake=1.0, max_wait=10.0)
    found = simulated(plan, Model(), Model(), 1.0, HISTOGRAMS, Random(8))
    assert (found.end, found.seconds <= 12.5) == (Do.PAUSE, True)


def test_healthy_rollouts_are_not_rolled_back() -> None:
    """At all rates of connections, of failures, resets and early closes, and at all latencies, if
    both versions have the same."""
    random = Random(7)
    for _ in range(ROLLOUTS):
        model = Model(
            failures=random.choice([0, 0.001, 0.01, 0.05, 0.5]),
            resets=random.choice([0, 0.001, 0.01, 0.5]),
            early=random.choice([0, 0.01, 0.3]),
            median=10 ** random.uniform(2, 6),
            spread=random.uniform(0.2, 2),
        )
        plan = Plan("v2", bake=10.0)
        found = simulated(plan, model, model, 10 ** random.uniform(-1, 2), HISTOGRAMS, random)
        assert found.end in (Do.PROMOTE, Do.PAUSE), (model, found)
        if model.failures < 0.05:
            assert found.end is Do.PROMOTE or "max_wait" in found.text, (model, found)
