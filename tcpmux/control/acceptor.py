"""Accepts connections to the admin API, and limits their number. Runs in control.

Each listening socket has a group of its own (connections, requests and bodies at a time), so that
whatever happens in one keeps nobody out of the other; and what comes over TCP waits for its turn:
in a turn of the loop little of it is looked at, and one request is begun; and less while somebody
on this host asks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from tcpmux.control.access import Caller, Rules, authorize
from tcpmux.control.client_connection import SAFE, ClientConnection, State
from tcpmux.control.head import Head, Refused
from tcpmux.control.operation import SMALL_BODY
from tcpmux.control.operations import OPERATIONS

log = logging.getLogger("tcpmux.control")

CHECK_EVERY = 1.0  # s
LOCAL_FIRST = 0.02  # s after a word over the UNIX socket in which others wait
REMOTE_PAUSE = 0.005  # s between turns of theirs in that time
TURN_TIME = 0.002  # s for what comes over TCP, in a turn of the loop
PAUSE = 0.2  # s after this host had no descriptor or memory for a connection
LOG_EVERY = 60.0  # s
SEND_BUFFER = 256 << 10  # bytes that the kernel keeps for a client over TCP that reads slowly
BODY_LIMITS = {row.path: row.largest_body for row in OPERATIONS}  # bytes
SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(eq=False, slots=True)
class ConnectionGroup:
    """The connections of one listening socket. fair: they wait for turns."""

    acceptor: Acceptor
    fair: bool
    max_connections: int
    max_served: int  # requests that are being answered
    max_streams: int
    max_held: int  # bytes of bodies on their way
    max_ignored: int  # bytes that are read of a refused client, for it to come to the answer
    accepts: int  # in a turn of the loop
    connections: set[ClientConnection] = field(default_factory=set)
    served: int = 0
    streams: int = 0
    held: int = 0

    def authorize(self, head: Head, transport: asyncio.Transport) -> Caller:
        try:
            return authorize(head, transport.get_extra_info("socket"), self.acceptor.rules)
        except OSError:
            raise Refused(403, "the connection is gone") from None

    def max_body(self, head: Head) -> int:
        return BODY_LIMITS.get(head.path, SMALL_BODY)

    def joined(self, connection: ClientConnection) -> None:
        """When there are too many, the one that has been idle longest goes: those who ask
        something are served."""
        self.note_activity()
        self.connections.add(connection)
        if len(self.connections) > self.max_connections:
            idle = [
                one
                for one in self.connections
                if one.state is not State.SERVED and one is not connection
            ]
            min(idle, key=lambda one: one.since, default=connection).abort()

    def note_activity(self) -> None:
        """Somebody here asks for something."""
        if not self.fair:
            self.acceptor.local_until = time.monotonic() + LOCAL_FIRST

    def left(self, connection: ClientConnection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self.served -= connection.state is State.SERVED

    def report_fault(self, error: Exception) -> None:
        self.acceptor.log_error("internal error in the admin API", error)

    def take_turn(self, connection: ClientConnection, step: Callable[[], None]) -> None:
        if self.fair:
            self.acceptor.queue(connection, step)
        else:
            step()


class Acceptor:
    """serve() accepts on a listening socket; middleware() is told when a request is answered."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        max_connections = min(512, descriptors // 4)
        self.local = ConnectionGroup(
            self, False, max_connections, max_connections, 64, 64 << 20, 64 << 20, 64
        )
        self.remote = ConnectionGroup(
            self, True, max_connections // 2, 96, 64, 16 << 20, 64 << 10, 8
        )
        self._turns: deque[tuple[ClientConnection, Callable[[], None]]] = deque()
        self.local_until = 0.0  # monotonic; local requests come first
        self._planned = False  # that turns are taken
        self._listening: list[tuple[socket.socket, ConnectionGroup, Callable[[], Any]]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._logged = -LOG_EVERY

    # --- coming -----------------------------------------------------------------------------

    def serve(self, server: Callable[[], Any], sock: socket.socket) -> None:
        """Accepts from now on. server: makes the protocol behind a connection."""
        sock.setblocking(False)
        group = self.local if sock.family == socket.AF_UNIX else self.remote
        self._listening.append((sock, group, server))
        self._listen(sock, group, server)
        if self._timer is None:
            self._check_deadlines()

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock, _, _ in self._listening:
            loop.remove_reader(sock)
        self._listening.clear()
        self._turns.clear()
        for task in self._handshakes:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self.local.connections, *self.remote.connections]:
            if connection.state is not State.SERVED:
                connection.abort()

    def _listen(
        self, sock: socket.socket, group: ConnectionGroup, server: Callable[[], Any]
    ) -> None:
        if any(sock is listening for listening, _, _ in self._listening):
            asyncio.get_running_loop().add_reader(sock, self._accept, sock, group, server)

    def _accept(
        self, sock: socket.socket, group: ConnectionGroup, server: Callable[[], Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        if group.fair and time.monotonic() < self.local_until:
            self._pause(REMOTE_PAUSE, sock, group, server)
        for _ in range(group.accepts):
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in SHORTAGE:
                    self.log_error(
                        f"the admin API can't accept connections at the moment: {error.strerror}"
                    )
                    self._pause(PAUSE, sock, group, server)
                    return
                continue  # that client has gone
            task = loop.create_task(self._hand_over(connection, group, server))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _pause(
        self, seconds: float, sock: socket.socket, group: ConnectionGroup, server: Callable[[], Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(seconds, self._listen, sock, group, server)

    def log_error(self, text: str, error: Exception | None = None) -> None:
        """In the log, and not again and again."""
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            log.error("%s", text, exc_info=error)

    async def _hand_over(
        self, connection: socket.socket, group: ConnectionGroup, server: Callable[[], Any]
    ) -> None:
        connection.setblocking(False)
        if group is self.remote:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: ClientConnection(server(), group), connection
            )
        except OSError:
            connection.close()

    # --- turns ------------------------------------------------------------------------------

    def queue(self, connection: ClientConnection, step: Callable[[], None]) -> None:
        self._turns.append((connection, step))
        self._plan_turns()

    def _plan_turns(self) -> None:
        if self._turns and not self._planned:
            self._planned = True
            pause = REMOTE_PAUSE if time.monotonic() < self.local_until else 0.0
            asyncio.get_running_loop().call_later(pause, self._take_turns)

    def _take_turns(self) -> None:
        """For TURN_TIME, and until a request has begun: it takes a turn of the loop by itself."""
        self._planned = False
        end = time.monotonic() + TURN_TIME
        try:
            while self._turns and time.monotonic() < end:
                connection, step = self._turns.popleft()
                if connection.state is State.QUEUED and not connection.transport.is_closing():
                    connection.do(step)
                if connection.state is State.SERVED:
                    break
        finally:
            self._plan_turns()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for connection in [*self.local.connections, *self.remote.connections]:
            connection.do(partial(connection.check_deadlines, now))
        self._timer = asyncio.get_running_loop().call_later(CHECK_EVERY, self._check_deadlines)

    # --- requests ---------------------------------------------------------------------------

    def connection(self, request: web.Request) -> ClientConnection:
        """Whose request it is. Raises Refused."""
        protocol = request.transport and request.transport.get_protocol()
        if not isinstance(protocol, ClientConnection):
            raise Refused(403, "the connection is gone")
        return protocol

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self.connection(request)
        try:
            response = await handler(request)
            # Here, and not when we have returned: only then may the next request be looked at.
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            connection.answered()


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """To every answer: nothing of it is kept, guessed at or framed, nor says what made it."""
    for name, value in SAFE.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
