"""The last hour that control keeps of every destination, with counters that are set by hand."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control import history as module
from tcpmux.control import schema
from tcpmux.control.event_log import EventLog
from tcpmux.control.history import MARKS_OF_A_KIND, POINTS, STEP, History
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.slices import Slices
from tcpmux.master.events import Event, Events
from tcpmux.shm._declared import CLOSE_REASONS, PICK_REASONS, SLOT_COUNTERS, TIMES
from tcpmux.shm._readings import LATENCY_BOUNDS_US
from tcpmux.shm.build import build_image
from tcpmux.shm.counters import Histogram, SlotCounters, Times, quantile
from tcpmux.shm.slots import Names

LISTEN = Address("127.0.0.1", 31400, "")
ENDPOINT = Address("127.0.0.1", 9001, "")


class Instance:
    """A View whose counters are plain numbers, and its history. routes: destinations by route."""

    def __init__(self, routes: dict[str, list[str]]) -> None:
        self.names = Names.new(lambda _: True)
        self.counts: dict[int, dict[str, int]] = {}
        self.connects: dict[int, list[int]] = {}
        self.counters = SimpleNamespace(slot=self._slot, times=self._times)
        self.events = EventLog()
        self.reload(routes)
        self.history = History(self, self.events, Slices())  # type: ignore[arg-type]

    def reload(self, routes: dict[str, list[str]]) -> None:
        made = [
            Route(name, (LISTEN,), tuple(Destination(d, 50, (ENDPOINT,)) for d in destinations))
            for name, destinations in routes.items()
        ]
        config = Config(None, None, Admin("/x"), 45.0, tuple(made))
        self._image = build_image(config, {}, self.names, {LISTEN: 0}, 1, {})

    def image(self) -> tuple[int, Any]:
        return 1, self._image

    def _slot(self, slot: int) -> SlotCounters:
        made = dict.fromkeys(SLOT_COUNTERS, 0) | self.counts.get(slot, {})
        closed = [made.pop(reason, 0) for reason in CLOSE_REASONS]
        picked = (0,) * len(PICK_REASONS)
        return SlotCounters(**made, closed=tuple(closed), picked=picked)  # type: ignore[call-arg]

    def _times(self, slot: int) -> Times:
        empty = Histogram(0, (0,) * (len(LATENCY_BOUNDS_US) + 1))
        connect = replace(empty, buckets=tuple(self.connects.get(slot, empty.buckets)))
        return Times(**dict.fromkeys(TIMES, empty) | {"connect": connect})

    def row(self, route: str, destination: str = "") -> Any:
        found = next(row for row in self._image.routes if row.name == route)
        rows = {row.name: row for row in found.destinations}
        return rows[destination] if destination else found

    def grow(self, route: str, destination: str, **by: int) -> None:
        for slot in (self.row(route).slot, self.row(route, destination).slot):
            counts = self.counts.setdefault(slot, {})
            for name, number in by.items():
                counts[name] = counts.get(name, 0) + number

    def point(self, number: int) -> None:
        for _ in self.history.steps(number * STEP):
            pass

    def told(self, route: str | None) -> Any:
        return json.loads("".join(self.history.parts(route)))

    def lists(self, route: str, destination: str) -> Any:
        (found,) = (d for d in self.told(route)["destinations"] if d["name"] == destination)
        return found

    def happens(self, kind: str, text: str, at: float | None = None, *, route: str = "") -> None:
        event = Event(self.events.last + 1, at or time.time(), kind, text, "", "info", route)
        self.events._events.append(event.as_json())


def test_points_are_rates_since_the_point_before() -> None:
    """The first has nothing to be compared with, and one that gets nothing has 0."""
    at = Instance({"shop": ["v1", "v2"]})
    at.grow("shop", "v1", opened=5)
    at.point(100)
    at.grow("shop", "v1", opened=20, bytes_in=1000, bytes_out=50, connect_failures=1)
    at.point(101)
    v1 = at.lists("shop", "v1")
    assert v1["connections"] == [None, 2.0]
    assert (v1["bytes_in"], v1["bytes_out"]) == ([None, 100.0], [None, 5.0])
    assert v1["connect_failures"] == [None, 0.1]
    assert at.lists("shop", "v2")["connections"] == [None, 0.0]
    assert v1["weight"] == [50, 50]
    told = at.told("shop")
    assert (told["points"], told["step"]) == (2, STEP)
    assert told["time"] == pytest.approx(time.time(), abs=60)


def test_connections_lost_are_of_the_route() -> None:
    """They may not have come as far as a destination."""
    at = Instance({"shop": ["v1"]})
    counts = at.counts.setdefault(at.row("shop").slot, {"opened": 1})
    at.point(1)
    counts.update(no_endpoint=4, worker_lost=1, client_reset=7)
    at.point(2)
    assert at.told("shop")["lost"] == [None, 0.5]


def test_the_answer_is_as_its_type_says() -> None:
    at = Instance({"shop": ["v1"]})
    at.grow("shop", "v1", opened=1)
    at.point(1)
    at.happens("weights", "shop: v1 1->2")
    told = at.told("shop")
    assert told.keys() == get_type_hints(schema.History).keys()
    assert told["destinations"][0].keys() == get_type_hints(schema.DestinationHistory).keys()
    assert told["marks"][0].keys() == get_type_hints(schema.Mark).keys()


def test_latencies_are_of_the_connects_between_two_points() -> None:
    at = Instance({"shop": ["v1"]})
    slot = at.row("shop", "v1").slot
    at.grow("shop", "v1", opened=1)
    at.connects[slot] = [1000] + [0] * len(LATENCY_BOUNDS_US)
    at.point(1)
    at.connects[slot] = [1000, 99, 1] + [0] * (len(LATENCY_BOUNDS_US) - 2)
    at.point(2)
    found = at.lists("shop", "v1")
    low, high, _ = (bound / 1e6 for bound in LATENCY_BOUNDS_US[:3])
    assert low < found["connect_p50_seconds"][1] < high
    assert found["connect_p99_seconds"][1] == pytest.approx(high, rel=0.001)
    at.point(3)
    assert at.lists("shop", "v1")["connect_p50_seconds"][2] is None


def test_what_is_above_all_bounds_counts_as_the_last() -> None:
    assert quantile([0, 0, 4], [1.0, 2.0], 0.5) == 2.0


def test_points_that_were_missed_are_not_known() -> None:
    """As after a control process that was stopped; the rate is over the whole time."""
    at = Instance({"shop": ["v1"]})
    at.grow("shop", "v1", opened=1)
    at.point(10)
    at.grow("shop", "v1", opened=40)
    at.point(14)
    assert at.lists("shop", "v1")["connections"] == [None, None, None, None, 1.0]


def test_it_goes_back_an_hour_and_no_further() -> None:
    at = Instance({"shop": ["v1"]})
    for number in range(POINTS + 7):
        at.grow("shop", "v1", opened=number)
        at.point(number)
    found = at.lists("shop", "v1")["connections"]
    assert len(found) == POINTS == at.told("shop")["points"]
    assert (found[0], found[-1]) == (0.7, pytest.approx((POINTS + 6) / STEP, rel=0.001))


def test_a_reload_loses_nothing() -> None:
    """Also not of a route that it moves, or takes away for a while."""
    at = Instance({"shop": ["v1"], "other": ["only"]})
    at.grow("shop", "v1", opened=1)
    at.point(1)
    at.reload({"other": ["only"]})
    at.point(2)
    at.reload({"other": ["only"], "shop": ["v1", "v2"]})
    at.grow("shop", "v1", opened=60)
    at.point(3)
    assert at.lists("shop", "v1")["weight"] == [50, None, 50]
    assert at.lists("shop", "v2")["weight"] == [None, None, 50]


def test_a_route_without_a_connection_takes_no_memory() -> None:
    at = Instance({"shop": ["v1"]})
    at.point(1)
    assert at.history._series == {}
    assert at.lists("shop", "v1")["connections"] == [None]


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of destinations that are gone make room; those that are there stay."""
    monkeypatch.setattr(module, "MAX_SERIES", 4)
    at = Instance({"a": ["v1"], "b": ["v1"], "c": ["v1"]})
    for name in "abc":
        at.grow(name, "v1", opened=1)
    at.point(1)
    assert [at.lists(name, "v1")["weight"] for name in "abc"] == [[50], [50], [None]]
    at.reload({"b": ["v1"], "c": ["v1"]})
    at.point(2)
    at.point(3)
    assert at.lists("b", "v1")["weight"] == [50, 50, 50]
    assert at.lists("c", "v1")["weight"][-1] == 50
    assert len(at.history._series) == 4


