"""Changes that follow from what control has observed, without a request. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tcpmux.levels import Line
from tcpmux.master.change import Change, Done, InForce, Known, LogLine
from tcpmux.master.consequences import consequences
from tcpmux.shm.image import Image
from tcpmux.shm.serving import Condition, refuses, with_conditions
from tcpmux.shm.slots import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConditions(Change):
    """Health of endpoints, and how far they and their destinations are with their slow start.
    lines: what control has to say of it."""

    kind = "health"
    cause = "recovery"

    conditions: Mapping[Key, Condition]
    lines: Sequence[Line] = ()

    def plan(self, now: InForce) -> InForce:
        return replace(now, image=with_conditions(now.image, self.conditions))

    def report(self, done: Done) -> Iterator[LogLine]:
        for line in (*self.lines, *consequences(done.before.image, done.after.image)):
            yield LogLine(self.kind, line)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAddresses(Change):
    """What host names mean from now on."""

    kind = "names"
    cause = "recovery"
    rebuilds = True

    found: Known

    def plan(self, now: InForce) -> InForce:
        return replace(now, addresses={**now.addresses, **self.found})

    def report(self, done: Done) -> Iterator[LogLine]:
        if done.changes:
            yield from Change.report(self, done)
        for line in consequences(done.before.image, done.after.image):
            yield LogLine("health", line)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRefusing(Change):
    """Stops listening for these routes alone: those with on_all_unavailable: refuse that nobody
    can serve."""

    kind = "health"
    rebuilds = True

    routes: frozenset[str]

    def plan(self, now: InForce) -> InForce:
        return replace(now, refusing=self.routes)

    def report(self, done: Done) -> Iterator[LogLine]:
        for change in done.changes:
            yield LogLine(self.kind, Line(logging.INFO, change))


def to_refuse(image: Image) -> frozenset[str]:
    """The routes that are not to listen, for SetRefusing."""
    return frozenset(route.name for route in image.routes if refuses(route))
