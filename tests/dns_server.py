"""A name server of a few names, to be asked over UDP on 127.0.0.1 (RFC 1035)."""

from __future__ import annotations

import socket
import struct
import threading

A, SRV, AAAA = 1, 33, 28
NXDOMAIN = 3


def _name(text: str) -> bytes:
    return b"".join(bytes([len(p)]) + p.encode() for p in text.split(".")) + b"\0"


class DnsServer:
    """records: what it says, by name and type; change them while it runs. Silent if `mute`."""

    def __init__(self, ttl: int = 1) -> None:
        self.records: dict[tuple[str, int], list[bytes]] = {}
        self.ttl = ttl
        self.mute = False
        self.asked = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def set_a(self, name: str, *addresses: str) -> None:
        self.records[name, A] = [socket.inet_aton(address) for address in addresses]
        self.records.setdefault((name, AAAA), [])

    def set_srv(self, name: str, *targets: tuple[int, int, int, str]) -> None:
        """Of (priority, weight, port, host)."""
        self.records[name, SRV] = [
            struct.pack("!HHH", *numbers) + _name(host) for *numbers, host in targets
        ]

    def forget(self, name: str) -> None:
        for key in [key for key in self.records if key[0] == name]:
            del self.records[key]

    def close(self) -> None:
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._sock.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            if not self.mute:
                self._sock.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        name = ".".join(labels)
        (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
        question = query[12 : at + 5]
        found = self.records.get((name, kind))
        code = NXDOMAIN if found is None else 0
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(found or ()), 0, 0)
        body = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(data)) + data
            for data in found or ()
        )
        return head + question + body
