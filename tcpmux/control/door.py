"""Who may come in, and how many at a time. Runs in control.

Over the UNIX socket: the users that the master names. Over TCP, where admin.http names an address:
whoever asks for one of its own names and has the token. A page of another site may do neither:
browsers tell what a request is from.

Each socket has a room of its own (connections, requests and bodies at a time), so that whatever
happens in one keeps nobody out of the other; and what comes over TCP waits for its turn: in a turn
of the loop little of it is looked at, and one request is begun; and less while somebody on this
host asks.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import pwd
import resource
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from tcpmux.control.guest import SAFE, Guest, State
from tcpmux.control.head import Head, Refused

log = logging.getLogger("tcpmux.control")

LOOK_EVERY = 1.0  # s
FIRST = 0.02  # s after a word over the UNIX socket in which others wait
MEANWHILE = 0.005  # s between turns of theirs in that time
TURN_TIME = 0.002  # s for what comes over TCP, in a turn of the loop
PAUSE = 0.2  # s after this host had no descriptor or memory for a connection
SAY_EVERY = 60.0  # s
SEND_BUFFER = 256 << 10  # bytes that the kernel keeps for a client over TCP that reads slowly
LARGEST_BODY = 64 << 10  # bytes; of what is about many things more
LARGEST_BODIES = {"/v1/diff": 8 << 20, "/v1/connections/kill": 1 << 20, "/v1/states": 8 << 20}
SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Rules:
    """uids: who may ask over the UNIX socket; nobody else. The rest is for requests over TCP.
    address: IP:port as configured. hosts: more names for it, lower case. token: SHA-256 of what
    they have to know; without one everybody is refused, unless insecure."""

    uids: frozenset[int]
    address: str = ""
    hosts: tuple[str, ...] = ()
    token: bytes = b""
    insecure: bool = False


# --- who ---------------------------------------------------------------------------------------


def who(head: Head, sock: Any, rules: Rules) -> str:
    """Says who asks, for the log; raises Refused. GET changes nothing, so that only what a
    browser says of other requests' origin matters."""
    if sock.family == socket.AF_UNIX:
        return _local_user(sock, rules.uids)
    _check_host(head, rules)
    _check_origin(head)
    if head.path != "/" and not head.path.startswith("/static/"):  # it tells nothing, and asks
        _check_token(head, rules)
    return f"{sock.getpeername()[0]} over HTTP"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _local_user(sock: Any, uids: frozenset[int]) -> str:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in uids:
        allowed = " and ".join(_user_name(uid) for uid in sorted(uids)) or "nobody"
        raise Refused(403, f"user {uid} may not: only {allowed} may")
    name = _user_name(uid)
    return f"{name} (pid {pid})" if pid else name


def _check_host(head: Head, rules: Rules) -> None:
    """Against DNS rebinding: a name that somebody else has pointed here is not ours."""
    try:
        name = (urlsplit(f"//{head.headers.get('host', '')}").hostname or "").lower()
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
    raise Refused(403, f"host {name[:100]!r} is not one of ours: list it in admin.hosts")


def _check_origin(head: Head) -> None:
    site = head.headers.get("sec-fetch-site")
    reads = head.method in ("GET", "HEAD")
    if reads and head.headers.get("sec-fetch-mode") == "navigate":
        return
    if site not in (None, "same-origin", "none"):
        raise Refused(403, "a request from another site")
    origin = head.headers.get("origin")
    try:
        if origin is None or urlsplit(origin).netloc == head.headers.get("host"):
            return
    except ValueError:
        pass
    raise Refused(403, "a request from another site")


def _check_token(head: Head, rules: Rules) -> None:
    if not rules.token:
        if rules.insecure:
            return
        raise Refused(403, "there is no token: nobody may come in over HTTP")
    kind, _, given = head.headers.get("authorization", "").partition(" ")
    digest = sha256(given.strip().encode("latin-1")).digest()
    if not hmac.compare_digest(digest, rules.token) or kind.lower() != "bearer":
        raise Refused(
            401,
            "this needs the token of admin.token_file: Authorization: Bearer ...",
            WWW_Authenticate="Bearer",
        )


# --- how many ----------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Room:
    """The guests of one listening socket. fair: they wait for turns."""

    door: Door
    fair: bool
    most: int  # connections
    most_served: int  # requests that are being answered
    most_streams: int
    most_held: int  # bytes of bodies on their way
    most_ignored: int  # bytes that are read of a refused client, for it to come to the answer
    accepts: int  # in a turn of the loop
    guests: set[Guest] = field(default_factory=set)
    served: int = 0
    streams: int = 0
    held: int = 0

    def who(self, head: Head, transport: asyncio.Transport) -> str:
        try:
            return who(head, transport.get_extra_info("socket"), self.door.rules)
        except OSError:
            raise Refused(403, "the connection is gone") from None

    def largest_body(self, head: Head) -> int:
        return LARGEST_BODIES.get(head.path, LARGEST_BODY)

    def came(self, guest: Guest) -> None:
        """When there are too many, the one that has been idle longest goes: those who ask
        something are served."""
        self.heard()
        self.guests.add(guest)
        if len(self.guests) > self.most:
            idle = [g for g in self.guests if g.state is not State.SERVED and g is not guest]
            min(idle, key=lambda one: one.since, default=guest).dismiss()

    def heard(self) -> None:
        """Somebody here asks for something."""
        if not self.fair:
            self.door.local_until = time.monotonic() + FIRST

    def went(self, guest: Guest) -> None:
        if guest in self.guests:
            self.guests.remove(guest)
            self.served -= guest.state is State.SERVED

    def complain(self, error: Exception) -> None:
        self.door.say("a fault in the admin API", error)

    def take_turn(self, guest: Guest, step: Callable[[], None]) -> None:
        if self.fair:
            self.door.queue(guest, step)
        else:
            step()


