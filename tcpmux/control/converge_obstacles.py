"""What keeps live connections from going where the weights say. Runs in control."""

from __future__ import annotations

from tcpmux.config.converge import CONVERGE_WHEN
from tcpmux.control.convergence import splits_of
from tcpmux.shm.image import READY, Convergence, RouteRow
from tcpmux.shm.serving import serves

_RECOVERY = 1 << [*CONVERGE_WHEN].index("recovery")


def missing_in(route: RouteRow, wanted: Convergence) -> str:
    """A destination that has to have a share by the weights asked for, while others get it as it
    can take no connections. "" as well if its recovery sets the route off anew."""
    if wanted.by_key and route.rules.converge_when & _RECOVERY:
        return ""
    for row in route.destinations:
        is_open = row.unresolved or any(each.state == READY for each in row.endpoints)
        if row.weight and row.state == READY and is_open and not row.turns:
            return f"{row.name} can take no connections"
    return ""


def obstacle(route: RouteRow) -> str:
    """A destination to which clients would come back that can take none."""
    used = {slot for of in splits_of(route).values() for slot, weight in of.items() if weight}
    for row in route.destinations:
        if row.slot in used and not serves(row):
            return f"{row.name} can take no connections"
    return ""
