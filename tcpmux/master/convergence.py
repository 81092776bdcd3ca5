"""Live connections of a route are to follow the weights, or no longer. Which of them are closed,
and when, control decides (tcpmux/control/convergences.py). Runs in the master."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tcpmux.config.converge import (
    CONVERGE_METHOD,
    CONVERGE_ORDER,
    CONVERGE_THEN,
    MAX_CONVERGE_RATE,
    Converge,
)
from tcpmux.config.rows import rows_of
from tcpmux.levels import Line, Where
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, Done, InForce, LogLine, route_of
from tcpmux.shm.convergence import by_rules
from tcpmux.shm.image import Convergence, RouteRow

_ROWS = rows_of(Converge)
# The greatest number of each, as the route table has it.
_MOST = {
    "rate": MAX_CONVERGE_RATE * 1000,
    "rate_percent": 100_000,
    "order": len(CONVERGE_ORDER) - 1,
    "quiet_ms": int(_ROWS["quiet"].high * 1000),
    "deadline_ms": int(_ROWS["deadline"].high * 1000),
    "then": len(CONVERGE_THEN) - 1,
    "tolerance": int(_ROWS["tolerance"].high),
    "method": len(CONVERGE_METHOD) - 1,
    "goodbye": 1,
}
assert {"began_ms", "by_key", *_MOST} == {each.name for each in fields(Convergence)}


def now_ms() -> int:
    """As the route table has it."""
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StartConvergence(Change):
    """Live connections of a route follow the weights from now on. settings: those that are not the
    route's, by the names of Convergence."""

    kind = "converge"

    route: str
    settings: Mapping[str, Any]

    def plan(self, now: InForce) -> InForce:
        route = route_of(now.image, self.route)
        given = self._checked()
        if "rate" in given or "rate_percent" in given:
            given = {"rate": 0, "rate_percent": 0, **given}
        found = replace(by_rules(route.rules, now_ms()), by_key=0, **given)
        if not (found.rate or found.rate_percent):
            raise Refusal("invalid", "rate: expected more than 0")
        return with_convergence(now, self.route, found)

    def _checked(self) -> dict[str, int]:
        for name, value in self.settings.items():
            if name not in _MOST or type(value) is not int or not 0 <= value <= _MOST[name]:
                raise Refusal("invalid", f"{name}: {value!r} is not a setting of a convergence")
        return dict(self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndConvergence(Change):
    """No longer. began_ms: of the one that is meant; 0 = whichever it is. What has begun anew since
    goes on. text: the line about it; "" = what changes."""

    kind = "converge"

    route: str
    began_ms: int = 0
    text: str = ""
    level: int = logging.INFO

    def plan(self, now: InForce) -> InForce:
        route = route_of(now.image, self.route)
        if route.convergence is None or self.began_ms not in (0, route.convergence.began_ms):
            return now
        return with_convergence(now, self.route, None)

    def report(self, done: Done) -> Iterator[LogLine]:
        if done.changes and self.text:
            yield LogLine(self.kind, Line(self.level, self.text, Where(self.route)))
        elif done.changes or self.by:
            yield from Change.report(self, done)


def with_convergence(now: InForce, name: str, found: Convergence | None) -> InForce:
    """The same, but for that of one route."""

    def changed(route: RouteRow) -> RouteRow:
        return replace(route, convergence=found) if route.name == name else route

    image = replace(now.image, routes=tuple(map(changed, now.image.routes)))
    return replace(now, image=image)
