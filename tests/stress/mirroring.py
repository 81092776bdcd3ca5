"""Workers die while connections have shadows. Each client's bytes are its own, so both the endpoint
and whoever gets the copies can tell that each one is right."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from tcpmux.control.client import Client
from tests.stress.events import Acted, worker_kill
from tests.stress.targets import Target, Tcpmux, Unsupported
from tests.support import free_port, listening, patient, wait_for

CLIENTS = 24
PIECES = (200, 4000, 150_000)  # bytes that a client sends at once, by its number
ROUNDS = 40  # of a connection
NUMBER = 8  # bytes that say whose stream it is
PERIOD = 65_521  # of a stream: prime, so that no piece comes at the same place again


class _Stream:
    """The bytes of one client: its number, then what follows from that."""

    def __init__(self, number: int) -> None:
        self._bytes = random.Random(number).randbytes(PERIOD)
        self._head = number.to_bytes(NUMBER, "big")

    def part(self, at: int, size: int) -> bytes:
        begin = self._head[at : at + size]
        at, size = max(0, at - NUMBER) % PERIOD, size - len(begin)
        found = self._bytes[at : at + size]
        while len(found) < size:
            found += self._bytes[: size - len(found)]
        return begin + found


class Traffic:
    """Clients, an endpoint that sends back what it hears, and one that gets the copies and does the
    same. counts: connections that `finished` or were `lost`; shadows that were `whole`, `cut` or
    `wrong`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.ports: list[int] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []
        self._next = 0
        self._ends = False
        self._run(self._listen())

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(patient(60))

    async def _listen(self) -> None:
        for serve in (self._endpoint, self._shadow):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    def start(self, port: int) -> None:
        async def begin() -> None:
            self._tasks = [
                asyncio.ensure_future(self._client(port, PIECES[n % len(PIECES)]))
                for n in range(CLIENTS)
            ]

        self._run(begin())

    def stop(self) -> None:
        """Once every connection has come to its end."""
        self._ends = True

        async def end() -> None:
            await asyncio.gather(*self._tasks)

        self._run(end())

    def close(self) -> None:
        self._run(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patient(10))
        self._loop.close()

    async def _end_all(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _client(self, port: int, piece: int) -> None:
        while not self._ends:
            self._next += 1
            try:
                await self._converse(port, piece, _Stream(self._next))
                self.counts["finished"] += 1
            except (OSError, EOFError, AssertionError) as error:
                self.counts["lost"] += 1
                self.errors.append(repr(error))

    async def _converse(self, port: int, piece: int, stream: _Stream) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for n in range(ROUNDS):
                writer.write(stream.part(n * piece, piece))
                assert await reader.readexactly(piece) == stream.part(n * piece, piece)
            writer.write_eof()
            assert await reader.read(1) == b""
        finally:
            writer.close()

    async def _endpoint(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while got := await reader.read(1 << 17):
                writer.write(got)
                await writer.drain()
        writer.close()

    async def _shadow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard, stream = 0, None
        try:
            number = await reader.readexactly(NUMBER)
            heard, stream = NUMBER, _Stream(int.from_bytes(number, "big"))
            writer.write(number)
            while got := await reader.read(1 << 17):
                if got != stream.part(heard, len(got)):
                    self.counts["wrong"] += 1
                heard += len(got)
                writer.write(got)
                await writer.drain()
            whole = heard in [ROUNDS * piece for piece in PIECES]
            self.counts["whole" if whole else "wrong"] += 1
        except (OSError, EOFError):
            self.counts["cut"] += 1
        writer.close()


def _route(port: int, endpoints: list[int]) -> dict[str, Any]:
    return {
        "name": "mirrored",
        "listen": f"127.0.0.1:{port}",
        "connect_timeout": "60s",
        "mirror": {"to": "v2", "percent": 100},
        "destinations": [
            {"name": f"v{n}", "weight": n % 2, "endpoints": [f"127.0.0.1:{endpoint}"]}
            for n, endpoint in enumerate(endpoints, 1)
        ],
    }


def mirror(target: Target, times: int, chance: random.Random) -> Acted:
    """SIGKILL to workers while every connection has a shadow."""
    if not isinstance(target, Tcpmux):
        raise Unsupported
    acted, port, traffic = Acted(), free_port(), Traffic()
    try:
        target.more = [_route(port, traffic.ports)]
        target.reload(1)
        wait_for(partial(listening, port), "the route")
        traffic.start(port)
        wait_for(lambda: traffic.counts["finished"] > CLIENTS, "clients to be served")
        while acted.times < times:
            acted.times += worker_kill(target, 1, chance).times
        finished = traffic.counts["finished"]
        wait_for(lambda: traffic.counts["finished"] > finished, "clients to go on", patient(60))
        traffic.stop()
        status = Client(target.directory / "admin.sock").status()
        kept = sum(worker["counters"]["shadows_recovered"] for worker in status["workers"])
        counts = traffic.counts
        assert counts["lost"] == counts["wrong"] == 0, (counts, traffic.errors[:5])
        assert counts["whole"] > 0
        if times >= 20:  # else it may be that none was
            assert kept > 0, counts
    finally:
        traffic.close()
    acted.notes.append(
        f"{counts['finished']} connections, {counts['whole']} whole copies, {counts['cut']} cut; "
        f"{kept} shadows kept through a death, no byte wrong"
    )
    return acted
