"""A change of what is in force takes place as a whole, or not at all; who asked for it is known."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcpmux.config import Config, Problem, Text, load_texts
from tcpmux.errors import TcpmuxError, clock
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, InForce
from tcpmux.master.changes import Changes
from tcpmux.master.listeners import Listener, Listeners
from tcpmux.master.observed import SetAddresses, SetConditions, SetRefusing
from tcpmux.master.reload import Reload
from tcpmux.master.states import EndStates, SetStates
from tcpmux.master.supervisor import Supervisor
from tcpmux.master.upkeep import RETRY_SECONDS, Upkeep
from tcpmux.master.weights import SavedWeights, SetWeights, UndoWeights
from tcpmux.master.worker_count import SetWorkers
from tcpmux.master.workers import WorkersBusy
from tcpmux.shm import sticky
from tcpmux.shm._commons import Commons
from tcpmux.shm._image import read_image
from tcpmux.shm._table import Table
from tcpmux.shm.image import DOWN, HEALTHY, Image
from tcpmux.shm.serving import Condition
from tcpmux.shm.slots import Key

V1 = ("r", "v1", "127.0.0.1:1")
BY = "uid 7"


class Workers:
    """They do as they are told, or are busy."""

    running = ()
    lives = ()

    def __init__(self) -> None:
        self.busy = False
        self.wakes = self.count = 0
        self.told: list[str] = []

    def slot_is_idle(self, _slot: int) -> bool:
        return True

    def await_generation(self, _generation: int, _timeout: float) -> None:
        if self.busy:
            raise WorkersBusy("busy")

    def wake(self) -> None:
        self.wakes += 1

    def want(self, count: int) -> None:
        self.count = count

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.told.append(name)


class Programs:
    """The part that follows the configuration."""

    def __init__(self) -> None:
        self.fails = False
        self.told: list[str] = []

    def prepare(self, _config: Config) -> Programs:
        if self.fails:
            raise TcpmuxError("no room")
        self.told.append("prepare")
        return self

    def changes(self) -> list[str]:
        return []

    def commit(self) -> None:
        self.told.append("commit")

    def logged(self) -> None:
        """Nothing waits for it."""

    def cancel(self) -> None:
        self.told.append("cancel")


class Bench:
    """Changes with a table of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.table = Table.create(1, 1, os.getpid(), 0)
        self.commons = Commons.create()
        self.workers, self.programs = Workers(), Programs()
        self.listeners = Listeners(1)
        workers: Any = self.workers
        self.changes = Changes(
            InForce(self.config("a"), Image((), ()), 1),
            (self.table, self.commons),
            workers,
            self.listeners,
            Supervisor(),
            self.programs,
        )
        self.changes.start()
        self.programs.told.clear()
        self.workers.told.clear()
        self.workers.wakes = 0

    def config(self, *listen: str, rules: str = "", weight: int = 90) -> Config:
        addresses = ", ".join(f'"unix:{self.directory / name}"' for name in listen)
        text = f"""\
routes:
- name: r
  listen: [{addresses}]
  {rules}
  destinations:
  - {{name: v1, weight: {weight}, endpoints: ["127.0.0.1:1"]}}
  - {{name: v2, weight: 10, endpoints: ["127.0.0.1:2"]}}
"""
        return load_texts([Text("routes.yaml", text, {})])

    def reload(self, *listen: str, **settings: Any) -> Reload:
        return Reload(config=self.config(*listen, **settings), most_workers=4, by=BY)

    def state(self) -> tuple[Any, ...]:
        """All that a change could change."""
        files = sorted(path.name for path in self.directory.iterdir())
        return self.changes.in_force, read_image(self.table), files, set(self.listeners.by_address)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.listeners.close_all(keep_files=False)
    bench.table.close()
    bench.commons.close()


def every_change(bench: Bench) -> list[Change]:
    """Each has something to change, and can be done after the ones before it."""
    return [
        SetWeights(route="r", weights={"v1": "-40"}, by=BY),
        UndoWeights(route="r", by=BY),
        SetStates(targets=[V1], state="draining", seconds=0.001, force=True, by=BY),
        EndStates(now=time.time() + 2, by=BY),
        SetConditions(conditions={V1: (DOWN, 100)}, by=BY),
        SetRefusing(routes=frozenset("r"), by=BY),
        bench.reload("a", "b", weight=1),
    ]


