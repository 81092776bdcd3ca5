"""What the master makes of a guardian that is stopped."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tcpmux.master import guardian_watch
from tcpmux.master.guardian_watch import GuardianWatch


class Bench:
    """Two workers whose guardians do what a test says, looked at once a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states = {100: "S", 101: "S"}
        self.cpu_us = {100: 1, 101: 1}
        self.sent: list[tuple[int, signal.Signals]] = []
        self.workers = [
            SimpleNamespace(
                id=number,
                held_guardian=SimpleNamespace(pid=100 + number, signal=self._signal(100 + number)),
                held=SimpleNamespace(has_ended=False),
                live=SimpleNamespace(connections=3),
            )
            for number in range(2)
        ]
        monkeypatch.setattr(guardian_watch, "process_state", self.states.get)
        monkeypatch.setattr(guardian_watch, "process_cpu_us", lambda pid, _: self.cpu_us[pid])
        fake: Any = SimpleNamespace(running=self.workers)
        self.watch = GuardianWatch(fake)
        self.now = self.watch.due()
        self.turn()

    def _signal(self, pid: int) -> Callable[[signal.Signals], None]:
        return lambda number: self.sent.append((pid, number))

    def turn(self, seconds: float = 1.0) -> None:
        self.cpu_us = {pid: us + (self.states[pid] == "S") for pid, us in self.cpu_us.items()}
        self.watch.do(self.now)
        self.now += seconds


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)
    return Bench(monkeypatch)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def test_guardians_at_work_or_waiting_are_left_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """One waits before it starts a worker again that keeps failing, one waits for a CPU."""
    for state in ("S", "D", "R", ""):
        for _ in range(20):
            bench.turn()
            bench.states.update({100: "S", 101: state})
    assert not caplog.records
    assert not bench.sent


def test_a_stopped_one_is_told_of_and_continued(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.states[101] = "T"
    bench.turn()
    assert levels(caplog) == ["WARNING"]
    assert "guardian 1 (pid 101) is stopped" in caplog.text
    for _ in range(2):
        assert not bench.sent
        bench.turn()
    assert bench.sent == [(101, signal.SIGCONT)]
    bench.states[101] = "S"
    bench.turn()
    bench.turn()
    assert levels(caplog) == ["WARNING", "INFO", "INFO"]
    assert len(bench.sent) == 1


def test_one_that_a_debugger_holds_is_replaced_if_its_worker_lives(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.states[101] = "t"
    for _ in range(5):
        bench.turn()
    assert bench.sent == [(101, signal.SIGCONT), (101, signal.SIGKILL)]
    assert levels(caplog) == ["WARNING", "INFO", "ERROR"]


@pytest.mark.parametrize("held", [None, SimpleNamespace(has_ended=True)])
def test_the_only_one_that_has_the_connections_is_not_killed(
    bench: Bench, caplog: pytest.LogCaptureFixture, held: Any
) -> None:
    bench.workers[1].held = held
    bench.states[101] = "t"
    for _ in range(20):
        bench.turn()
    assert bench.sent == [(101, signal.SIGCONT)]
    assert levels(caplog) == ["WARNING", "INFO", "ERROR"]
    assert "3 connections wait for it" in caplog.text


def test_a_pause_of_the_master_says_nothing_of_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.states[101] = "T"
    bench.now += 3600
    bench.turn()
    bench.states[101] = "S"
    bench.turn()
    assert not caplog.records


def test_another_guardian_is_another_story(bench: Bench) -> None:
    bench.states[101] = "T"
    for _ in range(2):
        bench.turn()
    bench.workers[1].held_guardian.pid = 100
    for _ in range(10):
        bench.turn()
    assert not bench.sent
