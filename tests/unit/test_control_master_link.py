"""Control's line to the master, over a real socketpair."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tcpmux.control.master_link import (
    MasterGone,
    MasterLink,
    MasterRefused,
    MasterSilent,
)
from tcpmux.frames import MAX_SIZE, Inbox, packed
from tests.support import next_message, patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeMaster:
    """The master's end. gone_calls: how often the link has told that it lost us."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inbox = Inbox()
        self.gone_calls = 0

    async def receive(self) -> Any:
        return await next_message(self.sock, self.inbox)

    def answer(self, **message: object) -> None:
        self.sock.send(packed(message))

    def note_gone(self) -> None:
        self.gone_calls += 1


@asynccontextmanager
async def linked(answer_time: float = 30.0) -> AsyncIterator[tuple[MasterLink, FakeMaster]]:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    master = FakeMaster(theirs)
    link = MasterLink(ours, master.note_gone, answer_time)
    await link.start()
    assert await master.receive() == {"verb": "ready"}
    try:
        yield link, master
    finally:
        link.close()
        theirs.close()


def test_an_answer_finds_its_request_whatever_the_order() -> None:
    async def scenario() -> None:
        async with linked() as (link, master):
            first = asyncio.create_task(link.request("reload"))
            one = await master.receive()
            second = asyncio.create_task(link.request("stop", now=True))
            two = await master.receive()
            assert one["verb"] == "reload"
            assert (two["verb"], two["now"]) == ("stop", True)
            assert one["id"] != two["id"]
            master.answer(id=two["id"], ok=True, result={"pid": 7})
            assert await second == {"pid": 7}
            master.answer(id=one["id"], ok=True, result={"generation": 2})
            assert await first == {"generation": 2}

    asyncio.run(scenario())


def test_a_refusal_carries_its_kind_and_reason() -> None:
    async def scenario() -> None:
        async with linked() as (link, master):
            request = asyncio.create_task(link.request("reload"))
            number = (await master.receive())["id"]
            master.answer(id=number, ok=False, kind="refused", error="a.yaml:1:1: no")
            with pytest.raises(MasterRefused, match=r"a\.yaml:1:1: no") as caught:
                await request
            assert caught.value.kind == "refused"

    asyncio.run(scenario())


def test_silence_ends_in_an_error_and_a_late_answer_does_no_harm() -> None:
    async def scenario() -> None:
        async with linked(answer_time=0.02) as (link, master):
            with pytest.raises(MasterSilent, match=r"within 0\.02 s"):
                await link.request("reload")
            late = await master.receive()
            master.answer(id=late["id"], ok=True, result={})

            request = asyncio.create_task(link.request("reload"))
            again = await master.receive()
            master.answer(id=again["id"], ok=True, result={"generation": 3})
            assert await request == {"generation": 3}

    asyncio.run(scenario())


def test_a_master_that_answers_others_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one that answers nothing at all; also after who has asked it gives up."""
    monkeypatch.setattr("tcpmux.control.master_link.SILENCE", 0.0)

    async def scenario() -> None:
        async with linked(answer_time=0.02) as (link, master):
            assert link.silent_since is None
            before = time.time()
            with pytest.raises(MasterSilent):
                await link.request("diff")
            late = await master.receive()
            since = link.silent_since
            assert since is not None
            assert before <= since <= time.time()
            slow = asyncio.create_task(link.request("diff"))
            await master.receive()
            master.answer(id=late["id"], ok=True, result={})
            with pytest.raises(MasterSilent):
                await slow
            again = link.silent_since
            assert again is not None
            assert again > since
            quick = asyncio.create_task(link.request("reload"))
            number = (await master.receive())["id"]
            master.answer(id=number, ok=True, result={})
            await quick
            assert link.silent_since is None

    asyncio.run(scenario())


def test_an_answer_that_comes_with_a_cancellation_does_not_undo_it() -> None:
    """Else the task that has asked goes on, and control never ends."""

    async def scenario() -> None:
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        master = FakeMaster(theirs)

        def cancel(_push: dict[str, Any]) -> None:
            request.cancel()

        link = MasterLink(ours, master.note_gone, on_push=cancel)
        await link.start()
        await master.receive()
        request = asyncio.create_task(link.request("reload"))
        number = (await master.receive())["id"]
        theirs.send(packed({"id": number, "ok": True, "result": {}}) + packed({"push": "cancel"}))
        with pytest.raises(asyncio.CancelledError):
            await request
        link.close()
        theirs.close()

    asyncio.run(scenario())


def test_the_masters_end_fails_what_waits_and_what_comes_later() -> None:
    async def scenario() -> None:
        async with linked() as (link, master):
            waiting = asyncio.create_task(link.request("reload"))
            await master.receive()
            assert not link.gone
            master.sock.close()
            with pytest.raises(MasterGone):
                await waiting
            with pytest.raises(MasterGone):
                await link.request("reload")
            assert link.gone
            assert master.gone_calls == 1

    asyncio.run(scenario())


def test_a_master_that_ended_before_the_start_is_noticed() -> None:
    async def scenario() -> None:
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.close()
        gone = asyncio.Event()
        link = MasterLink(ours, gone.set)
        await link.start()
        await asyncio.wait_for(gone.wait(), patient(5))
        link.close()

    asyncio.run(scenario())


def test_a_request_that_is_too_large_is_refused_here() -> None:
    async def scenario() -> None:
        async with linked() as (link, _master):
            with pytest.raises(MasterRefused, match="too large") as caught:
                await link.request("set_weights", route="r", weights={"x" * MAX_SIZE: 1})
            assert caught.value.kind == "invalid"

    asyncio.run(scenario())
