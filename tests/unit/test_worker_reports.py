"""What the master says of workers that are full or can't accept: at once, not too often, how often
meanwhile, and when it is over."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tcpmux.master import worker_reports
from tcpmux.master.worker_reports import QUIET_SECONDS, SETTLED_SECONDS, WorkerReports


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(worker_reports, "time", clock)
    return clock


def a_worker(number: int = 0) -> Any:
    return SimpleNamespace(
        id=number, full=False, unaccepted=None, denied=None, cramped=False,
        live=SimpleNamespace(capacity=64),
    )  # fmt: skip


def reports() -> WorkerReports:
    nobody: Any = None
    return WorkerReports(nobody, nobody, lambda _worker: True)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [f"{r.levelname} {r.getMessage().partition(': other')[0]}" for r in caplog.records]
    caplog.clear()
    return found


def test_a_worker_that_is_full_again_and_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    made, worker = reports(), a_worker()

    def is_full(full: bool) -> list[str]:
        worker.full = full
        made.report(worker)
        return said(caplog)

    full = "WARNING worker 0 is at its limit of 64 connections"
    assert is_full(True) == [full]
    assert made.due() is None
    assert is_full(False) == ["INFO worker 0 has room for connections again"]
    for _ in range(2):
        clock.now += 1
        assert is_full(True) == is_full(True) == []
        assert is_full(False) == []
    assert made.due() is None
    assert is_full(True) == []
    assert made.due() == 1000 + QUIET_SECONDS
    clock.now = 1000 + QUIET_SECONDS
    made.look(clock.now, [worker])
    assert said(caplog) == [f"{full}, 3 times since this was last said"]
    assert made.due() is None
    assert is_full(False) == ["INFO worker 0 has room for connections again"]
    clock.now += QUIET_SECONDS
    assert is_full(True) == [full]


def test_a_full_worker_that_is_gone_is_not_waited_for(clock: Clock) -> None:
    made, worker = reports(), a_worker()
    for full in (True, False, True):
        worker.full = full
        made.report(worker)
    assert made.due() is not None
    made.look(clock.now, [])
    assert made.due() is None


def test_accepting_that_works_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    made, worker = reports(), a_worker()

    def fail() -> list[str]:
        worker.unaccepted = errno.EMFILE
        made.report(worker)
        return [text.partition(": Too")[0] for text in said(caplog)]

    fails = "ERROR worker 0 can't accept connections"
    again = "INFO connections are accepted again: for 5 s no accept has failed"
    assert fail() == [fails]
    for _ in range(3):
        clock.now += 1
        assert fail() == []
        made.look(clock.now, [worker])
    assert made.due() == clock.now + SETTLED_SECONDS
    clock.now += SETTLED_SECONDS
    made.look(clock.now, [worker])
    assert said(caplog) == [again]
    assert made.due() is None
    assert fail() == []  # too soon, and over before it is time
    clock.now += SETTLED_SECONDS
    made.look(clock.now, [worker])
    assert said(caplog) == []
    clock.now += QUIET_SECONDS
    assert fail() == [f"{fails}, 2 times since this was last said"]
