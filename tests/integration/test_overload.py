"""More clients than places, no more ports, no room for the log: those who are inside do not
notice, nothing spins, and it is over as soon as its cause is."""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from tcpmux.control.client import AdminError, Client
from tests.integration.conftest import StartProxy
from tests.integration.few_ports import PORTS
from tests.integration.no_ipv6 import NUMBER_OF_SOCKET
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, ask, free_port, patient, wait_for

CLIENTS = 5000
RETRY = 0.1  # s between two looks of a full worker: ACCEPT_RETRY_MS
QUIET = 1.5  # s


class Crowd:
    """Clients that have all asked once; `inside` are those that have been answered."""

    def __init__(self, port: int, count: int) -> None:
        self.outside: dict[int, socket.socket] = {}
        self.inside: list[socket.socket] = []
        self._poll = select.epoll()
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            self._poll.register(sock, select.EPOLLOUT)
            self.outside[sock.fileno()] = sock
            sock.connect_ex(("127.0.0.1", port))

    def look(self, seconds: float = 0) -> int:
        """How many are inside. A connect that is through asks; a SYN that found no room in a
        queue is sent again by the kernel."""
        for fd, events in self._poll.poll(seconds):
            sock = self.outside[fd]
            if events & select.EPOLLIN:
                assert sock.recv(100) == b"one hello\n"
                self._poll.unregister(sock)
                sock.setblocking(True)
                sock.settimeout(DEADLINE)
                self.inside.append(self.outside.pop(fd))
            else:
                assert not events & select.EPOLLERR, "a client outside was turned away"
                sock.send(b"hello\n")
                self._poll.modify(sock, select.EPOLLIN)
        return len(self.inside)

    def leave(self, count: int) -> None:
        """Some of those inside go."""
        for _ in range(count):
            self.inside.pop().close()

    def close(self) -> None:
        self._poll.close()
        for sock in (*self.inside, *self.outside.values()):
            sock.close()


@contextmanager
def crowd(port: int, count: int) -> Iterator[Crowd]:
    made = Crowd(port, count)
    try:
        yield made
    finally:
        made.close()


def cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(of.user + of.system for of in times)


def wakeups(proxy: Proxy) -> int:
    return sum(worker["counters"]["wakeups"] for worker in proxy.status()["workers"])


def all_full(proxy: Proxy) -> bool:
    return all(w["connections"] == w["connections_limit"] for w in proxy.status()["workers"])


@pytest.mark.parametrize("start_proxy", [{"nofile": 256}], indirect=True)
def test_thousands_before_a_full_house(start_proxy: StartProxy, one: EchoServer) -> None:
    """Exactly as many are inside as the workers together have places for. Those inside are
    served, nobody outside is turned away, and the workers sleep."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=2))
    limit = sum(worker["connections_limit"] for worker in proxy.status()["workers"])
    assert 50 < limit < 250
    with crowd(port, CLIENTS) as clients:
        wait_for(lambda: clients.look() == limit, f"{limit} to be inside")
        wait_for(partial(all_full, proxy), "both workers to be full")
        # Nothing happens while everybody waits.
        workers = proxy.worker_pids()
        before, turns, began = cpu_seconds(workers), wakeups(proxy), time.monotonic()
        until = began + QUIET
        while time.monotonic() < until:
            assert clients.look(until - time.monotonic()) == limit
        lasted = time.monotonic() - began
        assert wakeups(proxy) - turns <= 2 * (2 + lasted / RETRY)
        assert cpu_seconds(workers) - before < 0.1 * lasted
        assert proxy.active() == limit
        for client in clients.inside:
            client.sendall(b"again\n")
            assert client.recv(100) == b"one again\n"
        # A full worker begins anew a little below its limit.
        most_free = sum(w["connections_limit"] // 32 for w in proxy.status()["workers"])
        for leaving in (1, 30, limit - 20):
            clients.leave(leaving)
            wait_for(lambda: clients.look() >= limit - most_free, "the places to be taken")
            assert clients.look() <= limit
        assert proxy.worker_pids() == workers
        assert [worker["starts"] for worker in proxy.status()["workers"]] == [1, 1]
    wait_for(lambda: proxy.active() == 0, "all to end")
    assert ask(("127.0.0.1", port)) == "one hello\n"


def test_out_of_ports(tmp_path: Path) -> None:
    """Counted as local_error and held against no endpoint; it goes on with the next free one."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.integration.few_ports", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=patient(100),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert PORTS - 2 <= found["inside"] <= PORTS  # the server may have one of them
    assert found["go_on"] == found["inside"]
    assert found["local_error"] == 10
    assert found["again"] == 5
    assert found["blamed"] == [0]
    assert found["starts"] == [1, 1]


