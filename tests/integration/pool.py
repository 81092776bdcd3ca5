"""Clients as a pool has them: each asks now and then, and connects again when its connection ends.

They count what happens to them. A question whose answer did not come is `unanswered`: whether the
server has heard it, the server knows.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any


class Pool:
    """`size` clients of a port, until stop(). pause: s between an answer and the next question, on
    average; 0 = they ask once for each connection, and then wait."""

    def __init__(self, port: int, size: int, pause: float = 0.0) -> None:
        self._port, self.size, self._pause = port, size, pause
        self.counts: Counter[str] = Counter()
        self.unanswered: set[str] = set()
        self.ends: list[float] = []  # monotonic, s, when connections were closed
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        clients = [asyncio.ensure_future(self._client(n)) for n in range(self.size)]
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait([over, *clients], return_when=asyncio.FIRST_COMPLETED)
        for client in clients:
            client.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                self.counts["died"] += 1

    async def _client(self, number: int) -> None:
        while True:
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
            line = await reader.readline()
            answer = line.decode().rstrip("\n").partition(" ")[2]
            if answer != question:
                self.counts["wrong"] += bool(line)
                return
            self.unanswered.discard(question)
            self.counts["answered"] += 1
            pause = random.expovariate(1 / self._pause) if self._pause else None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), pause)
                self.counts["closed"] += 1
                self.ends.append(time.monotonic())
                return
