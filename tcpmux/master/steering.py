"""What operators change at run time: weights, and who takes new connections. Runs in the master.

Each change is checked as a whole and then is one new generation, or nothing.
"""

from __future__ import annotations

import difflib
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil

from tcpmux.config.model import MAX_WEIGHT
from tcpmux.levels import Line
from tcpmux.master.control import Refusal
from tcpmux.master.names import ENDS, share_of
from tcpmux.master.reload import Routing
from tcpmux.shm.image import ADMIN_STATES, READY, WELL, DestinationRow, Image, RouteRow
from tcpmux.shm.routes import (
    Condition,
    Key,
    describe_changes,
    is_unavailable,
    serves,
    with_conditions,
    with_state,
    with_weights,
)

Target = tuple[str, str, str | None]  # route, destination, endpoint (None = all of them)
MOST_NAMES = 20  # listed in a message
_STEP = re.compile(r"[+-][0-9]{1,7}", re.ASCII)


def unknown(what: str, name: object, known: Iterable[str]) -> Refusal:
    """`no route named 'tcp-ecoh': did you mean tcp-echo? There are: ...`."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, 1)
    hint = f": did you mean {near[0]}?" if near else ";"
    listed = ", ".join(names[:MOST_NAMES]) or "none"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    there = "There" if near else "there"
    return Refusal("not_found", f"no {what} named {str(name)!r}{hint} {there} are: {listed}{more}")


class Steering:
    """Changes what Routing has in force. Every method raises Refusal, or WorkersBusy, with nothing
    changed, and returns what changed, a line a route."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._first_end: tuple[Image, int] = (routing.image, 0)  # in that image; Unix time, s
        self._before: dict[str, dict[str, int]] = {}  # weights before the last change, by route

    def set_weights(
        self, route_name: str, weights: Mapping[str, object], *, force: bool = False
    ) -> list[str]:
        """Changes weights until the next reload. A weight is a number or, as a text, a step: +5.
        Unless forced, somebody must be left to take connections."""
        row = self._route(route_name)
        current = {d.name: d.weight for d in row.destinations}
        for name in weights:
            if name not in current:
                raise unknown(f"destination of route {route_name}", name, current)
        if not weights:
            raise Refusal("invalid", "no weight given")
        wanted = {name: _weight(name, value, current[name]) for name, value in weights.items()}
        new = {**current, **wanted}
        if not force:
            self._keep_served(row, new)
        return self._put_weights(row, new)

    def undo(self, route_name: str, *, force: bool = False) -> list[str]:
        """Back to the weights before the last change of them; a second time: forth again. Unless
        forced, somebody must be left to take connections."""
        row = self._route(route_name)
        before = self._before.get(route_name, {})
        weights = {d.name: before.get(d.name, d.weight) for d in row.destinations}
        if weights == {d.name: d.weight for d in row.destinations}:
            raise Refusal("refused", f"{route_name}: nothing to undo: its weights were not changed")
        if not force:
            self._keep_served(row, weights)
        return self._put_weights(row, weights)

    def set_states(
        self,
        targets: Sequence[Target],
        state: str,
        *,
        force: bool,
        seconds: float = 0.0,
    ) -> list[str]:
        """Takes destinations, or single endpoints of them, out of service or back into it: all of
        these or none. Endpoints for so many seconds, if that is not 0. Unless forced, what is left
        must be able to take connections if it is now."""
        if state not in ADMIN_STATES:
            raise Refusal("invalid", f"state: expected one of {', '.join(ADMIN_STATES)}")
        old = image = self._routing.image
        until = ceil(time.time() + seconds) if seconds and state != ADMIN_STATES[READY] else 0
        keys = [self._key(*target, is_for_a_time=seconds > 0) for target in targets]
        for key in keys:
            image = with_state(image, key, ADMIN_STATES.index(state), until)
        if state != ADMIN_STATES[READY] and not force:
            for route in dict.fromkeys(key[0] for key in keys):
                _keep_some(route, self._route(route), _row(image, route))
        changes = describe_changes(old, image)
        self._routing.publish(image)
        return changes

    def _key(self, route_name: str, name: str, address: str | None, *, is_for_a_time: bool) -> Key:
        row = self._route(route_name)
        destination = next((d for d in row.destinations if d.name == name), None)
        if destination is None:
            known = [d.name for d in row.destinations]
            raise unknown(f"destination of route {route_name}", name, known)
        if address is None:
            if is_for_a_time:
                raise Refusal("invalid", "seconds go with an endpoint")
            return route_name, name
        known = list(dict.fromkeys(str(e.address) for e in destination.endpoints))
        if address not in known:
            raise unknown(f"endpoint of {route_name}/{name}", address, known)
        return route_name, name, address

    # --- health -----------------------------------------------------------------------------

    def set_conditions(self, conditions: Mapping[Key, Condition]) -> list[Line]:
        """What control has found out about endpoints, and how far they and their destinations are
        with their share. Returns what follows for destinations and routes, a line each."""
        old = self._routing.image
        new = with_conditions(old, conditions)
        self._routing.publish(new)
        return list(consequences(old, new))

    def next_look(self) -> float | None:
        """Monotonic time when an endpoint's state is over; None = none ends by itself."""
        image = self._routing.image
        if self._first_end[0] is not image:
            ends = [e.until for r in image.routes for d in r.destinations for e in d.endpoints]
            self._first_end = image, min(filter(None, ends), default=0)
        end = self._first_end[1]
        return time.monotonic() + max(0.0, end - time.time()) if end else None

    def look(self) -> list[str]:
        """Makes endpoints ready whose state is over; returns what changed."""
        end, now = self.next_look(), time.time()
        image = self._routing.image
        if end is None or end > time.monotonic():
            return []
        for route in image.routes:
            for destination in route.destinations:
                for endpoint in destination.endpoints:
                    if endpoint.until and endpoint.until <= now:
                        key = (route.name, destination.name, str(endpoint.address))
                        image = with_state(image, key, READY)
        if image is self._routing.image:
            return []
        changes = describe_changes(self._routing.image, image)
        self._routing.publish(image)
        return changes

    def note_weights(self, old: Image, new: Image) -> None:
        """Remembers, for undo(), the weights of routes that another change, as a reload, gives
        others."""
        before = {r.name: {d.name: d.weight for d in r.destinations} for r in old.routes}
        for route in new.routes:
            was = before.get(route.name)
            if was is not None and was != {d.name: d.weight for d in route.destinations}:
                self._before[route.name] = was
        for name in self._before.keys() - {route.name for route in new.routes}:
            del self._before[name]

    def _keep_served(self, row: RouteRow, weights: dict[str, int]) -> None:
        if not any(weights.values()):
            raise Refusal("refused", f"all weights would be 0: {_nobody(row.name)}")
        _keep_anybody(row, _row(with_weights(self._routing.image, row.name, weights), row.name))

    def _put_weights(self, row: RouteRow, weights: dict[str, int]) -> list[str]:
        routing = self._routing
        old, new = routing.image, with_weights(routing.image, row.name, weights)
        changes = describe_changes(old, new)
        routing.publish(new)
        in_file = {d.name: d.file_weight for d in row.destinations}
        differing = {name: weight for name, weight in weights.items() if in_file[name] != weight}
        routing.weights.pop(row.name, None)
        if differing:
            routing.weights[row.name] = differing
        self.note_weights(old, new)
        return changes

    def _route(self, name: str) -> RouteRow:
        row = _row(self._routing.image, name)
        if row is None:
            raise unknown("route", name, [route.name for route in self._routing.image.routes])
        return row


