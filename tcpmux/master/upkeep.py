"""Changes whose time has come: states of endpoints that end, routes that nobody can serve any more,
or can again. Runs in the master."""

from __future__ import annotations

import logging
import time

from tcpmux.errors import TcpmuxError
from tcpmux.master.changes import Changes
from tcpmux.master.duty import Duty, earliest
from tcpmux.master.observed import SetRefusing, to_refuse
from tcpmux.master.states import EndStates, next_end
from tcpmux.shm.image import Image

log = logging.getLogger("tcpmux.master")

RETRY_SECONDS = 1.0  # after what could not be done


class Upkeep(Duty):
    """Looks an image over once."""

    rests_while_stopping = True

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._seen: Image | None = None
        self._next_end = 0  # of a state in that image; Unix time, s; 0 = none
        self._to_refuse: frozenset[str] = frozenset()
        self._not_before = 0.0  # monotonic

    def _look(self) -> None:
        image = self._changes.in_force.image
        if image is not self._seen:
            self._seen = image
            self._next_end, self._to_refuse = next_end(image), to_refuse(image)

    def due(self) -> float | None:
        self._look()
        end = refusals = None
        if self._next_end:
            end = max(self._not_before, time.monotonic() + self._next_end - time.time())
        if self._to_refuse != self._changes.in_force.refusing:
            refusals = self._not_before
        return earliest(end, refusals)

    def do(self, now: float) -> None:
        if now < self._not_before:
            return
        self._look()
        try:
            unix = time.time()
            if self._next_end and unix >= self._next_end:
                self._changes.apply(EndStates(now=unix, by="its time has expired"))
                self._look()
            if self._to_refuse != self._changes.in_force.refusing:
                self._changes.apply(SetRefusing(routes=self._to_refuse))
        except TcpmuxError as error:
            log.warning("%s", error)
            self._not_before = now + RETRY_SECONDS
