"""What is to be moved so that live connections follow the weights in force: a plan, no more.

Pure functions of what is counted in shared memory, so that a restart misses nothing. Each split is
planned by itself: the route's own weights, and those of each rule of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import NamedTuple

Split = Mapping[int, int]  # destination slot -> weight in force
Place = tuple[int, int]  # rule slot, destination slot


class Candidate(NamedTuple):
    """A relayed connection, as shared memory has it. Times: ms."""

    worker: int
    record: int
    generation: int
    destination: int
    rule: int
    idle: int
    age: int
    endpoint_spoke_last: bool

    @property
    def place(self) -> Place:
        return self.rule, self.destination


def apportion(total: int, weights: Split, present: Mapping[int, int]) -> dict[int, int]:
    """`total` by weight, by largest remainder. Equal remainders: to whoever has more already, so
    that as few as possible move; then by slot. {} where nothing has weight."""
    whole = sum(weights.values())
    if not whole:
        return {}
    shares = {slot: total * weight // whole for slot, weight in weights.items()}
    first = sorted(
        weights,
        key=lambda slot: (-(total * weights[slot] % whole), -present.get(slot, 0), slot),
    )
    for slot in first[: total - sum(shares.values())]:
        shares[slot] += 1
    return shares


def surplus(counts: Mapping[Place, int], splits: Mapping[int, Split]) -> dict[Place, int]:
    """How many are to leave each place; only places with any. splits: by rule slot.

    A destination that its split does not have keeps none. A split that is not known, or without
    weight, is left alone: its clients would be refused.
    """
    found: dict[Place, int] = {}
    for rule, weights in splits.items():
        present = {slot: count for (of, slot), count in counts.items() if of == rule}
        shares = apportion(sum(present.values()), weights, present)
        if shares:
            for slot, count in sorted(present.items()):
                if count > shares.get(slot, 0):
                    found[rule, slot] = count - shares.get(slot, 0)
    return found


def chosen(
    candidates: Iterable[Candidate],
    leaving: Mapping[Place, int],
    *,
    quiet: int,
    order: str,
    most: int,
    random: Random,
) -> list[Candidate]:
    """The connections to end now: at most `most`, and of no place more than its surplus. Only those
    that have been quiet for `quiet` ms and whose endpoint spoke last: their clients wait for
    nothing."""
    fit = [each for each in candidates if each.endpoint_spoke_last and each.idle >= quiet]
    fit.sort(key=lambda each: each[:3])
    if order == "idle":
        fit.sort(key=lambda each: -each.idle)
    elif order == "oldest":
        fit.sort(key=lambda each: -each.age)
    else:
        random.shuffle(fit)
    left = dict(leaving)
    picked: list[Candidate] = []
    for each in fit:
        if len(picked) >= most:
            break
        if left.get(each.place, 0) > 0:
            left[each.place] -= 1
            picked.append(each)
    return picked
