"""Clients that are far away ask in the very moment in which their connection is closed."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from math import sqrt
from statistics import mean

from tests.integration.conftest import StartProxy
from tests.integration.test_converge import closed, live, state, with_converge
from tests.pool import Ledger, Pool, assert_nothing_lost
from tests.support import free_port, patient, wait_for

DELAY = 0.01  # s, each way
PAUSE = 0.1  # s between an answer and the next question, on average
CLIENTS = 40
TURNS = 4


class Way:
    """To a port of this host, through which all that is said takes DELAY, and each end as well."""

    def __init__(self, to: int) -> None:
        self.port, self._to = 0, to
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_for(lambda: self.port, "the way to be open")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        await self._over.wait()
        server.close()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _accepted(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        far, to_far = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            await asyncio.gather(self._carry(near, to_far), self._carry(far, to_near))
        finally:
            for writer in (to_near, to_far):
                writer.transport.abort()
            self._under_way.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                self._loop.call_later(DELAY, writer.write, data)
        await asyncio.sleep(DELAY)
        writer.close()  # whereupon the other side ends as well, after all that it has said


def has_left(proxy: object, name: str) -> bool:
    return live(proxy)[name] == 0 and state(proxy) is None  # type: ignore[arg-type]


def test_requests_that_cross_the_end_are_never_heard(start_proxy: StartProxy) -> None:
    """tcpmux is not told the protocol. A client that asks then gets no answer: it can ask again."""
    port, ledgers = free_port(), (Ledger("one"), Ledger("two"))
    settings = {"when": ["weights"], "rate": "200/s", "quiet": "20ms"}
    proxy = start_proxy(with_converge(port, (1, ledgers[0]), (0, ledgers[1]), **settings))
    way = Way(port)
    pool = Pool(way.port, CLIENTS, PAUSE)
    try:
        for turn in range(TURNS):
            wait_for(lambda: sum(live(proxy).values()) == CLIENTS, "all to be open", patient(30))
            to, other = ("v2", "v1") if turn % 2 == 0 else ("v1", "v2")
            proxy.client.set_weights("r", {to: 1, other: 0})
            wait_for(partial(has_left, proxy, other), f"all to leave {other}", patient(60))
        assert_nothing_lost(pool, ledgers)
    finally:
        pool.stop()
        way.close()
        for ledger in ledgers:
            ledger.close()
    ended = sum(closed(proxy, name)["converged"] for name in ("v1", "v2"))
    crossed, round_trip = len(pool.unanswered), mean(pool.round_trips)
    assert ended >= CLIENTS * TURNS
    # A question crosses if it is asked within a round trip, and a client asks so many in one.
    expected = ended * round_trip / PAUSE
    said = f"{crossed} of {ended} crossed, {expected:.1f} expected, round trip {round_trip:.4f} s"
    print(said)
    assert 0 < crossed < expected + 4 * sqrt(expected), said
