"""A change of what is in force, as a value: what is wanted, by whom, and what the log says of it.

    weights.py       weights, at run time
    mirror.py        who gets a shadow, at run time
    states.py        who takes new connections: drained, disabled, ready again
    observed.py      what control has found out: health, slow start, addresses of host names
    reload.py        the configuration: a start, a reload, a takeover
    worker_count.py  the number of workers
    convergence.py   live connections that follow the weights

changes.py checks each as a whole and then applies it. Runs in the master.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

from tcpmux.config import Address, Config, HostName
from tcpmux.errors import listed
from tcpmux.levels import NOWHERE, Line, Where, level_of
from tcpmux.master.answers import Refusal
from tcpmux.nearest import did_you_mean
from tcpmux.shm.image import Image, RouteRow
from tcpmux.shm.mirror import Mirroring

Weights = Mapping[str, Mapping[str, int]]  # ROUTE or ROUTE/RULE -> destination -> weight
Mirrors = Mapping[str, Mirroring]  # by route
Known = Mapping[HostName, tuple[Address, ...]]  # what host names mean

MAX_NAMES = 20  # listed in a message


@dataclass(frozen=True, slots=True)
class InForce:
    """What the instance does.

    workers: how many there are to be. addresses: of host names. weights: those set at run time
    that differ from the configuration's; previous_weights: before the last change of them.
    mirrors: who gets a shadow, where that was set at run time.
    refusing: routes that do not listen, as nobody could serve their clients.
    """

    config: Config
    image: Image
    workers: int
    addresses: Known = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    previous_weights: Weights = field(default_factory=dict)
    mirrors: Mirrors = field(default_factory=dict)
    refusing: frozenset[str] = frozenset()


class Done(NamedTuple):
    """A change that was applied. changes: what differs, a line each. warnings: what is not as it
    should be with what is in force now."""

    before: InForce
    after: InForce
    changes: list[str]
    generation: int
    warnings: list[str]


class LogLine(NamedTuple):
    """A line for the log. event: its kind, as events.py has them; "" = it is none."""

    event: str
    line: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """by: who asks for it; "" = nobody, it follows from what has happened."""

    kind: ClassVar[str]  # of its event
    # The image is made anew from the configuration. Else plan() changes that in force.
    rebuilds: ClassVar[bool] = False
    # Listeners that are not wanted any more are closed.
    closes: ClassVar[bool] = True
    # Weights that it changes can be brought back.
    can_be_undone: ClassVar[bool] = False
    # As what it sets live connections off to follow the weights: of CONVERGE_WHEN; "" = never.
    cause: ClassVar[str] = ""

    by: str = ""

    def plan(self, now: InForce) -> InForce:
        """What is to be in force, but for an image that is made anew. Changes nothing. Raises
        TcpmuxError if that can't be."""
        raise NotImplementedError

    def differences(self, before: InForce, after: InForce) -> Iterable[str]:
        """What changes besides the image and the number of workers, a line each."""
        return ()

    def notes(self, before: InForce, after: InForce) -> Iterable[str]:
        """What whoever asked for it should know besides."""
        return ()

    def warnings(self, before: InForce, after: InForce) -> Iterable[str]:
        """What is not as it should be with what it puts in force, a line each."""
        return ()

    def report(self, done: Done) -> Iterator[LogLine]:
        """What is said of it in the log once it is in force."""
        for change in done.changes:
            text = f"{change}, generation {done.generation}"
            yield LogLine(self.kind, Line(level_of(change), text))
        if not done.changes:
            yield LogLine(
                self.kind, Line(logging.INFO, f"nothing changed, generation {done.generation}")
            )


class Places:
    """What lines are about that begin with its name: `ROUTE: `, `ROUTE/DESTINATION: `."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @cached_property
    def _names(self) -> dict[str, set[str]]:
        return {r.name: {d.name for d in r.destinations} for r in self._image.routes}

    def of(self, line: str) -> Where:
        name, colon, _ = line.partition(": ")
        route, _, destination = name.partition("/")
        if not colon or route not in self._names:
            return NOWHERE
        return Where(route, destination if destination in self._names[route] else "")


def route_of(image: Image, name: str) -> RouteRow:
    """Raises Refusal if there is none of that name."""
    for route in image.routes:
        if route.name == name:
            return route
    raise unknown("route", name, [route.name for route in image.routes])


def unknown(what: str, name: object, known: Iterable[str]) -> Refusal:
    """`no route named 'tcp-ecoh': did you mean tcp-echo? There are: ...`."""
    names = list(known)
    near = did_you_mean(name, names)
    hint = f": {near}" if near else ";"
    those = listed(names, MAX_NAMES) or "none"
    there = "There" if near else "there"
    return Refusal("not_found", f"no {what} named {str(name)!r}{hint} {there} are: {those}")
