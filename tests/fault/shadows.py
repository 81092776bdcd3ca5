"""Shadows of the conversations, in a thread of the scenario process: one after the other they send
back what they hear, end at once, reset, never stop answering, or end their answer and go on
listening. What each hears is held against what its client was to say."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.fault.conversations import HEADER, KINDS, plans
from tests.relay.harness import address_of, reset

SOME = bytes(1 << 16)
KINDS_OF_SHADOWS = 5
ENDLESS, ENDS = 1, 4


@dataclass(slots=True)
class Heard:
    number: int  # of the connection
    bytes: bytearray = field(default_factory=bytearray)
    answered: int = 0

    def problem(self, whole: bool) -> str:
        """whole: it has ended well. "" = it is what its client says."""
        if len(self.bytes) < HEADER.size:
            # Without a byte: a connect that seemed to fail.
            return f"a clean end after {len(self.bytes)} bytes" if whole and self.bytes else ""
        _, number = HEADER.unpack(self.bytes[: HEADER.size])
        said = plans(KINDS[number], number)[0].data
        if not said.startswith(self.bytes):
            return f"of {KINDS[number]} {number}: other bytes"
        if whole and len(self.bytes) < len(said):
            return f"of {KINDS[number]} {number}: a clean end after {len(self.bytes)} bytes"
        return ""


class Shadows:
    """wrong: what a shadow has heard that was not right."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.address = address_of(self._listener)
        self.wrong: list[str] = []
        self._events = selectors.DefaultSelector()
        self._events.register(self._listener, selectors.EVENT_READ)
        self._waking, self._woken = socket.socketpair()
        self._events.register(self._woken, selectors.EVENT_READ)
        self._count = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._waking.close()
        self._thread.join()
        for key in list(self._events.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._events.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._events.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    return
                if sock is self._listener:
                    with suppress(OSError):
                        self._begin(self._listener.accept()[0])
                    continue
                try:
                    ways = (self._echo, self._endless, self._resets, self._half)
                    self._step(sock, key.data, ways[key.data.number % KINDS_OF_SHADOWS])
                except BlockingIOError:
                    pass
                except OSError:
                    self._end(sock, key.data, whole=False)

    def _begin(self, sock: socket.socket) -> None:
        self._count += 1
        if self._count % KINDS_OF_SHADOWS == ENDS:
            sock.close()
            return
        sock.setblocking(False)
        endless = self._count % KINDS_OF_SHADOWS == ENDLESS
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if endless else 0)
        self._events.register(sock, events, Heard(self._count))

    def _step(
        self, sock: socket.socket, heard: Heard, answer: Callable[[socket.socket, bytes], bool]
    ) -> None:
        got = b""
        with suppress(BlockingIOError):
            got = sock.recv(1 << 17)
            if not got:
                self._end(sock, heard, whole=True)
                return
        heard.bytes += got
        heard.answered += len(got)
        if not answer(sock, got):
            self._end(sock, heard, whole=False)
        elif heard.answered == len(got) and answer == self._half:
            sock.shutdown(socket.SHUT_WR)

    def _end(self, sock: socket.socket, heard: Heard, whole: bool) -> None:
        self.wrong += filter(None, [heard.problem(whole)])
        self._events.unregister(sock)
        sock.close()

    @staticmethod
    def _echo(sock: socket.socket, got: bytes) -> bool:
        with suppress(BlockingIOError):
            sock.send(got)
        return True

    @staticmethod
    def _endless(sock: socket.socket, _got: bytes) -> bool:
        with suppress(BlockingIOError):
            sock.send(SOME)
        return True

    @staticmethod
    def _resets(sock: socket.socket, _got: bytes) -> bool:
        reset(sock)
        return False

    @staticmethod
    def _half(_sock: socket.socket, _got: bytes) -> bool:
        return True
