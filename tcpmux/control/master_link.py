"""Control's line to the master. Runs in control.

    ask     {"id": 3, "verb": "reload"}             one JSON object a packet, SOCK_SEQPACKET
    answer  {"id": 3, "ok": true, "result": {...}}
            {"id": 3, "ok": false, "kind": "refused", "error": "one line"}
    push    {"push": "names", ...}                 from the master, unasked

The master serves one request after the other, and answers in any order we like: ids match
answers to requests. When the master ends, the kernel reports EOF and every request that
waits, or comes later, fails with MasterGone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("tcpmux.control")

ANSWER_TIME = 30.0  # s
LARGEST_REQUEST = 64 * 1024  # bytes; the weights of a route with 64 destinations take 6 KiB
LARGEST_ANSWER = 1024 * 1024  # bytes


class MasterGone(TcpmuxError):
    """The master has ended."""


class MasterSilent(TcpmuxError):
    """The master has not answered in time; it may still do what it was asked."""


class MasterRefused(TcpmuxError):
    """The master says no. kind: invalid, not_found, bad_file or refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class MasterLink:
    """The control end of the socketpair; owns the socket. One event loop, no threads.

    on_gone is called once, from the loop, when the master has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_gone: Callable[[], None],
        answer_time: float = ANSWER_TIME,
        on_push: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_gone = on_gone
        self._answer_time = answer_time
        self._on_push = on_push
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sending = asyncio.Lock()
        self._last_id = 0
        self._gone = False

    @property
    def gone(self) -> bool:
        return self._gone

    async def start(self) -> None:
        """Begins to listen, and tells the master that requests may come."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._receive)
        try:
            await self._send({"verb": "ready"})
        except OSError:
            self._lost()

    def close(self) -> None:
        """Nobody is to be told of anything any more; what still waits for an answer fails."""
        self._on_gone = lambda: None
        self._lost()
        self._sock.close()

    async def request(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Asks and waits for the result. Raises MasterGone, MasterSilent, MasterRefused."""
        if self._gone:
            raise MasterGone("the master is gone")
        assert self._loop is not None, "start() comes first"
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pending[number] = answer
        try:
            return await asyncio.wait_for(self._ask(number, verb, arguments), self._answer_time)
        except asyncio.TimeoutError:
            raise MasterSilent(
                f"the master has not answered within {self._answer_time:g} s; it may still "
                "do what it was asked"
            ) from None
        finally:
            del self._pending[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if the request was given up meanwhile

    async def _ask(self, number: int, verb: str, arguments: dict[str, object]) -> dict[str, Any]:
        try:
            await self._send({"id": number, "verb": verb, **arguments})
        except OSError:
            self._lost()
        return await self._pending[number]

    async def _send(self, message: dict[str, object]) -> None:
        packet = json.dumps(message).encode()
        if len(packet) > LARGEST_REQUEST:
            raise MasterRefused("invalid", f"the request is too large: {len(packet)} bytes")
        assert self._loop is not None
        async with self._sending:  # the loop keeps one writer a descriptor
            await self._loop.sock_sendall(self._sock, packet)

    def _receive(self) -> None:
        try:
            packet, _, flags, _ = self._sock.recvmsg(LARGEST_ANSWER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet, flags = b"", 0
        if not packet:
            self._lost()
            return
        assert not flags & socket.MSG_TRUNC, "an answer is at most LARGEST_ANSWER"
        answer = json.loads(packet)
        if "push" in answer:
            self._on_push(answer)
            return
        future = self._pending.get(answer["id"])
        if future is None or future.done():
            log.warning("the master answered too late: %.200s", packet.decode())
        elif answer["ok"]:
            future.set_result(answer["result"])
        else:
            future.set_exception(MasterRefused(answer["kind"], answer["error"]))

    def _lost(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(MasterGone("the master is gone"))
        self._on_gone()
