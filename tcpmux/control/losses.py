"""Tells of clients that are lost: at once, again while it lasts, and when it is over. Runs in
control.

Workers count how each connection ends; nothing here costs them more than that.

    lost       reset because no endpoint took them, or this host could not: an ERROR
    limited    reset by a limit of the configuration: a WARNING
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tcpmux.control.connecting import error_text
from tcpmux.control.failed_connects import FailedConnects
from tcpmux.control.telling import bounded, duration
from tcpmux.errors import listed, plural
from tcpmux.levels import Line, Where
from tcpmux.shm.image import (
    ADMIN_STATES,
    ENDS,
    HEALTHY,
    READY,
    DestinationRow,
    Image,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.serving import end_of, is_unavailable, rule_serves, serves
from tcpmux.shm.stats import is_first_control

if TYPE_CHECKING:
    from tcpmux.control.telling import Say
    from tcpmux.shm.view import View

LOOK = 0.2  # s between two looks at the counters of routes
COUNT = 1.0  # s between two looks at those of endpoints, and at whether losses go on
CALM = 5.0  # s without a loss, and it may be over
FIRST_REMINDER, MAX_REMINDER = 30.0, 600.0  # s; each after twice the time of the one before
MAX_SHOWN = 3  # endpoints or destinations, in a line

CONNECTS = ("connect_failed", "connect_timeout", "retries_used_up")
LOST = (*CONNECTS, "no_endpoint", "local_error", "proxy_header")
LIMITED = ("overflow", "rate_limited", "client_hello")
REASONS = (*LOST, *LIMITED)
NO_HEADER = "PROXY headers are bad, late or missing: do all peers in accept_proxy.from send them?"
NO_RESOURCES = "this host is out of ports, descriptors or memory"
LIMITS = {
    "overflow": "max_connections was reached",
    "rate_limited": "the rate limit of new connections was exceeded",
    "client_hello": "first bytes were no ClientHello as preread wants it",
}


class _Kind(NamedTuple):
    """What a route may do to its clients, told apart in the log."""

    level: int
    reasons: tuple[str, ...]


KINDS = (_Kind(logging.ERROR, LOST), _Kind(logging.WARNING, LIMITED))


@dataclass(slots=True)
class _Episode:
    """A time in which one route loses clients of one kind. Times are monotonic."""

    route: RouteRow
    kind: _Kind
    began: float
    last: float  # loss
    next_line: float
    pause: float = FIRST_REMINDER
    lost: int = 0
    told: int = 0  # of those lost
    connects: int = 0  # that had succeeded at the last loss
    reasons: dict[str, int] | None = None  # since the last line


class Losses:
    """Of all routes. health_reason: of an endpoint by route, destination and address: why it is not
    healthy."""

    def __init__(self, view: View, say: Say, health_reason: Callable[[str, str, str], str]) -> None:
        self._view = view
        self._say = say
        self._health_reason = health_reason
        self._connects = FailedConnects(view)
        self._image: Image | None = None
        self._rows: tuple[RouteRow, ...] = ()
        self._slots = array("I")
        self._before = array("Q")
        self._destinations = array("I")  # slots, route by route
        self._places: dict[str, slice] = {}  # of each route, among them
        self._connects_now: array[int] | None = None  # of each destination; None = not looked at
        self._next_pass = 0.0  # monotonic; over all episodes
        self._episodes: dict[tuple[str, _Kind], _Episode] = {}
        self._unavailable: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Looks again and again; also when there is no master."""
        count_at = 0.0
        while True:
            now = time.monotonic()
            self.look(now)
            self._connects.look_at_each()
            if now >= count_at:
                self._connects.look()
                count_at = now + COUNT
            await asyncio.sleep(LOOK)

    def look(self, now: float) -> None:
        """At what has happened since the last time."""
        self._connects_now = None
        lines = [*self._refreshed(now), *self._losses(now), *self._advanced(now)]
        lines.sort(key=lambda line: -line.level)
        for line in bounded(lines, "more routes lose clients"):
            self._say(line)

    def _refreshed(self, now: float) -> Iterator[Line]:
        """Takes over what is in force."""
        _, image = self._view.image()
        if image is self._image:
            return
        known = dict(zip(((r.name, r.slot) for r in self._rows), self._counts(), strict=True))
        from_start = self._image is None and is_first_control(self._view.table)
        self._image, self._rows = image, image.routes
        self._take_destinations()
        self._slots = array("I", [row.slot for row in image.routes])
        self._before = self._view.counters.closed(self._slots, REASONS)
        if from_start:
            self._before = array("Q", bytes(8 * len(self._before)))
        for at, row in enumerate(image.routes):
            counts = known.get((row.name, row.slot))
            if counts is not None:
                self._before[at * len(REASONS) : (at + 1) * len(REASONS)] = counts
        rows = {row.name: row for row in image.routes}
        for key, episode in list(self._episodes.items()):
            if key[0] in rows:
                episode.route = rows[key[0]]
            else:
                del self._episodes[key]
                if episode.lost:
                    text = f"{key[0]}: removed; until then {_total(episode)}"
                    yield Line(logging.INFO, text, Where(key[0]))
        self._unavailable = frozenset(row.name for row in image.routes if is_unavailable(row))
        for name in self._unavailable:  # the master says so at once
            if (name, KINDS[0]) not in self._episodes:
                self._begin(rows[name], KINDS[0], now)

    def _take_destinations(self) -> None:
        self._destinations, self._places = array("I"), {}
        for row in self._rows:
            first = len(self._destinations)
            self._destinations.extend(each.slot for each in row.destinations)
            self._places[row.name] = slice(first, len(self._destinations))
        self._connects_now = None

    def _counts(self) -> Iterator[array[int]]:
        width = len(REASONS)
        for at in range(0, len(self._before), width):
            yield self._before[at : at + width]

    # --- what has been lost -----------------------------------------------------------------

    def _losses(self, now: float) -> Iterator[Line]:
        counts = self._view.counters.closed(self._slots, REASONS)
        if counts == self._before:
            return
        width = len(REASONS)
        before, self._before = self._before, counts
        for at, row in enumerate(self._rows):
            here = slice(at * width, (at + 1) * width)
            if counts[here] == before[here]:
                continue
            more = {
                reason: new - old
                for reason, new, old in zip(REASONS, counts[here], before[here], strict=True)
                if new > old  # less where a slot has been given to another
            }
            for kind in KINDS:
                of_kind = {r: count for r, count in more.items() if r in kind.reasons}
                if of_kind:
                    yield from self._lost(row, kind, of_kind, now)

    def _lost(self, row: RouteRow, kind: _Kind, more: dict[str, int], now: float) -> Iterator[Line]:
        episode = self._episodes.get((row.name, kind))
        is_new = episode is None
        if episode is None:
            episode = self._begin(row, kind, now)
        is_first = episode.lost == 0
        episode.last = now
        episode.lost += sum(more.values())
        episode.connects = self._served(row)
        episode.reasons = episode.reasons or {}
        for reason, count in more.items():
            episode.reasons[reason] = episode.reasons.get(reason, 0) + count
        if is_new or is_first:
            yield self._told(episode, now)

    def _begin(self, row: RouteRow, kind: _Kind, now: float) -> _Episode:
        episode = _Episode(row, kind, now, now, now + FIRST_REMINDER, connects=self._served(row))
        self._episodes[row.name, kind] = episode
        return episode

    def _served(self, row: RouteRow) -> int:
        return sum(self._established()[self._places[row.name]])

    def _established(self) -> array[int]:
        """Connects that have succeeded; read for all routes at once, as many may be asked for."""
        if self._connects_now is None:
            self._connects_now = self._view.counters.connects(self._destinations)
        return self._connects_now

    # --- how it goes on ---------------------------------------------------------------------

    def _advanced(self, now: float) -> Iterator[Line]:
        if now < self._next_pass:
            return
        self._next_pass = now + COUNT
        for key, episode in list(self._episodes.items()):
            if self._is_over(episode, now):
                del self._episodes[key]
                if episode.lost:  # else the master has said that it takes connections again
                    is_error = episode.kind.level == logging.ERROR
                    now_is = "clients are served again" if is_error else "within its limits again"
                    text = f"{key[0]}: {now_is}; until then {_total(episode)}"
                    yield Line(logging.INFO, text, Where(key[0]))
            elif now >= episode.next_line and (
                episode.lost > episode.told or episode.route.name in self._unavailable
            ):
                yield self._told(episode, now)

    def _is_over(self, episode: _Episode, now: float) -> bool:
        if episode.kind.level == logging.ERROR and episode.route.name in self._unavailable:
            return False
        if episode.lost == 0:
            return True
        if now - episode.last < CALM:
            return False
        return episode.kind.level < logging.ERROR or self._served(episode.route) > episode.connects

    # --- words ------------------------------------------------------------------------------

    def _told(self, episode: _Episode, now: float) -> Line:
        """The line that is due, and when the next is."""
        text = self._text(episode, now)
        episode.told, episode.reasons = episode.lost, None
        episode.next_line = now + episode.pause
        episode.pause = min(2 * episode.pause, MAX_REMINDER)
        return Line(episode.kind.level, text, Where(episode.route.name))

    def _text(self, episode: _Episode, now: float) -> str:
        row, reasons = episode.route, episode.reasons or {}
        total = f", {episode.lost} in {duration(now - episode.began)}"
        count = f"{sum(reasons.values())} {'more' + total if episode.told else 'so far'}"
        if episode.kind.level < logging.ERROR:
            why = ", ".join(f"{LIMITS[reason]} ({times})" for reason, times in reasons.items())
            return f"{row.name}: limits turn clients away ({count}): {why}"
        why = "; ".join(self._reasons(row, reasons))
        still = "still " if episode.told else ""
        if not reasons:  # nobody comes, or nobody is reset
            end, after = ENDS[end_of(row)], duration(now - episode.began)
            return f"{row.name}: new connections are still {end}, after {after}: {why}"
        is_every = "local_error" not in reasons and not any(map(self._accepts, row.destinations))
        who = "every new client is" if is_every else "clients are"
        return f"{row.name}: {who} {still}reset ({count}): {why}"

    def _accepts(self, row: DestinationRow) -> bool:
        """Whether an endpoint of it may be expected to take connections."""
        if not row.effective_weight or row.state != READY:
            return False
        used = {row.endpoints[index] for index in (*row.turns, *row.reserves)}
        return any(self._view.commons.failures(each.slot)[0] == 0 for each in used)

    def _reasons(self, row: RouteRow, reasons: dict[str, int]) -> Iterator[str]:
        if any(reason in reasons for reason in CONNECTS):
            failing = listed(list(self._failing(row)), MAX_SHOWN)
            yield f"connects fail: {failing}" if failing else "connects have failed"
        if "no_endpoint" in reasons or not reasons:
            yield self._nobody(row)
        if "local_error" in reasons:
            yield NO_RESOURCES
        if "proxy_header" in reasons:
            yield NO_HEADER

    def _failing(self, row: RouteRow) -> Iterator[str]:
        for destination in row.destinations:
            for endpoint in destination.endpoints:
                if self._view.commons.failures(endpoint.slot)[0]:
                    error = error_text(self._view.commons.failed_with(endpoint.slot))
                    yield f"{destination.name} {endpoint.address} ({error})"

    def _nobody(self, row: RouteRow) -> str:
        """Why no destination takes connections."""
        out_of = [rule.name for rule in row.pick_rules if not self._takes(row, rule)]
        if out_of and row.name not in self._unavailable:
            return f"nobody takes those of the rule {listed(out_of, MAX_SHOWN)}"
        wanted = [each for each in row.destinations if each.weight]
        if not wanted:
            return "no destination has weight"
        out = [f"{each.name} {self._out(row.name, each)}" for each in wanted if not serves(each)]
        return listed(out, MAX_SHOWN) or "no endpoint took them"

    @staticmethod
    def _takes(row: RouteRow, rule: RuleRow) -> bool:
        """Whether its connections go somewhere, or are meant to go nowhere."""
        return rule.rule.reject or rule_serves(row, rule)

    def _out(self, route: str, row: DestinationRow) -> str:
        if row.state != READY:
            return "is drained" if ADMIN_STATES[row.state] == "draining" else "is disabled"
        if not row.endpoints:
            is_named = row.unresolved
            return "has no address: its name does not resolve" if is_named else "has no endpoint"
        for each in row.endpoints:
            if each.state == READY and each.health != HEALTHY:
                reason = self._health_reason(route, row.name, str(each.address))
                return f"has no healthy endpoint ({each.address}: {reason or 'unknown'})"
        return "has no endpoint that is not drained or disabled"


def _total(episode: _Episode) -> str:
    lost = plural(episode.lost, "client")
    return f"{lost} lost in {duration(episode.last - episode.began)}"
