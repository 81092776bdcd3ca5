"""Tells of connects that fail: one line for an endpoint and second. Runs in control."""

from __future__ import annotations

import errno
import logging
import time
from array import array
from typing import TYPE_CHECKING

from tcpmux.control.connecting import error_text
from tcpmux.control.telling import bounded
from tcpmux.errors import plural
from tcpmux.levels import NOWHERE, Line, Where
from tcpmux.shm._readings import failed_connects
from tcpmux.shm.image import Image
from tcpmux.shm.stats import is_first_control

if TYPE_CHECKING:
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

REFUSES_TLS = errno.EPROTONOSUPPORT  # csrc/conn/endpoint.h
SAY_AGAIN = 60.0  # s before that is said again of an endpoint: it stays in use
MAX_COUNT = 1 << 31  # a count is of 32 bits; more at a time is none


class FailedConnects:
    """Of all endpoints. What follows from them is told elsewhere: these lines are no events."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._image: Image | None = None
        self._names: dict[int, tuple[str, str]] = {}  # by slot: route/destination, address
        self._slots = array("I")
        self._before = array("I")
        self._seen: list[int] = []  # by worker, for the log of each
        self._refusals: dict[int, tuple[float, int]] = {}  # by slot: until when, how many unsaid

    def look_at_each(self) -> None:
        """At level debug: each of those that have failed since the last time, as far as workers
        keep them: the last 64 of each."""
        if not log.isEnabledFor(logging.DEBUG):
            self._seen = []
            return
        for client, slot, error, attempt in failed_connects(self._view.lives, self._seen):
            name, address = self._names.get(slot, ("an endpoint", "that is removed"))
            log.debug(
                "%s: connect to %s for %s failed (attempt %d): %s",
                name,
                address,
                client,
                attempt,
                error_text(error),
                extra={"where": self._where(slot) if slot in self._names else NOWHERE},
            )

    def look(self) -> None:
        """At what has happened since the last time."""
        self._refresh()
        commons = self._view.commons
        counts = commons.all_failures(self._slots)
        if counts == self._before:
            return
        before, self._before = self._before, counts
        found: list[tuple[int, int]] = []
        for slot, new, old in zip(self._slots, counts, before, strict=True):
            more = (new - old) % (1 << 32)
            if 0 < more < MAX_COUNT:
                found.append((more, slot))
        found = [(n, slot) for more, slot in found if (n := self._to_say(more, slot))]
        found.sort(reverse=True)
        lines = [Line(logging.WARNING, self._text(slot, n), self._where(slot)) for n, slot in found]
        for line in bounded(lines, "more endpoints with failed connects"):
            log.log(line.level, "%s", line, extra={"where": line.where})

    def _to_say(self, more: int, slot: int) -> int:
        """How many have failed, if that is to be said now. An endpoint that refuses TLS does so
        until somebody mends it, and is not ejected for that."""
        if self._view.commons.failed_with(slot) != REFUSES_TLS:
            return more
        until, unsaid = self._refusals.get(slot, (0.0, 0))
        now = time.monotonic()
        if now < until:
            self._refusals[slot] = until, unsaid + more
            return 0
        self._refusals[slot] = now + SAY_AGAIN, 0
        return unsaid + more

    def _where(self, slot: int) -> Where:
        name, address = self._names[slot]
        route, _, destination = name.partition("/")
        return Where(route, destination, address)

    def _text(self, slot: int, count: int) -> str:
        name, address = self._names[slot]
        error = error_text(self._view.commons.failed_with(slot))
        connects = plural(count, "connect")
        return f"{name}: {connects} to {address} failed: {error}"

    def _refresh(self) -> None:
        """Takes over what is in force. An endpoint that is new begins with what is counted now."""
        _, image = self._view.image()
        if image is self._image:
            return
        names = {
            endpoint.slot: (f"{route.name}/{destination.name}", str(endpoint.address))
            for route in image.routes
            for destination in route.destinations
            for endpoint in destination.endpoints
        }
        self._refusals = {slot: of for slot, of in self._refusals.items() if slot in names}
        known = dict(zip(self._slots, self._before, strict=True))
        slots = array("I", names)
        before = self._view.commons.all_failures(slots)
        if self._image is None and is_first_control(self._view.table):
            before = array("I", bytes(4 * len(slots)))
        for at, slot in enumerate(slots):
            if self._names.get(slot) == names[slot]:
                before[at] = known[slot]
        self._image, self._names, self._slots, self._before = image, names, slots, before
