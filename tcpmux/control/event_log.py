"""The events of the instance, as the master has told them. Runs in control."""

from __future__ import annotations

import asyncio
from typing import Any

from tcpmux.control.master_link import MasterLink

MAX_EVENTS = 1000


class EventLog:
    """A copy of what the master keeps. update() has it complete; those who wait() hear of more."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._more = asyncio.Event()
        self._updating = asyncio.Lock()

    @property
    def last(self) -> int:
        return int(self._events[-1]["seq"]) if self._events else 0

    def pushed(self) -> None:
        """There is more."""
        self._more.set()
        self._more = asyncio.Event()

    async def wait(self) -> None:
        await self._more.wait()

    async def update(self, master: MasterLink) -> None:
        """Asks for what is missing. Raises what MasterLink.request() raises."""
        async with self._updating:
            while True:
                new = (await master.request("events", since=self.last))["events"]
                if not new:
                    return
                self._events = [*self._events, *new][-MAX_EVENTS:]

    def after(self, seq: int) -> list[dict[str, Any]]:
        """Those later than number `seq`, the oldest first."""
        return [event for event in self._events if event["seq"] > seq]
