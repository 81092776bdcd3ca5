"""Each kind of check against servers that are healthy, and against those that are not."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tcpmux.config import Address, Check
from tcpmux.control import connecting, probes
from tcpmux.control.connecting import ProbeFailed, ProbeImpossible, connect_at_once
from tcpmux.control.probes import probe, stays_open
from tests import others
from tests.support import DEADLINE, refusing_port, wait_for, will_reset


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
    """ "" = it is healthy."""
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
    return others.certificate(tmp_path_factory.mktemp("tls"))


def test_tls(certificate: Path) -> None:
    """Without a name the handshake is enough; with one the certificate has to be for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with server(context=context) as (address, _):
        assert why(address, Check("tls")) == ""
        assert "TLS" in why(address, Check("tls", host="shop.example"))
    with server(b"plain text") as (address, _):
        assert why(address, Check("tls", timeout=DEADLINE)).startswith("TLS")
    line = b"HTTP/1.1 200 OK\r\n\r\n"
    with server(line, context=context) as (address, heard):
        assert why(address, Check("http", tls=True)) == ""
        assert heard[0].startswith(b"GET / ")


def test_nobody_there_and_nobody_answers(tmp_path: Path) -> None:
    with refusing_port() as port:
        dead = Address("127.0.0.1", port, "")
        assert why(dead, Check("tcp")) == "connection refused"
        with pytest.raises(ProbeFailed, match="connection refused"):
            connect_at_once(dead)
    assert why(Address("", 0, str(tmp_path / "none.sock")), Check("tcp")) == "no such socket"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = Address("127.0.0.1", silent.getsockname()[1], "")
        assert connect_at_once(quiet)
        assert why(quiet, Check("redis", timeout=0.1)) == "no answer within 0.1 s"
        other = Address("127.0.0.1", 1, "")
        assert why(other, Check("tcp", port=quiet.port)) == ""


def test_a_lack_on_this_host_is_not_held_against_the_endpoint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as healthy:
        address = Address("127.0.0.1", healthy.getsockname()[1], "")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(ProbeImpossible, match="too many open files"):
                connect_at_once(address)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert connect_at_once(address)


class _Late(socket.socket):
    """Nobody looks before the other side has reset it."""

    def connect_ex(self, address: object) -> int:
        error = super().connect_ex(address)  # type: ignore[arg-type]
        poll = select.poll()
        poll.register(self, 0)
        assert poll.poll(DEADLINE * 1000)
        return error


