"""TLS ClientHellos of any size, in any records: as clients send them, or as nobody should."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence

RECORD = 1 << 14
PADDING = 21  # an extension


def _sized(payload: bytes, size: int) -> bytes:
    return len(payload).to_bytes(size, "big") + payload


def _extension(kind: int, payload: bytes) -> bytes:
    return struct.pack(">H", kind) + _sized(payload, 2)


def message(name: str = "", alpn: Sequence[str] = (), size: int = 0) -> bytes:
    """A ClientHello of TLS 1.3, without a record around it. size: padded to so many bytes."""
    extensions = _extension(43, b"\x02\x03\x04")
    if name:
        extensions += _extension(0, _sized(b"\0" + _sized(name.encode(), 2), 2))
    if alpn:
        extensions += _extension(16, _sized(b"".join(_sized(p.encode(), 1) for p in alpn), 2))
    head = b"\x03\x03" + bytes(range(32)) + _sized(bytes(32), 1) + b"\0\2\x13\1\1\0"
    missing = size - (4 + len(head) + 2 + len(extensions) + 4)
    if missing >= 0:
        extensions = _extension(PADDING, bytes(missing)) + extensions  # the names come last
    return b"\1" + _sized(head + _sized(extensions, 2), 3)


def in_records(text: bytes, size: int = RECORD) -> bytes:
    """Of `size` bytes each."""
    return b"".join(
        b"\x16\x03\x01" + _sized(text[at : at + size], 2) for at in range(0, len(text), size)
    )


def hello(name: str = "", alpn: Sequence[str] = (), size: int = 0, records: int = 1) -> bytes:
    """As message(), in so many records."""
    text = message(name, alpn, size)
    return in_records(text, min(RECORD, -(-len(text) // records)))


def of_openssl(name: str, alpn: Sequence[str] = ()) -> bytes:
    """What Python's ssl module sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("nobody can have answered")
