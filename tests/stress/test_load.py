"""The load generator notices what may go wrong: a test that could not fail would prove nothing.

A relay that makes one mistake stands where the proxy would.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.stress.load import Load, Seen, driving, echo_server
from tests.support import free_port, patient, wait_for, will_reset

LIGHT = Load(bulk=2, small=4, rate=50, patience=patient(1))
AT = 100_000  # byte of a stream, from its endpoint, at which the mistake is made; only bulk
CHUNK = 4096


class Relay:
    """Passes everything on, except that the first stream to come so far suffers `mistake`."""

    def __init__(self, endpoint: int, mistake: str) -> None:
        self.endpoint = endpoint
        self.mistake = mistake
        self.made = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        wait_for(lambda: self.port, "the relay to listen")

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.stopping = asyncio.Event()
        self.loop.run_until_complete(self.main())
        self.loop.close()

    async def main(self) -> None:
        server = await asyncio.start_server(self.accepted, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        await self.stopping.wait()
        server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            behind, before = await asyncio.open_connection("127.0.0.1", self.endpoint)
            try:
                await asyncio.gather(self.up(reader, before), self.down(behind, writer))
            finally:
                before.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self.tasks.discard(task)

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = 0
        while data := await reader.read(CHUNK):
            if place >= AT and len(data) > 100 and not self.made.is_set():
                self.made.set()
                data = await self.spoil(data, writer)
            writer.write(data)
            await writer.drain()
            place += len(data)
        writer.write_eof()
        await writer.drain()

    async def spoil(self, data: bytes, writer: asyncio.StreamWriter) -> bytes:
        if self.mistake == "drop":
            return data[:10] + data[11:]
        if self.mistake == "repeat":
            return data[:60] + data[50:]
        if self.mistake == "swap":
            return bytes([data[1], data[0]]) + data[2:]
        if self.mistake == "change":
            return data[:50] + bytes([data[50] ^ 1]) + data[51:]
        if self.mistake == "foreign":
            return data[:50] + b"x" * 64 + data[50:]
        if self.mistake == "reset":
            sock = writer.get_extra_info("socket")
            will_reset(sock)
            writer.transport.abort()
        elif self.mistake == "end":
            writer.write_eof()
            # Closed now, with something unread, it would be reset, and the end perhaps not seen.
            await self.stopping.wait()
            raise ConnectionAbortedError
        elif self.mistake == "stall":
            await self.stopping.wait()
        return data


@contextmanager
def relay(mistake: str) -> Iterator[Relay]:
    with echo_server() as endpoint:
        it = Relay(endpoint, mistake)
        try:
            yield it
        finally:
            it.stop()


def drive_through(mistake: str) -> Seen:
    with relay(mistake) as it, driving(it.port, LIGHT, seed=1) as seen:
        wait_for(it.made.is_set, "the mistake")
    return seen


def test_a_relay_without_mistakes_passes() -> None:
    """Nothing is lost where nothing is done wrong."""
    with relay("none") as it, driving(it.port, LIGHT, seed=1) as seen:
        wait_for(it.made.is_set, "a stream to come so far")
    assert seen.lost == 0, seen
    assert seen.wrong == 0
    assert seen.streams == LIGHT.bulk + LIGHT.small
    assert seen.bytes > AT
    assert 0 < seen.delay_p50_ms <= seen.delay_p99_ms <= seen.delay_max_ms


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("drop", r": 1 bytes are missing"),
        ("repeat", r": 10 bytes came again"),
        ("swap", r": a byte that belongs nowhere"),
        ("change", r": a byte that belongs nowhere"),
        ("foreign", r": a byte that belongs nowhere"),
    ],
)
def test_wrong_bytes_are_noticed(mistake: str, words: str) -> None:
    """One stream is lost by wrong bytes, and the first of them is named with its offset."""
    seen = drive_through(mistake)
    assert seen.streams_lost_by == {"wrong": 1}, seen
    assert seen.wrong > 0
    found = re.search(r"^bulk stream \d+ after [\d.]+ s at byte (\d+)", seen.first_loss)
    assert found, seen.first_loss
    assert int(found[1]) >= AT
    assert re.search(words, seen.first_loss), seen.first_loss


@pytest.mark.parametrize(("mistake", "cause"), [("reset", "reset"), ("end", "ended")])
def test_an_early_end_is_noticed(mistake: str, cause: str) -> None:
    """A reset and an end of input in the middle of a stream are told apart."""
    assert drive_through(mistake).streams_lost_by == {cause: 1}


def test_a_stream_that_stalls_is_noticed() -> None:
    """Without progress for as long as `patience`, a stream is lost."""
    with relay("stall") as it, driving(it.port, LIGHT, seed=1) as seen:
        wait_for(it.made.is_set, "the mistake")
    assert seen.streams_lost_by == {"silent": 1}, seen


def test_refused_connections_are_noticed() -> None:
    """With nobody listening every stream and every new connection is lost, as refused."""
    with driving(free_port(), LIGHT, seed=1) as seen:
        pass
    assert seen.streams_lost_by == {"refused": LIGHT.bulk + LIGHT.small}
    assert seen.opened_lost_by in ({}, {"refused": seen.opened})