@pytest.mark.parametrize("is_late", [False, True])
def test_one_that_accepts_and_resets_takes_connections_and_does_not_hold_them(
    monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Whoever is faster: that a connect is reset may be seen by it, or later, or never."""
    if is_late:
        late = lambda _: _Late(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)  # noqa: E731
        monkeypatch.setattr(connecting, "_socket", late)
    with talking(reset) as address:
        assert connect_at_once(address)
        assert why(address, Check("tcp")) == ""
        assert why(address, Check("postgres")) != ""
    with talking(at_once) as address:
        for _ in range(20):
            with pytest.raises(ProbeFailed, match="resets a connection before anything is sent"):
                asyncio.run(stays_open(address, Check("tcp")))


def test_one_that_holds_or_answers_or_closes_a_connection_is_not_one_that_resets() -> None:
    check = Check("tcp")
    with talking(drop_by_drop(b"220 ")) as speaks, talking(without_end(b"x")) as endless:
        asyncio.run(stays_open(speaks, check))
        asyncio.run(stays_open(endless, check, 60.0))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        asyncio.run(stays_open(Address("127.0.0.1", silent.getsockname()[1], ""), check, 0.1))
        assert time.monotonic() - began >= probes.OPEN_TIME
    with talking(all_of(b"")) as closes:
        asyncio.run(stays_open(closes, check))
        with pytest.raises(ProbeFailed, match="closes a connection before anything is sent"):
            asyncio.run(stays_open(closes, check, 60.0))
    with refusing_port() as port, pytest.raises(ProbeFailed, match="connection refused"):
        asyncio.run(stays_open(Address("127.0.0.1", port, ""), check))


# --- endpoints that mean harm, or know no better ----------------------------------------------

KINDS = {
    "tcp": Check("tcp", port=1),
    "send": Check("send", send=b"hi", expect=b"hello"),
    "regex": Check("send", send=b"hi", expect=rb"(\w+\s?)+#$", is_pattern=True),
    "tls": Check("tls"),
    "http": Check("http"),
    "https": Check("http", tls=True),
    "redis": Check("redis"),
    "postgres": Check("postgres"),
    "mysql": Check("mysql"),
}


def all_of(data: bytes) -> Callable[[socket.socket], None]:
    return lambda client: client.sendall(data)


def without_end(data: bytes) -> Callable[[socket.socket], None]:
    def talk(client: socket.socket) -> None:
        while True:
            client.sendall(data)

    return talk


def drop_by_drop(data: bytes) -> Callable[[socket.socket], None]:
    def talk(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(0.01)
        for byte in data * 1000:
            client.sendall(bytes([byte]))
            with suppress(TimeoutError):
                if not client.recv(1):
                    return

    return talk


def at_once(client: socket.socket) -> None:
    will_reset(client)


def reset(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1")
    at_once(client)


HOSTILE = {
    "garbage": all_of(b"\x00" + random.Random(14).randbytes(5000)),
    "zeros": all_of(bytes(5000)),
    "no newline in 70,000 bytes": all_of(b"x" * 70_000),
    "no newline in 1 MiB": all_of(b"HTTP/1.1 200 " + b"x" * (1 << 20)),
    "huge": all_of(b"no\n" * 500_000),
    "endless": without_end(b"x" * 65536),
    "endless lines": without_end(b"\r\n" * 1000),
    "slow": drop_by_drop(b"+"),
    "half": all_of(b"HTTP/1.1 2"),
    "half of mysql": all_of(b"\xff\xff\xff\x00\xff\x10"),
    "mysql of no length": all_of(b"\x00\x00\x00\x00\xff"),
    "words that never end a match": all_of(b"word " * 14_000 + b"!"),
    "half of TLS": all_of(b"\x16\x03\x03\xff\xff\x02"),
    "TLS alerts": without_end(b"\x15\x03\x03\x00\x02\x01\x00"),
    "nothing": all_of(b""),
    "a reset": reset,
}
GOOD = {("tcp", name) for name in HOSTILE}  # it takes a connection, and that is all that is asked


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[Address]:
    """Each connection is talked to by a thread of its own, which reads nothing before."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            talk(client)

    def accept() -> None:
        with suppress(OSError):
            while True:
                clients.append(listener.accept()[0])
                threading.Thread(target=serve, args=(clients[-1],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Address("127.0.0.1", listener.getsockname()[1], "")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_is_answered_a_probe_fails_and_says_why(what: str) -> None:
    """No kind ends by another exception, whatever it meets with, and none waits for ever."""
    with talking(HOSTILE[what]) as address:
        for kind, plain in KINDS.items():
            check = replace(plain, timeout=0.3, port=address.port if kind == "tcp" else 0)
            reason = why(address, check)
            assert (reason == "") == ((kind, what) in GOOD), (kind, what, reason)
            assert len(reason) < 300
            assert reason.isprintable()
            assert "fault" not in reason


def test_a_name_that_can_not_be_one_is_a_failure_with_a_reason() -> None:
    with server() as (address, _):
        for host in (".", "a" * 255, "a..b"):
            assert why(address, Check("tls", host=host)) not in ("", "fault")


def test_an_answer_that_is_matched_for_long_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a match that took long there is a pause, in which more is gathered: the loop is free
    nine tenths of the time."""

    class Slow:
        looks = 0

        def search(self, _: bytes) -> None:
            self.looks += 1
            time.sleep(0.02)  # as a machine that is busy

    slow = Slow()
    monkeypatch.setattr(probes, "compiled", lambda _: slow)
    with talking(drop_by_drop(b"x")) as address:
        check = Check("send", send=b"hi", expect=b"y", is_pattern=True, timeout=0.5)
        assert why(address, check)
    assert 1 <= slow.looks <= 5


def test_tls_settings_are_made_once(certificate: Path) -> None:
    """To read the certificates of the host takes longer than a check."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with server(context=context) as (address, _):
        assert why(address, Check("tls")) == ""
        made = probes._tls_context.cache_info().misses
        for _ in range(3):
            assert why(address, Check("tls")) == ""
            assert why(address, Check("http", tls=True))
        assert probes._tls_context.cache_info().misses == made


# --- time ---------------------------------------------------------------------------------------


def in_a_busy_loop(address: Address, check: Check, blocked: float) -> str:
    """The same as why(), while something else in the loop takes all of its time but moments."""

    async def busy() -> None:
        while True:
            time.sleep(blocked)
            await asyncio.sleep(0.001)

    async def scenario() -> str:
        other = asyncio.create_task(busy())
        try:
            await probe(address, check)
        except ProbeFailed as error:
            return str(error)
        finally:
            other.cancel()
        return ""

    return asyncio.run(scenario())


def test_time_in_which_nobody_listened_is_not_held_against_an_endpoint() -> None:
    """Something else in control takes twice the timeout, again and again."""
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as (address, _):
        assert in_a_busy_loop(address, Check("http", timeout=0.1), 0.2) == ""
    with talking(drop_by_drop(b"+")) as silent:
        assert in_a_busy_loop(silent, Check("redis", timeout=0.1), 0.2) != ""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_check_leaves_nothing_behind() -> None:
    """No descriptor here, and no TIME_WAIT there: thousands are made every second."""
    kinds: list[Callable[[Address], object]] = [
        lambda address: why(address, Check("tcp")),
        lambda address: why(address, Check("redis")),
    ]
    with server(b"+PONG\r\n") as (address, _):
        before = descriptors()
        for look in kinds:
            for _ in range(5):
                look(address)
        # The server is of this process as well, and may not have closed its ends yet.
        wait_for(lambda: descriptors() <= before, "all to be closed")
        text = Path("/proc/net/tcp").read_text(encoding="ascii")
        lines = [line.split() for line in text.splitlines()[1:]]
        waiting = [f for f in lines if f[3] == "06" and f[2] == f"0100007F:{address.port:04X}"]
        assert waiting == []


@pytest.mark.parametrize(
    ("version", "header"),
    [(0, b""), (1, b"PROXY UNKNOWN\r\n"), (2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")],
)
def test_a_check_begins_with_the_header_that_the_endpoint_expects(
    version: int, header: bytes
) -> None:
    """It names nobody: the check is tcpmux's own."""
    with server(b"+PONG\r\n") as (address, heard):
        asyncio.run(probe(address, Check("redis", proxy=version)))
        wait_for(lambda: heard, "the server to have read")
    assert header.startswith(heard[0]) or heard[0].startswith(header)
