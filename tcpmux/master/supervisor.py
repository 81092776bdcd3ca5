"""The service manager's side of things: sd_notify(3) and sd_listen_fds(3). Runs in the master.

Without a service manager (no NOTIFY_SOCKET, no LISTEN_FDS) everything in here does nothing.
The variables are read once. NOTIFY_SOCKET stays in the environment, because the master may
become another build by exec; that nobody else speaks for it is up to NotifyAccess=main.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import time
from collections.abc import Iterable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tcpmux.config import Address
from tcpmux.errors import TcpmuxError

log = logging.getLogger("tcpmux.master")

FIRST_FD = 3  # SD_LISTEN_FDS_START
MOST_FDS = 253  # of one message: SCM_MAX_FD


@dataclass(slots=True)
class Supervisor:
    """Tells the service manager how things are. Never blocks, never raises.

    address: of its datagram socket, "" = there is none. watchdog_interval: seconds between
    two signs of life, half of what it allows; None = it does not wait for any.
    """

    address: str = ""
    watchdog_interval: float | None = None
    _silent: bool = field(default=False, repr=False)  # a send has failed, and that was logged

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Supervisor:
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        interval = None
        with suppress(KeyError, ValueError):
            if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                interval = int(environ["WATCHDOG_USEC"]) / 2e6
        return cls(address, interval if address and interval else None)

    def ready(self, status: str) -> None:
        self._send(["READY=1", f"STATUS={status}"])

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(["RELOADING=1", f"MONOTONIC_USEC={microseconds}"])

    def stopping(self, status: str) -> None:
        self._send(["STOPPING=1", f"STATUS={status}"])

    def status(self, text: str) -> None:
        self._send([f"STATUS={text}"])

    def is_alive(self) -> None:
        self._send(["WATCHDOG=1"])

    def store(self, address: Address, fds: Sequence[int]) -> None:
        """Has it keep listening sockets while no tcpmux runs: their queues outlive a restart."""
        for start in range(0, len(fds), MOST_FDS):
            lines = ["FDSTORE=1", "FDPOLL=0", f"FDNAME={stored_name(address)}"]
            self._send(lines, fds[start : start + MOST_FDS])

    def forget(self, address: Address) -> None:
        """Has it let go of them."""
        self._send(["FDSTOREREMOVE=1", f"FDNAME={stored_name(address)}"])

    def _send(self, lines: Iterable[str], fds: Sequence[int] = ()) -> None:
        if not self.address:
            return
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                message = "\n".join(lines).encode()
                sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT, self.address)
        except OSError as error:
            if not self._silent:
                log.warning("the service manager does not listen: %s", error)
            self._silent = True
        else:
            self._silent = False


def stored_name(address: Address) -> str:
    """What a listener's sockets are called in the store, where ':' is not allowed."""
    return f"tcpmux-{address}".replace(":", "+")


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket that the service manager has opened or kept."""

    name: str  # FileDescriptorName= of its unit, or what store() called it
    address: Address
    socket: socket.socket


def inherited_sockets(environ: MutableMapping[str, str]) -> list[Inherited]:
    """The sockets that were handed to this process, which owns them from here on.

    Takes the variables out of `environ`: they are about this start alone. Raises
    TcpmuxError for a descriptor that is no listening stream socket.
    """
    count, pid, names = (
        environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    by_position = names.split(":") if names else []
    for position in range(int(count)):
        name = by_position[position] if position < len(by_position) else "unknown"
        found.append(_inherited(FIRST_FD + position, name))
    return found


def _inherited(fd: int, name: str) -> Inherited:
    problem = f"descriptor {fd} ({name}) from the service manager"
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise TcpmuxError(f"{problem} is no socket: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM or not listens:
        raise TcpmuxError(f"{problem} is not a listening stream socket: ListenStream= makes one")
    sock.setblocking(False)
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Inherited(name, Address("", 0, os.fsdecode(bound)), sock)
    # What is accepted inherits it, as from the sockets that we open.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Inherited(name, Address(bound[0], bound[1], ""), sock)
