"""An HTTP server that hooks of rollouts are given, with every way to answer badly."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.support import EchoServer, will_reset

Treat = Callable[[socket.socket], None]


def answer(status: int = 200, body: bytes = b"", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Word\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def answers(status: int = 200, body: bytes = b"", more: str = "") -> Treat:
    return lambda sock: sock.sendall(answer(status, body, more))


def value(*values: str) -> Treat:
    """As a Prometheus server has it."""
    result = [{"metric": {"job": "a"}, "value": [1.5, each]} for each in values]
    data = {"resultType": "vector", "result": result}
    return answers(200, json.dumps({"status": "success", "data": data}).encode())


def hangs(sock: socket.socket) -> None:
    """Until the other side gives up."""
    sock.recv(1)


def closes(sock: socket.socket) -> None:
    del sock


def resets(sock: socket.socket) -> None:
    will_reset(sock)


def answers_ten_megabytes(sock: socket.socket) -> None:
    with suppress(OSError):  # nobody wants so much
        sock.sendall(answer(200, b"x" * 10_000_000))


def answers_without_an_end(sock: socket.socket) -> None:
    """A head that goes on and on."""
    with suppress(OSError):
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            sock.sendall(b"X-More: and more\r\n" * 100)


def stops_in_the_middle(sock: socket.socket) -> None:
    sock.sendall(answer(200, b"x" * 100)[:-50])


class HookServer(EchoServer):
    """Treats requests as `treats` says, one after the other, the last one for ever. Notes what has
    come: the head, and the body."""

    def __init__(self, *treats: Treat) -> None:
        self._treats = list(treats)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            came = b""
            while b"\r\n\r\n" not in came:
                part = sock.recv(65536)
                if not part:
                    return
                came += part
            head, _, body = came.partition(b"\r\n\r\n")
            text = head.decode()
            length = next(
                (int(line.split(":")[1]) for line in text.split("\r\n")
                 if line.lower().startswith("content-length:")),
                0,
            )  # fmt: skip
            while len(body) < length:
                body += sock.recv(65536)
            treat = self._treats.pop(0) if len(self._treats) > 1 else self._treats[0]
            self.heads.append(text)
            self.bodies.append(body)
            treat(sock)
