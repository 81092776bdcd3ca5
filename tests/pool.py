"""Clients as a pool has them, and servers that note what they hear from them.

Each client asks now and then, and connects again when its connection ends. A question whose answer
did not come is `unanswered`: whether the server has heard it, the server knows.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.support import EchoServer, patient

LAST_ANSWERS = patient(60)  # s, for all that is asked already


class Ledger(EchoServer):
    """Notes each line that it gets."""

    def __init__(self, prefix: str) -> None:
        self.heard: Counter[str] = Counter()
        super().__init__(prefix)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), client.makefile("rb") as lines:
            for line in lines:
                self.heard[line.decode().rstrip("\n")] += 1
                client.sendall(self.prefix + b" " + line)


class Pool:
    """`size` clients of a port, until finish() or stop(). pause: s between an answer and the next
    question, on average; 0 = they ask once for each connection, and then wait."""

    def __init__(self, port: int, size: int, pause: float = 0.0) -> None:
        self._port, self.size, self._pause = port, size, pause
        self.counts: Counter[str] = Counter()
        self.unanswered: set[str] = set()
        self.round_trips: list[float] = []  # s, from a question to its answer
        self._loop = asyncio.new_event_loop()
        self._no_more, self._over = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def finish(self) -> None:
        """Lets what has been asked be answered."""
        self._tell(self._no_more, LAST_ANSWERS)
        self.stop()

    def stop(self) -> None:
        """At once."""
        self._tell(self._over, None)

    def _tell(self, event: asyncio.Event, timeout: float | None) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(event.set)
            self._thread.join(timeout)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        clients = [asyncio.ensure_future(self._client(n)) for n in range(self.size)]
        every = asyncio.gather(*clients, return_exceptions=True)
        over = asyncio.ensure_future(self._over.wait())
        first: list[asyncio.Future[Any]] = [over, every]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        for client in clients:
            client.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if not isinstance(ended, (asyncio.CancelledError, type(None))):
                self.counts["died"] += 1

    async def _client(self, number: int) -> None:
        while not self._no_more.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.counts["refused"] += 1
                await asyncio.sleep(0.05)
                continue
            self.counts["connected"] += 1
            try:
                await self._talk(number, reader, writer)
            except ConnectionError:
                self.counts["reset"] += 1
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            await asyncio.sleep(0.01)

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            question = f"{number}.{self.counts['asked']}"
            self.counts["asked"] += 1
            writer.write(f"{question}\n".encode())
            self.unanswered.add(question)
            asked = self._loop.time()
            line = await reader.readline()
            answer = line.decode().rstrip("\n").partition(" ")[2]
            if answer != question:
                self.counts["wrong"] += bool(line)
                return
            self.unanswered.discard(question)
            self.counts["answered"] += 1
            self.round_trips.append(self._loop.time() - asked)
            pause = random.expovariate(1 / self._pause) if self._pause else None
            if await self._ends(reader, pause) or self._no_more.is_set():
                return

    async def _ends(self, reader: asyncio.StreamReader, pause: float | None) -> bool:
        """Whether the connection does, within the pause."""
        end = asyncio.ensure_future(reader.read(1))
        no_more = asyncio.ensure_future(self._no_more.wait())
        both: list[asyncio.Future[Any]] = [end, no_more]
        try:
            await asyncio.wait(both, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.wait(both)  # the reader serves one at a time
        if end.cancelled():
            return False
        end.result()
        self.counts["closed"] += 1
        return True


def assert_nothing_lost(pool: Pool, ledgers: tuple[Ledger, Ledger]) -> None:
    """Each question was heard once and answered or, if it crossed a FIN, never heard; the answers
    were right."""
    pool.finish()
    assert pool.counts["died"] == pool.counts["wrong"] == pool.counts["refused"] == 0
    heard = ledgers[0].heard + ledgers[1].heard
    assert [question for question, times in heard.items() if times > 1] == []
    assert [question for question in pool.unanswered if question in heard] == []
    assert pool.counts["answered"] == len(heard)


def assert_unnoticed(pool: Pool, ledgers: tuple[Ledger, Ledger]) -> None:
    """The same, and no client has seen its connection end."""
    assert_nothing_lost(pool, ledgers)
    assert pool.counts["connected"] == pool.size
    assert pool.counts["closed"] == pool.counts["reset"] == 0
