"""One connection to the admin API, in front of the protocol that serves it. Runs in control.

It takes requests apart itself (head.py) and passes on whole ones, one at a time: the server
behind never sees a request that is unfinished, malformed or not allowed, and the next one is not
looked at before the answer to the last has been taken. Every state in which a client could stay has
a deadline.

    HEAD -> QUEUED -> [BODY -> QUEUED ->] SERVED -> HEAD ...     any of them -> LEAVING
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Any, Protocol

from tcpmux.control.access import Caller
from tcpmux.control.head import MAX_HEAD, Head, Refused, parse_head, too_large

IDLE_TIME = 15.0  # s between two requests
HEAD_TIME = 10.0  # s from the first byte of a head to its last
BODY_TIME = 10.0  # s for a body, and a second more for each MIN_BODY_RATE bytes of it
MIN_BODY_RATE = 100 << 10  # bytes
LEAVING_TIME = 2.0  # s in which a refused client may read why
WRITE_TIME = 10.0  # s in which a client has to take something of what waits for it
AT_ONCE = 16 << 10  # bytes of one read
END = b"\r\n\r\n"
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class State(Enum):
    HEAD = "waits for a request"
    BODY = "waits for its body"
    QUEUED = "its turn comes"
    SERVED = "is being answered"
    LEAVING = "is refused, and may read why"


class Group(Protocol):
    """What a connection counts in, with others of its listening socket: acceptor.py."""

    served: int  # requests that are being answered
    streams: int
    held: int  # bytes of bodies on their way
    max_served: int
    max_streams: int
    max_held: int
    max_ignored: int  # bytes that are read of a refused client, for it to come to the answer

    def authorize(self, head: Head, transport: asyncio.Transport) -> Caller:
        """Who asks. Raises Refused."""

    def max_body(self, head: Head) -> int:
        """Bytes."""

    def joined(self, connection: ClientConnection) -> None: ...
    def left(self, connection: ClientConnection) -> None: ...
    def note_activity(self) -> None: ...
    def report_fault(self, error: Exception) -> None: ...
    def take_turn(self, connection: ClientConnection, step: Callable[[], None]) -> None: ...


class ClientConnection(asyncio.BufferedProtocol):
    """inner: the protocol that serves. group: where the connection counts."""

    def __init__(self, inner: Any, group: Group) -> None:
        self.inner = inner
        self.group = group
        self.state = State.HEAD
        self.since = time.monotonic()  # when it last did what it is here for
        self.caller = Caller()  # of what is being answered
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(AT_ONCE))
        self._data = bytearray()
        self._seen = 0  # of it: there is no end of a head
        self._head = Head("", "", 1)
        self._deadline = self.since + IDLE_TIME
        self._ignored = 0  # bytes of a refused client
        self._held = 0  # bytes of the group's for a body
        self._stuck: tuple[float, int] | None = None  # since when no byte more was taken

    # --- what the loop says -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.group.joined(self)
        self.inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self.inner.connection_lost(error)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.group.note_activity()
        if self.state is State.LEAVING:
            self._ignored += nbytes
            if self._ignored > self.group.max_ignored:
                self.transport.pause_reading()
            return
        self._data += self._buffer[:nbytes]
        self.do(self._advance)

    def eof_received(self) -> bool:
        return bool(self.inner.eof_received())

    def pause_writing(self) -> None:
        self._stuck = time.monotonic(), self._waiting
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._stuck = None
        self.inner.resume_writing()

    # --- what the acceptor says -----------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def abort(self) -> None:
        """At once, and without a word."""
        self._leave()
        self.transport.abort()

    def do(self, step: Callable[[], None]) -> None:
        """A fault of ours ends this connection and nothing else."""
        try:
            step()
        except Exception as error:
            self.group.report_fault(error)
            self.abort()

    def answered(self) -> None:
        """What is being answered has been; the next request may come."""
        if self.state is State.SERVED:
            self.group.served -= 1
            self._wait(State.HEAD, IDLE_TIME)
            # Not from within the answer.
            asyncio.get_running_loop().call_soon(self.do, self._advance)

    def check_deadlines(self, now: float) -> None:
        """Ends or refuses it if anything has taken too long."""
        if self._stuck is not None:
            since, size = self._stuck
            if self._waiting < size:
                self._stuck = now, self._waiting
            elif now - since > WRITE_TIME:
                self.abort()
                return
        if self.state in (State.QUEUED, State.SERVED) or now < self._deadline:
            return
        if self.state is State.LEAVING or (self.state is State.HEAD and not self._data):
            self.abort()
        else:
            what = "head" if self.state is State.HEAD else "body"
            self.refuse(Refused(408, f"the {what} of the request did not arrive"))

    def refuse(self, why: Refused) -> None:
        """Answers, and ends."""
        text = json.dumps({"error": str(why)}).encode()
        headers = {
            **SAFE,
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(text)),
            "Connection": "close",
            **why.headers,
        }
        lines = [f"HTTP/1.1 {why.status} {HTTPStatus(why.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        is_head = self._data[:5] == b"HEAD " or self._head.method == "HEAD"
        self._data.clear()
        self._hold(0)
        self._wait(State.LEAVING, LEAVING_TIME)
        # A close with bytes unread would be a reset, and the answer lost.
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + (b"" if is_head else text))
        try:
            self.transport.write_eof()
            self.transport.resume_reading()
        except OSError:  # it has gone meanwhile
            self.abort()

    # --- a request --------------------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return self.transport.get_write_buffer_size()

    def _wait(self, state: State, seconds: float) -> None:
        self.state = state
        self.since = time.monotonic()
        self._deadline = self.since + seconds

    def _leave(self) -> None:
        """It counts for nothing any more."""
        self._hold(0)
        self.group.left(self)
        self.state = State.LEAVING

    def _hold(self, size: int) -> None:
        self.group.held += size - self._held
        self._held = size

    def _queue(self, step: Callable[[], None]) -> None:
        self.state = State.QUEUED
        self.transport.pause_reading()
        self.group.take_turn(self, step)

    def _advance(self) -> None:
        if self.transport.is_closing():
            return
        if self.state is State.HEAD:
            self._parse_head()
        elif self.state is State.BODY and len(self._data) >= self._head.length:
            self._queue(self._serve)
        elif self.state is State.SERVED and len(self._data) > MAX_HEAD:
            self.transport.pause_reading()  # what comes next may wait where it is

    def _parse_head(self) -> None:
        if self._data and not self._seen:
            self._wait(State.HEAD, HEAD_TIME)
        end = self._data.find(END, max(0, self._seen - len(END) + 1))
        self._seen = len(self._data)
        if end > MAX_HEAD or (end < 0 and self._seen > MAX_HEAD):
            self.refuse(too_large(bytes(self._data)))
        elif end >= 0:
            self._queue(lambda: self._take_head(end))
        else:
            self.transport.resume_reading()

    def _take_head(self, end: int) -> None:
        try:
            self._head = head = parse_head(bytes(self._data[:end]))
            self.caller = self.group.authorize(head, self.transport)
            self._reserve(head)
        except Refused as why:
            self.refuse(why)
            return
        del self._data[: end + len(END)]
        self._seen = 0
        if len(self._data) >= head.length:
            self._serve()
            return
        self._wait(State.BODY, BODY_TIME + head.length / MIN_BODY_RATE)
        if head.waits:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.transport.resume_reading()

    def _reserve(self, head: Head) -> None:
        most = self.group.max_body(head)
        if head.length > most:
            raise Refused(413, f"the body is larger than {most} bytes")
        self._hold(head.length)
        if self.group.held > self.group.max_held:
            raise Refused(503, "too many request bodies are being received: try again")

    def _serve(self) -> None:
        if self.group.served >= self.group.max_served:
            self.refuse(Refused(503, "too many requests at the same time: try again"))
            return
        body = bytes(self._data[: self._head.length])
        del self._data[: len(body)]
        self._hold(0)
        self._wait(State.SERVED, 0.0)
        self.group.served += 1
        self.transport.resume_reading()  # the end of the connection is to be seen
        self.inner.data_received(self._head.made_anew() + body)
