"""Control's line to the master (tcpmux/messages.py). Runs in control.

The master serves one request after the other; ids match answers to requests. When the master
ends, the kernel reports EOF and every request that waits, or comes later, fails with MasterGone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from tcpmux.control.timeouts import within
from tcpmux.errors import TcpmuxError
from tcpmux.frames import FrameError, Inbox, Outbox, packed
from tcpmux.messages import Verb

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("tcpmux.control")

ANSWER_TIME = 30.0  # s
SILENCE = 5.0  # s without any answer, and it is stopped or hangs; it needs milliseconds
MAX_WAITING = 16 << 20  # bytes of requests that the master has not read


class MasterGone(TcpmuxError):
    """The master has ended."""


class MasterSilent(TcpmuxError):
    """The master has not answered in time; it may still do what it was asked."""


class MasterRefused(TcpmuxError):
    """The master says no. kind: a RefusalKind of messages.py."""

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
        self._inbox, self._outbox = Inbox(), Outbox()
        self._last_id = 0
        self._gone = False
        # When what has not been answered was asked: monotonic and Unix time, s.
        self._asked: tuple[float, float] | None = None

    @property
    def gone(self) -> bool:
        return self._gone

    @property
    def silent_since(self) -> float | None:
        """Unix time, s, if a master that has not ended does not answer; else None."""
        if self._gone or self._asked is None:
            return None
        asked, at = self._asked
        return at if time.monotonic() - asked > SILENCE else None

    async def start(self) -> None:
        """Begins to listen, and tells the master that requests may come."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._receive)
        self._send({"verb": "ready"})

    def close(self) -> None:
        """Nobody is to be told of anything any more; what still waits for an answer fails."""
        self._on_gone = lambda: None
        self._lost()
        self._sock.close()

    async def request(self, verb: Verb, **arguments: object) -> dict[str, Any]:
        """Asks and waits for the result. Raises MasterGone, MasterSilent, MasterRefused."""
        if self._gone:
            raise MasterGone("the master is gone")
        assert self._loop is not None, "start() comes first"
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pending[number] = answer
        self._asked = self._asked or (time.monotonic(), time.time())
        try:
            self._send({"id": number, "verb": verb, **arguments})
            async with within(self._answer_time):
                return await answer
        except asyncio.TimeoutError:
            raise MasterSilent(
                f"the master did not answer within {self._answer_time:g} s; it may still "
                "do what it was asked"
            ) from None
        finally:
            del self._pending[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if the request was given up meanwhile

    def _send(self, message: dict[str, object]) -> None:
        """A frame is sent as a whole, whoever gives up waiting meanwhile."""
        if self._outbox.waiting > MAX_WAITING:
            raise MasterSilent(
                "the master does not read: too many requests are waiting for it already"
            )
        try:
            self._outbox.put(packed(message))
        except FrameError as error:
            raise MasterRefused("invalid", f"the request: {error}") from None
        self._flush()

    def _flush(self) -> None:
        assert self._loop is not None
        try:
            self._outbox.flush(self._sock)
        except OSError:
            self._lost()
            return
        if self._outbox.waiting:
            self._loop.add_writer(self._sock, self._flush)
        else:
            self._loop.remove_writer(self._sock)

    def _receive(self) -> None:
        """One part, so that a large message does not keep others waiting."""
        try:
            there = self._inbox.receive(self._sock)
            while (message := self._inbox.take()) is not None:
                self._take(message)
                if self._gone:
                    return
        except (BlockingIOError, InterruptedError):
            return
        except FrameError as error:
            # It sees an end of the link, and has another control process talk to it.
            log.error("the master sent %s", error)  # noqa: TRY400
            self._sock.shutdown(socket.SHUT_RDWR)
            there = False
        if not there:
            self._lost()

    def _take(self, message: dict[str, Any]) -> None:
        if "push" in message:
            try:
                self._on_push(message)
            except Exception:
                log.exception("internal error while handling %s from the master", message["push"])
            return
        future = self._pending.get(message["id"])
        others = len(self._pending) > (future is not None)
        self._asked = (time.monotonic(), time.time()) if others else None
        if future is None or future.done():
            log.warning("the master answered too late: %.200s", message)
        elif message["ok"]:
            future.set_result(message["result"])
        else:
            future.set_exception(MasterRefused(message["kind"], message["error"]))

    def _lost(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self._outbox.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(MasterGone("the master is gone"))
        self._on_gone()
