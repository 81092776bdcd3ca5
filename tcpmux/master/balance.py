"""Rebalancing: workers with many more connections than the others hand some over.

Which worker a connection comes to is decided by a hash in the kernel; of a hundred long-lived ones
over four workers the fullest has a fifth more than its share. A worker tells when it has grown;
then the master looks, for as long as there is something to be moved. Runs in the master.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from tcpmux.master.duty import Duty
from tcpmux.master.workers import Workers

log = logging.getLogger("tcpmux.master")

SETTLE_TIME = 0.1  # s between two looks; what is moved is older than that
MAX_ROUNDS = 10  # after which it is left until a worker grows again
MIN_SURPLUS = 2  # connections
SURPLUS_SHARE = 0.05  # of the mean


def plan_moves(counts: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(giver, taker, how many connections), for the workers' counts by id.

    Nothing is moved for a surplus of at most MIN_SURPLUS or SURPLUS_SHARE of the mean.
    """
    if len(counts) < 2:
        return []
    mean = sum(counts.values()) / len(counts)
    slack = max(MIN_SURPLUS, mean * SURPLUS_SHARE)
    if max(counts.values()) <= mean + slack:
        return []
    # The remainder stays with those that have most.
    fair, more = divmod(sum(counts.values()), len(counts))
    order = sorted(counts, key=lambda worker: (-counts[worker], worker))
    share = {worker: fair + (rank < more) for rank, worker in enumerate(order)}
    giving = {w: counts[w] - share[w] for w in order if counts[w] > share[w]}
    taking = {w: share[w] - counts[w] for w in reversed(order) if counts[w] < share[w]}
    moves = []
    for giver, surplus in giving.items():
        left = surplus
        for taker in [w for w, room in taking.items() if room]:
            number = min(left, taking[taker])
            if number:
                moves.append((giver, taker, number))
                taking[taker] -= number
                left -= number
    return moves


class Balance(Duty):
    """When to look, and what to do then."""

    rests_while_stopping = True

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._due: float | None = None  # monotonic, s
        self._looks = 0

    def due(self) -> float | None:
        return self._due

    def do(self, now: float) -> None:
        """Moves connections if it is time to and there is something to be moved."""
        if self._workers.take_growth():
            self._looks = MAX_ROUNDS
            self._due = self._due or now + SETTLE_TIME
        if self._due is None or now < self._due:
            return
        self._looks -= 1
        counts = {w.id: w.live.connections for w in self._workers.serving if w.is_present}
        moves = plan_moves(counts)
        for giver, taker, number in moves:
            self._workers.move(giver, taker, number)
        if moves:
            log.debug("moving connections (from, to, how many): %s", moves)
        self._due = time.monotonic() + SETTLE_TIME if moves and self._looks > 0 else None
