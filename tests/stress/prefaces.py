"""Workers die while connections are in every step of what comes before the relay: the header of
the PROXY protocol, a request for TLS and its answer, a ClientHello in pieces, the header and the
request to the endpoint, and the endpoint's answer. Every byte is compared at both ends."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

from tests.client_hellos import hello
from tests.stress.events import Acted, worker_kill
from tests.stress.targets import Target, Tcpmux, Unsupported
from tests.support import free_port, listening, patient, wait_for

CLIENTS = 48
STEP = 0.004  # s, a step of either end takes so long at the most
SSL = bytes([0, 0, 0, 8, 4, 210, 22, 47])
GSS = bytes([0, 0, 0, 8, 4, 210, 22, 48])
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
HEADER = len(PROXY_V2) + 12
TOO_LONG = patient(60)


class Ends:
    """Both ends of the connections that run until they are stopped. lost: by what, how many."""

    def __init__(self, chance: Random, port: int) -> None:
        self.whole = 0
        self.lost: Counter[str] = Counter()
        self.port = port  # of the proxy
        self._chance = chance
        self._over = False
        self._number = 0

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, STEP))

    # --- the endpoint ---

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            began = await reader.readexactly(HEADER + len(SSL))
            (number,) = struct.unpack(">H", began[-12:-10])
            if began[: len(PROXY_V2)] != PROXY_V2 or began[HEADER:] != SSL:
                self.lost[f"an endpoint began with {began.hex()}"] += 1
            await self._pause()
            writer.write(b"S")
            # What the client is to find before its own bytes: whom the header has named.
            writer.write(struct.pack(">H", number))
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    # --- clients ---

    async def _in_pieces(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = self._chance.randint(1, max(1, len(data) // 2))
            writer.write(data[at : at + size])
            await writer.drain()
            at += size
            await self._pause()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> bytes:
        await self._in_pieces(writer, request)
        return await reader.readexactly(1)

    async def _one(self, number: int) -> None:
        chance = self._chance
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            header = f"PROXY TCP4 198.51.100.1 192.0.2.1 {number} 5432\r\n".encode()
            await self._in_pieces(writer, header)
            if chance.random() < 0.3:
                assert await self._ask(reader, writer, GSS) == b"N"
            assert await self._ask(reader, writer, SSL) == b"S"
            begun = hello(f"c{number}.example", (), chance.randint(300, 3000), chance.randint(1, 4))
            sent = begun + chance.randbytes(chance.randint(1, 20000))
            await self._in_pieces(writer, sent[: len(begun)])
            writer.write(sent[len(begun) :])
            came = await reader.readexactly(2 + len(sent))
            assert came == struct.pack(">H", number) + sent, "other bytes than were sent"
            writer.write_eof()
            assert await reader.read() == b"", "bytes behind the last"
        finally:
            writer.close()

    async def _client(self) -> None:
        while not self._over:
            self._number = self._number % 60000 + 1
            try:
                await asyncio.wait_for(self._one(self._number), TOO_LONG)
                self.whole += 1
            except Exception as error:
                self.lost[f"{type(error).__name__} {error}".strip()] += 1
                await asyncio.sleep(0.05)  # not to fail thousands of times a second

    async def run(self, ready: threading.Event, endpoint: int) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1", endpoint, backlog=500)
        async with server:
            ready.set()
            await asyncio.to_thread(self.wait_for_route)
            await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    def wait_for_route(self) -> None:
        wait_for(lambda: listening(self.port), "the route of the prefaces")

    def stop(self) -> None:
        self._over = True


@contextmanager
def _running(target: Tcpmux, chance: Random) -> Iterator[Ends]:
    """On a route of their own."""
    endpoint, port = free_port(), free_port()
    ends, ready = Ends(chance, port), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(ends.run(ready, endpoint)))
    thread.start()
    try:
        assert ready.wait(patient(10)), "the endpoint does not listen"
        target.more = [_route(port, endpoint)]
        target.reload(1)
        ends.wait_for_route()
        yield ends
    finally:
        ends.stop()
        thread.join(2 * TOO_LONG)


def _route(port: int, endpoint: int) -> dict[str, Any]:
    destination = {
        "name": "v1", "weight": 1, "endpoints": [f"127.0.0.1:{endpoint}"], "send_proxy": 2
    }  # fmt: skip
    return {
        "name": "prefaces",
        "listen": f"127.0.0.1:{port}",
        "accept_proxy": {"from": ["127.0.0.1"], "timeout": "60s"},
        "preread": {"starttls": "postgres", "timeout": "60s"},
        "connect_timeout": "60s",
        "destinations": [destination],
    }


def prefaces(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers, whatever step their connections are in; and again when some have got
    through them all since."""
    if not isinstance(target, Tcpmux):
        raise Unsupported
    with _running(target, Random(chance.random())) as ends:
        wait_for(lambda: ends.whole > CLIENTS, "connections through all steps")
        acted = Acted()
        while acted.times < times and not ends.lost:
            before = ends.whole
            acted.times += worker_kill(target, 1, chance).times
            wait_for(lambda: ends.whole > before or ends.lost, "connections to go on")  # noqa: B023
    acted.notes.append(f"{ends.whole} through every step before the relay")
    assert not ends.lost, f"{ends.lost.total()} lost of these: {dict(ends.lost.most_common(3))}"
    return acted
