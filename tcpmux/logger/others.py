"""Why a connection had no choice: what kept the other destinations of its route out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from tcpmux.shm.image import DISABLED, DRAINING, READY, DestinationRow, Image, RouteRow

READ_EVERY = 1.0  # s at least between two looks at the route table for what is over
MAX_KNOWN = 4096  # answers that are remembered
MAX_SHOWN = 8  # destinations in one
NO_RULE = (1 << 32) - 1  # csrc/route_table.h: TM_NONE
_STATES = {DRAINING: "drained", DISABLED: "disabled"}


class Images(Protocol):
    def image(self) -> tuple[int, Image]:
        """The generation in force, and its image; copied only when it has changed."""


class Others:
    """Answers from the route table as it is now, and from what it has answered before."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._next_read = 0.0
        self._generation = 0
        self._routes: dict[int, RouteRow] = {}  # by slot
        self._known: dict[tuple[int, int, int, int], str] = {}

    def text(
        self, route: int, destination: int, generation: int, rule: int = NO_RULE
    ) -> str | None:
        """`v2: down, v3: weight 0`; None = the route has no others, or is gone. Of a generation
        that is over, and was not asked for while it was in force: as it is now, and says so.
        route, destination, rule: slots; with a rule, by its weights."""
        key = (generation, route, destination, rule)
        found = self._known.get(key)
        if found is None:
            self._read(generation)
            found = self._now(route, destination, rule)
            if generation == self._generation:
                self._remember(key, found)
            elif found:
                found += f" (in generation {self._generation})"
        return found or None

    def _read(self, wanted: int) -> None:
        """Copies the routes if there is a newer generation; for what is over, not at each line."""
        now = time.monotonic()
        if wanted <= self._generation and now < self._next_read:
            return
        self._next_read = now + READ_EVERY
        generation, image = self._images.image()
        if generation != self._generation:
            self._generation = generation
            self._routes = {route.slot: route for route in image.routes}

    def _now(self, route: int, destination: int, rule: int) -> str:
        row = self._routes.get(route)
        rows = () if row is None else _by_rule(row, rule)
        others = [d for d in rows if d.slot != destination]
        shown = [f"{other.name}: {why_out(other)}" for other in others[:MAX_SHOWN]]
        if len(others) > MAX_SHOWN:
            shown.append(f"{len(others) - MAX_SHOWN} more")
        return ", ".join(shown)

    def _remember(self, key: tuple[int, int, int, int], text: str) -> None:
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[key] = text


def _by_rule(route: RouteRow, rule: int) -> tuple[DestinationRow, ...]:
    """Its destinations, with the weights that they have in that rule."""
    found = next((row for row in route.pick_rules if row.slot == rule), None)
    if found is None:
        return route.destinations
    weights = zip(route.destinations, found.weights, found.effective_weights, strict=True)
    return tuple(
        replace(row, weight=weight, effective_weight=effective)
        for row, weight, effective in weights
    )


def why_out(row: DestinationRow) -> str:
    """Why a destination gets no new connections, in a word or two."""
    return next(_reasons(row))


def _reasons(row: DestinationRow) -> Iterator[str]:
    if row.state != READY:
        yield _STATES[row.state]
    if not row.weight:
        yield "weight 0"
    if not row.is_meant_to_serve:
        yield "no endpoints"
    if not row.turns:
        states = {endpoint.state for endpoint in row.endpoints}
        if not states:
            yield "no address"
        # Each for its own reason is as bad as down.
        yield _STATES[states.pop()] if len(states) == 1 and READY not in states else "down"
    if not row.effective_weight:
        yield "no share"
    yield "takes connections"
