"""Both ends of relayed connections, held by one process and moved by poll(): what each sends,
when it ends, and whether what the other received is the truth. Runs in the scenario process.

The promise that is checked: a connection is either intact, or both its ends are told by a
reset. What has arrived is what was sent, and an end of input means that it was all.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from tests.relay.harness import RelayWorker, reset
from tests.support import patient

HEADER = struct.Struct("=4sI")
BULK = random.Random(20).randbytes(1 << 20)
RECEIVE_BUFFER = 1 << 15  # bytes: small, so that senders wait and pipes fill
PIECE = 1 << 17  # the most bytes of one send

Kind = Literal["ask", "up", "down", "both", "late", "half", "client_resets", "server_resets"]
KINDS: tuple[Kind, ...] = (
    "ask",
    "up",
    "down",
    "both",
    "late",
    "half",
    "client_resets",
    "server_resets",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one end does. window: bytes that it may be ahead of what it has received; -1 = any.
    shut_at_end: sends FIN only after the end of input. late: reads when the peer is stuck."""

    data: bytes
    window: int = -1
    shut_at_end: bool = False
    resets_after: int = -1  # bytes received; -1 = never
    late: bool = False


@dataclass(slots=True)
class End:
    """One end of a connection, and what it has seen of the other."""

    sock: socket.socket
    plan: Plan
    sent: int = 0
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False  # has seen the end of input
    shut: bool = False
    was_reset: bool = False
    has_reset: bool = False
    reading: bool = True

    @property
    def over(self) -> bool:
        return self.was_reset or self.has_reset or (self.ended and self.shut)

    @property
    def family(self) -> socket.AddressFamily:
        return self.sock.family

    def may_send(self) -> int:
        allowed = len(self.plan.data)
        if self.plan.window >= 0:
            allowed = min(allowed, len(self.received) + self.plan.window)
        return allowed - self.sent

    def step(self) -> bool:
        """Does what can be done now. True: something was."""
        before = (self.sent, len(self.received), self.ended, self.shut)
        try:
            self._send()
            self._read()
        except (ConnectionError, TimeoutError):
            self.was_reset = True
        except OSError as error:  # ENOTCONN of shutdown: reset meanwhile
            if not isinstance(error, BlockingIOError):
                self.was_reset = True
        if self.over:
            self.sock.close()
            return True
        return before != (self.sent, len(self.received), self.ended, self.shut)

    def _send(self) -> None:
        size = min(self.may_send(), PIECE)
        if size > 0:
            with suppress(BlockingIOError):
                self.sent += self.sock.send(
                    memoryview(self.plan.data)[self.sent : self.sent + size]
                )
        if self.plan.resets_after >= 0 and self.sent == len(self.plan.data):
            if self.ended or len(self.received) >= self.plan.resets_after:
                self.has_reset = True
                reset(self.sock)
            return
        done = self.sent == len(self.plan.data) and (self.ended or not self.plan.shut_at_end)
        done = done or (self.ended and self.plan.window >= 0)  # no answer will come
        if done and not self.shut:
            self.shut = True
            self.sock.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        if self.ended or self.has_reset or not self.reading:
            return
        with suppress(BlockingIOError):
            got = self.sock.recv(1 << 17)
            self.received += got
            self.ended = not got


@lru_cache(maxsize=64)
def plans(kind: Kind, number: int) -> tuple[Plan, Plan]:
    """Of client and server. The client's data begin with the header."""
    header = HEADER.pack(b"\xffh4\x00", number)
    start = number * 4099 % 100_000
    big = BULK[start : start + 600_000]
    small = BULK[start : start + 292]
    asked = header + small
    found: dict[Kind, Callable[[], tuple[Plan, Plan]]] = {
        "ask": lambda: (Plan(asked, window=100), Plan(asked, window=0)),
        "up": lambda: (Plan(header + big), Plan(small, shut_at_end=True)),
        "down": lambda: (Plan(header, shut_at_end=True), Plan(big)),
        "both": lambda: (Plan(header + big), Plan(BULK[start + 50 : start + 500_050])),
        "late": lambda: (Plan(header + big), Plan(small, late=True)),
        "half": lambda: (Plan(header), Plan(big[:300_000], shut_at_end=True)),
        "client_resets": lambda: (
            Plan(asked, resets_after=len(small)),
            Plan(small, shut_at_end=True),
        ),
        "server_resets": lambda: (
            Plan(asked, shut_at_end=True),
            Plan(big[:50_000], resets_after=len(asked)),
        ),
    }
    return found[kind]()


