"""What a worker read of a connection before it picked its destination: csrc/conn/known.h.

A worker may have written any bytes there, and a client had a say in them: nothing is believed of
sizes, and names are made printable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FIRST_BYTES = ("", "other", "tls", "silent")  # by enum tm_first_bytes


class Known(NamedTuple):
    """peer: of the client's socket, where a header of the PROXY protocol named another client; to:
    where that one had connected to; first_bytes: of FIRST_BYTES; tlvs: (type, value) of each that
    is kept of such a header. "" = nothing is known of it."""

    peer: str = ""
    to: str = ""
    first_bytes: str = ""
    sni: str = ""
    alpn: tuple[str, ...] = ()
    tlvs: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def read(
        cls, peer: str, to: str, first_bytes: int, sni: bytes, alpn: bytes, tlvs: bytes
    ) -> Known:
        """From the annex of a record."""
        return cls(
            peer,
            to,
            FIRST_BYTES[first_bytes] if first_bytes < len(FIRST_BYTES) else "",
            _text(sni),
            tuple(map(_text, _names(alpn))),
            tuple(_tlvs(tlvs)),
        )


NOTHING_KNOWN = Known()
UNREADABLE = Known(*NOTHING_KNOWN)  # something is, but its connection has ended meanwhile


def _text(name: bytes) -> str:
    """With \\xNN for what can't be printed, and no two names alike."""
    return "".join(
        chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in name
    )


def _names(alpn: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(alpn) and alpn[at] and at + 1 + alpn[at] <= len(alpn):
        yield alpn[at + 1 : at + 1 + alpn[at]]
        at += 1 + alpn[at]


def _tlvs(tlvs: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 3 <= len(tlvs):
        size = int.from_bytes(tlvs[at + 1 : at + 3], "big")
        if at + 3 + size > len(tlvs):
            return
        yield tlvs[at], tlvs[at + 3 : at + 3 + size]
        at += 3 + size
