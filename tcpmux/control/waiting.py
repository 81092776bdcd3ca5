"""How both clients wait for something in the status of an instance, and take its stream apart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypedDict, cast

from tcpmux.control.asking import AdminError, Interrupted, WaitTimeout
from tcpmux.control.fitting import Unfit, fitted
from tcpmux.control.http_answer import NotHttp
from tcpmux.control.schema import (
    ConditionsUpdate,
    Event,
    EventsUpdate,
    RouteStatus,
    Sample,
    SampleUpdate,
    StreamConditions,
    StreamTable,
    TableUpdate,
    WorkerStatus,
)
from tcpmux.errors import UsageError, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tcpmux.control.schema import DestinationStatus, Status, Update

EVERY = 0.2  # s between two looks
LEAST = 1.0  # s for an answer, however little is left
# The update, the type of its data, and which parts of it are as in the status, but not complete.
UPDATES: dict[str, tuple[Any, ...]] = {
    "table": (TableUpdate, StreamTable, "routes"),
    "conditions": (ConditionsUpdate, StreamConditions, "routes"),
    "sample": (SampleUpdate, Sample, "workers"),
    "events": (EventsUpdate, list[Event]),
}


class Parts(TypedDict, total=False):
    routes: list[RouteStatus]
    workers: list[WorkerStatus]


class Wait:
    """Until something is so. timeout: s; None = as long as it takes. what: it, for a message.
    Raises UsageError."""

    def __init__(self, timeout: float | None, what: Callable[[], str]) -> None:
        if timeout is not None and not timeout >= 0:  # NaN as well
            raise UsageError(f"timeout: expected 0 or more seconds, got {timeout!r:.100}")
        self._timeout = timeout
        self._what = what
        self._end = float("inf") if timeout is None else time.monotonic() + timeout

    def limit(self, usual: float) -> float:
        """For the next answer, s."""
        return min(usual, max(self._end - time.monotonic(), LEAST))

    def failed(self, error: AdminError) -> None:
        """What was cut off, as when control is replaced, is asked for again. Else raises it."""
        if not isinstance(error, Interrupted):
            self.pause()
            raise error

    def pause(self) -> float:
        """How long until the next look, s. Raises WaitTimeout."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise WaitTimeout(f"waited {self._timeout:g} s in vain: {self._what()}")
        return min(EVERY, left)


class Drained:
    """Whether a destination, an endpoint or a whole route has no connection left. target: ROUTE,
    ROUTE/DESTINATION or ROUTE/DESTINATION/ADDRESS."""

    def __init__(self, target: str) -> None:
        self._target = target.removesuffix("/")
        self._left = 0

    def __str__(self) -> str:
        return f"{self._target} has {plural(self._left, 'connection')} left"

    def __call__(self, status: Status) -> bool:
        """Raises AdminError if it is not there, or takes new connections."""
        name, _, part = self._target.partition("/")
        route = next((route for route in status["routes"] if route["name"] == name), None)
        found = route and list(_active(route, part))
        if not found:
            raise AdminError(f"no route, destination or endpoint named {self._target!r}")
        for other, is_open, _ in found:
            if is_open:
                raise AdminError(f"{other} takes new connections: drain or disable it first")
        self._left = sum(left for *_, left in found)
        return not self._left


def _active(route: RouteStatus, part: str) -> Iterator[tuple[str, bool, int]]:
    """What the target is or consists of: its name, whether an operator lets it take connections,
    and how many it has."""
    for destination in route["destinations"]:
        name = destination["name"]
        if part in ("", name):
            yield (
                f"{route['name']}/{name}",
                _is_open(destination),
                destination["connections_active"],
            )
        for endpoint in destination["endpoints"]:
            if part == f"{name}/{endpoint['address']}":
                is_open = _is_open(destination) and endpoint["state"] == "ready"
                yield f"{route['name']}/{part}", is_open, endpoint["connections_active"]


def _is_open(destination: DestinationStatus) -> bool:
    return destination["state"] == "ready" and destination["weight"] > 0


def updates(events: Iterable[tuple[str, Any]]) -> Iterator[Update]:
    """Typed; without those of kinds that only a newer instance has. Raises NotHttp."""
    for kind, data in events:
        if kind not in UPDATES:
            continue
        made, of, *parts = UPDATES[kind]
        try:
            fitted(data, of)
            fitted({name: data[name] for name in parts if name in data}, Parts)
            yield cast("Update", made(kind, data))
        except Unfit as error:
            raise NotHttp(f"{kind}: {error}") from None