def consequences(old: Image, new: Image) -> Iterator[Line]:
    """What follows for destinations and routes, a line each; of images of the same names."""
    for before, after in zip(old.routes, new.routes, strict=True):
        if before is after:
            continue
        for was, now in zip(before.destinations, after.destinations, strict=True):
            yield from _destination_consequences(after, was, now)
        if is_unavailable(after) and not is_unavailable(before):
            end = ENDS[after.rules.on_all_unavailable]
            yield Line(
                logging.ERROR,
                f"{after.name}: no destination has a healthy endpoint: new connections are {end}; "
                "`tcpmux endpoint` says why",
            )
        if is_unavailable(before) and not is_unavailable(after):
            yield Line(logging.INFO, f"{after.name}: takes connections again")


def _destination_consequences(
    route: RouteRow, was: DestinationRow, now: DestinationRow
) -> Iterator[Line]:
    name = f"{route.name}/{now.name}"
    healths = [endpoint.health for endpoint in now.endpoints]
    healthy = f"{healths.count(WELL)} of {len(healths)} endpoints are healthy"
    if now.panic and not was.panic:
        threshold = now.rules.panic_percent
        yield Line(
            logging.WARNING,
            f"{name}: only {healthy}, panic_threshold is {threshold}%: all are used",
        )
    if was.panic and not now.panic:
        yield Line(logging.INFO, f"{name}: {healthy}: only these are used")
    if was.turns and not now.turns:
        why = "no endpoint is healthy" if now.endpoints else "it no longer has any address"
        level, share = share_of(route, now)
        yield Line(level, f"{name}: {why}: {share}")
    if now.turns and not was.turns:
        is_known = "has an address now" if was.unresolved and not was.endpoints else ""
        yield Line(logging.INFO, f"{name}: {is_known or 'has healthy endpoints again'}")


def _row(image: Image, name: str) -> RouteRow | None:
    return next((route for route in image.routes if route.name == name), None)


def _weight(name: str, value: object, current: int) -> int:
    weight = value
    if isinstance(value, str) and _STEP.fullmatch(value):
        weight = current + int(value)
        if not 0 <= weight <= MAX_WEIGHT:
            raise Refusal("invalid", f"{name}: {current}{value} is {weight}, not 0..{MAX_WEIGHT}")
    if type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
        raise Refusal(
            "invalid", f"{name}: a weight is 0..{MAX_WEIGHT}, or a step such as +5; got {value!r}"
        )
    return weight


def _serves(destination: DestinationRow) -> bool:
    return destination.effective_weight > 0 and serves(destination)


def _keep_some(route: str, old: RouteRow, new: RouteRow | None) -> None:
    assert new is not None
    for before, after in zip(old.destinations, new.destinations, strict=True):
        if _serves(before) and after.effective_weight > 0 and not _serves(after):
            raise Refusal(
                "refused",
                f"{route}/{after.name} would keep its share of connections and have no endpoint "
                f"for them: drain {route}/{after.name} itself, so that others get its share, or "
                "use --force",
            )
    _keep_anybody(old, new)


def _keep_anybody(old: RouteRow, new: RouteRow | None) -> None:
    assert new is not None
    if any(map(_serves, old.destinations)) and not any(map(_serves, new.destinations)):
        raise Refusal("refused", _nobody(new.name))


def _nobody(route: str) -> str:
    return (
        f"{route} would have nobody left to take connections, and reset every one: give another "
        "destination weight first, or use --force"
    )
