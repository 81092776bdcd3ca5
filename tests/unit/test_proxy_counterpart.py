"""Headers of the PROXY protocol are understood as another program's parser understands them:
proxy-protocol's. Where tcpmux is stricter, a reason is given here."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from tests.support import patient

CSRC = Path(__file__).resolve().parents[2] / "csrc"
WHOLE, MORE = 0, 1  # enum tm_proxy_result
Ends = tuple[str, int, str, int]


class Peer(ctypes.Structure):
    _fields_ = [("family", ctypes.c_uint16), ("port", ctypes.c_uint16), ("ip", ctypes.c_char * 16)]

    def end(self) -> tuple[str, int]:
        packed = bytes(self)[4 : 8 if self.family == socket.AF_INET else 20]
        return str(ip_address(packed)), int(self.port)


class Header(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("tlvs_at", ctypes.c_uint32),
        ("has_client", ctypes.c_bool),
        ("client", Peer),
        ("to", Peer),
    ]


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("parser") / "parser.so"
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    sources = [str(CSRC / f"{name}.c") for name in ("proxy_header", "crc32c", "text")]
    flags = ["-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{CSRC}", *sources, "-o", str(made)]
    subprocess.run([*compiler, *flags], check=True, timeout=patient(120))
    return ctypes.CDLL(str(made)).tm_proxy_parse


def ours(parser: Any, data: bytes) -> tuple[int, Ends | None, int]:
    """Result, client and where it had connected to, size."""
    header = Header()
    result = parser(data, ctypes.c_size_t(len(data)), 3, ctypes.byref(header))
    if result != WHOLE:
        return result, None, 0
    ends = (*header.client.end(), *header.to.end()) if header.has_client else None
    return result, ends, int(header.size)


def theirs(data: bytes) -> Ends | str | None:
    """None: nobody is named. Else why it is refused."""
    kind = ProxyProtocolV1() if data.startswith(b"PROXY ") else ProxyProtocolV2()
    try:
        found = kind.unpack(data)
    except Exception as error:  # it lets any through
        return f"{type(error).__name__}: {error}"
    if isinstance(found, (ProxyResultIPv4, ProxyResultIPv6)):
        if found.protocol == socket.SOCK_DGRAM or (data[:1] == b"\r" and not found.protocol):
            return None  # no TCP: to tcpmux the peer is the client
        return str(found.source[0]), found.source[1], str(found.dest[0]), found.dest[1]
    return None


def whole_of(data: bytes) -> bytes:
    """Without what is behind it: the other parser takes all that it is given."""
    if data.startswith(b"PROXY "):
        return data[: data.find(b"\n") + 1] or data
    return data[: 16 + int.from_bytes(data[14:16], "big")]


def types_of(tlvs: bytes) -> list[int]:
    """-1 at the end: cut off."""
    at, found = 0, []
    while at < len(tlvs):
        end = at + 3 + int.from_bytes(tlvs[at + 1 : at + 3], "big")
        found.append(tlvs[at] if at + 3 <= len(tlvs) and end <= len(tlvs) else -1)
        at = end
    return found


def why_stricter(data: bytes) -> str:
    """Why tcpmux refuses what the other takes; "" = no reason is known."""
    return _of_line(data) if data.startswith(b"PROXY ") else _of_binary(data)


def _of_line(data: bytes) -> str:
    words = data.split(b"\r\n")[0].split(b" ")[2:]
    if len(data) > 107:
        return "longer than the specification has it"
    if b"%" in data or b"\r" in data[:-2]:
        return "a scope of an address, or a CR amid the line"
    if not all(re.fullmatch(rb"0|[1-9][0-9]{0,4}", port) for port in words[2:]):
        return "a port that is not canonical"
    return ""


def _of_binary(data: bytes) -> str:
    family, rest = data[13] >> 4, data[16:]
    types = types_of(rest[{1: 12, 2: 36, 3: 216}.get(family, len(rest)) :])
    reasons = {
        "a family or a protocol that does not exist": family > 3 or data[13] & 15 > 2,
        "a TLV that is cut off": -1 in types,
        "two checksums, or one that has not four bytes": 3 in types,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def headers(chance: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        six = chance.randrange(2)
        ports = chance.randrange(65536), chance.randrange(65536)
        made: ProxyResult
        tlv = ProxyProtocolTLV(
            init={
                chance.choice((1, 2, 5, 0xE0, 0xEA)): chance.randbytes(chance.randrange(40))
                for _ in range(chance.randrange(3))
            }
        )
        if six:
            ends6 = [IPv6Address(chance.randbytes(16)) for _ in range(2)]
            made = ProxyResultIPv6(
                (ends6[0], ports[0]), (ends6[1], ports[1]), protocol=socket.SOCK_STREAM, tlv=tlv
            )
        else:
            ends4 = [IPv4Address(chance.randbytes(4)) for _ in range(2)]
            made = ProxyResultIPv4(
                (ends4[0], ports[0]), (ends4[1], ports[1]), protocol=socket.SOCK_STREAM, tlv=tlv
            )
        if chance.randrange(8) == 0:
            made = ProxyResultLocal(tlv=tlv)
            yield ProxyProtocolV2().pack(made)
        else:
            yield (ProxyProtocolV1() if chance.randrange(2) else ProxyProtocolV2()).pack(made)


def compare(parser: Any, data: bytes) -> str:
    """Which of both takes it. Fails where they disagree for no known reason."""
    exact = whole_of(data)
    result, ends, size = ours(parser, data)
    other = theirs(exact)
    if result == WHOLE:
        assert size == len(exact), data
        # It takes any bytes of LOCAL for TLVs, also those of addresses.
        is_local = data[:1] == b"\r" and data[12] == 0x20
        is_unix_text = data[:1] == b"\r" and data[13] >> 4 == 3
        assert ends == other or (ends is None and (is_local or is_unix_text)), data
        return "taken"
    if not isinstance(other, str):
        assert why_stricter(exact), (data, other)
        return "stricter"
    return "refused"


def test_headers_that_it_writes(parser: Any) -> None:
    chance = random.Random(18)
    for data in headers(chance, 1000):
        assert compare(parser, data + chance.randbytes(chance.randrange(9))) == "taken", data
        cut = chance.randrange(len(data))
        assert ours(parser, data[:cut])[0] == MORE, data[:cut]


def test_headers_with_a_byte_changed(parser: Any) -> None:
    """Each byte of some, to some values."""
    chance = random.Random(18)
    seen: dict[str, int] = {}
    for data in headers(chance, 20):
        for at in range(len(data)):
            for value in {data[at] ^ 1 << chance.randrange(8), chance.randrange(256), 0x20, 0x30}:
                changed = data[:at] + bytes([value]) + data[at + 1 :]
                if ours(parser, changed)[0] == MORE:
                    continue
                if not (changed.startswith(b"PROXY ") or changed[:12] == b"\r\n\r\n\0\r\nQUIT\n"):
                    assert ours(parser, changed)[0] != WHOLE
                    continue
                outcome = compare(parser, changed)
                seen[outcome] = seen.get(outcome, 0) + 1
    assert seen["taken"] > 100
    assert seen["refused"] > 100
