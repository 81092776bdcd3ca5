"""What is read of an annex, of whatever bytes it has."""

from __future__ import annotations

import random

from tcpmux.shm.known import Known


def test_names_and_tlvs() -> None:
    known = Known.read(
        "10.0.0.1:1", "[::1]:2", 2, b"a.example", b"\x02h2\x08http/1.1", b"\xea\0\x02ab\x04\0\0"
    )
    assert known == Known(
        "10.0.0.1:1", "[::1]:2", "tls", "a.example", ("h2", "http/1.1"), ((0xEA, b"ab"), (4, b""))
    )


def test_what_is_cut_off_is_left_out() -> None:
    known = Known.read("", "", 99, b"", b"\x02h2\x09http/1.1", b"\xea\0\x02ab\x04\0\x01")
    assert known == Known(alpn=("h2",), tlvs=((0xEA, b"ab"),))


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
        assert sum(3 + len(value) for _, value in known.tlvs) <= len(noise[2])
