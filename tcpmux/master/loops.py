"""Reports connections that are forwarded in a loop: csrc/trace.h. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tcpmux.master.duty import Duty
from tcpmux.master.workers import Workers
from tcpmux.shm._readings import Counters
from tcpmux.shm.image import Image

log = logging.getLogger("tcpmux.master")

REPEAT_SECONDS = 60.0  # s, of the same route


class Loops(Duty):
    """Says what workers have met with since the last time. image: the one in force."""

    def __init__(self, workers: Workers, image: Callable[[], Image]) -> None:
        self._workers = workers
        self._image = image
        self._said: dict[str, float] = {}  # route -> monotonic time

    def do(self, now: float) -> None:
        found = self._workers.take_loops()
        if not found:
            return
        image = self._image()
        self._said = {name: at for name, at in self._said.items() if now - at < REPEAT_SECONDS}
        for listener in image.listeners:
            route = image.routes[listener.route]
            if listener.id in found and route.name not in self._said:
                self._said[route.name] = now
                count = Counters(self._workers.lives).slot(route.slot).looped
                log.error(
                    "%s: connections are forwarded in a loop: those that come back to %s are "
                    "reset (%d so far); an endpoint of the route leads there, through NAT or "
                    "another address",
                    route.name,
                    listener.address,
                    count,
                )
