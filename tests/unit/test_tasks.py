"""No task of control ends in silence."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tcpmux.control import tasks as module
from tcpmux.control.tasks import Tasks
from tcpmux.levels import Where
from tcpmux.master.events import EventHandler, Events
from tcpmux.master.requests import Requests
from tests.support import DEADLINE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)


class StrayCancel:
    """What it awaits is cancelled by somebody else."""

    async def __call__(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future


async def value_error() -> None:
    raise ValueError("64 KiB\nwithout a newline")


async def recursion() -> None:
    await recursion()


@pytest.mark.parametrize("fault", [value_error, recursion, StrayCancel()])
def test_a_task_that_ends_by_an_exception_is_told_of_and_begins_anew(
    fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(fault, StrayCancel) and not hasattr(asyncio.Task, "cancelling"):
        pytest.skip("Python 3.10 does not tell who has cancelled")
    told: list[str] = []

    async def scenario() -> int:
        tasks = Tasks(told.append)
        done = asyncio.Event()
        runs = 0

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs <= 3:
                await fault()
            done.set()
            await asyncio.sleep(DEADLINE)

        task = tasks.keep("the work", work)
        await asyncio.wait_for(done.wait(), DEADLINE)
        await tasks.close()
        assert task.cancelled()
        return runs

    assert asyncio.run(scenario()) == 4
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert all(record.exc_info for record in caplog.records)
    assert len(told) == 1  # and not again for a while
    assert told[0].startswith("internal error in the work: ")
    assert "is restarted" in told[0]


def test_one_that_returns_is_done_and_one_that_is_cancelled_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        tasks = Tasks()

        async def short() -> None:
            await asyncio.sleep(0)

        await tasks.keep("short", short)
        long = tasks.keep("long", lambda: asyncio.sleep(DEADLINE))
        await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        once = tasks.once("once", asyncio.sleep(DEADLINE))
        await asyncio.sleep(0)
        await tasks.close()
        assert once.cancelled()

    asyncio.run(scenario())
    assert caplog.records == []


def test_one_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """Else nobody would see the end of control, which waits for it."""

    async def scenario() -> int:
        tasks = Tasks()
        swallowed = 0

        async def work() -> None:
            nonlocal swallowed
            while swallowed < 2:
                try:
                    await asyncio.sleep(DEADLINE)
                except asyncio.CancelledError:
                    swallowed += 1
            await asyncio.sleep(DEADLINE)

        task = tasks.keep("the work", work)
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.close(), DEADLINE)
        assert task.cancelled()
        return swallowed

    assert asyncio.run(scenario()) == 2


def test_what_is_done_once_is_told_of_too(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def scenario() -> None:
        await Tasks(told.append).once("it", value_error())

    asyncio.run(scenario())
    assert len(caplog.records) == len(told) == 1
    assert "it was not done" in told[0]


def test_a_fault_of_control_is_an_event_in_one_line() -> None:
    events = Events()
    handler = EventHandler(events)
    log = logging.getLogger("tcpmux.master")
    log.addHandler(handler)
    try:
        requests = Requests(cast("Any", SimpleNamespace(draining=True)))
        assert requests.answer({"verb": "fault", "text": "health: \x1b[2J\n" + "x" * 9999}) == {}
    finally:
        log.removeHandler(handler)
    (event,) = events.after(0)
    assert (event.kind, event.level) == ("control", "error")
    assert event.text.isprintable()
    assert len(event.text) <= 500


def test_an_event_has_the_route_that_its_line_is_about() -> None:
    """And not what its text happens to begin with."""
    events = Events()
    handler = EventHandler(events)
    record = logging.LogRecord("tcpmux.master", logging.WARNING, "", 0, "text: of it", (), None)
    handler.emit(record)
    record.where = Where("shop", "v1", "127.0.0.1:1")
    handler.emit(record)
    assert [event.route for event in events.after(0)] == ["", "shop"]
    again = Events()
    again.restore([{k: v for k, v in each.items() if k != "route"} for each in events.saved()])
    assert [event.route for event in again.after(0)] == ["", ""]  # of a build that knew none


def test_events_of_a_build_that_knows_more_or_less_of_them_are_taken_over() -> None:
    """With what this one knows: nothing of them keeps a master from taking over."""
    newer = {"seq": 7, "time": 1.0, "kind": "later", "text": "x", "by": "", "route": "r", "at": []}
    older = {"seq": 6, "time": 0.5, "kind": "reload", "text": "y", "by": "uid 0"}
    events = Events()
    events.restore([older, {"text": "without a number"}, newer])
    told = [(event.seq, event.level, event.route) for event in events.after(0)]
    assert told == [(6, "info", ""), (7, "info", "r")]
    events.note("weights", "z")
    assert [event.seq for event in events.after(6)] == [7, 8]
    assert all(
        event.as_json().keys() == older.keys() | {"level", "route"} for event in events.after(0)
    )
