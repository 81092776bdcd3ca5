"""What the log of a start says of the routes. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tcpmux.config import Config
from tcpmux.errors import plural
from tcpmux.levels import Line, Where
from tcpmux.shm.image import Image

MAX_SHOWN = 10  # routes; with more, there is one line for all, and one for each at debug


def routes_shown(config: Config, image: Image) -> Iterator[Line]:
    """A line for each route, with its weights now, and if they are many, one with their number for
    all."""
    weights = {
        (route.name, row.name): row.weight for route in image.routes for row in route.destinations
    }
    is_many = len(config.routes) > MAX_SHOWN
    for route in config.routes:
        shares = ", ".join(
            f"{d.name} {weights.get((route.name, d.name), d.weight)}" for d in route.destinations
        )
        listen = ", ".join(map(str, route.listen))
        level = logging.DEBUG if is_many else logging.INFO
        yield Line(level, f"{route.name}: listening on {listen}, {shares}", Where(route.name))
    if is_many:
        destinations = [each for route in config.routes for each in route.destinations]
        counts = (
            plural(len(config.routes), "route"),
            plural(sum(len(route.listen) for route in config.routes), "listener"),
            plural(len(destinations), "destination"),
            plural(sum(len(each.endpoints) for each in destinations), "endpoint"),
        )
        yield Line(logging.INFO, f"{', '.join(counts)}: each route at log level debug")
