"""Which connections of a route have a shadow: as the file says, or as somebody has set since. Used
in the master (to write) and control (to read)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from tcpmux.config.mirror import percent_text
from tcpmux.shm.image import RouteRow
from tcpmux.shm.rules import RouteRules


class Mirroring(NamedTuple):
    """to: the destination that gets the copies. share: of 10,000 connections; 0 = none."""

    to: str
    share: int

    def __str__(self) -> str:
        return f"{percent_text(self.share)}% to {self.to}" if self.share else "off"


OFF = Mirroring("", 0)


def mirroring_of(route: RouteRow) -> Mirroring:
    """What is in force."""
    rules = route.rules
    if not (rules.mirror_share or rules.mirror_at_run_time):
        return OFF
    return Mirroring(route.destinations[rules.mirror_to].name, rules.mirror_share)


def set_at_run_time(route: RouteRow) -> Mirroring | None:
    """None: it is as the file says."""
    return mirroring_of(route) if route.rules.mirror_at_run_time else None


def with_mirroring(rules: RouteRules, names: Sequence[str], found: Mirroring | None) -> RouteRules:
    """The rules of a file with what was set since. names: of the route's destinations; if its own
    is not among them any more, it is as the file says."""
    if found is None or found.to not in names:
        return rules
    return replace(  # type: ignore[type-var]
        rules,
        mirror_to=names.index(found.to),
        mirror_share=found.share,
        mirror_at_run_time=1,
    )


def mirror_changes(old: RouteRow, new: RouteRow) -> Iterator[str]:
    """What is different, in words."""
    then, now = mirroring_of(old), mirroring_of(new)
    if (then.share, now.share) != (0, 0) and then != now:
        yield f"mirror {then}->{now}"
