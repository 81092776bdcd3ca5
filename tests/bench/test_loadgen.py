"""The benchmark's load generator: it does what it is asked for, and sees what is wrong."""

from __future__ import annotations

import multiprocessing
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.build import build, build_loadgen
from bench.load import Asking, LoadError, LoadGenerator, Outcome
from tests.support import DEADLINE, patient

SECONDS = 20.0  # a limit of units ends every run long before


@pytest.fixture(scope="module")
def load() -> LoadGenerator:
    return LoadGenerator(build_loadgen(), None)


def test_builds_at_the_same_time(tmp_path: Path) -> None:
    """Two processes that find the program missing each compile it; neither takes the other's."""
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    program = tmp_path / "build" / "program"
    fork = multiprocessing.get_context("fork")
    builds = [fork.Process(target=build, args=(tmp_path, program)) for _ in range(4)]
    for one in builds:
        one.start()
    for one in builds:
        one.join(patient(60))
    assert [one.exitcode for one in builds] == [0] * 4
    assert list(program.parent.iterdir()) == [program]


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serves each connection in turn; gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.settimeout(DEADLINE)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.settimeout(DEADLINE)
                with sock:
                    serve(sock)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("more", [[], ["--close", "rst"], ["--rate", "5000"]])
@pytest.mark.parametrize("mode", ["roundtrip", "connect"])
def test_exchanges(load: LoadGenerator, mode: str, more: list[str]) -> None:
    arguments = [mode, "--connections", "8", "--message", "300", "--limit", "500", *more]
    with load.backend("echo") as port:
        outcome = load.run(arguments, port, SECONDS)
    assert (outcome.errors, outcome.first_error) == (0, None)
    # By the clock, the first exchange of each connection opens it and is not counted.
    assert outcome.units == (492 if "--rate" in more else 500)
    assert outcome.bytes == outcome.units * 300
    assert outcome.p50_us is not None
    assert outcome.max_us is not None
    assert 0 < outcome.p50_us <= outcome.max_us
    latencies = [latency for _, latency in outcome.curve_us]
    assert latencies == sorted(latencies)
    assert outcome.curve_us[-1] == [1, outcome.max_us]


@pytest.mark.parametrize(
    ("direction", "role", "times"), [("down", "source", 1), ("up", "sink", 1), ("both", "echo", 2)]
)
def test_streams(load: LoadGenerator, direction: str, role: str, times: int) -> None:
    arguments = ["stream", "--direction", direction, "--connections", "4", "--piece", "1000000"]
    with load.backend(role) as port:
        outcome = load.run([*arguments, "--limit", "20000000"], port, SECONDS)
    assert (outcome.errors, outcome.bytes) == (0, 20_000_000 * times)


def test_idle_connections_are_held(load: LoadGenerator) -> None:
    with load.backend("echo") as port, load.hold(100, port, SECONDS) as client:
        assert client.held == 100
        assert client.release().errors == 0


@pytest.mark.parametrize("rate", [[], ["--rate", "100000"]])
def test_a_wrong_byte_is_seen(load: LoadGenerator, rate: list[str]) -> None:
    def change_a_byte(sock: socket.socket) -> None:
        for _ in range(3):
            data = sock.recv(64, socket.MSG_WAITALL)
            sock.sendall(data)
        data = sock.recv(64, socket.MSG_WAITALL)
        sock.sendall(data[:-1] + bytes([data[-1] ^ 1]))
        sock.recv(64)

    with server(change_a_byte) as port:
        outcome = load.run(["roundtrip", "--limit", "50", *rate], port, SECONDS)
    assert (outcome.errors, outcome.first_error) == (1, "wrong bytes received")


def test_wrong_content_of_both_ways_is_seen(load: LoadGenerator) -> None:
    def drop_a_byte(sock: socket.socket) -> None:
        data = sock.recv(1000, socket.MSG_WAITALL)
        sock.sendall(data[:500] + data[501:] + b"x")
        sock.recv(1)

    arguments = ["stream", "--direction", "both", "--piece", "1000", "--limit", "1000"]
    with server(drop_a_byte) as port:
        outcome = load.run(arguments, port, SECONDS)
    assert outcome.errors >= 1
    assert outcome.first_error == "wrong bytes received"


