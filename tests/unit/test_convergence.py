"""Which live connections have to leave for the weights in force to hold, and who first."""

from __future__ import annotations

from random import Random

import pytest

from tcpmux.control.convergence import (
    IDLE,
    NO_RULE,
    OLDEST,
    RANDOM,
    Blocked,
    Candidate,
    Choice,
    Surplus,
    apportion,
    surplus,
)

V1, V2, V3 = 1, 2, 3  # slots of destinations
RULE = 7  # slot of a rule


def candidate(
    record: int,
    *,
    destination: int = V1,
    endpoint: int = 11,
    rule: int = NO_RULE,
    idle: int = 1000,
    age: int = 5000,
    last: bool = True,
) -> Candidate:
    return Candidate(0, record, 1, rule, destination, endpoint, idle, age, last)


def chosen(
    found: list[Candidate],
    wanted: Surplus | None = None,
    *,
    order: int = IDLE,
    most: int = 9,
    quiet: int = 300,
    late: bool = False,
    refusals: dict[object, int] | None = None,
) -> tuple[list[int], Blocked]:
    choice = Choice(
        wanted or Surplus({(NO_RULE, V1): 9}),
        quiet=quiet,
        order=order,
        most=most,
        random=Random(1),
        late=late,
        refusals=refusals or {},
    )
    for _ in choice.steps(found):
        pass
    return [one.record for one in choice.first()], choice.blocked


def at(counts: dict[int, int], rule: int = NO_RULE) -> dict[tuple[int, int, int], int]:
    """Counts by destination, each with one endpoint."""
    return {(rule, slot, slot + 10): count for slot, count in counts.items()}


@pytest.mark.parametrize("total", [0, 1, 7, 100, 9999])
def test_shares_add_up_and_are_off_by_less_than_one(total: int) -> None:
    weights = {V1: 1, V2: 0, V3: 33, 4: 66}
    shares = apportion(total, weights, {})
    assert sum(shares.values()) == total
    assert shares[V2] == 0
    for slot, weight in weights.items():
        assert abs(shares[slot] - total * weight / 100) < 1


def test_equal_remainders_go_to_who_has_them_already() -> None:
    assert apportion(3, {V1: 1, V2: 1}, {V1: 1, V2: 2}) == {V1: 1, V2: 2}
    assert surplus(at({V1: 1, V2: 2}), {NO_RULE: {V1: 1, V2: 1}}).by_destination == {}


def test_only_what_is_more_than_a_share_leaves() -> None:
    found = surplus(at({V1: 100}), {NO_RULE: {V1: 80, V2: 20}})
    assert found.places == {(NO_RULE, V1): 20}
    assert found.by_destination == {V1: 20}
    assert found.total == 100


def test_a_destination_without_a_share_keeps_none_whatever_the_tolerance() -> None:
    weights = {NO_RULE: {V1: 0, V2: 1, V3: 1}}
    found = surplus(at({V1: 2, V2: 11, V3: 8}), weights, tolerance=1)
    assert found.by_destination == {V1: 2}
    found = surplus(at({V1: 2, V2: 14, V3: 5}), weights, tolerance=1)
    assert found.by_destination == {V1: 2, V2: 3}


def test_a_split_without_weight_is_left_alone() -> None:
    found = surplus(at({V1: 5}), {NO_RULE: {V1: 0, V2: 0}})
    assert (found.by_destination, found.stuck) == ({}, 5)


def test_nobody_of_a_split_without_weight_leaves_an_endpoint_that_is_out_of_service() -> None:
    splits = {NO_RULE: {V1: 0, V2: 0}, RULE: {V1: 1, V2: 0}}
    found = surplus({**at({V1: 2}), **at({V1: 2}, RULE)}, splits, [V1 + 10])
    assert (found.by_destination, found.stuck) == ({V1: 2}, 2)
    both = [candidate(1), candidate(2, rule=RULE)]
    assert chosen(both, found)[0] == [2]