def test_what_happened_is_marked_where_it_belongs() -> None:
    at = Instance({"shop": ["v1"], "other": ["v1"]})
    at.point(1)
    at.happens("weights", "shop: v1 1->2", route="shop")
    at.happens("health", "endpoint 127.0.0.1:9001 is down, refused", route="other")
    at.happens("worker", "shop: so a text may begin that is about no route")
    at.happens("warning", "of no use here")
    at.happens("reload", "gone: a route that is there no more", route="gone")
    assert {mark["level"] for mark in at.told(None)["marks"]} == {"info"}
    routes = [(mark["kind"], mark["route"]) for mark in at.told(None)["marks"]]
    assert routes == [("weights", "shop"), ("health", "other"), ("worker", None), ("reload", None)]
    assert [mark["kind"] for mark in at.told("other")["marks"]] == ["health", "worker", "reload"]


def test_marks_are_bounded_by_kind_and_by_time() -> None:
    """However often an endpoint comes and goes, the change of weights before it is still there."""
    at = Instance({"shop": ["v1"]})
    at.point(1)
    at.happens("state", "shop: v1 draining", at=time.time() - POINTS * STEP - 1, route="shop")
    at.happens("weights", "shop: v1 1->2", route="shop")
    for _ in range(MARKS_OF_A_KIND + 50):
        at.happens("health", "shop/v1: endpoint 127.0.0.1:9001 is down", route="shop")
    kinds = [mark["kind"] for mark in at.told("shop")["marks"]]
    assert kinds == ["weights"] + ["health"] * MARKS_OF_A_KIND


def test_a_route_that_there_is_not_is_refused() -> None:
    with pytest.raises(MasterRefused, match="did you mean shop") as caught:
        Instance({"shop": ["v1"]}).told("shpo")
    assert caught.value.kind == "not_found"


def test_before_the_first_point_there_is_nothing_and_no_fault() -> None:
    told = Instance({"shop": ["v1"]}).told("shop")
    assert (told["points"], told["destinations"][0]["weight"]) == (0, [])


def test_marks_of_events_that_another_build_has_kept() -> None:
    """They came through the master that took over: without a field, or with one more."""
    at = Instance({"r": ["v1"]})
    at.point(1)
    older = {"seq": 1, "time": time.time(), "kind": "reload", "text": "older", "by": ""}
    newer = {
        **older,
        "seq": 2,
        "text": "newer",
        "route": "r",
        "level": "info",
        "of_later": {"a": 1},
    }
    kept = Events()
    kept.restore([older, newer])
    at.events._events += kept.saved()
    marks = at.told("r")["marks"]
    assert [(mark["text"], mark["route"]) for mark in marks] == [("older", None), ("newer", "r")]
