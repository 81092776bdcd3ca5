"""Servers behind a proxy that say who they are, and who the client is as they are told."""

from __future__ import annotations

import io
import socket
import ssl
import struct
import threading
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.others import certificate
from tests.support import will_reset

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def header_v1(client: str) -> bytes:
    family, server = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {client} {server} 4711 80\r\n".encode()


def header_v2(client: str, tlvs: bytes = b"") -> bytes:
    address = ip_address(client)
    server = ip_address("2001:db8::1" if address.version == 6 else "192.0.2.1")
    body = address.packed + server.packed + struct.pack("!HH", 4711, 80) + tlvs
    family = 0x21 if address.version == 6 else 0x11
    return V2 + struct.pack("!BBH", 0x21, family, len(body)) + body


# By name in looks; each names a client, or nobody.
HEADERS = {
    "no": b"",
    "v1": header_v1("198.51.100.7"),
    "v1 IPv6": header_v1("2001:db8::7"),
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v2": header_v2("198.51.100.7"),
    "v2 IPv6": header_v2("2001:db8::7"),
    "v2 LOCAL": V2 + b"\x20\0\0\0",
    "another v1": header_v1("203.0.113.7"),
}


def told_by_header(stream: io.BufferedReader) -> str:
    """What a header says; nothing is read if there is none. TLVs by their types."""
    start = stream.peek(1)[:1]
    if start == b"P":
        words = stream.readline().decode().split()
        return f" for {words[2]} by v1" if len(words) > 2 else " for nobody by v1"
    if start != b"\r":
        return ""
    _, command, family, length = struct.unpack("!12sBBH", stream.read(16))
    body = stream.read(length)
    size = {0x11: 4, 0x21: 16}.get(family, 0)
    who = str(ip_address(body[:size])) if command == 0x21 and size else "nobody"
    types, rest = [], body[2 * size + 4 :] if size else b""
    while len(rest) >= 3:
        types.append(f"{rest[0]:02x}")
        rest = rest[3 + struct.unpack("!H", rest[1:3])[0] :]
    return f" for {who} by v2" + (f" with {', '.join(types)}" if types else "")


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as directory:
        context.load_cert_chain(certificate(Path(directory)))
    context.set_alpn_protocols(["acme-tls/1", "h2", "http/1.1"])
    return context


def _decrypted(client: socket.socket) -> socket.socket:
    """Of a client that begins with TLS; any other as it is."""
    if client.recv(1, socket.MSG_PEEK) != b"\x16":
        return client
    # Else an answer waits until its client acknowledges the session tickets ahead of it: 40 ms.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _tls().wrap_socket(client, server_side=True)


class NamedServer:
    """Answers each line with its name, in TLS to those who begin with it, and with what a PROXY
    header in front has told; remembers how many are open."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self._sock: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.start()

    def start(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(1024)
        self._sock = sock
        threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        """As if its process had been killed."""
        if self._sock is None:
            return
        with suppress(OSError):  # wakes the accepting thread
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._sock = None
        for client in list(self._open):
            with suppress(OSError):
                will_reset(client)
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                client, _ = sock.accept()
            except OSError:
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), _decrypted(client) as plain, plain.makefile("rb") as lines:
            name = f"{self.name}{told_by_header(lines)}"
            for _ in lines:
                plain.sendall(f"{name}\n".encode())
        self._open.discard(client)