def test_a_destination_that_is_gone_keeps_none() -> None:
    assert surplus(at({V3: 5}), {NO_RULE: {V1: 1}}).by_destination == {V3: 5}


def test_each_split_is_planned_by_itself() -> None:
    splits = {NO_RULE: {V1: 1, V2: 0}, RULE: {V1: 0, V2: 1}}
    counts = {**at({V1: 5, V2: 1}), **at({V1: 3, V2: 2}, RULE)}
    found = surplus(counts, splits)
    assert found.places == {(NO_RULE, V2): 1, (RULE, V1): 3}
    assert found.by_destination == {V1: 3, V2: 1}


def test_connections_of_a_rule_that_is_gone_are_of_the_route() -> None:
    counts = {**at({V1: 5}), **at({V2: 5}, RULE)}
    assert surplus(counts, {NO_RULE: {V1: 1, V2: 1}}).by_destination == {}


def test_all_leave_an_endpoint_that_is_out_of_service() -> None:
    counts = {(NO_RULE, V1, 11): 4, (NO_RULE, V1, 12): 4, (NO_RULE, V2, 13): 8}
    found = surplus(counts, {NO_RULE: {V1: 1, V2: 1}}, [11])
    assert found.places == {}
    assert found.by_destination == {V1: 4}
    assert found.leaves(candidate(1, endpoint=11))
    assert not found.leaves(candidate(1, endpoint=12))


def test_longest_idle_first_then_by_record() -> None:
    found = [candidate(3, idle=900), candidate(1, idle=900), candidate(2, idle=5000)]
    assert chosen(found)[0] == [2, 1, 3]


def test_those_that_were_refused_least_often_go_first() -> None:
    """A half-closed connection looks idle for ever; it must not keep the others."""
    found = [candidate(1, idle=9000), candidate(2, idle=900), candidate(3, idle=800)]
    refusals: dict[object, int] = {(0, 1, 1): 2, (0, 2, 1): 1}
    assert chosen(found, refusals=refusals)[0] == [3, 2, 1]
    assert chosen(found, refusals=refusals, most=1)[0] == [3]


def test_oldest_first_and_at_random() -> None:
    found = [candidate(n, idle=1000 * n, age=100_000 - n) for n in range(40)]
    assert chosen(found, order=OLDEST, most=3, quiet=0)[0] == [0, 1, 2]
    some = chosen(found, Surplus({(NO_RULE, V1): 40}), order=RANDOM, most=40, quiet=0)[0]
    assert sorted(some) == [*range(40)]
    assert some != sorted(some)


def test_who_waits_for_an_answer_or_is_busy_is_not_chosen_but_counted() -> None:
    found = [candidate(1, last=False), candidate(2, idle=299), candidate(3)]
    assert chosen(found) == ([3], Blocked(busy=1, unanswered=1))


def test_after_the_deadline_all_are() -> None:
    found = [candidate(1, last=False), candidate(2, idle=0), candidate(3)]
    assert chosen(found, late=True)[0] == [1, 3, 2]


def test_no_place_loses_more_than_its_surplus() -> None:
    wanted = Surplus({(NO_RULE, V1): 2, (RULE, V1): 1})
    found = [candidate(n) for n in range(10)]
    found += [candidate(n, rule=RULE) for n in range(10, 20)]
    found += [candidate(n, destination=V2) for n in range(20, 30)]
    assert chosen(found, wanted)[0] == [0, 1, 10]
    assert len(chosen(found, wanted, most=2)[0]) == 2


def test_the_best_are_found_among_thousands() -> None:
    """They are compared in parts."""
    found = [candidate(n, idle=1000 + n * 7919 % 5000) for n in range(5000)]
    best = sorted(found, key=lambda one: -one.idle)[:5]
    assert chosen(found, most=5)[0] == [one.record for one in best]
