"""Tells of TLVs of PROXY headers for which there was no room. Runs in control."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tcpmux.errors import plural
from tcpmux.shm._declared import TLVS_MAX
from tcpmux.shm.stats import is_first_control

if TYPE_CHECKING:
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

LOOK = 1.0  # s
FIRST_PAUSE, MAX_PAUSE = 60.0, 3600.0  # s between two lines; each is twice the one before


class LeftOut:
    """A line when it begins, and then at ever longer intervals while it goes on."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._told = 0 if is_first_control(view.table) else self._count()
        self._next, self._pause = 0.0, FIRST_PAUSE

    def _count(self) -> int:
        return sum(live.counters()["proxy_tlvs_dropped"] for live in self._view.lives)

    async def run(self) -> None:
        """Looks, until it is cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(LOOK)

    def look(self, now: float) -> None:
        """At what has happened since the last line. now: monotonic."""
        if now < self._next:
            return
        count = self._count()
        if count <= self._told:
            self._pause = FIRST_PAUSE
            return
        log.warning(
            "%s of PROXY headers left out: those to be kept of one header are longer than %d bytes "
            "(accept_proxy.keep, send_proxy.pass, rules, sticky); where rules are about them, the "
            "connection is reset",
            plural(count - self._told, "TLV"),
            TLVS_MAX,
        )
        self._told, self._next = count, now + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE)
