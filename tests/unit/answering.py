"""What both clients of the admin API are asked against: servers that answer as they are told."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tcpmux import AsyncClient, Client
from tests.support import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

DEADLINE = patient(10.0)  # s
HEAD = b"HTTP/1.0 200 OK\r\n\r\n"
CUT = b"HTTP/1.0 200 OK\r\nConte"  # off: by control that is replaced


def both(
    where: Path | str | None, ask: Callable[[Any], Any], timeout: float = DEADLINE, **more: Any
) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """The same question, by each client. where: a socket or a URL; None = what the environment
    says."""

    async def by_client() -> Any:
        return await asyncio.to_thread(lambda: ask(Client(where, timeout, **more)))

    async def by_async_client() -> Any:
        return await ask(AsyncClient(where, timeout, **more))

    return [by_client, by_async_client]


@asynccontextmanager
async def answering(path: Path, *parts: bytes, stays: bool = False) -> AsyncIterator[list[bytes]]:
    """Something that answers each request so; what has been asked is in the list."""
    start = partial(asyncio.start_unix_server, path=str(path))
    async with _answering(start, lambda _: parts, stays=stays) as (_, asked):
        yield asked


@asynccontextmanager
async def telling(path: Path, *answers: bytes) -> AsyncIterator[list[bytes]]:
    """Answers one request after the other so, and all later ones as the last."""

    def parts(count: int) -> list[bytes]:
        answer = answers[min(count, len(answers)) - 1]
        return [answer] if answer == CUT else [HEAD, answer]

    start = partial(asyncio.start_unix_server, path=str(path))
    async with _answering(start, parts) as (_, asked):
        yield asked


@asynccontextmanager
async def answering_at_a_port(
    answer: bytes, certificate: Path | None = None, *, stays: bool = False
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """On the loopback; with a certificate, over TLS."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    start = partial(asyncio.start_server, host="127.0.0.1", port=0, ssl=context)
    async with _answering(start, lambda _: [answer], stays=stays) as (server, asked):
        yield server.sockets[0].getsockname()[1], asked


@asynccontextmanager
async def _answering(
    start: Callable[[Any], Coroutine[Any, Any, asyncio.Server]],
    parts: Callable[[int], Sequence[bytes]],
    *,
    stays: bool = False,
) -> AsyncIterator[tuple[asyncio.Server, list[bytes]]]:
    """parts: of the answer to a request, by its number from 1. stays: the connection stays open
    after it."""
    asked: list[bytes] = []
    over = asyncio.Event()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for part in parts(len(asked)):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if stays:
                await over.wait()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await start(serve)
    try:
        yield server, asked
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0)  # those that have just come begin
        await asyncio.gather(*filter(None, serving))
        await asyncio.sleep(0)  # and their sockets are closed
