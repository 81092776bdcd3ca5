"""Who may come in, and how many at a time. Runs in control.

Over the UNIX socket: root and the user tcpmux runs as. Over TCP, where admin.http names an
address: whoever asks for one of its own names and, if there is a token, has it. A page of another
site may do neither: browsers tell what a request is from.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from tcpmux.files import Unreadable, read_file

MOST_CLIENTS = 1024  # connections at a time, over both sockets
IDLE_TIME = 15.0  # s a connection may be open without a request under way
LOOK_EVERY = 5.0  # s

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Forbidden(Exception):
    """status: 401 or 403, HTTP. The text says why, in one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Rules:
    """For requests over TCP. address: IP:port as configured. hosts: more names for it, lower
    case. token: what requests must carry; None = nothing, "" = it could not be read. owner: who may
    do all over the UNIX socket, besides root."""

    address: str = ""
    hosts: tuple[str, ...] = ()
    token: str | None = None
    owner: int = field(default_factory=os.geteuid)


def who(request: web.Request, rules: Rules) -> str:
    """Says who asks, for the log; raises Forbidden. GET changes nothing, so that only what a
    browser says of other requests' origin matters."""
    transport = request.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        raise Forbidden(403, "the connection is gone")
    if sock.family == socket.AF_UNIX:
        return _local_user(sock, rules.owner)
    _check_host(request, rules)
    _check_origin(request)
    if request.path == "/" or request.path.startswith("/static/"):
        return ""  # the page itself tells nothing; it asks for the token
    _check_token(request, rules.token)
    return f"{request.remote} over HTTP"


def _local_user(sock: Any, owner: int) -> str:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in (0, owner):
        raise Forbidden(403, f"user {uid} may not: tcpmux belongs to user {owner}")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user {uid}"
    return f"{name} (pid {pid})" if pid else name


def _check_host(request: web.Request, rules: Rules) -> None:
    """Against DNS rebinding: a name that somebody else has pointed here is not ours."""
    try:
        name = (urlsplit(f"//{request.headers.get('Host', '')}").hostname or "").lower()
    except ValueError:
        name = ""
    allowed = {"localhost", *rules.hosts}
    if name in allowed:
        return
    try:
        asked = ip_address(name)
    except ValueError:
        pass
    else:
        own = ip_address(urlsplit(f"//{rules.address}").hostname or "0.0.0.0")  # noqa: S104
        if own.is_unspecified or asked == own or (asked.is_loopback and own.is_loopback):
            return
    raise Forbidden(403, f"host {name!r} is not one of ours: list it in admin.hosts")


def _check_origin(request: web.Request) -> None:
    site = request.headers.get("Sec-Fetch-Site")
    if request.method in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Mode") == "navigate":
        return
    if site not in (None, "same-origin", "none"):
        raise Forbidden(403, "a request from another site")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden(403, "a request from another site")


def read_token(path: str) -> str | None:
    """For Rules. None: there is no such file to be read."""
    if not path:
        return None
    try:
        return read_file(path, 4096).data.decode("ascii").strip()
    except (Unreadable, ValueError):
        return ""


def _check_token(request: web.Request, token: str | None) -> None:
    if token is None:
        return
    if not token:
        raise Forbidden(403, "the token file can't be read: nobody may come in over HTTP")
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), token.encode()
    ):
        raise Forbidden(401, "this needs the token of admin.token_file: Authorization: Bearer ...")


@dataclass(slots=True, eq=False)
class _Guest(asyncio.Protocol):
    """A connection, in front of the protocol that serves it."""

    inner: Any
    door: Door
    transport: asyncio.Transport | None = None
    since: float = field(default_factory=time.monotonic)  # the end of the last request
    requests: int = 0  # under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.door.came(self)
        self.inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.door.went(self)
        self.inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return bool(self.inner.eof_received())

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()


class Door:
    """Counts connections. When there are too many, or one is idle for too long, the one that has
    been idle longest is closed: those who ask something are served.

    serve() accepts on a listening socket; middleware() marks who is being served.
    """

    def __init__(self, most: int = MOST_CLIENTS, idle_time: float = IDLE_TIME) -> None:
        self._most = most
        self._idle_time = idle_time
        self._guests: dict[asyncio.Transport, _Guest] = {}
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self, server: Callable[[], Any], sock: socket.socket, backlog: int) -> None:
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            return _Guest(server(), self)

        if sock.family == socket.AF_UNIX:
            listening = await loop.create_unix_server(make, sock=sock, backlog=backlog)
        else:
            listening = await loop.create_server(make, sock=sock, backlog=backlog)
        self._servers.append(listening)
        if self._timer is None:
            self._look()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        if self._timer is not None:
            self._timer.cancel()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        guest = self._guests.get(transport) if transport is not None else None
        if guest is None:
            return await handler(request)
        guest.requests += 1
        try:
            return await handler(request)
        finally:
            guest.requests -= 1
            guest.since = time.monotonic()

    def came(self, guest: _Guest) -> None:
        assert guest.transport is not None
        self._guests[guest.transport] = guest
        if len(self._guests) > self._most:
            idle = [g for g in self._guests.values() if not g.requests]
            self._dismiss(min(idle or [guest], key=lambda guest: guest.since))

    def went(self, guest: _Guest) -> None:
        if guest.transport is not None:
            self._guests.pop(guest.transport, None)

    def _dismiss(self, guest: _Guest) -> None:
        assert guest.transport is not None
        self._guests.pop(guest.transport, None)
        guest.transport.abort()

    def _look(self) -> None:
        before = time.monotonic() - self._idle_time
        for guest in [g for g in self._guests.values() if not g.requests and g.since < before]:
            self._dismiss(guest)
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
