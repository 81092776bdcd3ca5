"""Where a host of a fleet begins in a split, so that all hosts together are exact as well. Runs in
the master.

Each host has a place, a number that no other one has (control/fleet/hosts.py). Its first connection
after a change falls on the position S x v of the split, where v is the place's number in the van
der Corput sequence (0, 1/2, 1/4, 3/4, 1/8, ...): however many hosts there are, these divide the
split evenly. From there each host goes on by itself, exact over any S consecutive connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tcpmux.shm._commons import Commons
from tcpmux.shm._pick import pick_plan
from tcpmux.shm.image import Image

NO_PLACE = -1


class _Split(NamedTuple):
    ticket: int
    weights: tuple[int, ...]


def van_der_corput(number: int, whole: int) -> int:
    """The part of `whole` that is before the number's place in the sequence."""
    part, unit = 0, 1
    while number:
        part, unit, number = part * 2 + number % 2, unit * 2, number // 2
    return whole * part // unit


def first_ticket(weights: Sequence[int], place: int) -> tuple[int, int]:
    """(a ticket by which a host with that place begins, the period), (0, 0) if none has weight."""
    period, stride, _ = pick_plan(weights)
    if period <= 1:
        return 0, period
    return van_der_corput(place, period) * pow(stride, -1, period) % period, period


class FleetPlace:
    """That of this host. place: NO_PLACE = not known, and then nothing is done."""

    def __init__(self, commons: Commons) -> None:
        self._commons = commons
        self.place = NO_PLACE

    def take(self, place: int, image: Image, routes: frozenset[str]) -> None:
        """The fleet has given it; routes: those of the fleet."""
        if place != self.place:
            self.place = place
            self.follow(Image((), ()), image, routes)

    def follow(self, before: Image, after: Image, routes: frozenset[str]) -> None:
        """After that image has been put in force: splits that divide otherwise begin anew. What
        workers take meanwhile is off by a few tickets, and exact even so."""
        if self.place < 0 or not routes:
            return
        known = {split.ticket: split.weights for split in _splits(before, routes)}
        for split in _splits(after, routes):
            if known.get(split.ticket) == split.weights:
                continue
            wanted, period = first_ticket(split.weights, self.place)
            if period > 1:
                now = self._commons.next_ticket(split.ticket)
                self._commons.advance_ticket(split.ticket, (wanted - now) % period)


def _splits(image: Image, routes: frozenset[str]) -> Iterator[_Split]:
    for route in image.routes:
        if route.name in routes:
            yield _Split(route.ticket, tuple(d.effective_weight for d in route.destinations))
            for rule in route.pick_rules:
                yield _Split(rule.ticket, rule.effective_weights)
