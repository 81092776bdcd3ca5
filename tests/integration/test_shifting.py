"""The main job: connections split by weight, and the split changed while they are open."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, ask, free_port, refusing_port, wait_for


def split(port: int, connections: int, at_once: int = 1) -> Counter[str]:
    """How many of these connections were answered by whom."""
    with ThreadPoolExecutor(at_once) as pool:
        answers = pool.map(lambda _: ask(("127.0.0.1", port)), range(connections))
        return Counter(answer.split()[0] for answer in answers)


def held(port: int) -> socket.socket:
    """An open connection that has had one answer."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    assert talk(sock).endswith("hello\n")
    return sock


def talk(sock: socket.socket) -> str:
    sock.sendall(b"hello\n")
    return sock.makefile("r", newline="\n").readline()


def test_any_20_connections_are_split_16_to_4(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """80/20 over two workers, however many connections come at the same time."""
    port = free_port()
    start_proxy(routes(route("tcp-echo", port, v1=(80, one.address), v2=(20, two.address))))
    for at_once in (1, 5, 20):
        assert split(port, 20, at_once) == {"one": 16, "two": 4}


def test_split_is_exact_over_thousands(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(997, one.address), v2=(3, two.address))))
    assert split(port, 2000, 16) == {"one": 1994, "two": 6}
    workers = [worker["counters"]["accepted"] for worker in proxy.status()["workers"]]
    assert sum(workers) == 2000
    assert all(workers), "both workers took part"


def test_sighup_changes_the_split_and_keeps_open_connections(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("tcp-echo", port, v1=(100, one.address), v2=(0, two.address))))
    pids = proxy.worker_pids()
    assert split(port, 20) == {"one": 20}
    with held(port) as long_lived:
        proxy.reload(routes(route("tcp-echo", port, v1=(0, one.address), v2=(100, two.address))))
        assert split(port, 20) == {"two": 20}
        assert talk(long_lived) == "one hello\n"
        assert proxy.destination("v1")["connections_active"] == 1
    assert proxy.worker_pids() == pids
    proxy.says("tcp-echo: v1 100->0, v2 0->100, generation 2")


def test_a_hundred_weight_changes_under_load(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """No connection is refused, reset or cut short, no process is replaced."""
    port = free_port()

    def config(v1: int) -> dict[str, object]:
        return routes(route("r", port, v1=(v1, one.address), v2=(100 - v1, two.address)))

    proxy = start_proxy(config(50))
    before = proxy.tree()
    stop = False

    def load() -> int:
        done = 0
        while not stop:
            assert ask(("127.0.0.1", port)).split()[1] == "hello"
            done += 1
        return done

    with held(port) as long_lived, ThreadPoolExecutor(4) as pool:
        mine = talk(long_lived)
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for change in range(100):
                proxy.reload(config(1 + change % 98))
        finally:
            stop = True
        assert sum(load.result() for load in loads) > 100
        assert talk(long_lived) == mine
    assert proxy.tree() == before
    assert proxy.log.count("generation") >= 100
    wait_for(lambda: proxy.active() == 0, "all connections to be counted as ended")
    totals = proxy.status()["routes"][0]
    assert totals["closed"]["finished"] == totals["connections_total"]


def test_counters_move_while_a_connection_lives(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with held(port):
        found = wait_for(lambda: proxy.destination("v1")["bytes_out_total"], "bytes to be counted")
        assert found == len("one hello\n")
        assert proxy.destination("v1")["bytes_in_total"] == len("hello\n")
        assert proxy.destination("v1")["connections_active"] == 1
    wait_for(lambda: proxy.active() == 0, "the end to be counted")


def test_every_family_reaches_every_family(start_proxy: StartProxy, open_path: Path) -> None:
    """IPv4, IPv6 and UNIX sockets on both sides."""
    servers = [
        EchoServer("v4"),
        EchoServer("v6", socket.AF_INET6),
        EchoServer("ux", socket.AF_UNIX, f"{open_path}/server.sock"),
    ]
    parts, listens = [], []
    for server in servers:
        v4, v6, path = free_port(), free_port(), f"{open_path}/{server.prefix.decode()}.sock"
        part = route(server.prefix.decode(), v4, v1=(1, server.address))
        part["listen"] = [f"127.0.0.1:{v4}", f"[::1]:{v6}", f"unix:{path}"]
        parts.append(part)
        listens.append((server, ("127.0.0.1", v4), ("::1", v6), path))
    start_proxy(routes(*parts))
    for server, v4_address, v6_address, path in listens:
        expected = server.prefix.decode() + " hello\n"
        assert ask(v4_address) == expected
        assert ask(v6_address) == expected
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(path)
            assert talk(sock) == expected
        server.close()


def test_a_refusing_endpoint_is_passed_over(start_proxy: StartProxy, one: EchoServer) -> None:
    """The destination's other endpoints are tried, and it is left alone for a second; with none
    left the client is reset."""
    port = free_port()
    with refusing_port() as dead:
        check_refusing_endpoint(start_proxy, one, port, dead)


def check_refusing_endpoint(start_proxy: StartProxy, one: EchoServer, port: int, dead: int) -> None:
    part = route("r", port, v1=(1, one.address))
    part["destinations"][0]["endpoints"] = [f"127.0.0.1:{dead}", one.address]
    all_dead = route("dead", free_port(), v1=(1, f"127.0.0.1:{dead}"))
    proxy = start_proxy(routes(part, all_dead))
    assert split(port, 10) == {"one": 10}
    failures = proxy.destination("v1")["connect_failures_total"]
    assert 1 <= failures <= 2  # a second may have passed
    assert proxy.destination("v1")["retries_total"] == failures
    host, dead_port = all_dead["listen"].split(":")
    # The reset may be there before connect returns.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((host, int(dead_port)), timeout=DEADLINE) as sock,
    ):
        sock.recv(1)
    found = wait_for(
        lambda: proxy.status()["routes"][1]["connections_rejected_total"], "the rejection"
    )
    assert found == 1
    assert proxy.status()["routes"][1]["destinations"][0]["closed"]["connect_failed"] == 1


def test_a_share_without_endpoints_is_rejected(start_proxy: StartProxy, one: EchoServer) -> None:
    """A destination without endpoints rejects exactly its weighted share."""
    port = free_port()
    part = route("r", port, v1=(3, one.address), v2=(1, one.address))
    part["destinations"][1]["endpoints"] = []
    start_proxy(routes(part))
    answers = Counter[str]()
    for _ in range(40):
        try:
            answers[ask(("127.0.0.1", port)).split()[0]] += 1
        except (ConnectionResetError, BrokenPipeError):
            answers["reset"] += 1
    assert answers == {"one": 30, "reset": 10}


def says_useless(proxy: Proxy, number: signal.Signals) -> bool:
    return f"{number.name} ignored: no access log is configured" in proxy.log


def test_a_signal_without_a_use_does_no_harm(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    proxy.signal(signal.SIGUSR1)
    wait_for(partial(says_useless, proxy, signal.SIGUSR1), "it to be named")
    assert proxy.status()["state"] == "running"
    assert ask(("127.0.0.1", port)) == "one hello\n"
