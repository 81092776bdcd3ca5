"""Each kind of check against servers that are well, and against those that are not."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tcpmux.config import Address, Check
from tcpmux.control.probes import ProbeFailed, ProbeImpossible, knock, probe
from tests.support import refusing_port


@contextmanager
def server(
    answer: bytes = b"",
    *,
    first: bytes = b"",
    read: bool = True,
    context: ssl.SSLContext | None = None,
) -> Iterator[tuple[Address, list[bytes]]]:
    """Says `first`, reads once, says `answer`, closes. Gives its address and what it has read."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                talk = context.wrap_socket(client, server_side=True) if context else client
                with talk:
                    talk.sendall(first)
                    if read:
                        heard.append(talk.recv(4096))
                    talk.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Address("127.0.0.1", listener.getsockname()[1], ""), heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def why(address: Address, check: Check) -> str:
    """ "" = it is well."""
    try:
        asyncio.run(probe(address, check))
    except ProbeFailed as error:
        return str(error)
    return ""


MYSQL = b"\x4a\x00\x00\x00\x0a8.0.36\x00"
MYSQL_FULL = b"\x17\x00\x00\x00\xff\x10\x04Too many connections"


@pytest.mark.parametrize(
    ("kind", "first", "answer", "said", "reason"),
    [
        ("redis", b"", b"+PONG\r\n", b"PING\r\n", ""),
        ("redis", b"", b"-NOAUTH Authentication required.\r\n", b"PING\r\n", ""),
        ("redis", b"", b"-LOADING Redis is loading\r\n", b"PING\r\n", "answered '-LOADING"),
        ("redis", b"", b"", b"PING\r\n", "closed without an answer"),
        ("postgres", b"", b"N", bytes.fromhex("0000000804d2162f"), ""),
        ("postgres", b"", b"S", bytes.fromhex("0000000804d2162f"), ""),
        ("postgres", b"", b"E", bytes.fromhex("0000000804d2162f"), "answered 'E'"),
        ("mysql", MYSQL, b"", b"", ""),
        ("mysql", MYSQL_FULL, b"", b"", "Too many connections"),
        ("mysql", b"HTTP/", b"", b"", "answered 'HTTP/'"),
    ],
)
def test_servers_of_a_kind(
    kind: str, first: bytes, answer: bytes, said: bytes, reason: str
) -> None:
    with server(answer, first=first, read=bool(said)) as (address, heard):
        found = why(address, Check(kind))
        assert bool(found) == bool(reason)
        assert reason in found
    assert heard == ([said] if said else [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.0 302 Found\r\n\r\n", ""),
        (
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "answered 'HTTP/1.1 503 Service Unavailable'",
        ),
        (b"\x15\x03\x01\x00\x02\x02P", "answered '\\x15"),
        (b"", "closed without an answer"),
    ],
)
def test_http(line: bytes, reason: str) -> None:
    with server(line) as (address, heard):
        found = why(address, Check("http", path="/healthz?x=1", host="shop.example"))
        assert (found == "") == (reason == "")
        assert reason in found
    assert heard[0].startswith(b"GET /healthz?x=1 HTTP/1.1\r\nHost: shop.example\r\n")


@pytest.mark.parametrize(
    ("expect", "is_pattern", "is_well"),
    [(b"o w", False, True), (b"rld$", True, True), (b"o.w", False, False), (b"^w", True, False)],
)
def test_send_and_expect(expect: bytes, is_pattern: bool, is_well: bool) -> None:
    check = Check("send", send=b"hi\x00", expect=expect, is_pattern=is_pattern)
    with server(b"hello world") as (address, heard):
        found = why(address, check)
        assert (found == "") == is_well
        if not is_well:
            assert found == "answered 'hello world'"
    assert heard == [b"hi\x00"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=shop.example", "-keyout", str(path),
         "-out", str(path) + ".crt"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(str(path) + ".crt").read_text())
    return path


def test_tls(certificate: Path) -> None:
    """Without a name the handshake is enough; with one the certificate has to be for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with server(context=context) as (address, _):
        assert why(address, Check("tls")) == ""
        assert "TLS" in why(address, Check("tls", host="shop.example"))
    with server(b"plain text") as (address, _):
        assert why(address, Check("tls", timeout=5.0)).startswith("TLS")
    line = b"HTTP/1.1 200 OK\r\n\r\n"
    with server(line, context=context) as (address, heard):
        assert why(address, Check("http", tls=True)) == ""
        assert heard[0].startswith(b"GET / ")


def test_nobody_there_and_nobody_answers(tmp_path: Path) -> None:
    with refusing_port() as port:
        dead = Address("127.0.0.1", port, "")
        assert why(dead, Check("tcp")) == "connection refused"
        with pytest.raises(ProbeFailed, match="connection refused"):
            knock(dead)
    assert "no such file" in why(Address("", 0, str(tmp_path / "none.sock")), Check("tcp"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = Address("127.0.0.1", silent.getsockname()[1], "")
        assert knock(quiet)
        assert why(quiet, Check("redis", timeout=0.1)) == "no answer within 0.1 s"
        other = Address("127.0.0.1", 1, "")
        assert why(other, Check("tcp", port=quiet.port)) == ""


def test_a_lack_on_this_host_is_not_held_against_the_endpoint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as well:
        address = Address("127.0.0.1", well.getsockname()[1], "")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(ProbeImpossible, match="too many open files"):
                knock(address)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert knock(address)


def test_a_check_leaves_nothing_behind() -> None:
    """No descriptor here, and no TIME_WAIT there: thousands are made every second."""
    kinds: list[Callable[[Address], object]] = [
        lambda address: why(address, Check("tcp")),
        lambda address: why(address, Check("redis")),
    ]
    with server(b"+PONG\r\n") as (address, _):
        for look in kinds:
            look(address)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for look in kinds:
            for _ in range(5):
                look(address)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        text = Path("/proc/net/tcp").read_text(encoding="ascii")
        lines = [line.split() for line in text.splitlines()[1:]]
        waiting = [f for f in lines if f[3] == "06" and f[2].endswith(f":{address.port:04X}")]
        assert waiting == []
