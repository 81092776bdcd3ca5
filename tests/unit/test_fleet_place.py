"""Where the hosts of a fleet begin in a split: together they are as exact as one."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tcpmux.config.fleet import FleetState
from tcpmux.master.fleet_place import NO_PLACE, FleetPlace, first_ticket, van_der_corput
from tcpmux.shm._commons import Commons
from tcpmux.shm._pick import pick
from tcpmux.shm.image import Image


def test_places_divide_the_whole_evenly() -> None:
    assert [van_der_corput(n, 16) for n in range(8)] == [0, 8, 4, 12, 2, 10, 6, 14]
    assert van_der_corput(5, 0) == 0


@pytest.mark.parametrize("weights", [(80, 20), (99, 1), (1, 1), (1, 1, 1), (5, 3, 2), (1000, 7)])
@pytest.mark.parametrize("hosts", [1, 2, 3, 5, 10, 64, 100])
def test_hosts_with_one_connection_each_have_the_split(
    hosts: int, weights: tuple[int, ...]
) -> None:
    """Off by no more than the logarithm of their number allows: one, and one for each doubling."""
    firsts = [first_ticket(weights, place)[0] for place in range(hosts)]
    got = Counter(pick(weights, ticket) for ticket in firsts)
    most = 1 + hosts.bit_length() / 2
    for at, weight in enumerate(weights):
        assert abs(got[at] - hosts * weight / sum(weights)) <= most


@pytest.mark.parametrize("weights", [(80, 20), (3, 2), (5, 3, 2)])
def test_connections_that_go_round_the_hosts_are_exact_in_all(weights: tuple[int, ...]) -> None:
    """And each host of them."""
    hosts, (_, period) = 5, first_ticket(weights, 0)
    of_each = [
        Counter(pick(weights, first_ticket(weights, place)[0] + n) for n in range(period))
        for place in range(hosts)
    ]
    share = {at: weight * period // sum(weights) for at, weight in enumerate(weights)}
    assert all(dict(got) == share for got in of_each)


@pytest.mark.parametrize("weights", [(80, 20), (99, 1), (1, 1, 1), (5, 3, 2)])
def test_a_hundred_connections_at_random_are_off_by_one_a_host(weights: tuple[int, ...]) -> None:
    """Whichever host each comes to."""
    chance, hosts = random.Random(7), 5
    for _ in range(200):
        at_host = Counter(chance.randrange(hosts) for _ in range(100))
        for place, count in at_host.items():
            first = first_ticket(weights, place)[0]
            got = Counter(pick(weights, first + n) for n in range(count))
            for at, weight in enumerate(weights):
                assert abs(got[at] - count * weight / sum(weights)) < 2


def test_without_a_place_tickets_stay() -> None:
    place = FleetPlace(Commons.create())
    assert place.place == NO_PLACE
    place.follow(Image((), ()), Image((), ()), frozenset({"r"}))
    assert FleetState().epoch == 0


def test_a_ticket_is_moved_on() -> None:
    commons = Commons.create()
    commons.advance_ticket(3, 5)
    assert commons.next_ticket(3) == 5
    with pytest.raises(IndexError):
        commons.advance_ticket(1 << 30, 1)
    with pytest.raises(IndexError):
        commons.next_ticket(1 << 30)