@pytest.mark.parametrize("how", ["off", "absent"])
def test_without_ipv6(tmp_path: Path, how: str) -> None:
    """An address of it, as localhost may have one, is an endpoint that fails like any other: found
    down, and no client notices. A listener on every address outlives the workers."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    if how == "absent" and platform.machine() not in NUMBER_OF_SOCKET:
        pytest.skip("which system call is socket() here?")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.integration.no_ipv6", str(tmp_path), how],
        capture_output=True,
        text=True,
        timeout=patient(100),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"at_first": 60, "without_master": 20, "again": 20}


def size_limit(pids: set[int], size: int) -> None:
    """The most bytes that a file of these processes may have: writing more is EFBIG."""
    most = "unlimited" if size == resource.RLIM_INFINITY else str(size)
    for pid in pids:
        # Some roots may not do it to processes of others, which these may do to their own.
        uid, gid = (psutil.Process(pid).uids().real, psutil.Process(pid).gids().real)
        became = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        subprocess.run(
            [
                *(became if uid != os.getuid() else []),
                "prlimit",
                f"--pid={pid}",
                f"--fsize={most}:",
            ],
            check=True,
        )


def test_the_log_has_no_room_for_a_while(start_proxy: StartProxy, one: EchoServer) -> None:
    """Reloads, deaths and round trips go on without it, and it goes on when there is room."""
    port = free_port()
    config: Callable[[int], dict[str, object]] = lambda weight: routes(  # noqa: E731
        route("r", port, v1=(weight, one.address))
    )
    proxy = start_proxy(config(1))
    everybody = {proxy.process.pid, *proxy.tree()}
    size_limit(everybody, proxy.log_file.stat().st_size)
    length = len(proxy.log)
    for weight in range(2, 40):
        proxy.write(config(weight))
        proxy.signal(signal.SIGHUP)
        wait_for(lambda weight=weight: proxy.destination("v1")["weight"] == weight, "the reload")  # type: ignore[misc]
    os.kill(proxy.worker_pids()[0], signal.SIGKILL)
    wait_for(lambda: proxy.status()["workers"][0]["starts"] == 2, "the worker's next incarnation")
    assert ask(("127.0.0.1", port)) == "one hello\n"
    assert len(proxy.log) == length
    size_limit({proxy.process.pid, *proxy.tree()}, resource.RLIM_INFINITY)
    proxy.reload(config(50))
    proxy.says("generation", after=length)


def test_no_room_for_the_log_from_the_start(tmp_path: Path, one: EchoServer) -> None:
    """/dev/full takes nothing: it runs, reloads, and ends with 0."""
    port, file, admin = free_port(), tmp_path / "routes.yaml", str(tmp_path / "admin.sock")

    def write(weight: int) -> None:
        config = routes(
            route("r", port, v1=(weight, one.address)), workers=1, admin={"socket": admin}
        )
        file.write_text(json.dumps(config))

    write(1)
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "tcpmux", "-c", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            # With it Python keeps nothing back, and nothing can go wrong at the end.
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    client = Client(admin)

    def generation() -> int:
        assert process.poll() is None, f"it has ended: {process.returncode}"
        try:
            return client.status()["generation"]
        except AdminError:
            return 0

    try:
        first = wait_for(generation, "the instance")
        write(2)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: generation() > first, "the reload")
        worker = client.status()["workers"][0]
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(
            lambda: client.status()["workers"][0]["starts"] == 2, "the worker's next incarnation"
        )
        assert ask(("127.0.0.1", port)) == "one hello\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            process.wait(DEADLINE)
