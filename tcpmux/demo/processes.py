"""The demo's child processes: started, waited for, ended, and proved to be gone."""

from __future__ import annotations

import errno
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import tcpmux
from tcpmux import sock_diag
from tcpmux.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tcpmux.config import Address

END_TIME = 10.0  # s from SIGTERM to SIGKILL


class DemoFailed(Exception):
    """The demo went otherwise than it has to. The text is one line that says how."""


def holder(address: Address) -> str:
    """Who listens at that port, as ` by nginx (pid 12)`; empty if we may not know."""
    try:
        found = (sock_diag.holder(s.inode) for s in sock_diag.listening() if s.port == address.port)
        return next((f" by {printable(text)}" for text in found if text), "")
    except OSError:
        return ""


def check_free(addresses: Iterable[Address]) -> None:
    """Raises DemoFailed if one of these TCP addresses can't be listened on."""
    for address in addresses:
        # Without SO_REUSEPORT, which would let us share the port with another tcpmux.
        with socket.socket(address.family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address.sockaddr)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise DemoFailed(
                        f"{address} is in use{holder(address)}: the demo needs it; "
                        "end what listens there and try again"
                    ) from None
                raise DemoFailed(f"can't listen on {address}: {error.strerror}") from None


class Child:
    """`python -m MODULE ARGUMENTS`, in a session of its own: Ctrl-C is for the demo alone.

    log: file that takes its standard error.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        # From / and with our own package first: never a tcpmux that lies in this directory.
        package = str(Path(tcpmux.__file__).parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd="/",
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self._family: dict[int, int] = {}  # pid -> pidfd, which no other process inherits

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Until it ends by itself; returns its exit code."""
        return self._process.wait()

    def await_line(self, text: str, timeout: float) -> None:
        """Until it has printed that line on standard output. Raises DemoFailed."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise DemoFailed(f"{self.name} is not ready after {timeout:g} s")
        if stdout.readline().decode().strip() != text:
            raise DemoFailed(f"{self.name} did not start")

    def await_condition(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        """Until the condition holds. Raises DemoFailed if the child ends, or after timeout s."""
        deadline = time.monotonic() + timeout
        while not condition():
            try:
                code = self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                raise DemoFailed(f"{what}: not after {timeout:g} s") from None
            raise DemoFailed(f"{what}: {self.name} ended with code {code}")

    def remember_family(self) -> None:
        """Notes its child processes, to see later that they are gone with it."""
        for pid in descendants(self.pid) - self._family.keys():
            with suppress(OSError):  # it has ended meanwhile
                self._family[pid] = os.pidfd_open(pid)

    def end(self) -> list[str]:
        """Ends it, by SIGTERM or then SIGKILL; returns what was not as it should be."""
        faults = []
        self.remember_family()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(END_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            faults.append(f"{self.name} (pid {self.pid}) had to be killed")
        if self._process.stdout is not None:
            self._process.stdout.close()
        for pid in _still_running(self._family, 1.0):
            faults.append(f"a process of {self.name} was left (pid {pid})")
            signal.pidfd_send_signal(self._family[pid], signal.SIGKILL)
        for pidfd in self._family.values():
            os.close(pidfd)
        self._family.clear()
        return faults


def descendants(ancestor: int) -> set[int]:
    """The pids of a process's children, their children, and so on."""
    parents: dict[int, int] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            # After the name, which may have anything in it: state, parent (proc(5)).
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
            parents[int(pid)] = int(fields.split()[1])
    found, left = set[int](), {ancestor}
    while left:
        left = {pid for pid, parent in parents.items() if parent in left} - found
        found |= left
    return found


def _still_running(family: Mapping[int, int], within: float) -> list[int]:
    """Those that have not ended, after at most so many seconds. family: pid -> pidfd."""
    deadline = time.monotonic() + within
    return [
        pid
        for pid, pidfd in family.items()
        if not select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]
    ]
