"""Clients and servers of rollouts: a new version that is broken, and those who notice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.support import EchoServer, patient, will_reset


class BadServer(EchoServer):
    """Accepts, and then treats each connection as `treat` does."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self._treat = treat
        super().__init__()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            self._treat(sock)


class Clients:
    """Ask one question after the other, each in a connection of its own, and note when and by
    whom they were answered; "" = not at all, within `patience`."""

    def __init__(self, port: int, pause: float = 0.01, patience: float = 0.0) -> None:
        self._port = port
        self._pause = pause
        self._patience = patience or patient(10)
        self._over = threading.Event()
        self.answers: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            self.answers.append((time.monotonic(), self._ask()))

    def _ask(self) -> str:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), self._patience) as sock,
        ):
            sock.sendall(b"question\n")
            return sock.recv(100).decode().partition(" ")[0]
        return ""

    def stop(self) -> None:
        self._over.set()
        self._thread.join(patient(20))


@contextmanager
def clients(port: int, pause: float = 0.01, patience: float = 0.0) -> Iterator[Clients]:
    found = Clients(port, pause, patience)
    yield found
    found.stop()


def resets(sock: socket.socket) -> None:
    will_reset(sock)


def closes(sock: socket.socket) -> None:
    sock.recv(100)  # what is not read would make it a reset


def answers_errors(sock: socket.socket) -> None:
    """As redis does while it loads what it has saved."""
    sock.recv(100)
    sock.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")
    sock.recv(100)


def hangs(sock: socket.socket) -> None:
    while sock.recv(100):
        pass


def is_slow(sock: socket.socket) -> None:
    sock.recv(100)
    time.sleep(0.1)
    sock.sendall(b"two late\n")
