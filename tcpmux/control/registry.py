"""Which endpoints there are, and how each is to be watched. Runs in control.

What is in force is in the route table; a new control process goes on from there. How endpoints are
watched the master tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tcpmux.config import Address, Check
from tcpmux.config.checks import Watch, from_message
from tcpmux.control.endpoint import NO_WATCH, Endpoint, Key
from tcpmux.control.slow_start import DestinationStarts, resumed, share_step
from tcpmux.shm.image import DOWN, EJECTED, FULL_SHARE, HEALTHY, EndpointRow, Image, RouteRow

if TYPE_CHECKING:
    from tcpmux.control.master_link import MasterLink
    from tcpmux.shm.view import View

Watches = dict[tuple[str, str], Watch]  # by route and destination


async def ask_for_watches(master: MasterLink) -> Watches:
    """All of them, in as many answers as it takes. Raises TcpmuxError."""
    watches: Watches = {}
    first: int | None = 0
    while first is not None:
        answer = await master.request("checks", first=first)
        told = list(map(from_message, answer["watches"]))
        for route, destination, number in answer["checks"]:
            watches[route, destination] = told[number]
        first = answer["next"]
    return watches


class Registry:
    """Those of the route table. check_soon: has one checked that has a new check."""

    def __init__(self, view: View, check_soon: Callable[[Endpoint, Check, float], None]) -> None:
        self.endpoints: dict[Key, Endpoint] = {}
        self.routes: dict[str, RouteRow] = {}
        self.starts = DestinationStarts()
        # What has to be looked at each time: not up, or not yet as if nothing had happened. Most
        # are healthy and are not in it.
        self.unsettled: set[Endpoint] = set()
        self._view = view
        self._check_soon = check_soon
        self._watches: Watches = {}
        self._seen: Image | None = None

    def set_watches(self, watches: Watches) -> None:
        self._watches = watches
        self._seen = None  # every endpoint is looked at again

    def refresh(self, now: float) -> bool:
        """Takes over what the route table says. False: nothing has changed."""
        _, image = self._view.image()
        if image is self._seen:
            return False
        self._seen = image
        before, self.endpoints = self.endpoints, {}
        unsettled, self.unsettled = self.unsettled, set()
        self.routes = {route.name: route for route in image.routes}
        self.starts.begin_image()
        for route in image.routes:
            for row in route.destinations:
                watch = self._watches.get((route.name, row.name), NO_WATCH)
                self.starts.add(route, row, watch, now)
                for endpoint in row.endpoints:
                    key: Key = (route.name, row.name, str(endpoint.address))
                    known = before.get(key)
                    if known is None or known.slot != endpoint.slot:
                        known = self._new(key, endpoint, now)
                    self.endpoints[key] = known
                    known.share_step = share_step(len(row.endpoints))
                    self._update(known, endpoint, watch, now)
                    if known in unsettled:
                        self.unsettled.add(known)
        for key, known in before.items():
            known.is_gone = self.endpoints.get(key) is not known
        return True

    def _new(self, key: Key, row: EndpointRow, now: float) -> Endpoint:
        known = Endpoint(key, row.slot, Address.parse(str(row.address)), row.health)
        known.since = row.health_since or known.since
        known.calm_since = now
        known.failures_before = self._view.commons.failures(row.slot)[0]
        if row.health != HEALTHY:
            known.failed_check = known.ejected_for = (
                "found before the control process was restarted"
            )
        return known

    def _update(self, known: Endpoint, row: EndpointRow, watch: Watch, now: float) -> None:
        if known.row is None:
            known.is_down = row.health == DOWN
            if row.health == EJECTED:
                known.ejected_until = now + watch.passive.ejection_time
        known.row = row
        if row.slow_start_percent < FULL_SHARE and known.slow_start is None:
            known.slow_start = resumed(row.slow_start_percent, watch, now)
        if watch.check is None:
            known.is_down, known.due = False, 0.0
        elif watch.check != known.watch.check:
            known.streak = 0
            self._check_soon(known, watch.check, now)
        if not watch.passive.errors:
            known.ejected_until = 0.0
        known.watch = watch
        if row.health != HEALTHY or row.slow_start_percent < FULL_SHARE:
            self.unsettled.add(known)


def state_of(known: Endpoint | None) -> dict[str, object]:
    """Of an endpoint, what the status shows of its health: reason, since and next_try in Unix time
    (None = there is no next)."""
    if known is None:
        return {
            "health_reason": "",
            "health_since": None,
            "next_try": None,
            "check": "off",
            "suspected": False,
        }
    now = time.monotonic()
    check = known.watch.check
    next_try = known.due if known.is_down else known.ejected_until
    return {
        "health_reason": known.reason,
        "health_since": known.since,
        "next_try": time.time() + max(0.0, next_try - now) if next_try else None,
        "check": check.kind if check else "off",
        "suspected": bool(known.suspected),
    }
