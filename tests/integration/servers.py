"""Endpoints that do what endpoints do at three in the morning."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.support import will_reset


class Server:
    """Accepts on a port of 127.0.0.1 and has each connection handled, one after the other."""

    def __init__(self, handle: Callable[[socket.socket], None], port: int = 0) -> None:
        self._handle = handle
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = self._socket.getsockname()[1]
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            with client, suppress(OSError):
                self._handle(client)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def resetting(client: socket.socket) -> None:
    """Reads what comes, and resets."""
    client.recv(64)
    will_reset(client)


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def say(client: socket.socket) -> None:
        client.recv(64)
        client.sendall(answer)

    return say


def hanging() -> Callable[[socket.socket], None]:
    """Accepts, and says nothing."""
    held: list[socket.socket] = []
    return lambda client: held.append(client.dup())


@contextmanager
def serving(handle: Callable[[socket.socket], None], port: int = 0) -> Iterator[Server]:
    server = Server(handle, port)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no SYN: the queue of its listener is full, and nobody takes from it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()
