"""The client of the admin API for programs with an event loop: `from tcpmux import AsyncClient`.
Never in the server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmux.control.asking import FAILURES, Instance
from tcpmux.control.http_answer import Events, Reply
from tcpmux.control.operation import Awaiting, Call
from tcpmux.control.operations import Operations
from tcpmux.control.timeouts import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tcpmux.control.operation import Row

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes of one read


class AsyncClient(Instance, Operations, Awaiting):
    """As Client, for programs with an event loop: each method is to be awaited."""

    async def stream(self, route: str | None = None) -> AsyncIterator[tuple[str, Any]]:
        """As Client.stream(). The connection is closed when the iterator is (aclose())."""
        row, call, reply = self.stream_row, Call[Any](query={"route": route}), Reply()
        try:
            async with self._connected() as (reader, writer):
                await self._send(writer, self._request(row, call))
                while not reply.has_head:
                    reply.feed(await self._part(reader))
                if reply.status >= 300:
                    while reply.feed(await self._part(reader)):
                        pass
                    self._checked(reply)
                events, part = Events(), reply.body
                while True:
                    for event in events.feed(part):
                        yield event
                    part = await self._part(reader)
                    if not part:
                        return
        except (*FAILURES, asyncio.TimeoutError) as error:
            raise self._failed(_as_builtin(error)) from error

    async def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered; every other method does it by this. Raises AdminError."""
        reply = Reply()
        try:
            async with self._connected() as (reader, writer):
                with suppress(BrokenPipeError, ConnectionResetError):  # the answer says why
                    await self._send(writer, self._request(row, call))
                while reply.feed(await self._part(reader)):
                    pass
        except (*FAILURES, asyncio.TimeoutError) as error:
            raise self._failed(_as_builtin(error)) from error
        return self._result(row, call, reply)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        at = self._remote
        async with within(self._timeout):
            opening = asyncio.open_unix_connection(self.path) if at is None else at.open()
            reader, writer = await opening
        try:
            if at is None:
                self._check_peer(writer.get_extra_info("socket"))
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, request: bytes) -> None:
        writer.write(request)
        async with within(self._timeout):
            await writer.drain()

    async def _part(self, reader: asyncio.StreamReader) -> bytes:
        async with within(self._timeout):
            return await reader.read(AT_ONCE)


def _as_builtin(error: Exception) -> Exception:
    """asyncio's own time limit is another exception before Python 3.11."""
    return TimeoutError() if isinstance(error, asyncio.TimeoutError) else error
