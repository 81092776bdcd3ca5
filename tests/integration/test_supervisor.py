"""tcpmux under a service manager: what it tells it, and the sockets that it gets from it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import split, talk
from tests.support import DEADLINE, EchoServer, free_port, wait_for

# Stands where the service manager would be between fork and exec: only there is the pid known.
LAUNCHER = (
    "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Manager:
    """A service manager's notification socket, and its store of descriptors."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(DEADLINE)
        self.heard: list[dict[str, str]] = []
        self.store: dict[str, list[int]] = {}

    def listen(self) -> None:
        """Takes everything that has been sent."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.socket, 4096, 253)
                said = dict(line.split("=", 1) for line in data.decode().splitlines())
                self.heard.append(said)
                if "FDSTORE" in said:
                    self.store.setdefault(said["FDNAME"], []).extend(fds)
                if "FDSTOREREMOVE" in said:
                    self.drop(said["FDNAME"])

    def drop(self, name: str) -> None:
        for fd in self.store.pop(name, []):
            os.close(fd)

    def has_heard(self, name: str, value: str | None = None) -> bool:
        self.listen()
        return any(name in said and value in (None, said[name]) for said in self.heard)

    def count(self, name: str) -> int:
        self.listen()
        return sum(name in said for said in self.heard)

    def close(self) -> None:
        self.listen()
        for name in list(self.store):
            self.drop(name)
        self.socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    with TemporaryDirectory() as directory:
        made = Manager(Path(directory) / "notify")
        yield made
        made.close()


@pytest.fixture
def environment(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.mark.usefixtures("environment")
def test_the_manager_hears_of_every_turn(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """Ready, signs of life, a reload with its end, and stopping."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY", "1"), "READY")
    wait_for(lambda: manager.count("WATCHDOG") > 3, "signs of life")
    ready = manager.count("READY")
    proxy.reload("routes: nonsense\n")
    wait_for(lambda: manager.has_heard("RELOADING", "1"), "RELOADING")
    wait_for(lambda: manager.count("READY") > ready, "READY after a refused reload")
    assert all(int(said["MONOTONIC_USEC"]) > 0 for said in manager.heard if "RELOADING" in said)
    proxy.signal(signal.SIGTERM)
    wait_for(lambda: manager.has_heard("STOPPING", "1"), "STOPPING")


@pytest.mark.usefixtures("environment")
def test_listening_sockets_are_stored_while_they_are_configured(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    name, other = f"tcpmux-127.0.0.1+{port}", free_port()
    wait_for(lambda: manager.has_heard("FDNAME", name), "the first listener")
    assert len(manager.store[name]) >= 2
    proxy.reload(routes(route("r", other, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("FDSTOREREMOVE"), "its removal")
    manager.listen()
    assert list(manager.store) == [f"tcpmux-127.0.0.1+{other}"]


def start_with(proxy: Proxy, sockets: list[tuple[str, int]]) -> subprocess.Popen[bytes]:
    """Starts tcpmux again as a service manager does, with these sockets from 3 on."""
    count = len(sockets)

    def give() -> None:
        # First out of the way of 3 and following, where the originals may be.
        moved = [os.dup2(fd, 200 + at) for at, (_, fd) in enumerate(sockets)]
        for at, fd in enumerate(moved):
            os.dup2(fd, 3 + at)
            os.set_inheritable(3 + at, True)

    with proxy.log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "tcpmux", "-c", str(proxy.file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=give,  # noqa: PLW1509
            pass_fds=range(3, 3 + count),
            env={
                **os.environ,
                "LISTEN_FDS": str(count),
                "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
            },
        )


def answers(proxy: Proxy, process: subprocess.Popen[bytes]) -> bool:
    with suppress(Exception):
        return proxy.status()["pid"] == process.pid
    return False


@pytest.mark.usefixtures("environment")
def test_a_restart_serves_what_was_queued_meanwhile(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """The store keeps the sockets while nobody runs: clients wait, and none is refused."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("FDSTORE"), "the store")
    proxy.stop()
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            for _ in range(40)
        ]
        kept = [(name, fd) for name, fds in manager.store.items() for fd in fds]
        proxy.process = start_with(proxy, kept)
        wait_for(lambda: answers(proxy, proxy.process), "the new tcpmux")
        for client in waiting:
            assert talk(client) == "one hello\n"
    assert split(port, 10) == {"one": 10}


def test_a_socket_that_the_manager_opened_is_used(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """One without SO_REUSEPORT is polled by all workers; one nobody wants is named and closed."""
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    proxy.stop()
    proxy.write(routes(route("r", port, v1=(1, one.address))))
    with (
        socket.create_server(("127.0.0.1", port)) as wanted,
        socket.create_server(("127.0.0.1", 0)) as unwanted,
    ):
        given = [("web", wanted.fileno()), ("other", unwanted.fileno())]
        proxy.process = start_with(proxy, given)
        wait_for(lambda: answers(proxy, proxy.process), "tcpmux")
        assert split(port, 10, at_once=5) == {"one": 10}
        assert f"no route listens on 127.0.0.1:{unwanted.getsockname()[1]}" in proxy.log


@pytest.mark.parametrize("kind", ["datagram", "not-listening", "pipe"])
def test_a_descriptor_that_is_no_listening_socket_is_refused(
    start_proxy: StartProxy, one: EchoServer, kind: str
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    proxy.stop()
    made: dict[str, Any] = {
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        "not-listening": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach(),
        "pipe": lambda: os.memfd_create("no-socket"),
    }
    fd = made[kind]()
    process = start_with(proxy, [("odd", fd)])
    os.close(fd)
    assert process.wait(DEADLINE) == 1
    assert "descriptor 3 (odd) from the service manager" in proxy.log
    assert "Traceback" not in proxy.log
