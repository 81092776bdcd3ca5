"""Says that connections go round: csrc/trace.h. Runs in the master."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from tcpmux.master.workers import Workers
from tcpmux.shm._readings import Counters
from tcpmux.shm.image import Image

log = logging.getLogger("tcpmux.master")

SAY_AGAIN = 60.0  # s, of the same route


@dataclass(slots=True)
class Loops:
    workers: Workers
    _said: dict[str, float] = field(default_factory=dict)  # route -> monotonic time

    def look(self, image: Image, now: float | None = None) -> None:
        """Says what workers have met with since the last call. now: monotonic."""
        found = self.workers.take_loops()
        if not found:
            return
        now = time.monotonic() if now is None else now
        self._said = {name: at for name, at in self._said.items() if now - at < SAY_AGAIN}
        for listener in image.listeners:
            route = image.routes[listener.route]
            if listener.id in found and route.name not in self._said:
                self._said[route.name] = now
                count = Counters(self.workers.lives).slot(route.slot).looped
                log.error(
                    "%s: connections go round in a loop: those that come back on %s are reset "
                    "(%d so far); an endpoint leads there, by a NAT or another name",
                    route.name,
                    listener.address,
                    count,
                )