@dataclass(slots=True)
class Conversation:
    number: int
    kind: Kind
    client: End
    server: End | None = None

    @property
    def over(self) -> bool:
        return self.client.over and (self.server is None or self.server.over)

    def problems(self, unharmed: bool) -> Iterable[str]:
        """What is not as it has to be. unharmed: nothing was made to fail."""
        _, server_plan = plans(self.kind, self.number)
        named = f"{self.kind} {self.number}"
        if self.server is None:
            if unharmed:
                yield f"{named}: never reached an endpoint"
            yield from _lies(f"{named}: client", self.client, server_plan.data, ever_shut=False)
            return
        for name, end, peer in (
            ("client", self.client, self.server),
            ("server", self.server, self.client),
        ):
            # A UNIX socket's reset is not always told (see _lies).
            whole = peer.plan.resets_after < 0
            tells = peer.family != socket.AF_UNIX
            yield from _lies(f"{named}: {name}", end, peer.plan.data, whole or not tells)
            if unharmed and whole and not end.has_reset and end.received != peer.plan.data:
                yield f"{named}: {name} got {len(end.received)} of {len(peer.plan.data)} bytes"

    def state(self) -> str:
        def of(end: End | None) -> str:
            if end is None:
                return "-"
            return (
                f"sent {end.sent}/{len(end.plan.data)} got {len(end.received)}"
                f"{' ended' * end.ended}{' shut' * end.shut}{' reset' * end.was_reset}"
            )

        return f"{self.kind} {self.number}: client {of(self.client)}, server {of(self.server)}"


def _lies(name: str, end: End, truth: bytes, ever_shut: bool) -> Iterable[str]:
    """Wrong bytes; and an end of input before the end, which only a UNIX socket may show for a
    reset (unix(7) knows a reset only where bytes were left unread)."""
    if bytes(end.received) != truth[: len(end.received)]:
        yield f"{name} got wrong bytes"
    if end.ended and end.family != socket.AF_UNIX:
        if len(end.received) < len(truth):
            yield f"{name}: a clean end after {len(end.received)} of {len(truth)} bytes"
        elif not ever_shut:
            yield f"{name}: a clean end where a reset was due"


@dataclass(slots=True)
class Talk:
    """Some conversations through one worker, from their start to their end."""

    endpoints: list[socket.socket]  # listening, non-blocking
    conversations: list[Conversation] = field(default_factory=list)
    unnamed: list[socket.socket] = field(default_factory=list)

    def open(self, kind: Kind, address: Any, family: socket.AddressFamily) -> None:
        """One more client. May raise ConnectionError: turned away at once."""
        number = len(self.conversations)
        sock = socket.socket(family, socket.SOCK_STREAM)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.settimeout(patient(10))
        client = End(sock, plans(kind, number)[0])
        self.conversations.append(Conversation(number, kind, client))
        try:
            sock.connect(address)
        except ConnectionError:
            client.was_reset = True
            sock.close()
        else:
            sock.setblocking(False)

    def run(
        self, worker: RelayWorker, deadline: float, harass: Callable[[int], None] | None
    ) -> str:
        """Until all is over and the worker idle: "". Or what is stuck after `deadline` s.
        harass(bytes received by clients so far) is called in each turn."""
        end = time.monotonic() + deadline
        while not (self._all_over() and worker.live.connections == 0 and not self._accept()):
            if time.monotonic() > end:
                stuck = [c.state() for c in self.conversations if not c.over]
                return "; ".join(stuck) or f"nothing is open, {len(self.unnamed)} unnamed"
            self._accept()
            self._name()
            if not self._step():
                self._wait()
            if harass:
                harass(sum(len(c.client.received) for c in self.conversations))
        return ""

    def close(self) -> None:
        for conversation in self.conversations:
            conversation.client.sock.close()
            if conversation.server:
                conversation.server.sock.close()
        for sock in self.unnamed:
            sock.close()

    def _all_over(self) -> bool:
        return not self.unnamed and all(c.over for c in self.conversations)

    def _step(self) -> bool:
        moved = False
        for conversation in self.conversations:
            stuck = True
            for end in (conversation.client, conversation.server):
                if end is not None and not end.over and end.step():
                    moved, stuck = True, False
            if stuck and conversation.server and not conversation.server.reading:
                conversation.server.reading = moved = True
        return moved

    def _accept(self) -> bool:
        found = False
        for endpoint in self.endpoints:
            with suppress(BlockingIOError):
                while True:
                    sock, _ = endpoint.accept()
                    sock.setblocking(False)
                    self.unnamed.append(sock)
                    found = True
        return found

    def _name(self) -> None:
        """Finds out whose connection an accepted one is. One that ends before it has said so was
        given up by the worker: an attempt that failed."""
        for sock in list(self.unnamed):
            hung_up = self._hung_up(sock)  # before the look: what is seen then is all of it
            try:
                seen = sock.recv(HEADER.size, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError:
                seen = b""
            if len(seen) == HEADER.size:
                conversation = self.conversations[HEADER.unpack(seen)[1]]
                assert conversation.server is None, "two endpoints have one connection"
                plan = plans(conversation.kind, conversation.number)[1]
                conversation.server = End(sock, plan, reading=not plan.late)
            elif seen and not hung_up:
                continue
            else:
                sock.close()
            self.unnamed.remove(sock)

    @staticmethod
    def _hung_up(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _wait(self) -> None:
        poll = select.poll()
        for endpoint in self.endpoints:
            poll.register(endpoint, select.POLLIN)
        for sock in self.unnamed:
            poll.register(sock, select.POLLIN)
        for conversation in self.conversations:
            for end in (conversation.client, conversation.server):
                if end is None or end.over:
                    continue
                events = 0 if end.ended or not end.reading else select.POLLIN
                poll.register(end.sock, events | (select.POLLOUT if end.may_send() else 0))
        poll.poll(5)
