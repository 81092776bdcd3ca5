"""The client of the admin API for programs with an event loop: `from tcpmux import AsyncClient`.
Never in the server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmux.control.asking import FAILURES, Deadline, Instance, Interrupted, Unanswered
from tcpmux.control.fitting import answers
from tcpmux.control.http_answer import Events, Reply
from tcpmux.control.operation import Awaiting, Call
from tcpmux.control.operations import Operations
from tcpmux.control.reading import stream_call
from tcpmux.control.timeouts import within
from tcpmux.control.waiting import Drained, Wait, updates

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from typing_extensions import Self

    from tcpmux.control.operation import Row
    from tcpmux.control.schema import Status, Update

T = TypeVar("T")
AT_ONCE = 256 << 10  # bytes of one read


class AsyncClient(Instance, Operations, Awaiting):
    """As Client, for programs with an event loop: each method is to be awaited, and `async with`
    closes its streams."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the streams that are open. Not while another task reads one of them."""
        for stream in list(self._streams):
            await stream.aclose()

    async def wait_for(
        self, predicate: Callable[[Status], object], timeout: float | None
    ) -> Status:
        """As Client.wait_for(). predicate: a plain function."""
        return await self._wait(predicate, timeout, lambda: "the status is not as expected")

    async def wait_drained(self, target: str, timeout: float | None) -> Status:
        """As Client.wait_drained()."""
        drained = Drained(target)
        return await self._wait(drained, timeout, drained.__str__)

    async def _wait(
        self,
        predicate: Callable[[Status], object],
        timeout: float | None,
        what: Callable[[], str],
    ) -> Status:
        wait = Wait(timeout, what)
        while True:
            try:
                status = await self.with_timeout(wait.limit(self._timeout)).status()
            except (Interrupted, Unanswered) as error:
                wait.failed(error)
            else:
                if predicate(status):
                    return status
            await asyncio.sleep(wait.pause())

    def stream(
        self, route: str | None = None, *, rules: bool = False
    ) -> AsyncGenerator[Update, None]:
        """As Client.stream(). The connection is closed when the iterator (aclose()) or the client
        is."""
        made = self._stream(stream_call(route, rules=rules))
        self._streams.add(made)
        return made

    async def _stream(self, call: Call[Any]) -> AsyncGenerator[Update, None]:
        row, reply = self.stream_row, Reply()
        try:
            async with self._connected() as (reader, writer):
                await self._send(writer, self._request(row, call))
                while not reply.has_head:
                    reply.feed(await self._part(reader))
                if reply.status >= 300:
                    deadline = Deadline(self._timeout)
                    while reply.feed(await self._part(reader, deadline.next_part())):
                        pass
                    self._checked(reply)
                events, part = Events(answers(self._unfit)), reply.body
                while True:
                    for event in updates(events.feed(part)):
                        yield event
                    part = await self._part(reader)
                    if not part:
                        return
        except (*FAILURES, asyncio.TimeoutError) as error:
            raise self._failed(_as_builtin(error)) from error

    async def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered; every other method does it by this. Raises AdminError."""
        reply, deadline = Reply(), Deadline(self._timeout)
        try:
            async with self._connected() as (reader, writer):
                with suppress(BrokenPipeError, ConnectionResetError):  # the answer says why
                    await self._send(writer, self._request(row, call))
                while reply.feed(await self._part(reader, deadline.next_part())):
                    pass
        except (*FAILURES, asyncio.TimeoutError) as error:
            raise self._failed(deadline.meaning(_as_builtin(error))) from error
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

    async def _part(self, reader: asyncio.StreamReader, seconds: float | None = None) -> bytes:
        async with within(self._timeout if seconds is None else seconds):
            return await reader.read(AT_ONCE)


def _as_builtin(error: Exception) -> Exception:
    """asyncio's own time limit is another exception before Python 3.11."""
    return TimeoutError() if isinstance(error, asyncio.TimeoutError) else error
