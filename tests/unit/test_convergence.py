"""Which live connections have to leave for the weights in force to hold, and who first."""

from __future__ import annotations

from random import Random

import pytest

from tcpmux.control.convergence import Candidate, apportion, chosen, surplus


def candidate(
    index: int, *, destination: int = 0, idle: int = 1000, age: int = 5000, last: bool = True
) -> Candidate:
    return Candidate(0, index, 1, destination, 0, idle, age, last)


def indexes(
    found: list[Candidate], leaving: int = 9, order: str = "idle", most: int = 9, quiet: int = 300
) -> list[int]:
    places = {(0, 0): leaving}
    picked = chosen(found, places, quiet=quiet, order=order, most=most, random=Random(1))
    return [each.record for each in picked]


@pytest.mark.parametrize("total", [0, 1, 7, 100, 9999])
def test_shares_add_up_and_are_off_by_less_than_one(total: int) -> None:
    weights = {0: 1, 1: 0, 2: 33, 3: 66}
    shares = apportion(total, weights, {})
    assert sum(shares.values()) == total
    assert shares[1] == 0
    for slot, weight in weights.items():
        assert abs(shares[slot] - total * weight / 100) < 1


def test_equal_remainders_go_to_who_has_them_already() -> None:
    assert apportion(3, {0: 1, 1: 1}, {0: 1, 1: 2}) == {0: 1, 1: 2}
    assert surplus({(0, 0): 1, (0, 1): 2}, {0: {0: 1, 1: 1}}) == {}


def test_only_the_surplus_leaves() -> None:
    assert surplus({(0, 0): 100}, {0: {0: 90, 1: 10}}) == {(0, 0): 10}
    assert surplus({(0, 0): 90, (0, 1): 10}, {0: {0: 90, 1: 10}}) == {}


def test_splits_do_not_make_up_for_each_other() -> None:
    counts = {(0, 0): 10, (1, 1): 10}
    assert surplus(counts, {0: {0: 1, 1: 1}, 1: {0: 1, 1: 0}}) == {(0, 0): 5, (1, 1): 10}


def test_a_destination_without_weight_or_gone_keeps_none() -> None:
    counts = {(0, 0): 4, (0, 1): 3, (0, 7): 2}
    assert surplus(counts, {0: {0: 0, 1: 1}}) == {(0, 0): 4, (0, 7): 2}


def test_where_nothing_has_weight_or_the_split_is_unknown_all_stay() -> None:
    assert surplus({(0, 0): 4, (5, 0): 4}, {0: {0: 0, 1: 0}}) == {}


def test_clients_that_wait_and_busy_ones_are_not_chosen() -> None:
    found = [candidate(1, last=False), candidate(2, idle=299), candidate(3, idle=300)]
    assert indexes(found) == [3]


def test_orders() -> None:
    found = [
        candidate(3, idle=500, age=900),
        candidate(1, idle=700, age=800),
        candidate(2, idle=500, age=900),
    ]
    assert indexes(found) == [1, 2, 3]
    assert indexes(found, order="oldest") == [2, 3, 1]
    many = [candidate(index) for index in range(9)]
    shuffled = indexes(many, order="random")
    assert sorted(shuffled) == list(range(9)) != shuffled


def test_never_more_than_the_surplus_of_each_place_or_the_most() -> None:
    found = [candidate(index, destination=index % 2) for index in range(20)]
    leaving = {(0, 0): 3, (0, 1): 1}
    picked = chosen(found, leaving, quiet=0, order="idle", most=9, random=Random(1))
    assert [each.destination for each in picked].count(0) == 3
    assert len(picked) == 4
    assert len(indexes(found, most=2)) == 2
    assert indexes(found, most=0) == []
