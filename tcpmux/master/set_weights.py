"""Weights that were set at run time, when a configuration replaces another: which of them do not
last, and what holds in their place. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from tcpmux.config import Config
from tcpmux.levels import Line
from tcpmux.master.weights import Split, splits
from tcpmux.shm.build import rule_path
from tcpmux.shm.image import Image, RouteRow


def weights_in_file(config: Config) -> dict[tuple[str, str], int]:
    """By ROUTE or ROUTE/RULE, and destination."""
    found: dict[tuple[str, str], int] = {}
    for route in config.routes:
        found |= {(route.name, d.name): d.weight for d in route.destinations}
        for rule in route.rules:
            path, weights = rule_path(route.name, rule.called), dict(rule.weights)
            found |= {(path, d.name): weights.get(d.name, 0) for d in route.destinations}
    return found


def overridden(before: Image, after: Image) -> Iterator[str]:
    """What the file says now where something else was set."""
    now = {split.path: split.weights for split in splits(after)}
    for path, was in _set(before).items():
        there = now.get(path)
        lost = {} if there is None else {n: w for n, w in was.items() if there.get(n) != w}
        if lost:
            yield f"{path}: the file's weights replace the ones set at run time ({_told(lost)})"


def dropped(before: Image, after: Image) -> Iterator[Line]:
    """What was set for a route or a rule that has another name now, or none."""
    now = {split.path for split in splits(after)}
    for split in splits(before):
        was = _set_of(split)
        if was and split.path not in now:
            route = _same_route(split.route.name, before, after)
            since = "the route is gone" if route is None else _since(split, route)
            text = f"weights set at run time are dropped ({_told(was)}): {since}"
            yield Line(logging.WARNING, f"{split.path}: {text}")


def _set(image: Image) -> dict[str, dict[str, int]]:
    return {split.path: was for split in splits(image) if (was := _set_of(split))}


def _set_of(split: Split) -> dict[str, int]:
    in_file = split.file_weights
    return {name: weight for name, weight in split.weights.items() if weight != in_file[name]}


def _since(gone: Split, route: RouteRow) -> str:
    """What has become of it. route: what its route is now."""
    rule = None
    if gone.rule is not None:
        conditions = gone.rule.rule.conditions
        same = [row for row in route.pick_rules if row.rule.conditions == conditions]
        rule = next((row for row in same if row.name == gone.rule.name), same[0] if same else None)
        if rule is None:
            return "no rule has its conditions now"
        if rule.rule.reject:
            return f"its connections are reset now, by {rule_path(route.name, rule.name)}"
    now = Split(route, rule)
    weights = {name: weight for name, weight in now.weights.items() if weight}
    what = "route" if rule is None else "rule"
    return f"the {what} is {now.path} now, with the file's weights ({_told(weights) or 'all 0'})"


def _same_route(name: str, before: Image, after: Image) -> RouteRow | None:
    """The one of that name, or else one that listens where it did."""
    for route in after.routes:
        if route.name == name:
            return route
    was = {row.address for row in before.listeners if before.routes[row.route].name == name}
    found = (row.route for row in after.listeners if row.address in was)
    number = next(found, None)
    return None if number is None else after.routes[number]


def _told(weights: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={weight}" for name, weight in weights.items())
