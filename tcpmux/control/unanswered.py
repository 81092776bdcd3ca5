"""Endpoints that accept connections and end them at once without a byte. Runs in control.

    resets and closes in a row, of several clients    it is shown as degraded, and stays in use
    an answer                                         it is shown as before

What clients send can bring this about, so nothing but what is shown follows from it: ejection.py
has what may follow. Workers count (csrc/commons.h).
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tcpmux.control.endpoint import Endpoint, Key

if TYPE_CHECKING:
    from tcpmux.shm.view import View

LOOK_EVERY = 1.0  # s
IN_A_ROW = 5
CLIENTS = 2  # one alone, who may send what it refuses, is not enough
SAY_AGAIN = 60.0  # s before the same is said again of one that answers now and then


class Unanswered:
    """Of all endpoints. report: tells what an endpoint is from now on, with the level of that in
    the log."""

    def __init__(self, view: View, report: Callable[[int, Endpoint, str], None]) -> None:
        self.noted: set[Endpoint] = set()
        self._view = view
        self._report = report
        self._by_slot: dict[int, Endpoint] = {}
        self._slots = array("I")
        self._said: dict[Endpoint, float] = {}  # when
        self._to_clear: set[Endpoint] = set()
        self._next_look = 0.0

    def watch(self, endpoints: Mapping[Key, Endpoint]) -> None:
        """From now on these."""
        self._by_slot = {known.slot: known for known in endpoints.values()}
        self._slots = array("I", self._by_slot)
        for known in list(self.noted | self._said.keys()):
            if self._by_slot.get(known.slot) is not known:
                known.unanswered = ""
                self.noted.discard(known)
                self._to_clear.discard(known)
                self._said.pop(known, None)

    def examine(self, now: float) -> None:
        """now: monotonic. Looks no more often than every LOOK_EVERY."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        found: set[Endpoint] = set()
        for slot, count, resets, clients in self._view.commons.unanswered(self._slots, IN_A_ROW):
            if clients >= CLIENTS:
                endpoint = self._by_slot[slot]
                endpoint.unanswered = text_of(count, resets)
                found.add(endpoint)
                self._say(endpoint, now)
        for endpoint in self.noted - found:
            endpoint.unanswered = ""
            if endpoint in self._to_clear:
                self._to_clear.discard(endpoint)
                self._report(logging.INFO, endpoint, "answering clients again")
        self.noted = found

    def _say(self, endpoint: Endpoint, now: float) -> None:
        if endpoint in self.noted or endpoint.reason:  # that has been said
            return
        if now - self._said.get(endpoint, -SAY_AGAIN) >= SAY_AGAIN:
            self._said[endpoint] = now
            self._to_clear.add(endpoint)
            self._report(logging.WARNING, endpoint, f"degraded: {endpoint.unanswered}")


def text_of(count: int, resets: int) -> str:
    """`the last 7 connections were reset by the endpoint without an answer`."""
    how = "reset" if resets >= count else "reset or closed" if resets else "closed at once"
    return f"the last {count} connections were {how} by the endpoint without an answer"
