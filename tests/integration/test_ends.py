"""Whatever tcpmux itself ends while anything is undelivered is reset, so that nobody takes it for
complete."""

from __future__ import annotations

import os
import select
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.conftest import StartProxy, proxies
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, free_port, read_all, wait_for

BULK = 64 << 20  # bytes: more than all queues hold
PART = b"x" * (1 << 18)
SMALL = 1 << 16  # of a receive buffer
THROTTLES: dict[str, dict[str, Any]] = {
    "unlimited": {},
    "bandwidth": {"bandwidth": {"down": "64KiB/s", "up": "64KiB/s"}},
    "connection_bandwidth": {"connection_bandwidth": {"down": "64KiB/s", "up": "64KiB/s"}},
    "both": {"bandwidth": {"down": "80KiB/s"}, "connection_bandwidth": {"down": "64KiB/s"}},
}


class Answers(socketserver.BaseRequestHandler):
    """Says as many bytes as it is asked for in a line, and ends."""

    def handle(self) -> None:
        with suppress(OSError):
            count = int(self.request.makefile("rb").readline())
            # Begins at once: to make so many bytes takes a busy machine a second.
            for at in range(0, count, len(PART)):
                self.request.sendall(PART[: count - at])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def asking(port: int, count: int, buffer: int = 0) -> socket.socket:
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(DEADLINE)
    client.connect(("127.0.0.1", port))
    client.sendall(b"%d\n" % count)
    return client


def received(client: socket.socket) -> int:
    """Bytes until the reset. Fails at a FIN."""
    count = 0
    try:
        while data := client.recv(1 << 16):
            count += len(data)
    except ConnectionResetError:
        return count
    raise AssertionError(f"a clean end after {count} bytes")


@pytest.fixture(scope="module")
def ending(
    tmp_path_factory: pytest.TempPathFactory, server: str
) -> Iterator[tuple[Proxy, dict[str, int]]]:
    """A route for each throttle and each end that others outlive; with their ports."""
    ports, parts = {}, []
    for throttle, keys in THROTTLES.items():
        for end in ("lifetime", "kill"):
            name = f"{throttle}-{end}"
            ports[name] = free_port()
            parts.append({**route(name, ports[name], v1=(1, server)), **keys})
            if end == "lifetime":
                parts[-1]["max_connection_duration"] = "2s"
    with proxies(tmp_path_factory.mktemp("ending")) as start:
        yield start(routes(*parts, workers=1)), ports


def some_that_wait(port: int, throttle: str) -> list[socket.socket]:
    """The first one reads nothing."""
    clients = [asking(port, BULK, SMALL)]
    if throttle != "unlimited":
        clients += [asking(port, BULK), asking(port, BULK)]
    assert all(client.recv(1) for client in clients)
    return clients


@pytest.mark.parametrize("throttle", THROTTLES)
@pytest.mark.parametrize("end", ["lifetime", "kill"])
def test_what_is_cut_off_is_reset(
    ending: tuple[Proxy, dict[str, int]], throttle: str, end: str
) -> None:
    """Much is on its way to clients that read, as far as they are let, and to one that does not."""
    proxy, ports = ending
    name = f"{throttle}-{end}"
    clients = some_that_wait(ports[name], throttle)
    if end == "kill":
        proxy.client.kill([each["id"] for each in proxy.client.connections()["connections"]])
    for client in clients[1:]:
        assert received(client) < BULK
    wait_for(lambda: proxy.active() == 0, "all to end")  # the first reads nothing before
    reason = {"lifetime": "lifetime", "kill": "killed"}[end]
    closed = proxy.destination("v1", list(ports).index(name))["closed"]
    assert closed[reason] == len(clients)
    assert received(clients[0]) < BULK
    for client in clients:
        client.close()


@pytest.mark.parametrize("throttle", THROTTLES)
def test_what_a_stop_cuts_off_is_reset(start_proxy: StartProxy, server: str, throttle: str) -> None:
    port = free_port()
    part = {**route("r", port, v1=(1, server)), **THROTTLES[throttle]}
    proxy = start_proxy(routes(part, workers=1))
    clients = some_that_wait(port, throttle)
    proxy.client.stop(now=True)
    proxy.process.wait(DEADLINE)
    for client in reversed(clients):  # the first one reads last
        assert received(client) < BULK
        client.close()


