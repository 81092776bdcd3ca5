"""What the master does for rollouts, which control conducts: it takes their weights, and says when
nobody conducts them. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tcpmux.errors import listed
from tcpmux.master.duty import Duty
from tcpmux.master.weights import SetWeights

log = logging.getLogger("tcpmux.master")

ALONE_SECONDS = 30.0  # without control
MAX_NAMES = 20  # in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack(SetWeights):
    """Weights without the version that was not good enough."""

    cause = "rollback"


class RolloutWatch(Duty):
    """Says when rollouts go on without control: their weights stay, and nobody judges them.
    is_there: whether control is at work."""

    def __init__(self, is_there: Callable[[], bool]) -> None:
        self._is_there = is_there
        self._running: tuple[str, ...] = ()
        self._away_at: float | None = None
        self._said = False

    def running(self, routes: Iterable[str]) -> list[str]:
        """Those that are under way, as control says. Returns those that were before, and are not
        any more."""
        before, self._running = self._running, tuple(routes)
        return [route for route in before if route not in self._running]

    def due(self) -> float | None:
        if self._away_at is None or self._said or not self._running:
            return None
        return self._away_at + ALONE_SECONDS

    def do(self, now: float) -> None:
        if not self._running or self._is_there():
            self._away_at, self._said = None, False
            return
        if self._away_at is None:
            self._away_at = now
        elif not self._said and now >= self._away_at + ALONE_SECONDS:
            self._said = True
            log.warning(
                "control has been away for %g s: rollouts stay at their weights, and nobody judges "
                "them: %s",
                ALONE_SECONDS,
                listed(self._running, MAX_NAMES),
                extra={"event": "rollout"},
            )
