"""Connections that are to go on with another endpoint while their clients stay: to where each goes,
and what has become of the orders. Runs in control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.control.convergence import Candidate, Homes, Surplus
from tcpmux.shm._connections import whereabouts

if TYPE_CHECKING:
    from tcpmux.control.pacing import Pace
    from tcpmux.shm._live import Live


class Move(NamedTuple):
    """An order. destination, endpoint: slots of where it was then; to: of the destination."""

    worker: int
    record: int
    generation: int
    destination: int
    endpoint: int
    to: int

    @property
    def id(self) -> str:
        return f"{self.worker}-{self.record}-{self.generation}"


def moves_of(
    wanted: Surplus,
    chosen: Iterable[Candidate],
    own: Mapping[Candidate, int | None],
    outstanding: Iterable[object] = (),
) -> list[Move]:
    """own: where a client's key says that it belongs; others go where the most are lacking, while
    any are. Those of outstanding orders are not moved twice, and take their places."""
    homes = Homes(wanted)
    under_way = {move[:3]: move.to for move in outstanding if isinstance(move, Move)}
    found = []
    for one in chosen:
        to = under_way.get((one.worker, one.record, one.generation))
        if to is not None:
            homes.take(one.rule, to)
            continue
        to = own.get(one)
        if to is None:
            to = homes.next(one)
        if to is not None:
            place = one.destination, one.endpoint
            found.append(Move(one.worker, one.record, one.generation, *place, to))
    return found


def account(lives: Sequence[Live], pace: Pace, now: float) -> None:
    """Which have been carried out since. One whose connect is under way is not over."""
    for key in pace.outstanding:
        if not isinstance(key, Move):
            continue
        found = whereabouts(lives[key.worker], key.record, key.generation)
        if found is None or found[:2] != (key.destination, key.endpoint):
            pace.seen(key, now)
        elif found[2]:
            pace.ordered(key, now)