@pytest.mark.parametrize("timeout", ["idle_timeout", "half_open_timeout"])
def test_a_stalled_reader_that_is_idle_is_reset(
    start_proxy: StartProxy, server: str, timeout: str
) -> None:
    port = free_port()
    part = {**route("r", port, v1=(1, server)), timeout: "2s"}
    proxy = start_proxy(routes(part, workers=1))
    with asking(port, BULK, SMALL) as client:
        assert client.recv(1), "idle before the server's first byte"
        if timeout == "half_open_timeout":
            client.shutdown(socket.SHUT_WR)
        wait_for(lambda: proxy.destination("v1")["closed"]["idle_timeout"] == 1, "its reason")
        assert received(client) < BULK


@pytest.mark.parametrize("throttle", ["bandwidth", "connection_bandwidth"])
def test_what_waits_for_its_rate_is_not_idle(
    start_proxy: StartProxy, server: str, throttle: str
) -> None:
    """Five healthy transfers share 1 KiB/s, or have 5 bytes/s each; each waits for longer than
    idle_timeout between two turns."""
    port = free_port()
    rate, count = ("1KiB/s", 400) if throttle == "bandwidth" else ("5B/s", 10)
    part = {**route("r", port, v1=(1, server)), throttle: {"down": rate}, "idle_timeout": "150ms"}
    proxy = start_proxy(routes(part, workers=2))

    def fetch(_: int) -> int:
        with asking(port, count) as client:
            client.shutdown(socket.SHUT_WR)  # its end is not one that comes late
            return len(read_all(client))

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(fetch, range(5)))
    assert found == [count] * 5
    wait_for(lambda: proxy.active() == 0, "all to end")
    closed = proxy.destination("v1")["closed"]
    assert closed["finished"] == 5, closed


def test_what_is_being_delivered_is_not_idle(start_proxy: StartProxy, server: str) -> None:
    """All is in the kernel's queues, and a slow client reads it for longer than idle_timeout."""
    port = free_port()
    part = {**route("r", port, v1=(1, server)), "half_open_timeout": "1s"}
    start_proxy(routes(part, workers=1))
    count, got = 512 << 10, 0
    with asking(port, count, 1 << 14) as client:
        begin = time.monotonic()
        while data := client.recv(16 << 10):
            got += len(data)
            select.select([], [], [], 0.05)
        assert time.monotonic() - begin >= 1.5
    assert got == count


def test_small_rates(start_proxy: StartProxy, server: str) -> None:
    """20 bytes at 10 bytes/s take two seconds, also when the worker dies meanwhile."""
    port = free_port()
    part = {**route("r", port, v1=(1, server)), "connection_bandwidth": {"down": "10B/s"}}
    proxy = start_proxy(routes(part, workers=1))
    with asking(port, 21) as client:
        assert client.recv(1)
        begin = time.monotonic()
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
        assert len(read_all(client)) == 20
        assert time.monotonic() - begin >= 1.8


def test_a_rate_that_is_lifted_holds_back_nobody(start_proxy: StartProxy, server: str) -> None:
    """Whoever waits for his turn, for minutes by the old rate, goes on after a reload."""
    port = free_port()
    slow = {**route("r", port, v1=(1, server)), "bandwidth": {"down": "1B/s"}}
    proxy = start_proxy(routes(slow, workers=2))
    clients = [asking(port, 300) for _ in range(10)]

    def waiting(proxy: Proxy) -> bool:
        return proxy.active() == len(clients) and proxy.destination("v1")["bytes_out_total"] > 0

    wait_for(lambda: waiting(proxy), "all to wait")
    proxy.reload(routes({**slow, "bandwidth": {"down": "1MiB/s"}}, workers=2))
    for client in clients:
        with client:
            assert len(read_all(client)) == 300
