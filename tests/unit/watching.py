"""Health over real shared memory and real endpoints, without a proxy: the master is this process,
and what workers note is noted by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

from tcpmux.config import Check, Passive
from tcpmux.config.address import Address
from tcpmux.config.checks import Watch, to_message
from tcpmux.control.condition import Condition as ShownCondition
from tcpmux.control.conditions import Conditions
from tcpmux.control.health import Health
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.names import HostNames
from tcpmux.shm._commons import Commons
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.image import HEALTHS, DestinationRow, EndpointRow, Image, RouteRow
from tcpmux.shm.rules import DestinationRules, RouteRules
from tcpmux.shm.serving import Condition, with_conditions, with_turns_and_weights
from tcpmux.shm.slots import Key
from tcpmux.shm.view import View
from tests.support import DEADLINE


def conditions_of(view: View) -> Conditions:
    """As a control process has them that has just begun."""
    return Conditions(view, Health(view), HostNames())


TICK = 0.005  # s
PASSIVE = Passive(ejection_time=0.05, interval=0.05)


def endpoint(slot: int, address: str, **more: Any) -> EndpointRow:
    return EndpointRow(Address.parse(address), slot, 1, **more)


def destination(
    slot: int, name: str, weight: int, *endpoints: EndpointRow, **rules: Any
) -> DestinationRow:
    return DestinationRow(
        name, weight, weight, 0, slot, slot, 1, endpoints, rules=DestinationRules(**rules)
    )


def route(*destinations: DestinationRow, **rules: Any) -> RouteRow:
    return with_turns_and_weights(RouteRow("r", 0, 0, 1, destinations, RouteRules(**rules)))


class Watching:
    """The master's side of Health, for one route. texts: what it has been told."""

    def __init__(self, row: RouteRow, watches: dict[str, Watch]) -> None:
        self.commons = Commons.create()
        self.table = Table.create(1, 1, os.getpid(), 5)
        self._live = Live.create(0, 16)
        self._watches = watches
        self.image = Image((row,), ())
        publish_image(self.table, self.image)
        view = View(self.table.fd, [self._live.fd], commons_fd=self.commons.fd)
        self.view = view
        self.health = Health(view)
        self.conditions = Conditions(view, self.health, HostNames())
        self.gone = False
        self.refuses = False
        self.texts: list[str] = []
        self.levels: list[tuple[int, str]] = []  # the texts, with the level of each
        self.faults: list[str] = []

    async def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.refuses:
            raise MasterRefused("refused", "no")
        if verb == "checks":
            names = list(self._watches)
            return {
                "watches": [to_message(self._watches[name]) for name in names],
                "checks": [["r", name, number] for number, name in enumerate(names)],
                "next": None,
            }
        assert verb == "conditions"
        conditions: dict[Key, Condition] = {}
        for name, destination_name, address, health, ramp in arguments["conditions"]:
            key = (name, destination_name) + ((address,) if address is not None else ())
            conditions[key] = health, ramp
        image = with_conditions(self.image, conditions)
        if image != self.image:
            publish_image(self.table, image)
        self.image = image
        self.texts += [text for _, text, _ in arguments["texts"]]
        self.levels += [(level, text) for level, text, _ in arguments["texts"]]
        return {}

    def watch_anew(self, watches: dict[str, Watch]) -> None:
        self._watches = watches
        self.health.pushed()

    def condition(self, destination: str = "", address: str = "") -> ShownCondition:
        """As a look at everything finds it now; of the route or of a part of it."""
        for _ in self.conditions.looking():
            pass
        found = self.conditions.of("r")
        assert found is not None
        if not destination:
            return found.own
        at = found.destinations[destination]
        return at.endpoints[address] if address else at.own

    # --- what is in force ---------------------------------------------------------------------

    def healths(self) -> list[str]:
        return [HEALTHS[e.health] for d in self.image.routes[0].destinations for e in d.endpoints]

    def shares(self) -> list[int]:
        return [d.effective_weight for d in self.image.routes[0].destinations]

    def said(self, text: str, level: int | None = None) -> bool:
        return any(text in each and level in (None, at) for at, each in self.levels)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        end = asyncio.get_running_loop().time() + DEADLINE
        while not condition():
            assert asyncio.get_running_loop().time() < end, (what, self.healths(), self.texts)
            await asyncio.sleep(0.002)

    async def looks(self, count: int = 3) -> None:
        """So many turns of it, in which what is to happen would have happened."""
        seen = self.health.ticks
        await self.until(lambda: self.health.ticks >= seen + count, "it to look")


def watched(
    row: RouteRow,
    scenario: Callable[[Watching], Awaitable[None]],
    *,
    check: Check | None = None,
    passive: Passive = PASSIVE,
    **watches: Watch,
) -> Watching:
    """Runs `scenario` while Health looks at the route. Asserts that no task of it has had a
    fault."""
    every = {d.name: Watch(check, passive, 0.0, 10) for d in row.destinations} | watches
    watching = Watching(row, every)

    async def run() -> None:
        watching.health.start(watching, watching.faults.append)  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(scenario(watching), 4 * DEADLINE)
        finally:
            await watching.health.close()

    with patch("tcpmux.control.health.TICK", TICK):
        asyncio.run(run())
    assert watching.faults == []
    return watching
