"""Weights that a host has by itself, and not as its fleet and its files say. Runs in control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcpmux.shm.image import Image, RouteRow

Weights = Mapping[str, Mapping[str, int]]


def own_weights(image: Image, of_fleet: Weights) -> Iterator[str]:
    """ROUTE or ROUTE/RULE, where `tcpmux weight` or a rollout has set others on this host alone.
    of_fleet: by the same."""
    for route in image.routes:
        for path, now, in_files in _splits(route):
            wanted = {**in_files, **of_fleet.get(path, {})}
            if any(now[name] != wanted[name] for name in now) and any(wanted.values()):
                yield path


def unfit_weights(image: Image, of_fleet: Weights) -> Iterator[tuple[str, str]]:
    """(path, why) of weights of the fleet that say nothing to this host, at least in part."""
    known = {path: now.keys() for route in image.routes for path, now, _ in _splits(route)}
    for path, weights in sorted(of_fleet.items()):
        if path not in known:
            yield path, "no such route or rule"
        elif unknown := sorted(weights.keys() - known[path]):
            yield path, f"no destination {unknown[0]}"


def _splits(route: RouteRow) -> Iterator[tuple[str, dict[str, int], dict[str, int]]]:
    """(path, weights now, those of the documents and files)."""
    yield (
        route.name,
        {row.name: row.weight for row in route.destinations},
        {row.name: row.file_weight for row in route.destinations},
    )
    names = [row.name for row in route.destinations]
    for rule in route.pick_rules:
        yield (
            f"{route.name}/{rule.name}",
            dict(zip(names, rule.weights, strict=True)),
            dict(zip(names, rule.file_weights, strict=True)),
        )