def test_an_early_end_is_seen(load: LoadGenerator) -> None:
    with server(lambda sock: None) as port:
        outcome = load.run(["roundtrip", "--limit", "10"], port, SECONDS)
    assert outcome.units == 0
    assert outcome.errors == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["roundtrip", "--rate", "0"], "--rate: expected 1..1000000 a second"),
        (["connect", "--close", "politely"], "--close: expected fin or rst"),
        (["stream", "--direction", "sideways"], "--direction takes down, up or both"),
    ],
)
def test_bad_usage(load: LoadGenerator, arguments: list[str], complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        load.run(arguments, 1, 1.0)


def test_only_loopback(load: LoadGenerator, tmp_path: Path) -> None:
    process = load._start(["roundtrip", "--address", "192.0.2.1:80"])
    _, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "only 127.0.0.0/8 is allowed" in complaint


def memcached_answer(request: bytes) -> bytes:
    key = request.split()[1].decode()
    value = f"2 {key[1:]}"
    return f"VALUE {key} 0 {len(value)}\r\n{value}\r\nEND\r\n".encode()


def http1_answer(request: bytes) -> bytes:
    body = b"1 " + request.split()[1] + b"\n"
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def answering(answer: Callable[[bytes], bytes], most: int) -> Callable[[socket.socket], None]:
    """Serves so many requests, which come one at a time. Who sees a wrong answer resets."""

    def serve(sock: socket.socket) -> None:
        with suppress(ConnectionError):
            for _ in range(most):
                request = sock.recv(1000)
                if not request:
                    return
                data = answer(request)
                sock.sendall(data[:20])  # in two parts
                sock.sendall(data[20:])
            sock.recv(1)

    return serve


@pytest.mark.parametrize(
    ("protocol", "answer", "by"),
    [("memcached", memcached_answer, 1), ("http1", http1_answer, 0)],
)
def test_asks(
    load: LoadGenerator, protocol: str, answer: Callable[[bytes], bytes], by: int
) -> None:
    with (
        server(answering(answer, 1000)) as port,
        load.asking(protocol, 1, 500, port, SECONDS) as asking,
    ):
        periods: list[Outcome] = []
        while sum(one.units for one in periods) < 20:
            periods.append(asking.period())
        last = asking.end()
    assert sum(one.errors for one in (*periods, last)) == 0
    asked = sum(one.units for one in (*periods, last))
    assert sum(one.by[by] for one in (*periods, last)) == asked


def ended(asking: Asking) -> None:
    """Returns when its process has ended, for a reason of its own."""
    asking.process.wait(DEADLINE)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data.replace(b"2 ", b"3 "), "wrong bytes received"),
        (lambda data: data + b"x", "wrong bytes received|did not stay silent"),
        (lambda data: data[:-1], "no answer in time|closed before the answer"),
    ],
)
def test_a_wrong_answer_is_seen(
    load: LoadGenerator, change: Callable[[bytes], bytes], error: str
) -> None:
    serve = answering(lambda request: change(memcached_answer(request)), 1)
    with server(serve) as port, load.asking("memcached", 1, 500, port, 1.0) as asking:
        ended(asking)
        outcome = asking.end()
    assert outcome.errors == 1
    assert outcome.first_error is not None
    assert re.search(error, outcome.first_error)


def test_the_end_of_a_connection_that_asks_is_seen(load: LoadGenerator) -> None:
    with (
        server(lambda sock: sock.close()) as port,
        load.asking("memcached", 1, 100, port, SECONDS) as asking,
    ):
        ended(asking)
        outcome = asking.end()
    assert outcome.errors == 1
    assert outcome.first_error is not None
    assert re.search("closed (at rest|before the answer)|send", outcome.first_error)
