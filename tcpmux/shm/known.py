"""What a worker read of a connection before it picked its destination: csrc/conn/known.h.

A worker may have written any bytes there, and a client had a say in them: nothing is believed of
sizes, and names are made printable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

FIRST_BYTES = ("", "other", "tls", "silent")  # by enum tm_first_bytes


class Known(NamedTuple):
    """peer: of the client's socket, where a header of the PROXY protocol named another client; to:
    where that one had connected to; first_bytes: of FIRST_BYTES; tlvs: those that are kept of such
    a header, as tlvs_text() has them. "" = nothing is known of it."""

    peer: str = ""
    to: str = ""
    first_bytes: str = ""
    sni: str = ""
    alpn: tuple[str, ...] = ()
    tlvs: str = ""

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
            tuple(map(_text, protocols(alpn))),
            tlvs_text(tlvs),
        )


NOTHING_KNOWN = Known()
_VPCE = 0xEA  # type of a TLV
_PLAIN = re.compile(rb"(?!hex:)[A-Za-z0-9._:/@+-]+")  # told apart from what is around it
UNREADABLE = Known(*NOTHING_KNOWN)  # something is, but its connection has ended meanwhile


def tlvs_text(tlvs: bytes) -> str:
    """`0xea=vpce-0123, 0xe4=hex:0aff`: TLVs as they came in a header."""
    return ", ".join(f"{kind:#04x}={_value(kind, value)}" for kind, value in tlvs_of(tlvs))


def _value(kind: int, value: bytes) -> str:
    """That of an endpoint of an AWS VPC has a subtype in front of its name."""
    shown = value[1:] if kind == _VPCE and value[:1] == b"\x01" else value
    if _PLAIN.fullmatch(shown) and not (kind == _VPCE and shown is value):
        return shown.decode()
    return f"hex:{value.hex()}"


def _text(name: bytes) -> str:
    """With \\xNN for what can't be printed, and no two names alike."""
    return "".join(
        chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in name
    )


def protocols(alpn: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(alpn) and alpn[at] and at + 1 + alpn[at] <= len(alpn):
        yield alpn[at + 1 : at + 1 + alpn[at]]
        at += 1 + alpn[at]


def tlvs_of(tlvs: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 3 <= len(tlvs):
        size = int.from_bytes(tlvs[at + 1 : at + 3], "big")
        if at + 3 + size > len(tlvs):
            return
        yield tlvs[at], tlvs[at + 3 : at + 3 + size]
        at += 3 + size
