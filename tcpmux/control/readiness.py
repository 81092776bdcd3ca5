"""Whether the instance serves, and whether it takes new connections: for load balancers, Kubernetes
and scripts. Runs in control.

One route that is down is no reason: the others would be taken away with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tcpmux.control.condition import DOWN
from tcpmux.errors import listed, plural
from tcpmux.shm.stats import is_any_at_work

if TYPE_CHECKING:
    from tcpmux.control.conditions import Conditions
    from tcpmux.shm.view import View

MAX_NAMES = 20  # told


class Readiness:
    """Of a View, as its conditions were looked at last."""

    def __init__(self, view: View, conditions: Conditions) -> None:
        self._view = view
        self._conditions = conditions

    def is_alive(self) -> bool:
        """Whether a worker runs that is neither stopped nor hangs."""
        return is_any_at_work(self._view.lives)

    def reasons(self, *, with_names: bool) -> Iterator[str]:
        """Why it does not take new connections, a line each; none = it does. with_names: of the
        routes, which not everybody is to know."""
        if self._view.table.draining:
            yield "draining"
        if not self.is_alive():
            yield "no worker runs"
        _, image = self._view.image()
        down = [route.name for route in image.routes if self._conditions.word(route.name) == DOWN]
        if down and len(down) == len(image.routes):
            yield "every route is down" + _named(down, with_names=with_names)
        listening = {row.route for row in image.listeners}
        closed = [
            route.name
            for number, route in enumerate(image.routes)
            if number not in listening and route.name not in down
        ]
        if closed:
            yield f"{plural(len(closed), 'route')} not listening" + _named(
                closed, with_names=with_names
            )


def _named(names: list[str], *, with_names: bool) -> str:
    if not with_names:
        return ""
    return f": {listed(names, MAX_NAMES)}"
