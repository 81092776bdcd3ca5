"""A name server of a few names, to be asked over UDP and TCP on 127.0.0.1 (RFC 1035)."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

A, SRV, AAAA, CNAME = 1, 33, 28, 5
SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
LARGEST_PACKET = 1232  # bytes over UDP: more has to be asked for over TCP


def _name(text: str) -> bytes:
    parts = [part for part in text.split(".") if part]
    return b"".join(bytes([len(p)]) + p.encode() for p in parts) + b"\0"


def _bound() -> tuple[socket.socket, socket.socket]:
    """The same free port, for UDP and TCP."""
    for _ in range(100):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        try:
            return sock, socket.create_server(sock.getsockname())
        except OSError:
            sock.close()
    raise AssertionError("no port is free for both")


class DnsServer:
    """records: what it says, by name and type; change them while it runs. Silent if `mute`, or
    about the types in `mute_types`. codes: what it says instead, by name and type."""

    def __init__(self, ttl: int = 1) -> None:
        self.records: dict[tuple[str, int], list[bytes]] = {}
        self.codes: dict[tuple[str, int], int] = {}
        self.ttl = ttl
        self.mute = False
        self.mute_types: set[int] = set()
        self.asked = 0
        self._sock, self._listener = _bound()
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        for serve in (self._serve, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def set_a(self, name: str, *addresses: str) -> None:
        self.records[name, A] = [socket.inet_aton(address) for address in addresses]
        self.records.setdefault((name, AAAA), [])

    def set_aaaa(self, name: str, *addresses: str) -> None:
        self.records[name, AAAA] = [socket.inet_pton(socket.AF_INET6, a) for a in addresses]
        self.records.setdefault((name, A), [])

    def set_srv(self, name: str, *targets: tuple[int, int, int, str]) -> None:
        """Of (priority, weight, port, host)."""
        self.records[name, SRV] = [
            struct.pack("!HHH", *numbers) + _name(host) for *numbers, host in targets
        ]

    def set_empty(self, name: str) -> None:
        """The name is there, and has nothing."""
        self.records[name, A] = []
        self.records[name, AAAA] = []

    def forget(self, name: str) -> None:
        for key in [key for key in self.records if key[0] == name]:
            del self.records[key]

    def close(self) -> None:
        self._sock.close()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._sock.recvfrom(4096)
            except OSError:
                return
            answer = self._answer(query)
            if answer is None:
                continue
            if len(answer) > LARGEST_PACKET:  # truncated: ask again over TCP
                (flags,) = struct.unpack("!H", answer[2:4])
                question = query[12 : query.index(0, 12) + 5]
                answer = query[:2] + struct.pack("!HHHHH", flags | 0x0200, 1, 0, 0, 0) + question
            with suppress(OSError):  # closed meanwhile, or nobody waits for it any more
                self._sock.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), connection, connection.makefile("rwb") as stream:
                while head := stream.read(2):
                    answer = self._answer(stream.read(*struct.unpack("!H", head)))
                    if answer is None:
                        break
                    stream.write(struct.pack("!H", len(answer)) + answer)
                    stream.flush()

    def _answer(self, query: bytes) -> bytes | None:
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        name = ".".join(labels)
        (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
        question = query[12 : at + 5]
        self.asked += 1
        if self.mute or kind in self.mute_types:
            return None
        found = self.records.get((name, kind))
        code = self.codes.get((name, kind), NXDOMAIN if found is None else 0)
        found = [] if code or found is None else found
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        body = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(data)) + data
            for data in found
        )
        return head + question + body
