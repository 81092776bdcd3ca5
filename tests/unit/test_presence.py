"""What the log says of a worker that is stopped or hangs, and that it is said when that is over."""

from __future__ import annotations

import logging
import os
import time

import pytest

from tcpmux.master import line
from tcpmux.master.duties import HearWorkers
from tcpmux.master.limits import WorkerLimits
from tcpmux.master.line import Worker
from tcpmux.master.workers import Workers
from tcpmux.privileges import oneself
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import HANGING, PRESENT, STOPPED
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.worker.messages import DIED, PRESENCE


class Silent:
    """Nothing is reported."""

    def due(self) -> None:
        return None

    def look(self, now: float, workers: list[Worker]) -> None:
        pass


class Running:
    """One that has no line."""

    def __init__(self, worker: Worker) -> None:
        self.running = [worker]
        self.reports = Silent()

    def receive(self, worker: Worker) -> None:
        pass


@pytest.fixture
def worker(caplog: pytest.LogCaptureFixture) -> Worker:
    caplog.set_level(logging.INFO)
    return Worker(3, Live.create(3, 16), os.geteuid())


def tells(worker: Worker, presence: int) -> None:
    """As its guardian does."""
    worker.live.presence = presence
    worker._note(PRESENCE, presence)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


def look(worker: Worker, after: float) -> None:
    HearWorkers(Running(worker)).do(time.monotonic() + after)  # type: ignore[arg-type]


def test_a_stop_is_told_at_once_and_its_end(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    tells(worker, STOPPED)
    assert "worker 3 (pid 0) is stopped: other workers serve its listeners" in caplog.text
    look(worker, 60.0)
    tells(worker, PRESENT)
    assert levels(caplog) == ["WARNING", "INFO"]
    assert "worker 3 (pid 0) has resumed, after 0.0 s" in caplog.text
    tells(worker, PRESENT)
    assert len(caplog.records) == 2


def test_where_no_other_worker_serves_it_is_an_error_that_says_so(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """All may be stopped, or it is the only one."""
    worker.others_serve = lambda: False
    tells(worker, STOPPED)
    assert levels(caplog) == ["ERROR"]
    text = "is stopped, and no other worker serves: connections wait until one resumes"
    assert caplog.messages == [f"worker 3 (pid 0) {text}"]


def test_which_workers_serve() -> None:
    """One that is stopped, dead or about to end does not; and of itself none of them asks."""
    limits = WorkerLimits(16, 4)
    regions = Table.create(1, 2, os.getpid(), 1), Commons.create()
    lives = [Live.create(number, 16) for number in range(2)]
    first, second = Workers(regions, lives, limits, [0], (-1, -1), oneself())
    assert not first.others_serve()
    for each in (first, second):
        each.is_running, each.live.presence = True, PRESENT
    assert first.others_serve()
    assert second.others_serve()
    for name in ("dead", "retiring"):
        setattr(second, name, True)
        assert not first.others_serve()
        setattr(second, name, False)
    second.live.presence = STOPPED
    assert not first.others_serve()
    assert second.others_serve()


def test_a_worker_that_hangs_for_a_moment_on_a_busy_machine_is_not_told_of(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        tells(worker, HANGING)
        look(worker, line.HANGING_SECONDS / 2)
        tells(worker, PRESENT)
    look(worker, 60.0)
    assert caplog.records == []


def test_one_that_goes_on_hanging_is_told_of_once_and_has_an_all_clear(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    tells(worker, HANGING)
    duty = HearWorkers(Running(worker))  # type: ignore[arg-type]
    due = duty.due()
    assert due is not None
    duty.do(due)
    assert "worker 3 (pid 0) is hanging: other workers serve" in caplog.text
    assert duty.due() is None
    duty.do(due + 60.0)
    tells(worker, PRESENT)
    assert levels(caplog) == ["WARNING", "INFO"]


def test_whose_end_of_it_was_never_heard_of_is_not_told_of_either(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """The line may have been full."""
    tells(worker, HANGING)
    worker.live.presence = PRESENT
    look(worker, 60.0)
    assert caplog.records == []


def test_a_death_is_the_end_of_it(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    tells(worker, STOPPED)
    worker._note(DIED, 9)
    tells(worker, PRESENT)
    assert levels(caplog) == ["WARNING", "ERROR"]
