"""Limits hold over all workers, whoever dies; and what is over one goes where it should."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy, proxies
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.servers import Server, saying, serving
from tests.integration.test_shifting import held, split, talk
from tests.support import (
    DEADLINE,
    EchoServer,
    ask,
    free_port,
    patient,
    read_all,
    shut_write,
    wait_for,
    will_reset,
)

WORKERS = 4
OPEN: list[socket.socket] = []  # of the test that runs


def try_to_hold(port: int, source: str = "127.0.0.1") -> socket.socket | None:
    """An open connection that has had an answer; None if it was reset."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0))
    except ConnectionError:
        return None
    OPEN.append(sock)
    with suppress(ConnectionError):
        if talk(sock).endswith("hello\n"):
            return sock
    sock.close()
    return None


@pytest.fixture(autouse=True)
def _closed_in_the_end(start_proxy: StartProxy) -> Iterator[None]:
    """Before the proxies are stopped, which would wait for them."""
    yield
    for sock in OPEN:
        sock.close()
    OPEN.clear()


def hold(port: int) -> socket.socket:
    sock = held(port)
    OPEN.append(sock)
    return sock


def race(port: int, attempts: int) -> list[socket.socket]:
    """Those that got in, of so many that came at the same time."""
    with ThreadPoolExecutor(attempts) as pool:
        return [sock for sock in pool.map(lambda _: try_to_hold(port), range(attempts)) if sock]


def close_all(clients: list[socket.socket], proxy: Proxy) -> None:
    for client in clients:
        client.close()
    wait_for(lambda: proxy.active() == 0, "connections to end")


WHERE = ("route", "listener", "source", "destination", "endpoint")


def limited(part: dict[str, Any], where: str, most: int) -> dict[str, Any]:
    """A route of one endpoint, with max_connections in one of the places where it may stand."""
    destination = part["destinations"][0]
    if where == "listener":
        part["listener_max_connections"] = most
    elif where == "source":
        part["source"] = {"max_connections": most}
    elif where == "endpoint":
        (address,) = destination["endpoints"]
        destination["endpoints"] = [{"address": address, "max_connections": most}]
    else:
        (part if where == "route" else destination)["max_connections"] = most
    return part


@pytest.fixture(scope="module")
def seven_places(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Proxy, dict[str, int]]]:
    """A route for each place where a limit may stand, and its port."""
    one = EchoServer("one")
    ports = {where: free_port() for where in WHERE}
    parts = [limited(route(w, port, v1=(1, one.address)), w, 7) for w, port in ports.items()]
    with proxies(tmp_path_factory.mktemp("seven")) as start:
        yield start(routes(*parts, workers=WORKERS)), ports
    one.close()


@pytest.mark.parametrize("where", WHERE)
def test_max_connections_over_all_workers(
    seven_places: tuple[Proxy, dict[str, int]], where: str
) -> None:
    proxy, ports = seven_places
    wait_for(lambda: proxy.active() == 0, "another test's connections to end")
    for _ in range(3):
        clients = race(ports[where], 30)
        assert len(clients) == 7
        if where == "source":
            other = try_to_hold(ports[where], "127.0.0.2")
            assert other is not None
            clients.append(other)
        close_all(clients, proxy)
    (found,) = [each for each in proxy.status()["routes"] if each["name"] == where]
    assert found["closed"]["overflow"] == 3 * 23
    assert try_to_hold(ports[where]) is not None


