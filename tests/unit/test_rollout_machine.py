"""The steps of a rollout, its plan, and what is kept of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tcpmux.rollout import saved
from tcpmux.rollout.judgement import NO_COUNTS, Counts, Histograms
from tcpmux.rollout.machine import (
    PAUSED,
    UNAVAILABLE_TIME,
    Do,
    Reading,
    Rollout,
    advance,
    problem_of,
)
from tcpmux.rollout.plan import NO_SHADOW, Plan, as_json, plan_from, steps, weights_at
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US

HISTOGRAMS = Histograms(LATENCY_BOUNDS_US, DURATION_BOUNDS_US)
PLAN = Plan("v2", (0.1, 1.0), bake=10.0, min_connections=20, max_wait=100.0)


def begun(plan: Plan = PLAN) -> Rollout:
    rollout = Rollout("r", plan, 1.0, {"v1": 3, "v2": 0}, {"v1": 3, "v2": 0})
    rollout.entered(0, Reading(0.0, NO_COUNTS, NO_COUNTS))
    return rollout


def good(new: int, old: int) -> tuple[Counts, Counts]:
    return Counts(new, new), Counts(old, old)


def test_it_begins_with_the_first_step() -> None:
    rollout = Rollout("r", PLAN, 1.0, {"v1": 3, "v2": 0}, {"v1": 3, "v2": 0})
    action = advance(rollout, Reading(0.0, NO_COUNTS, NO_COUNTS), HISTOGRAMS)
    assert (action.do, action.step) == (Do.STEP, 0)
    assert action.text == "10% to v2 (step 1 of 2)"
    assert rollout.weights_of(0) == {"v1": 9, "v2": 1}
    assert rollout.weights_of(1) == {"v1": 0, "v2": 1}
    assert rollout.back() == {"v1": 3, "v2": 0}


def test_a_step_lasts_as_long_as_it_has_to_bake_and_has_too_few_connections() -> None:
    rollout = begun()
    assert advance(rollout, Reading(9.0, *good(50, 450)), HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits == "baking for 1 s more"
    assert advance(rollout, Reading(20.0, *good(5, 45)), HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits == (
        "waiting for 20 connections of v2: 5 so far, about 60 s more at this rate"
    )
    action = advance(rollout, Reading(30.0, *good(20, 180)), HISTOGRAMS)
    assert (action.do, action.step) == (Do.STEP, 1)


@pytest.mark.parametrize(("then", "do"), [("pause", Do.PAUSE), ("rollback", Do.ROLL_BACK)])
def test_a_step_does_not_last_for_ever(then: str, do: Do) -> None:
    rollout = begun(replace(PLAN, then=then))
    action = advance(rollout, Reading(100.0, *good(5, 45)), HISTOGRAMS)
    assert action.do is do
    assert action.text.endswith("and max_wait is over")


def test_what_was_never_connected_says_nothing() -> None:
    """Beyond a limit, or without a port of this host: nobody is promoted by that."""
    rollout = begun()
    reading = Reading(20.0, Counts(65, 1), Counts(600, 600))
    assert advance(rollout, reading, HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits == (
        "waiting for 20 connections of v2: 1 so far, about 380 s more at this rate; 64 more have "
        "not reached it: see tcpmux status r"
    )
    answered = Counts(600, 600, first_byte=(600,))
    reading = Reading(20.0, Counts(65, 30, first_byte=(30,)), answered)
    assert advance(rollout, reading, HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits.startswith("in doubt: v2: 30 of 65 connections answered, v1: 600 of 600")
    assert advance(rollout, Reading(110.0, *reading[1:3]), HISTOGRAMS).do is Do.PAUSE


def test_who_skips_steps_compares_with_what_the_others_did_before_it() -> None:
    """And if they did nothing, nobody is promoted by that."""
    for old, do in ((Counts(500, 500), Do.ROLL_BACK), (NO_COUNTS, Do.PAUSE)):
        rollout = begun()
        rollout.entered(0, Reading(0.5, NO_COUNTS, old))
        rollout.entered(1, Reading(1.0, NO_COUNTS, old))
        action = advance(rollout, Reading(20.0, Counts(110, 0, 110), old), HISTOGRAMS)
        assert action.do is (do if old.opened else Do.NOTHING)
        action = advance(rollout, Reading(110.0, Counts(150, 0, 150), old), HISTOGRAMS)
        assert action.do is do
    assert rollout.waits == "nothing to compare with: v1 had no connection before"


def test_it_goes_on_with_other_destinations() -> None:
    """A reload may bring or remove some; the new version has its exact share of them."""
    rollout = begun()
    rollout.adopt({"v1": 7, "v2": 1, "v4": 3})
    assert rollout.before == {"v1": 3, "v2": 0, "v4": 3}
    assert rollout.weights_of(0) == {"v1": 9, "v2": 2, "v4": 9}
    rollout.adopt({"v2": 1, "v4": 3})
    assert rollout.weights_of(0) == {"v2": 1, "v4": 9}
    with pytest.raises(ValueError, match="smaller weights first"):
        rollout.adopt({"v2": 1, "v4": 3, "v5": 999_983})
    assert rollout.back() == {"v2": 0, "v4": 3}


def test_what_is_too_much_for_the_state_file_is_left_out() -> None:
    """The oldest of what people are told, and never what a rollout goes on by."""
    told = {"time": 1.0, "step": 1, "text": "x" * 700}
    end = {"route": "r", "text": "y" * 600, "verdicts": [told] * saved.OF_AN_END}
    running = json.loads(json.dumps(saved.rollout_as_json(begun()))) | {"verdicts": [told] * 64}
    for routes in (1, 20, 200):
        state = {"rollouts": [running] * routes, "history": [end] * saved.MAX_SAVED}
        kept = json.loads(saved.fitted(state))
        assert len(kept["rollouts"]) == routes
        for each in kept["rollouts"]:
            assert each["verdicts"]
            assert each | {"verdicts": []} == running | {"verdicts": []}
        assert kept["history"]
    with pytest.raises(ValueError, match="too many are under way"):
        saved.fitted({"rollouts": [running] * 1000, "history": []})


def test_no_traffic_at_all_decides_nothing() -> None:
    rollout = begun()
    assert advance(rollout, Reading(99.0, *good(0, 0)), HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits == "waiting for 20 connections of v2: 0 so far"


def test_what_shadows_answered_is_told_and_not_judged() -> None:
    """Also by a control that has followed another one, of the same window."""
    plan = replace(PLAN, shadow=5.0)
    rollout = Rollout("r", plan, 1.0, {"v1": 3, "v2": 0}, {"v1": 3, "v2": 0})
    before = Counts(100, 100, agreed=90, given_up=4)
    rollout.entered(0, Reading(0.0, before, NO_COUNTS))
    old = Counts(30, 30)
    few = Reading(6.0, before + Counts(1, 1, given_up=8), old)
    assert advance(rollout, few, HISTOGRAMS).do is Do.NOTHING
    assert rollout.waits.startswith("waiting for 20 connections of v2: 1 so far")
    assert rollout.waits.endswith("; 0 of 1 answer of shadows agreed, 8 late or behind")
    rollout = saved.rollout_from(json.loads(json.dumps(saved.rollout_as_json(rollout))))
    many = Reading(6.0, before + Counts(30, 29, 1, agreed=2, resets=1), old)
    action = advance(rollout, many, HISTOGRAMS)
    assert (action.do, action.step) == (Do.STEP, 1)
    assert rollout.last is not None
    assert rollout.last.text.endswith("; 2 of 28 answers of shadows agreed")


def test_what_is_worse_is_rolled_back_before_it_has_baked() -> None:
    reading = Reading(0.5, Counts(3, 0, 3), Counts(297, 297))
    action = advance(begun(), reading, HISTOGRAMS)
    assert action.do is Do.ROLL_BACK
    assert action.text.startswith("v2: 3 of 3 connects failed, v1: 0 of 297; p = 2.2e-7 <")


def test_where_both_fail_it_pauses_and_is_never_promoted() -> None:
    reading = Reading(50.0, Counts(100, 0, 100), Counts(900, 0, 900))
    action = advance(begun(), reading, HISTOGRAMS)
    assert action.do is Do.PAUSE
    assert "v1 fails as well: 900 of its 900 connects failed" in action.text


@pytest.mark.parametrize(("old_serves", "do"), [(True, Do.ROLL_BACK), (False, Do.PAUSE)])
def test_one_that_is_out_of_service_is_rolled_back_unless_the_others_are_too(
    old_serves: bool, do: Do
) -> None:
    rollout, counts = begun(), good(1, 9)
    out = Reading(1.0, *counts, new_serves=False, old_serves=old_serves)
    assert advance(rollout, out, HISTOGRAMS).do is Do.NOTHING
    assert advance(rollout, Reading(2.0, *counts), HISTOGRAMS).do is Do.NOTHING  # it is back
    assert advance(rollout, out._replace(now=3.0), HISTOGRAMS).do is Do.NOTHING
    later = out._replace(now=3.0 + UNAVAILABLE_TIME)
    assert advance(rollout, later, HISTOGRAMS).do is do


def test_counters_that_begin_anew_begin_a_window() -> None:
    """After a start of the instance."""
    rollout = begun()
    rollout.entered(0, Reading(5.0, *good(100, 900)))
    assert advance(rollout, Reading(6.0, *good(2, 18)), HISTOGRAMS).do is Do.NOTHING
    assert (rollout.window_at, rollout.base_new.opened) == (6.0, 2)


def test_at_a_hundred_percent_it_is_compared_with_the_step_before() -> None:
    rollout = begun()
    rollout.entered(1, Reading(30.0, *good(50, 450)))
    new, old = rollout.window(Reading(40.0, Counts(90, 90), Counts(450, 450)))
    assert (new.opened, old.opened) == (40, 450)
    assert advance(rollout, Reading(41.0, *good(90, 450)), HISTOGRAMS).do is Do.PROMOTE
    bad = Reading(42.0, Counts(90, 70, 20), Counts(450, 450))
    rollout.judge = None
    assert advance(rollout, bad, HISTOGRAMS).do is Do.ROLL_BACK


def test_paused_it_does_nothing() -> None:
    rollout = begun()
    rollout.paused("by an operator")
    reading = Reading(1.0, Counts(30, 0, 30), Counts(297, 297))
    assert advance(rollout, reading, HISTOGRAMS).do is Do.NOTHING


# --- the plan -----------------------------------------------------------------------------------


def test_weights_are_the_least_that_have_the_share() -> None:
    assert weights_at(0.01, "v2", {"v1": 100, "v2": 0}) == {"v1": 99, "v2": 1}
    assert weights_at(0.005, "v2", {"v1": 1, "v2": 0}) == {"v1": 199, "v2": 1}
    assert weights_at(0.5, "v3", {"v1": 1, "v2": 2, "v3": 0}) == {"v1": 1, "v2": 2, "v3": 3}
    assert weights_at(1.0, "v2", {"v1": 7, "v2": 0}) == {"v1": 0, "v2": 1}
    with pytest.raises(ValueError, match="give the others smaller weights first"):
        weights_at(0.001, "v2", {"v1": 999_983, "v2": 0, "v3": 1})


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["shadow", "1%"], NO_SHADOW),
        (["shadow: 5m", "1%"], NO_SHADOW),
        ([{"shadow": "5m"}, "1%"], NO_SHADOW),
        (["100%"], "the first step has to be below 100%"),
        (["5%", "5%"], "steps that grow"),
        (["0%", "5%"], "steps that grow"),
        (["101%"], "expected a percentage"),
        ([], "expected 1..50 steps"),
    ],
)
def test_steps_that_make_no_sense(values: list[Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        steps(values)


def test_a_plan_comes_back_from_json() -> None:
    asked = {"to": "v2", "steps": ["1%", 0.5], "shadow": 300, "judge": {"resets": None}}
    plan = plan_from(asked, Plan(to=""))
    assert plan.shares == (0.0, 0.01, 0.5)
    assert plan_from(json.loads(json.dumps(as_json(plan))), Plan(to="")) == plan
    for values in ({"x": 1}, {"judge": {"x": 1}}, {"judge": 5}, {"steps": 5}, {"then": "x"},
                   {"shadow": "5m"}, {"bake": -1}, {"judge": {"resets": 2}},
                   {"to": 5}):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected|unknown"):
            plan_from(values, plan)


def test_what_a_rollout_can_not_begin_with() -> None:
    states = {"v1": "ready", "v2": "ready"}
    assert problem_of(PLAN, {"v1": 1, "v2": 0}, states) == ""
    assert "there are v1, v3" in problem_of(PLAN, {"v1": 1, "v3": 1}, states)
    assert "v2 has all connections already" in problem_of(PLAN, {"v1": 0, "v2": 1}, states)
    assert "v2 has 50% already" in problem_of(PLAN, {"v1": 1, "v2": 1}, states)
    drained = {**states, "v2": "draining"}
    assert problem_of(PLAN, {"v1": 1, "v2": 0}, drained) == "v2 is draining: enable it first"


# --- what is kept -------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def one() -> Rollout:
    rollout = begun()
    rollout.entered(0, Reading(7.5, Counts(5, 4, 1, 0, 1, (1, 0), (2, 3)), Counts(50, 50)))
    rollout.note(12.5, "10% to v2")
    rollout.state, rollout.reason = PAUSED, "by an operator"
    return rollout


def test_a_rollout_is_read_back_as_it_was(state: int) -> None:
    assert saved.read(state) == {}
    for number in range(5):
        saved.write(state, saved.packed({"n": number, "rollouts": [saved.rollout_as_json(one())]}))
        found = saved.read(state)
        assert found["n"] == number
        assert saved.rollout_from(found["rollouts"][0]) == one()


def test_a_write_that_is_cut_off_leaves_what_was_there_before(state: int) -> None:
    """At any byte of it."""
    saved.write(state, saved.packed({"n": 1}))
    saved.write(state, saved.packed({"n": 2}))
    before = os.pread(state, 2 * saved.HALF, 0)
    saved.write(state, saved.packed({"n": 3}))
    after = os.pread(state, 2 * saved.HALF, 0)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b]
    for cut in changed:
        os.pwrite(state, after[:cut] + before[cut:], 0)
        assert saved.read(state)["n"] in (2, 3)
    assert saved.read(state)["n"] == 2  # the last byte is missing


def test_no_corrupt_byte_is_believed(state: int) -> None:
    saved.write(state, saved.packed({"n": 1}))
    saved.write(state, saved.packed({"n": 2}))
    whole, random = os.pread(state, 2 * saved.HALF, 0), Random(8)
    for _ in range(200):
        at = random.choice([random.randrange(80), saved.HALF + random.randrange(80)])
        broken = bytearray(whole)
        broken[at % len(broken)] ^= 1 << random.randrange(8)
        os.pwrite(state, broken, 0)
        assert saved.read(state)["n"] in (1, 2)


def test_a_file_of_somebody_else_is_not_read(state: int) -> None:
    os.pwrite(state, b"hello" * 1000, 0)
    with pytest.raises(saved.Unreadable):
        saved.read(state)


def test_values_that_make_no_sense_are_refused() -> None:
    whole = saved.rollout_as_json(one())
    for key, value in {
        "step": 7, "state": "x", "windows": -1, "before": {"v1": -1}, "weights": {"v1": 1},
        "plan": {}, "base_new": {}, "verdicts": [1], "pending": "x", "route": None, "began": "x",
        "next_step": 2,
    }.items():  # fmt: skip
        with pytest.raises(saved.Unreadable):
            saved.rollout_from({**whole, key: value})
    with pytest.raises(saved.Unreadable):
        saved.rollout_from([])


def test_what_is_removed_can_not_be_written(state: int, tmp_path: Path) -> None:
    (tmp_path / "state").unlink()
    with pytest.raises(FileNotFoundError):
        saved.write(state, saved.packed({}))
    with pytest.raises(ValueError, match="more than the state file can hold"):
        saved.packed({"x": "x" * saved.HALF})
