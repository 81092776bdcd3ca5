"""Clients of databases that do one thing at a time: what real ones hide behind an API. Each is one
connection; a call says something, or waits for what comes."""

from __future__ import annotations

import select
import socket
import struct
from types import TracebackType
from typing import TypeVar

from tests.support import DEADLINE, patient, receive

T = TypeVar("T")


class Client:
    """One connection to a port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=patient(DEADLINE))

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def is_told(self) -> bool:
        """Whether there is something to be read, if only the end."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def rest(self) -> bytes:
        """Up to the end."""
        return b"".join(iter(lambda: self.sock.recv(4096), b""))


class Postgres(Client):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        body = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
        self.sock.sendall(struct.pack(">i", 4 + len(body)) + body)
        assert self.answer() == b"I"

    def say(self, text: str) -> None:
        body = text.encode() + b"\0"
        self.sock.sendall(b"Q" + struct.pack(">i", 4 + len(body)) + body)

    def answer(self) -> bytes:
        """Up to ReadyForQuery: its status."""
        while True:
            head = receive(self.sock, 5)
            assert len(head) == 5, "the connection has ended"
            body = receive(self.sock, struct.unpack(">i", head[1:])[0] - 4)
            assert head[:1] != b"E", body
            if head[:1] == b"Z":
                return body

    def ask(self, text: str) -> bytes:
        self.say(text)
        return self.answer()


class Redis(Client):
    def ask(self, text: str) -> bytes:
        """One line of the answer, which has to be one."""
        self.sock.sendall(text.encode() + b"\r\n")
        return self.line()

    def line(self) -> bytes:
        got = b""
        while not got.endswith(b"\r\n"):
            more = self.sock.recv(1)
            assert more, "the connection has ended"
            got += more
        return got[:-2]


class MySQL(Client):
    """Of a server without passwords."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        assert self.packet()[0] == 10
        # CLIENT_LONG_PASSWORD, CLIENT_PROTOCOL_41, CLIENT_TRANSACTIONS, CLIENT_SECURE_CONNECTION
        login = struct.pack("<IIB23x", 0x1 | 0x200 | 0x2000 | 0x8000, 1 << 24, 33) + b"root\0\0"
        self._send(1, login)
        assert self.packet()[0] == 0

    def _send(self, number: int, body: bytes) -> None:
        self.sock.sendall(len(body).to_bytes(3, "little") + bytes([number]) + body)

    def packet(self) -> bytes:
        head = receive(self.sock, 4)
        assert len(head) == 4, "the connection has ended"
        return receive(self.sock, int.from_bytes(head[:3], "little"))

    def say(self, text: str) -> None:
        self._send(0, b"\3" + text.encode())

    def answer(self) -> None:
        """OK, or columns and rows with their two ends."""
        first = self.packet()
        assert first[0] != 0xFF, first
        ends = 2 if first[0] else 0
        while ends:
            body = self.packet()
            assert body[0] != 0xFF, body
            ends -= body[0] == 0xFE and len(body) == 5

    def ask(self, text: str) -> None:
        self.say(text)
        self.answer()