def visit(port: int, half_close: bool) -> bool:
    """Asks, reads to the end and closes. False: it was refused."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        try:
            sock.sendall(b"hello\n")
            if half_close:
                shut_write(sock)
            answer = read_all(sock)
        except ConnectionError:
            return False
    assert answer
    return True


def cpu_waits(pids: list[int]) -> list[float]:
    """Seconds for which each of them has waited for a CPU so far, without a wait that is not over;
    0 where the kernel does not count it. The second number of /proc/PID/schedstat, in ns:
    Documentation/scheduler/sched-stats.rst."""
    files = [Path(f"/proc/{pid}/schedstat") for pid in pids]
    return [int(file.read_text().split()[1]) / 1e9 if file.exists() else 0.0 for file in files]


@pytest.mark.parametrize("who_ends", ["client", "endpoint"])
@pytest.mark.parametrize("where", ["route", "source", "destination", "endpoint"])
def test_who_has_seen_the_end_may_come_again_at_once(
    start_proxy: StartProxy, one: EchoServer, who_ends: str, where: str
) -> None:
    """A single place, two workers: the next connection is mostly another worker's, and finds the
    place free, whether its client or its endpoint ended the one before. If the endpoint did, the
    place is free as soon as the worker hears of the client's close: the next one waits 0.2 s for
    that, and may be refused only where a worker did not get a CPU for so long."""
    port = free_port()
    with serving(saying(b"bye\n")) as ending:
        server = one if who_ends == "client" else ending
        part = limited(route("r", port, v1=(1, server.address)), where, 1)
        proxy = start_proxy(routes(part, workers=2))
        workers, visits = proxy.worker_pids(), 0
        while visits < 300:
            before = cpu_waits(workers)
            if visit(port, half_close=who_ends == "client"):
                visits += 1
                continue
            wait_for(lambda: proxy.active() == 0, "the place to be free")
            waits = [now - then for now, then in zip(cpu_waits(workers), before, strict=True)]
            assert who_ends == "endpoint", f"refused after {visits} visits"
            assert max(waits) > 0.1, f"refused after {visits} visits: waited {waits} s for CPUs"
        wait_for(lambda: proxy.active() == 0, "connections to end")


def fills_and_resets(port: int, server: Server) -> bool:
    """False: it was not let in."""
    before = server.accepted
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.setblocking(False)
        try:
            with suppress(BlockingIOError):
                while True:
                    sock.send(bytes(1 << 16))
            poll = select.poll()
            poll.register(sock, 0)  # errors only
            wait_for(lambda: server.accepted > before or poll.poll(0), "an end or a beginning")
        except ConnectionError:
            return False
        will_reset(sock)
    return server.accepted > before


def test_a_client_that_resets_has_gone(start_proxy: StartProxy) -> None:
    """Its place is free, although what it sent has not arrived at its endpoint yet: as soon as its
    worker has heard of it, which may be later than the next one comes."""
    port = free_port()
    with serving(lambda client: OPEN.append(client.dup())) as server:
        part = {**route("r", port, v1=(1, server.address)), "source": {"max_connections": 1}}
        proxy = start_proxy(routes(part, workers=2))
        for _ in range(5):
            wait_for(partial(fills_and_resets, port, server), "its place to be free")
        wait_for(lambda: proxy.active() == 0, "connections to end")


def test_a_limit_survives_the_deaths_of_workers(start_proxy: StartProxy, one: EchoServer) -> None:
    """They are killed while clients come and go: afterwards there is room for exactly as many."""
    port = free_port()
    part = {**route("r", port, v1=(1, one.address)), "max_connections": 20}
    part["source"] = {"max_connections": 15}
    proxy = start_proxy(routes(part, workers=WORKERS))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kept = [hold(port) for _ in range(4)]
    for _ in range(25):
        with ThreadPoolExecutor(8) as pool:
            work = [pool.submit(try_to_hold, port) for _ in range(16)]
            os.kill(chance.choice(proxy.worker_pids()), signal.SIGKILL)
            for done in work:
                client = done.result()
                if client is not None:
                    client.close()
    wait_for(lambda: proxy.active() == 4, "connections to end")
    clients = race(port, 30)
    assert len(clients) == 15 - 4
    for client in kept:
        assert talk(client) == "one hello\n"
    close_all(clients + kept, proxy)
    assert len(race(port, 30)) == 15


def has_workers(proxy: Proxy, count: int) -> bool:
    return len(proxy.status()["workers"]) == count


def test_limits_move_with_connections(start_proxy: StartProxy, one: EchoServer) -> None:
    """From four workers to one and back: the count is neither lost nor doubled."""
    port = free_port()
    part = {**route("r", port, v1=(1, one.address)), "max_connections": 12}
    proxy = start_proxy(routes(part, workers=WORKERS))
    clients = [hold(port) for _ in range(10)]
    for count in (1, 4, 2):
        proxy.client.set_workers(count)
        wait_for(partial(has_workers, proxy, count), f"{count} workers")
        more = race(port, 10)
        assert len(more) == 2
        for client in more:
            client.close()
        wait_for(lambda: proxy.active() == 10, "connections to end")
    close_all(clients, proxy)
    assert len(race(port, 20)) == 12


def test_a_limit_that_a_reload_brings_counts_what_is_there(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    proxy = start_proxy(routes(part))
    clients = [hold(port) for _ in range(5)]
    part["max_connections"] = 6
    proxy.reload(routes(part))
    assert len(race(port, 10)) == 1
    assert all(talk(client) == "one hello\n" for client in clients)


def test_what_is_too_much_spills_over(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(9, one.address), v2=(1, two.address))
    part["destinations"][0].update(max_connections=3, on_full="spill")
    proxy = start_proxy(routes(part, workers=2))
    clients = [hold(port) for _ in range(20)]
    assert proxy.destination("v1")["connections_active"] == 3
    assert proxy.destination("v2")["connections_active"] == 17
    assert proxy.destination("v2")["picked"]["spilled"] == 15
    assert proxy.destination("v1")["connections_total"] == 3
    close_all(clients, proxy)


def test_others_wait_for_a_place(start_proxy: StartProxy, one: EchoServer) -> None:
    """Two are served and two wait; the fifth is reset. When one goes, one that waits is next."""
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    queue = {"queue": {"size": 2, "timeout": "30s"}}
    part["destinations"][0].update(max_connections=2, on_full=queue)
    proxy = start_proxy(routes(part, workers=2))
    served = [hold(port) for _ in range(2)]
    waiting = [socket.create_connection(("127.0.0.1", port), DEADLINE) for _ in range(2)]
    wait_for(lambda: proxy.destination("v1")["connections_waiting"] == 2, "two to wait")
    assert proxy.destination("v1")["connections_active"] == 4
    states = [each["state"] for each in proxy.client.connections()["connections"]]
    assert sorted(states) == ["relaying", "relaying", "waiting", "waiting"]
    assert try_to_hold(port) is None
    for client in waiting:
        client.sendall(b"hello\n")
    served.pop().close()
    served.pop().close()
    assert [client.makefile().readline() for client in waiting] == ["one hello\n"] * 2
    assert proxy.destination("v1")["closed"]["overflow"] == 1
    for pid in proxy.worker_pids():  # and what the queue counts survives
        os.kill(pid, signal.SIGKILL)
    assert [talk(client) for client in waiting] == ["one hello\n"] * 2
    close_all(waiting, proxy)


def test_those_that_wait_too_long_are_reset(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    queue = {"queue": {"size": 5, "timeout": "100ms"}}
    part["destinations"][0].update(max_connections=1, on_full=queue)
    proxy = start_proxy(routes(part))
    client = hold(port)
    with pytest.raises(ConnectionError):
        ask(("127.0.0.1", port))
    wait_for(lambda: proxy.destination("v1")["closed"]["overflow"] == 1, "it to be counted")
    assert talk(client) == "one hello\n"
    client.close()


@pytest.mark.parametrize("where", ["route", "source"])
def test_rates_of_new_connections(start_proxy: StartProxy, one: EchoServer, where: str) -> None:
    port = free_port()
    rate = {"rate": {"rate": "1/h", "burst": 5}}
    part = route("r", port, v1=(1, one.address))
    part.update(rate if where == "route" else {"source": rate})
    proxy = start_proxy(routes(part, workers=WORKERS))
    clients = race(port, 20)
    assert len(clients) == 5
    other = try_to_hold(port, "127.0.0.2")
    assert (other is not None) == (where == "source")
    assert proxy.status()["routes"][0]["closed"]["rate_limited"] == 15 + (where == "route")


def test_allow_and_deny(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    part = route("r", f"[::]:{port}", v1=(1, one.address))
    part.update(allow=["127.0.0.0/29", "127.0.0.64/26"], deny=["127.0.0.3", "127.0.0.80/28"])
    proxy = start_proxy(routes(part))
    wanted = {1: True, 2: True, 3: False, 7: True, 8: False, 64: True, 79: True, 80: False}
    wanted |= {95: False, 96: True, 127: True, 128: False}
    for last, is_let_in in wanted.items():
        client = try_to_hold(port, f"127.0.0.{last}")
        assert (client is not None) == is_let_in, last
        if client is not None:
            client.close()
    denied = sum(not is_let_in for is_let_in in wanted.values())
    assert proxy.status()["routes"][0]["connections_denied_total"] == denied
    part["deny"] = ["127.0.0.0/8"]
    proxy.reload(routes(part))
    assert try_to_hold(port) is None


def test_allow_and_deny_of_clients_of_unix_sockets(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """unix is a word of both lists; a list of networks alone does not let them in."""
    path, port = tmp_path / "r.sock", free_port()
    part = route("r", f"127.0.0.1:{port}", v1=(1, one.address))
    part["listen"] = [part["listen"], f"unix:{path}"]
    proxy = start_proxy(routes(part))

    def served(allow: list[str], deny: list[str]) -> tuple[bool, bool]:
        part.update(allow=allow, deny=deny)
        proxy.reload(routes(part))
        found = []
        for family, address in ((socket.AF_UNIX, str(path)), (socket.AF_INET, ("127.0.0.1", port))):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as client:
                    client.settimeout(DEADLINE)
                    client.connect(address)
                    client.sendall(b"x\n")
                    shut_write(client)
                    found.append(read_all(client) != b"")
            except ConnectionError:
                found.append(False)
        return found[0], found[1]

    assert served([], []) == (True, True)
    assert served(["127.0.0.0/8"], []) == (False, True)
    assert served(["127.0.0.0/8", "unix"], []) == (True, True)
    assert served(["unix"], []) == (True, False)
    assert served([], ["unix"]) == (False, True)
    assert served(["unix"], ["unix"]) == (False, False)
    assert served(["::/0"], []) == (False, True), "which has ::ffff:0:0/96 in it, IPv4"
    assert served([], ["::/0", "0.0.0.0/0"]) == (True, False)
    assert proxy.status()["routes"][0]["connections_denied_total"] == 7


# --- time -------------------------------------------------------------------------------------


def test_a_connection_has_a_lifetime(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    part["max_connection_duration"] = {"duration": "400ms", "jitter": "50%"}
    proxy = start_proxy(routes(part))
    with hold(port) as client:
        assert read_all(client) == b""
    wait_for(lambda: proxy.destination("v1")["closed"]["lifetime"] == 1, "its reason")


def test_half_open_timeout(start_proxy: StartProxy, one: EchoServer) -> None:
    """The client has ended; the endpoint does not."""
    port = free_port()

    def stay(client: socket.socket) -> None:
        read_all(client)
        time.sleep(1)

    with serving(stay) as server:
        part = {**route("r", port, v1=(1, server.address)), "half_open_timeout": "200ms"}
        proxy = start_proxy(routes(part))
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        wait_for(lambda: proxy.destination("v1")["closed"]["idle_timeout"] == 1, "its reason")


@pytest.mark.parametrize("where", ["bandwidth", "connection_bandwidth"])
def test_bytes_per_second(start_proxy: StartProxy, where: str) -> None:
    """Not faster than the rate, after what may come at once; every byte arrives."""
    port = free_port()
    size, rate = 400_000, 200 * 1024
    data = random.Random(7).randbytes(size)
    with serving(saying(data)) as server:
        part = {**route("r", port, v1=(1, server.address)), where: {"down": "200KiB/s"}}
        proxy = start_proxy(routes(part))
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"x")
            begin = time.monotonic()
            assert read_all(client) == data
            took = time.monotonic() - begin
        assert took >= (size - 64 * 1024) / rate * 0.9
        wait_for(lambda: proxy.active() == 0, "it to end")
        assert proxy.destination("v1")["closed"]["finished"] == 1


def test_keepalive_is_set_on_both_sides_of_a_connection_that_stays(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    part = {**route("r", port, v1=(1, one.address)), "keepalive": {"idle": "77s"}}
    proxy = start_proxy(routes(part, workers=1))
    with hold(port) as client:

        def timers() -> int:
            """Sockets of this connection with a keepalive timer: /proc/net/tcp, timer 2."""
            lines = Path("/proc/net/tcp").read_text().splitlines()
            ours = f":{port:04X} ", f":{one.port:04X} "
            of_ours = [line.split() for line in lines if any(number in line for number in ours)]
            return sum(fields[5].startswith("02:") for fields in of_ours)

        wait_for(lambda: timers() == 2, "keepalive on both sides", patient(30))
        assert talk(client) == "one hello\n"
    assert proxy.client.status()["pid"]


# --- balancing --------------------------------------------------------------------------------


def endpoints_of(
    echo_servers: Callable[..., EchoServer], port: int, count: int, balance: str
) -> dict[str, Any]:
    servers = [echo_servers(f"e{i}") for i in range(count)]
    part = route("r", port, v1=(1, servers[0].address))
    part["destinations"][0].update(endpoints=[s.address for s in servers], balance=balance)
    return part


def test_least_connections_over_all_workers(
    start_proxy: StartProxy, echo_servers: Callable[..., EchoServer]
) -> None:
    """New ones go where the fewest are, whoever has taken them."""
    port = free_port()
    part = endpoints_of(echo_servers, port, 4, "least_connections")
    proxy = start_proxy(routes(part, workers=WORKERS))
    clients = [hold(port) for _ in range(40)]
    active = [e["connections_active"] for e in proxy.destination("v1")["endpoints"]]
    assert active == [10, 10, 10, 10]
    first = [client for client in clients if talk(client).startswith("e0")]
    for client in first[:8]:
        client.close()
        clients.remove(client)
    wait_for(lambda: proxy.active() == 32, "eight to end")
    clients += [hold(port) for _ in range(8)]
    active = [e["connections_active"] for e in proxy.destination("v1")["endpoints"]]
    assert active == [10, 10, 10, 10]
    close_all(clients, proxy)


def test_random_two_keeps_endpoints_close_together(
    start_proxy: StartProxy, echo_servers: Callable[..., EchoServer]
) -> None:
    port = free_port()
    proxy = start_proxy(routes(endpoints_of(echo_servers, port, 4, "random_two"), workers=WORKERS))
    clients = [hold(port) for _ in range(80)]
    active = [e["connections_active"] for e in proxy.destination("v1")["endpoints"]]
    assert sum(active) == 80
    assert max(active) - min(active) <= 8  # at random it would be some 15
    close_all(clients, proxy)


@pytest.mark.parametrize("balance", ["source_hash", "maglev"])
def test_a_client_stays_with_its_endpoint(
    start_proxy: StartProxy, echo_servers: Callable[..., EchoServer], balance: str
) -> None:
    """In every worker, and when another endpoint goes away."""
    port = free_port()
    part = endpoints_of(echo_servers, port, 4, balance)
    proxy = start_proxy(routes(part, workers=WORKERS))
    sources = [f"127.0.1.{i}" for i in range(1, 61)]

    def answers() -> dict[str, str]:
        found = {}
        for source in sources:
            seen = set()
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0)) as sock:
                    seen.add(talk(sock))
            (found[source],) = seen
        return found

    before = answers()
    assert len(set(before.values())) == 4
    gone = part["destinations"][0]["endpoints"].pop(2)
    proxy.client.drain("r", "v1", gone)
    after = answers()
    moved = [source for source in sources if before[source] != after[source]]
    own = [source for source in sources if before[source] == "e2 hello\n"]
    assert set(own) <= set(moved)
    assert len(moved) - len(own) <= (0 if balance == "source_hash" else 2)
    proxy.client.enable("r", "v1", gone)
    assert answers() == before


def test_round_robin_is_exact_with_weights(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    part["destinations"][0]["endpoints"].append({"address": two.address, "weight": 3})
    start_proxy(routes(part, workers=WORKERS))
    assert split(port, 40, 8) == Counter(one=10, two=30)