class Door:
    """serve() accepts on a listening socket; middleware() is told when a request is answered."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = min(512, descriptors // 4)
        self.local = Room(self, False, most, most, 64, 64 << 20, 64 << 20, 64)
        self.remote = Room(self, True, most // 2, 96, 64, 16 << 20, 64 << 10, 8)
        self._turns: deque[tuple[Guest, Callable[[], None]]] = deque()
        self.local_until = 0.0  # monotonic; local requests come first
        self._planned = False  # that turns are taken
        self._listening: list[tuple[socket.socket, Room, Callable[[], Any]]] = []
        self._welcomes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._said = -SAY_EVERY

    # --- coming -----------------------------------------------------------------------------

    def serve(self, server: Callable[[], Any], sock: socket.socket) -> None:
        """Accepts from now on. server: makes the protocol behind a guest."""
        sock.setblocking(False)
        room = self.local if sock.family == socket.AF_UNIX else self.remote
        self._listening.append((sock, room, server))
        self._listen(sock, room, server)
        if self._timer is None:
            self._look()

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock, _, _ in self._listening:
            loop.remove_reader(sock)
        self._listening.clear()
        self._turns.clear()
        for task in self._welcomes:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for guest in [*self.local.guests, *self.remote.guests]:
            if guest.state is not State.SERVED:
                guest.dismiss()

    def _listen(self, sock: socket.socket, room: Room, server: Callable[[], Any]) -> None:
        if any(sock is listening for listening, _, _ in self._listening):
            asyncio.get_running_loop().add_reader(sock, self._accept, sock, room, server)

    def _accept(self, sock: socket.socket, room: Room, server: Callable[[], Any]) -> None:
        loop = asyncio.get_running_loop()
        if room.fair and time.monotonic() < self.local_until:
            self._pause(MEANWHILE, sock, room, server)
        for _ in range(room.accepts):
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in SHORTAGE:
                    self.say(f"the admin API takes no connections for now: {error.strerror}")
                    self._pause(PAUSE, sock, room, server)
                    return
                continue  # that client has gone
            task = loop.create_task(self._welcome(connection, room, server))
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    def _pause(
        self, seconds: float, sock: socket.socket, room: Room, server: Callable[[], Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(seconds, self._listen, sock, room, server)

    def say(self, text: str, error: Exception | None = None) -> None:
        """In the log, and not again and again."""
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            log.error("%s", text, exc_info=error)

    async def _welcome(
        self, connection: socket.socket, room: Room, server: Callable[[], Any]
    ) -> None:
        connection.setblocking(False)
        if room is self.remote:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: Guest(server(), room), connection)
        except OSError:
            connection.close()

    # --- turns ------------------------------------------------------------------------------

    def queue(self, guest: Guest, step: Callable[[], None]) -> None:
        self._turns.append((guest, step))
        self._plan_turns()

    def _plan_turns(self) -> None:
        if self._turns and not self._planned:
            self._planned = True
            pause = MEANWHILE if time.monotonic() < self.local_until else 0.0
            asyncio.get_running_loop().call_later(pause, self._take_turns)

    def _take_turns(self) -> None:
        """For TURN_TIME, and until a request has begun: it takes a turn of the loop by itself."""
        self._planned = False
        end = time.monotonic() + TURN_TIME
        try:
            while self._turns and time.monotonic() < end:
                guest, step = self._turns.popleft()
                if guest.state is State.QUEUED and not guest.transport.is_closing():
                    guest.do(step)
                if guest.state is State.SERVED:
                    break
        finally:
            self._plan_turns()

    def _look(self) -> None:
        now = time.monotonic()
        for guest in [*self.local.guests, *self.remote.guests]:
            guest.do(partial(guest.look, now))
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    # --- requests ---------------------------------------------------------------------------

    def guest(self, request: web.Request) -> Guest:
        """Whose request it is. Raises Refused."""
        protocol = request.transport and request.transport.get_protocol()
        if not isinstance(protocol, Guest):
            raise Refused(403, "the connection is gone")
        return protocol

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guest = self.guest(request)
        try:
            response = await handler(request)
            # Here, and not when we have returned: only then may the next request be looked at.
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            guest.answered()


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """To every answer: nothing of it is kept, guessed at or framed, nor says what made it."""
    for name, value in SAFE.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
