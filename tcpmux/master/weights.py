"""Changes of weights at run time, until the next reload. Runs in the master."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tcpmux.config import Route
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, InForce, Weights, route_of, unknown
from tcpmux.master.states import check_served, nobody_left
from tcpmux.shm.image import Image, RouteRow
from tcpmux.shm.serving import with_file_weights, with_weights

_STEP = re.compile(r"[+-][0-9]{1,7}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeights(Change):
    """weights: numbers or, as texts, steps: +5. Unless forced, somebody must be left to take
    connections."""

    kind = "weights"
    can_be_undone = True

    route: str
    weights: Mapping[str, Any]
    force: bool = False

    def plan(self, now: InForce) -> InForce:
        row = route_of(now.image, self.route)
        current = _weights_of(row)
        for name in self.weights:
            if name not in current:
                raise unknown(f"destination of route {self.route}", name, current)
        if not self.weights:
            raise Refusal("invalid", "no weight given")
        wanted = {name: _weight(name, value, current[name]) for name, value in self.weights.items()}
        return _with_weights(now, row, {**current, **wanted}, force=self.force)


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoWeights(Change):
    """Back to the weights before the last change of them; a second time: forth again. Unless
    forced, somebody must be left to take connections."""

    kind = "weights"
    can_be_undone = True

    route: str
    force: bool = False

    def plan(self, now: InForce) -> InForce:
        row = route_of(now.image, self.route)
        previous = now.previous_weights.get(self.route, {})
        weights = {d.name: previous.get(d.name, d.weight) for d in row.destinations}
        if weights == _weights_of(row):
            raise Refusal("refused", f"{row.name}: nothing to undo: its weights were not changed")
        return _with_weights(now, row, weights, force=self.force)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedWeights(Change):
    """The configuration file has these weights now, as somebody has written them there. Those in
    force stay. A mistake in it lasts until the next reload."""

    kind = "weights"

    route: str
    weights: Mapping[str, Any]

    def plan(self, now: InForce) -> InForce:
        row = route_of(now.image, self.route)
        current = _weights_of(row)
        for name, value in self.weights.items():
            if name not in current:
                raise unknown(f"destination of route {self.route}", name, current)
            if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
                raise Refusal("invalid", f"{name}: a weight is 0..{MAX_WEIGHT}; got {value!r}")
        image = with_file_weights(now.image, row.name, self.weights)
        config = replace(now.config, routes=tuple(map(self._saved, now.config.routes)))
        return _with_differing(replace(now, config=config, image=image), row.name)

    def _saved(self, route: Route) -> Route:
        if route.name != self.route:
            return route
        destinations = (
            replace(d, weight=self.weights.get(d.name, d.weight)) for d in route.destinations
        )
        return replace(route, destinations=tuple(destinations))

    def differences(self, before: InForce, after: InForce) -> Iterator[str]:
        was = {d.name: d.file_weight for d in route_of(before.image, self.route).destinations}
        now = {d.name: d.file_weight for d in route_of(after.image, self.route).destinations}
        saved = [f"{name} {weight}" for name, weight in now.items() if weight != was[name]]
        if saved:
            yield f"{self.route}: the file has {', '.join(saved)} now"


def previous_weights(known: Weights, before: Image, after: Image) -> Weights:
    """For UndoWeights, after a change from one image to the other. known: those before it."""
    previous = dict(known)
    was = {route.name: _weights_of(route) for route in before.routes}
    for route in after.routes:
        if was.get(route.name, _weights_of(route)) != _weights_of(route):
            previous[route.name] = was[route.name]
    names = {route.name for route in after.routes}
    return {name: weights for name, weights in previous.items() if name in names}


def _weights_of(row: RouteRow) -> dict[str, int]:
    return {destination.name: destination.weight for destination in row.destinations}


def _with_weights(now: InForce, row: RouteRow, weights: dict[str, int], *, force: bool) -> InForce:
    image = with_weights(now.image, row.name, weights)
    if not force:
        if not any(weights.values()):
            raise Refusal("unforced", f"all weights would be 0: {nobody_left(row.name)}")
        check_served(row, route_of(image, row.name))
    return _with_differing(replace(now, image=image), row.name)


def _with_differing(now: InForce, route: str) -> InForce:
    """The same with the weights of a route, as its image has them, that differ from the file's."""
    differing = {
        d.name: d.weight
        for d in route_of(now.image, route).destinations
        if d.weight != d.file_weight
    }
    others = {name: set_ for name, set_ in now.weights.items() if name != route}
    return replace(now, weights={**others, route: differing} if differing else others)


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
