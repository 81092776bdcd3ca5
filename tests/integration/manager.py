"""A service manager for tests: hears what is said to it, keeps descriptors, and starts tcpmux
with them."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.integration.proxy import Proxy
from tests.integration.starting import FIRST_GIVEN, OUT_OF_THE_WAY, Process, start
from tests.support import DEADLINE, wait_for

# Stands where the service manager would be between fork and exec: only there is the pid known.
LAUNCHER = (
    "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Manager:
    """A notification socket, and a store that follows systemd's rules: a descriptor is kept
    once, and FDSTOREREMOVE means all of a name."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.heard: list[dict[str, str]] = []
        self.store: dict[str, list[int]] = {}

    def listen(self) -> None:
        """Takes everything that has been sent."""
        with suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.socket, 4096, 253)
                said = dict(line.split("=", 1) for line in data.decode().splitlines())
                self.heard.append(said)
                for fd in fds:
                    self._keep(said["FDNAME"], fd)
                if "FDSTOREREMOVE" in said:
                    self.drop(said["FDNAME"])

    def _keep(self, name: str, fd: int) -> None:
        known = {os.fstat(other).st_ino for kept in self.store.values() for other in kept}
        if os.fstat(fd).st_ino in known:
            os.close(fd)
        else:
            self.store.setdefault(name, []).append(fd)

    def drop(self, name: str) -> None:
        for fd in self.store.pop(name, []):
            os.close(fd)

    @property
    def kept(self) -> list[tuple[str, int]]:
        """(name, descriptor), as they are handed over at a start."""
        self.listen()
        return [(name, fd) for name, fds in self.store.items() for fd in fds]

    def names(self) -> set[str]:
        self.listen()
        return set(self.store)

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


def launch(proxy: Proxy, sockets: Sequence[tuple[str, int]]) -> Process:
    """Starts tcpmux again as a service manager does, with these sockets from 3 on."""
    with proxy.log_file.open("ab") as log:
        return start(["-c", str(proxy.file)], log, given=sockets)


def execute(proxy: Proxy, sockets: Sequence[tuple[str, int]]) -> Process:
    """The same, by an exec of the interpreter; a fork does not show that sockets outlive that."""
    count = len(sockets)

    def give() -> None:
        # First out of the way of 3 and following, where the originals may be; to where none is.
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) for _, fd in sockets]
        for at, fd in enumerate(moved):
            os.dup2(fd, FIRST_GIVEN + at)
            os.set_inheritable(FIRST_GIVEN + at, True)

    with proxy.log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "tcpmux", "-c", str(proxy.file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=give,  # noqa: PLW1509
            pass_fds=range(FIRST_GIVEN, FIRST_GIVEN + count),
            env={
                **os.environ,
                "LISTEN_FDS": str(count),
                "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
            },
        )


Launch = Callable[[Proxy, Sequence[tuple[str, int]]], Process]


def start_with(
    proxy: Proxy, sockets: Sequence[tuple[str, int]], launching: Launch = launch
) -> None:
    """As launch(), and waits until it is ready. It is the proxy's process from then on."""
    proxy.process = launching(proxy, sockets)

    def answers() -> bool:
        assert proxy.process.poll() is None, f"tcpmux has ended:\n{proxy.log}"
        with suppress(Exception):
            return proxy.status()["pid"] == proxy.process.pid
        return False

    wait_for(answers, "tcpmux to answer", DEADLINE)
