"""Changes of who takes new connections: destinations and endpoints are drained, disabled, or ready
again. Runs in the master."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, Done, InForce, LogLine, route_of, unknown
from tcpmux.shm.diff import state_text
from tcpmux.shm.image import ADMIN_STATES, READY, DestinationRow, Image, RouteRow
from tcpmux.shm.serving import rule_serves, serves, with_state
from tcpmux.shm.slots import Key

Target = tuple[str, str, str | None]  # route, destination, endpoint (None = all of them)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStates(Change):
    """Takes destinations, or single endpoints of them, out of service or back into it: all of
    these or none. Endpoints for so many seconds, if that is not 0. Unless forced, what is left
    must be able to take connections if it is now. What is in that state already stays so for as
    long as it was to, unless other seconds are given."""

    kind = "state"
    cause = "drain"

    targets: Sequence[Target]
    state: str
    force: bool = False
    seconds: float = 0.0

    def plan(self, now: InForce) -> InForce:
        if self.state not in ADMIN_STATES:
            raise Refusal("invalid", f"state: expected one of {', '.join(ADMIN_STATES)}")
        is_ready = self.state == ADMIN_STATES[READY]
        until = ceil(time.time() + self.seconds) if self.seconds and not is_ready else 0
        image = now.image
        keys = [self._key(image, *target) for target in self.targets]
        for key in keys:
            image = with_state(image, key, ADMIN_STATES.index(self.state), until)
        if not (is_ready or self.force):
            for route in dict.fromkeys(key[0] for key in keys):
                _check_shares(route_of(now.image, route), route_of(image, route))
        return replace(now, image=image)

    def notes(self, before: InForce, after: InForce) -> Iterator[str]:
        """Those that stay as they are, and not for good."""
        if self.seconds:
            return
        wanted = set(self.targets)
        for route in after.image.routes:
            for destination in route.destinations:
                for endpoint in destination.endpoints:
                    target = route.name, destination.name, str(endpoint.address)
                    if endpoint.until and target in wanted:
                        text = state_text(endpoint.state, endpoint.until)
                        yield f"{route.name}: {destination.name} endpoint {target[2]} stays {text}"

    def _key(self, image: Image, route_name: str, name: str, address: str | None) -> Key:
        row = route_of(image, route_name)
        destination = next((d for d in row.destinations if d.name == name), None)
        if destination is None:
            known = [d.name for d in row.destinations]
            raise unknown(f"destination of route {route_name}", name, known)
        if address is None:
            if self.seconds > 0:
                raise Refusal(
                    "invalid", f"{route_name}/{name}: a time (seconds) requires an endpoint"
                )
            return route_name, name
        known = list(dict.fromkeys(str(e.address) for e in destination.endpoints))
        if address not in known:
            raise unknown(f"endpoint of {route_name}/{name}", address, known)
        return route_name, name, address


@dataclass(frozen=True, slots=True, kw_only=True)
class EndStates(Change):
    """Endpoints are ready again whose state was to last until now. now: Unix time, s."""

    kind = "state"
    cause = "drain"

    now: float

    def plan(self, now: InForce) -> InForce:
        image = now.image
        for route in image.routes:
            for destination in route.destinations:
                for endpoint in destination.endpoints:
                    if endpoint.until and endpoint.until <= self.now:
                        key = (route.name, destination.name, str(endpoint.address))
                        image = with_state(image, key, READY)
        return replace(now, image=image)

    def report(self, done: Done) -> Iterator[LogLine]:
        if done.changes:
            yield from Change.report(self, done)


def next_end(image: Image) -> int:
    """Unix time, s, when the first state of an endpoint ends; 0 = none ends by itself."""
    ends = [e.until for route in image.routes for d in route.destinations for e in d.endpoints]
    return min(filter(None, ends), default=0)


def check_served(old: RouteRow, new: RouteRow) -> None:
    """Raises Refusal if somebody takes connections of the route, or of one of its rules, now, and
    nobody would."""
    if any(map(_serves, old.destinations)) and not any(map(_serves, new.destinations)):
        raise Refusal("unforced", nobody_left(new.name))
    for before, after in zip(old.pick_rules, new.pick_rules, strict=True):
        if rule_serves(old, before) and not rule_serves(new, after):
            raise Refusal("unforced", nobody_left(f"{new.name}/{after.name}"))


def nobody_left(route: str) -> str:
    return (
        f"{route} would have no destination left and reset every connection: give another "
        "destination weight first"
    )


def _check_shares(old: RouteRow, new: RouteRow) -> None:
    for before, after in zip(old.destinations, new.destinations, strict=True):
        if _serves(before) and after.effective_weight > 0 and not _serves(after):
            raise Refusal(
                "unforced",
                f"{new.name}/{after.name} would keep its share of connections and have no endpoint "
                f"for them: drain {new.name}/{after.name} itself, so that others get its share",
            )
    check_served(old, new)


def _serves(destination: DestinationRow) -> bool:
    return destination.effective_weight > 0 and serves(destination)