def test_each_change_publishes_once_and_says_who_asked(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for change in every_change(bench):
        caplog.clear()
        before = bench.table.generation
        done = bench.changes.ask(change)
        assert bench.table.generation == done.generation == before + 1, change
        assert bench.changes.in_force is done.after
        assert read_image(bench.table)[0] == before + 1
        assert caplog.records, change
        assert {record.__dict__["by"] for record in caplog.records} == {BY}
        assert {record.__dict__["event"] for record in caplog.records} == {change.kind}
    assert bench.workers.wakes == len(every_change(bench))


def test_what_changes_nothing_publishes_nothing(bench: Bench) -> None:
    bench.workers.busy = True  # nobody is asked
    before = bench.table.generation
    weights = SetWeights(route="r", weights={"v1": 90}, by=BY)
    for change in (weights, bench.reload("a"), SetWorkers(count=1, most=4, by=BY)):
        assert [text for text in bench.changes.apply(change).changes if "workers" not in text] == []
    assert bench.table.generation == before
    assert bench.workers.wakes == 0


def test_busy_workers_leave_everything_as_it_was(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """What was prepared is taken back: the socket that was opened, the programs' part."""
    before = bench.state()
    bench.workers.busy = True
    for change in (
        SetWeights(route="r", weights={"v1": 1}, by=BY),
        SetStates(targets=[V1], state="disabled", by=BY),
        SetConditions(conditions={V1: (DOWN, 100)}, by=BY),
        SetRefusing(routes=frozenset("r"), by=BY),
        bench.reload("b", weight=1),
    ):
        caplog.clear()
        with pytest.raises(WorkersBusy):
            bench.changes.ask(change)
        assert bench.state() == before, change
        (record,) = caplog.records
        assert record.getMessage() == "refused, nothing changed: busy"
        assert record.levelno == logging.WARNING
        assert record.__dict__["by"] == BY
    assert bench.programs.told == ["prepare", "cancel"]
    assert "remove_listeners" not in bench.workers.told


@pytest.mark.parametrize("what", ["programs", "socket"])
def test_a_reload_that_can_not_be_done_leaves_everything_as_it_was(bench: Bench, what: str) -> None:
    bench.programs.fails = what == "programs"
    listen = "c/none" if what == "socket" else "b"
    before = bench.state()
    with pytest.raises(TcpmuxError):
        bench.changes.apply(bench.reload("b", listen, weight=1))
    assert bench.state() == before
    assert bench.programs.told == (["prepare", "cancel"] if what == "socket" else [])


def test_who_keeps_its_clients_is_said(bench: Bench) -> None:
    """Of a sticky route with zero: stay."""

    def said(change: Change) -> list[str]:
        return [line.partition("r: ")[2] for line in bench.changes.apply(change).changes]

    stay = {"rules": "sticky: {by: source, zero: stay}"}
    bench.changes.apply(bench.reload("a", **stay))
    assert said(SetWeights(route="r", weights={"v1": 0})) == ["v1 90->0, v1 keeps its clients"]
    assert said(SetWeights(route="r", weights={"v2": 20})) == ["v2 10->20"]
    assert said(SetWeights(route="r", weights={"v2": 10})) == ["v2 20->10"]
    assert said(SetWeights(route="r", weights={"v1": 5})) == ["v1 0->5"]
    assert said(SetWeights(route="r", weights={"v1": 0})) == ["v1 5->0, v1 keeps its clients"]
    leave = bench.reload("a", rules="sticky: {by: source}", weight=0)
    assert said(leave)[:1] == ["sticky.zero stay->leave, v1 no longer keeps its clients"]


def test_sticky_routes_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that needs more than there is room for is refused, and says what could be done."""
    stay = {"rules": "sticky: {by: source, zero: stay}"}
    bench.changes.apply(bench.reload("a", **stay))
    before = bench.state()
    weights = SetWeights(route="r", weights={"v1": 0})
    for limit, most, told in (
        ("MAX_CONTESTS", 1, "2 sets of weights, of at most 1"),
        ("MAX_CONTENDERS", 2, "3 weights, of at most 2"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sticky, limit, most)
            for change in (weights, bench.reload("a", **stay, weight=0)):
                with pytest.raises(TcpmuxError, match=f"sticky routes would need {told}"):
                    bench.changes.apply(change)
                assert bench.state() == before
            down = SetConditions(conditions={V1: (DOWN, 100)})
            bench.changes.apply(down)
            bench.changes.apply(SetConditions(conditions={V1: (HEALTHY, 100)}))
        before = bench.state()
    bench.changes.apply(weights)


def test_what_is_refused_changes_nothing(bench: Bench) -> None:
    before = bench.state()
    for change in (
        SetWeights(route="q", weights={"v1": 1}),
        SetWeights(route="r", weights={"v3": 1}),
        SetWeights(route="r", weights={}),
        SetWeights(route="r", weights={"v1": True}),
        SetWeights(route="r", weights={"v1": "-91"}),
        SetWeights(route="r", weights={"v1": 0, "v2": 0}),
        UndoWeights(route="r"),
        SavedWeights(route="q", weights={"v1": 1}),
        SavedWeights(route="r", weights={"v3": 1}),
        SavedWeights(route="r", weights={"v1": "+5"}),
        SavedWeights(route="r", weights={"v1": 1_000_001}),
        SavedWeights(route="r", weights={"v1": True}),
        SetStates(targets=[("r", "v1", "127.0.0.1:9")], state="draining"),
        SetStates(targets=[("r", "v1", None), ("r", "v2", None)], state="draining"),
        SetStates(targets=[("r", "v1", None)], state="draining", seconds=5),
        SetStates(targets=[V1], state="gone"),
        SetStates(targets=[V1, ("r", "v2", "127.0.0.1:2")], state="disabled"),
        SetWorkers(count=5, most=4),
        SetWorkers(count="2", most=4),
    ):
        with pytest.raises(Refusal):
            bench.changes.apply(change)
        assert bench.state() == before, change


def test_weights_that_were_saved_are_the_file_s_and_change_nothing_in_force(bench: Bench) -> None:
    """Also where the image is made anew, as when a name has other addresses; a reload has the last
    word."""

    def weights() -> list[tuple[int, int]]:
        (route,) = bench.changes.in_force.image.routes
        return [(row.weight, row.file_weight) for row in route.destinations]

    bench.changes.apply(SetWeights(route="r", weights={"v1": 0, "v2": 100}))
    assert weights() == [(0, 90), (100, 10)]
    done = bench.changes.apply(SavedWeights(route="r", weights={"v1": 0, "v2": 99}, by=BY))
    assert done.changes == ["r: the file has v1 0, v2 99 now"]
    assert weights() == [(0, 0), (100, 99)]
    assert bench.programs.told == []
    bench.changes.apply(SetAddresses(found={}))
    assert weights() == [(0, 0), (100, 99)]
    assert bench.changes.apply(SavedWeights(route="r", weights={"v2": 99}, by=BY)).changes == []
    bench.changes.apply(UndoWeights(route="r"))
    assert weights() == [(90, 0), (10, 99)]
    bench.changes.apply(bench.reload("a"))
    assert weights() == [(90, 90), (10, 10)]


def test_the_time_of_a_state_ends_with_another_state_or_another_time_alone(bench: Bench) -> None:
    """Who drains once more, as to wait for the connections that are left, does not make it last."""

    def ask(state: str, seconds: float = 0.0) -> tuple[int, list[str]]:
        done = bench.changes.apply(
            SetStates(targets=[V1], state=state, seconds=seconds, force=True, by=BY)
        )
        (route,) = done.after.image.routes
        return route.destinations[0].endpoints[0].until, done.changes

    for_good, _ = ask("draining")
    until, (change,) = ask("draining", 600)
    assert not for_good
    assert until >= time.time() + 590
    assert change == f"r: v1 endpoint 127.0.0.1:1 draining (ready again at {_clock(until)})"
    generation = bench.table.generation
    same, (note,) = ask("draining")
    assert (same, bench.table.generation) == (until, generation)
    assert note == f"r: v1 endpoint 127.0.0.1:1 stays draining (ready again at {_clock(until)})"
    later, (change,) = ask("draining", 1200)
    assert later > until
    assert _clock(later) in change
    assert ask("disabled") == (0, ["r: v1 endpoint 127.0.0.1:1 disabled"])
    assert ask("draining", 600)[0]
    assert ask("ready") == (0, ["r: v1 endpoint 127.0.0.1:1 ready"])


def _clock(at: float) -> str:
    return clock(at, zone=True)


@pytest.mark.parametrize(("by", "level"), [(BY, logging.INFO), ("SIGTTOU", logging.WARNING)])
def test_a_mistake_of_whoever_asked_wakes_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture, by: str, level: int
) -> None:
    """Who has sent a signal is not told but by the log."""
    with caplog.at_level(logging.INFO), pytest.raises(Refusal):
        bench.changes.ask(SetWeights(route="q", weights={"v1": 1}, by=by))
    (record,) = caplog.records
    assert record.levelno == level


def test_a_preview_changes_nothing(bench: Bench) -> None:
    before = bench.state()
    bench.workers.busy = True
    assert any("v1" in text for text in bench.changes.preview(bench.reload("b", weight=1)))
    assert bench.state() == before


def test_a_reload_takes_the_weights_of_the_file_and_can_be_undone(bench: Bench) -> None:
    bench.changes.apply(SetWeights(route="r", weights={"v1": 10}))
    assert bench.changes.in_force.weights == {"r": {"v1": 10}}
    done = bench.changes.apply(bench.reload("a"))
    assert bench.changes.in_force.weights == {}
    assert any("set at run time (v1=10)" in text for text in done.changes)
    bench.changes.apply(UndoWeights(route="r"))
    assert bench.changes.in_force.weights == {"r": {"v1": 10}}


def test_a_reload_tells_what_check_warns_of_though_nothing_changes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """In its answer and in the log, as warnings and not as changes; and not more than 100."""
    wrong = Problem("routes.yaml", 3, 1, "routes[0]", "is not used")
    config = replace(bench.config("a"), warnings=(wrong,) * 130)
    caplog.set_level(logging.INFO)
    done = bench.changes.apply(Reload(config=config, most_workers=1, by=BY))
    assert done.changes == []
    answer = bench.changes.applied(done.changes, done.warnings)
    assert answer["changes"] == []
    assert answer["warnings"][:100] == [str(wrong)] * 100
    assert answer["warnings"][100:] == ["and 30 more, which the log has"]
    logged = [record for record in caplog.records if record.getMessage() == str(wrong)]
    assert len(logged) == 130
    assert {(record.levelno, record.event) for record in logged} == {(logging.WARNING, "warning")}  # type: ignore[attr-defined]
    assert "reloaded: nothing changed" in caplog.text


def test_what_upkeep_can_not_do_it_does_later(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Without waiting for it, and without a line each time."""
    bench.changes.apply(bench.reload("a", rules="on_all_unavailable: refuse"))
    upkeep = Upkeep(bench.changes)
    assert upkeep.due() is None
    every: dict[Key, Condition] = {V1: (DOWN, 100), ("r", "v2", "127.0.0.1:2"): (DOWN, 100)}
    bench.changes.apply(SetConditions(conditions=every))
    bench.workers.busy = True
    caplog.clear()
    now = time.monotonic()
    assert upkeep.due() == 0.0
    for moment in (now, now + RETRY_SECONDS / 2):
        upkeep.do(moment)
        assert upkeep.due() == now + RETRY_SECONDS
    assert caplog.messages == ["busy"]
    bench.workers.busy = False
    upkeep.do(now + RETRY_SECONDS)
    assert upkeep.due() is None
    assert bench.changes.in_force.refusing == {"r"}
    listeners: dict[Any, Listener] = bench.listeners.by_address
    assert listeners == {}
