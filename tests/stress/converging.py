"""Workers and control die while live connections follow the weights, to and fro: closed in quiet
moments, or with another endpoint under them. The endpoints note what they hear."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from typing import Any

import psutil

from tcpmux.control.asking import AdminError
from tcpmux.control.client import Client
from tests.stress.events import Acted, worker_kill
from tests.stress.targets import Target, Tcpmux, Unsupported
from tests.support import free_port, listening, patient, wait_for

CLIENTS = 40
PAUSE = 0.1  # s between an answer and the next question, on average
TURN = patient(5)  # s after which the weights change, wherever it has got to
CONTROL_KILL = 30  # one of so many times control is killed as well; it comes back later each time
TOO_LONG = patient(60)


class Ends:
    """Both ends of the connections of one route, until they are stopped. ended: how many
    connections have ended while their clients waited for nothing."""

    def __init__(self, chance: Random, port: int) -> None:
        self.heard: Counter[bytes] = Counter()
        self.unanswered: set[bytes] = set()
        self.wrong = self.answered = self.ended = 0
        self.port = port
        self._chance = chance
        self._over = False
        self._served: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served.add(writer)
        with suppress(OSError):
            while line := await reader.readline():
                self.heard[line] += 1
                writer.write(line)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
        self._served.discard(writer)

    async def _client(self, number: int) -> None:
        asked = 0
        while not self._over:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    while await self._ask(b"%d.%d\n" % (number, asked), reader, writer):
                        asked += 1
                finally:
                    asked += 1
                    writer.close()
            except OSError:
                await asyncio.sleep(0.01)

    async def _ask(
        self, question: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """False: the connection has ended, or is not needed any more."""
        writer.write(question)
        self.unanswered.add(question)
        answer = await asyncio.wait_for(reader.readline(), TOO_LONG)
        if answer != question:
            self.wrong += bool(answer)
            return False
        self.unanswered.discard(question)
        self.answered += 1
        with suppress(asyncio.TimeoutError):
            more = await asyncio.wait_for(reader.read(1), self._chance.expovariate(1 / PAUSE))
            self.wrong += bool(more)
            self.ended += 1
            return False
        return not self._over

    async def run(self, ready: threading.Event, endpoints: list[int]) -> None:
        servers = [
            await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=500)
            for port in endpoints
        ]
        ready.set()
        await asyncio.to_thread(wait_for, partial(listening, self.port), "the route")
        await asyncio.gather(*map(self._client, range(CLIENTS)))
        await asyncio.to_thread(wait_for, lambda: not self._served, "the endpoints' last ends")
        for server in servers:
            server.close()

    def stop(self) -> None:
        self._over = True


@contextmanager
def _running(target: Tcpmux, chance: Random, method: str) -> Iterator[Ends]:
    """On a route of their own."""
    port, endpoints = free_port(), [free_port(), free_port()]
    ends, ready = Ends(chance, port), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(ends.run(ready, endpoints)))
    thread.start()
    try:
        assert ready.wait(patient(10)), "the endpoints do not listen"
        target.more = [_route(port, endpoints, method)]
        target.reload(1)
        yield ends
    finally:
        ends.stop()
        thread.join(2 * TOO_LONG)


def _route(port: int, endpoints: list[int], method: str) -> dict[str, Any]:
    return {
        "name": "converging",
        "listen": f"127.0.0.1:{port}",
        "connect_timeout": "60s",
        "converge": {"when": ["weights"], "rate": "200/s", "quiet": "20ms", "method": method},
        "destinations": [
            {"name": f"v{n}", "weight": 1, "endpoints": [f"127.0.0.1:{endpoint}"]}
            for n, endpoint in enumerate(endpoints, 1)
        ],
    }


class _Turns:
    """Of the weights, all to one and all to the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self.count = 0

    def take(self) -> None:
        """The next one, if its time has come. While control is away there is none."""
        with suppress(AdminError):
            found = next(r for r in self._client.routes() if r["name"] == "converging")
            if found["convergence"] is None or time.monotonic() >= self._next:
                v1, v2 = (0, 1) if self.count % 2 else (1, 0)
                self._client.set_weights("converging", {"v1": v1, "v2": v2})
                self._next = time.monotonic() + TURN
                self.count += 1

    def moved(self, reason: str) -> int:
        """How many connections have gone elsewhere."""
        found = next(r for r in self._client.routes() if r["name"] == "converging")
        return sum(destination["closed"][reason] for destination in found["destinations"])


def _kill_control(target: Tcpmux) -> None:
    for child in psutil.Process(target.pid).children():
        with suppress(psutil.Error):
            if child.cmdline()[:1] == ["tcpmux: control"]:
                child.send_signal(signal.SIGKILL)


def _converge(method: str, target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers and to control while connections go to and fro."""
    if not isinstance(target, Tcpmux):
        raise Unsupported
    acted = Acted()
    with _running(target, Random(chance.random()), method) as ends:
        turns = _Turns(Client(target.directory / "admin.sock"))
        wait_for(lambda: ends.answered > 2 * CLIENTS, "clients to be answered")
        while acted.times < times and not ends.wrong:
            before = ends.answered
            acted.times += worker_kill(target, 1, chance).times
            if acted.times % CONTROL_KILL == 0:
                _kill_control(target)
            turns.take()
            wait_for(lambda: ends.answered > before or ends.wrong, "clients to go on")  # noqa: B023
    reason = "rehomed" if method == "rehome" else "converged"
    moved = wait_for(partial(_moved, turns, reason), "connections to have gone elsewhere")
    acted.notes.append(f"{moved} {reason} in {turns.count} turns, {ends.answered} answers")
    twice = [question for question, count in ends.heard.items() if count > 1]
    lost = [question for question in ends.unanswered if question in ends.heard]
    assert not ends.wrong, f"{ends.wrong} wrong answers"
    assert not twice, f"{len(twice)} questions were passed on twice"
    assert not lost, f"{len(lost)} questions were passed on and not answered"
    if method == "rehome":
        assert not ends.ended, f"{ends.ended} clients were noticed to move"
    return acted


def _moved(turns: _Turns, reason: str) -> int:
    with suppress(AdminError):
        return turns.moved(reason)
    return 0


converge = partial(_converge, "close")
rehome = partial(_converge, "rehome")
