"""Changes of weights at run time, until the next reload: of a route, or of one of its rules. Runs
in the master."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tcpmux.config import Route, Rule
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, InForce, Weights, route_of, unknown
from tcpmux.master.states import check_served, nobody_left
from tcpmux.shm.build import rule_path
from tcpmux.shm.image import Image, RouteRow, RuleRow
from tcpmux.shm.serving import with_file_weights, with_rule_weights, with_weights

_STEP = re.compile(r"[+-][0-9]{1,7}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Split:
    """What has weights: a route or, with a rule, that."""

    route: RouteRow
    rule: RuleRow | None = None

    @classmethod
    def of(cls, image: Image, path: str) -> Split:
        """path: ROUTE or ROUTE/RULE. Raises Refusal."""
        name, slash, rule_name = path.partition("/")
        route = route_of(image, name)
        if not slash:
            return cls(route)
        rule = next((rule for rule in route.pick_rules if rule.name == rule_name), None)
        if rule is None:
            if rule_name in (row.name for row in route.destinations):
                hint = f"it is a destination, whose weight is set as {name} {rule_name}=WEIGHT"
                raise Refusal("not_found", f"no rule of route {name} named {rule_name!r}: {hint}")
            raise unknown(f"rule of route {name}", rule_name, [r.name for r in route.pick_rules])
        if rule.rule.reject:
            raise Refusal("refused", f"{path} rejects its connections: it has no weights")
        return cls(route, rule)

    @property
    def path(self) -> str:
        return rule_path(self.route.name, self.rule.name) if self.rule else self.route.name

    @property
    def weights(self) -> dict[str, int]:
        """By destination."""
        if self.rule is None:
            return {row.name: row.weight for row in self.route.destinations}
        return self._named(self.rule.weights)

    @property
    def file_weights(self) -> dict[str, int]:
        """Those that the file asks for."""
        if self.rule is None:
            return {row.name: row.file_weight for row in self.route.destinations}
        return self._named(self.rule.file_weights)

    def _named(self, weights: tuple[int, ...]) -> dict[str, int]:
        names = (row.name for row in self.route.destinations)
        return dict(zip(names, weights, strict=True))

    def with_weights(self, image: Image, weights: Mapping[str, int]) -> Image:
        if self.rule is None:
            return with_weights(image, self.route.name, weights)
        return with_rule_weights(image, self.route.name, self.rule.name, weights)

    def with_file_weights(self, image: Image, weights: Mapping[str, int]) -> Image:
        if self.rule is None:
            return with_file_weights(image, self.route.name, weights)
        return with_rule_weights(image, self.route.name, self.rule.name, weights, in_file=True)

    def check_names(self, weights: Mapping[str, Any]) -> None:
        """Raises Refusal."""
        known = [row.name for row in self.route.destinations]
        for name in weights:
            if name not in known:
                raise unknown(f"destination of route {self.route.name}", name, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeights(Change):
    """route: ROUTE or ROUTE/RULE. weights: numbers or, as texts, steps: +5. Unless forced, somebody
    must be left to take connections."""

    kind = "weights"
    cause = "weights"
    can_be_undone = True

    route: str
    weights: Mapping[str, Any]
    force: bool = False

    def plan(self, now: InForce) -> InForce:
        split = Split.of(now.image, self.route)
        split.check_names(self.weights)
        current = split.weights
        if not self.weights:
            raise Refusal("invalid", "no weight given")
        wanted = {name: _weight(name, value, current[name]) for name, value in self.weights.items()}
        return _with_weights(now, split, {**current, **wanted}, force=self.force)


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoWeights(Change):
    """Back to the weights before the last change of them; a second time: forth again. Unless
    forced, somebody must be left to take connections."""

    kind = "weights"
    cause = "rollback"
    can_be_undone = True

    route: str
    force: bool = False

    def plan(self, now: InForce) -> InForce:
        split = Split.of(now.image, self.route)
        previous = now.previous_weights.get(split.path, {})
        weights = {name: previous.get(name, weight) for name, weight in split.weights.items()}
        if weights == split.weights:
            raise Refusal("refused", f"{split.path}: nothing to undo: its weights were not changed")
        return _with_weights(now, split, weights, force=self.force)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedWeights(Change):
    """The configuration file has these weights now, as somebody has written them there. Those in
    force stay. A mistake in it lasts until the next reload."""

    kind = "weights"

    route: str
    weights: Mapping[str, Any]

    def plan(self, now: InForce) -> InForce:
        split = Split.of(now.image, self.route)
        split.check_names(self.weights)
        for name, value in self.weights.items():
            if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
                raise Refusal("invalid", f"{name}: a weight is 0..{MAX_WEIGHT}; got {value!r}")
        image = split.with_file_weights(now.image, self.weights)
        routes = (
            self._saved(route, split.rule) if route.name == split.route.name else route
            for route in now.config.routes
        )
        config = replace(now.config, routes=tuple(routes))
        return _with_differing(replace(now, config=config, image=image), split.path)

    def _saved(self, route: Route, rule: RuleRow | None) -> Route:
        if rule is None:
            destinations = (
                replace(d, weight=self.weights.get(d.name, d.weight)) for d in route.destinations
            )
            return replace(route, destinations=tuple(destinations))
        rules = (self._saved_rule(r) if r.called == rule.name else r for r in route.rules)
        return replace(route, rules=tuple(rules))

    def _saved_rule(self, rule: Rule) -> Rule:
        return replace(rule, weights=tuple({**dict(rule.weights), **self.weights}.items()))

    def differences(self, before: InForce, after: InForce) -> Iterator[str]:
        was = Split.of(before.image, self.route).file_weights
        now = Split.of(after.image, self.route).file_weights
        saved = [f"{name} {weight}" for name, weight in now.items() if weight != was[name]]
        if saved:
            yield f"{self.route}: the file has {', '.join(saved)} now"


def previous_weights(known: Weights, before: Image, after: Image) -> Weights:
    """For UndoWeights, after a change from one image to the other. known: those before it."""
    was = {split.path: split.weights for split in splits(before)}
    now = {split.path: split.weights for split in splits(after)}
    changed = {path: was[path] for path, new in now.items() if was.get(path, new) != new}
    return {path: old for path, old in {**known, **changed}.items() if path in now}


def splits(image: Image) -> Iterator[Split]:
    """All that have weights."""
    for route in image.routes:
        yield Split(route)
        for rule in route.pick_rules:
            if not rule.rule.reject:
                yield Split(route, rule)


def _with_weights(now: InForce, split: Split, weights: dict[str, int], *, force: bool) -> InForce:
    image = split.with_weights(now.image, weights)
    if not force:
        if not any(weights.values()):
            raise Refusal("unforced", f"all weights would be 0: {nobody_left(split.path)}")
        check_served(split.route, route_of(image, split.route.name))
    return _with_differing(replace(now, image=image), split.path)


def _with_differing(now: InForce, path: str) -> InForce:
    """The same with the weights of a split, as its image has them, that differ from the file's."""
    split = Split.of(now.image, path)
    in_file = split.file_weights
    differing = {name: w for name, w in split.weights.items() if w != in_file[name]}
    others = {name: set_ for name, set_ in now.weights.items() if name != path}
    return replace(now, weights={**others, path: differing} if differing else others)


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
