"""What is read of an annex, of whatever bytes it has."""

from __future__ import annotations

import random

import pytest

from tcpmux.shm.known import Known, tlvs_text


def test_names_and_tlvs() -> None:
    known = Known.read(
        "10.0.0.1:1", "[::1]:2", 2, b"a.example", b"\x02h2\x08http/1.1", b"\xea\0\x02ab\x04\0\0"
    )
    assert known == Known(
        "10.0.0.1:1", "[::1]:2", "tls", "a.example", ("h2", "http/1.1"), "0xea=hex:6162, 0x04=hex:"
    )


def test_what_is_cut_off_is_left_out() -> None:
    known = Known.read("", "", 99, b"", b"\x02h2\x09http/1.1", b"\xea\0\x02ab\x04\0\x01")
    assert known == Known(alpn=("h2",), tlvs="0xea=hex:6162")


def test_names_can_be_printed_and_told_apart() -> None:
    names = [Known.read("", "", 0, sni, b"", b"").sni for sni in (b"\xff", b"\\xff", b"a\n", b"a")]
    assert names == ["\\xff", "\\x5cxff", "a\\x0a", "a"]


def test_any_bytes_can_be_read() -> None:
    chance = random.Random(18)
    for _ in range(2000):
        noise = [bytes(chance.choices([0, 1, 2, 3, 255], k=chance.randrange(40))) for _ in "123"]
        known = Known.read("", "", chance.randrange(256), *noise)
        assert known.sni.isprintable()
        assert all(name.isprintable() for name in known.alpn)
        assert known.tlvs.isascii()
        assert known.tlvs.count("=") <= len(noise[2]) // 3


@pytest.mark.parametrize(
    ("tlv", "text"),
    [
        (b"\xea\0\x07\x01vpce-1", "0xea=vpce-1"),  # as AWS has it
        (b"\xea\0\x06vpce-1", "0xea=hex:767063652d31"),
        (b"\x02\0\x09a.example", "0x02=a.example"),
        (b"\xe0\0\x04a, b", "0xe0=hex:612c2062"),  # may not look like two
        (b"\xe0\0\x05hex:a", "0xe0=hex:6865783a61"),
        (b"\xe0\0\0", "0xe0=hex:"),
        (b"\xe0\0\x02\n\xff", "0xe0=hex:0aff"),
    ],
)
def test_a_tlv_is_text_where_that_is_unambiguous(tlv: bytes, text: str) -> None:
    assert tlvs_text(tlv) == text
    assert tlvs_text(tlv * 2) == f"{text}, {text}"
