"""The service manager's side of things: sd_notify(3) and sd_listen_fds(3). Runs in the master.

Without a service manager (no NOTIFY_SOCKET, no LISTEN_FDS) everything in here does nothing.
NOTIFY_SOCKET and WATCHDOG_* stay in the environment, because the master may become another
build by exec; tcpmux.programs keeps them from every other program that is started.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tcpmux.config import Address
from tcpmux.errors import TcpmuxError
from tcpmux.master.duty import Duty

log = logging.getLogger("tcpmux.master")

FIRST_FD = 3  # SD_LISTEN_FDS_START
MAX_FDS = 253  # of one message: SCM_MAX_FD
PREFIX = "tcpmux-"  # of what we have had stored
MAX_NAME = 255  # FDNAME_MAX
RETRY = 0.05  # s
MAX_WAITING = 10_000  # messages; two for each listener there can be, and some
# The manager is there and has no room at the moment. ETOOMANYREFS: for descriptors under way.
NO_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


@dataclass(slots=True)
class Supervisor(Duty):
    """Tells the service manager how things are. Never blocks, never raises.

    A manager reads when it can, and its queue may be as short as 10 messages. So what it must
    hear waits here, in order, until do() gets it sent; status and signs of life don't wait.

    address: of its datagram socket, "" = there is none. watchdog_interval: seconds between
    two signs of life, half of what it allows; None = it does not wait for any.
    """

    address: str = ""
    watchdog_interval: float | None = None
    _waiting: deque[tuple[bytes, list[int]]] = field(default_factory=deque)  # our own descriptors
    _next_sign: float = 0.0  # monotonic
    _silent: bool = False  # a send has failed, and that was logged

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Supervisor:
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        interval = 0.0
        with suppress(KeyError, ValueError):
            if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
                interval = int(environ["WATCHDOG_USEC"]) / 2e6
        return cls(address, interval if address and interval > 0 else None)

    @property
    def has_store(self) -> bool:
        """Whether there may be one: a manager tells so only since systemd 254."""
        return bool(self.address)

    # --- how things are ---------------------------------------------------------------------

    def ready(self, status: str) -> None:
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """To be followed by ready(). The time tells the manager which of its reloads it is."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str, most: float) -> None:
        """most: seconds that it may take, however few the manager would allow by itself."""
        self._notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(most * 1e6)}", f"STATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}".encode())

    def due(self) -> float | None:
        if self._waiting:
            return time.monotonic() + RETRY
        return None if self.watchdog_interval is None else self._next_sign

    def do(self, now: float) -> None:
        """Gives the sign of life that is due, and sends what has waited."""
        while self._waiting:
            message, fds = self._waiting[0]
            if not self._send(message, fds):
                break
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
        if self.watchdog_interval is not None and now >= self._next_sign:
            self._send(b"WATCHDOG=1")
            self._next_sign = now + self.watchdog_interval

    # --- the store of descriptors -----------------------------------------------------------

    def store(self, address: Address, fds: Sequence[int]) -> None:
        """Has it keep these listening sockets, and no others of the address, while no tcpmux
        runs: their queues outlive a restart."""
        self.forget(stored_name(address))
        for start in range(0, len(fds), MAX_FDS):
            # FDPOLL: a listening socket is none that the manager should drop at EPOLLHUP.
            lines = "FDSTORE=1", "FDPOLL=0", f"FDNAME={stored_name(address)}"
            self._notify(*lines, fds=fds[start : start + MAX_FDS])

    def forget(self, name: str) -> None:
        """Has it let go of what it keeps under this name."""
        self._notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def disown(self, unused: Iterable[Inherited], listens: Mapping[str, Sequence[Address]]) -> None:
        """Says of sockets that no route uses whose they were. listens: of each route."""
        for one in dict.fromkeys((one.name, one.address, one.is_stored) for one in unused):
            name, address, is_stored = one
            if is_stored:
                self.forget(name)
                log.warning("no route listens on %s any more: its queue is reset", address)
            elif name in listens:
                log.error(
                    "route %s listens on %s, but the service manager has opened %s for it "
                    "(FileDescriptorName=%s): clients are not served there until ListenStream= "
                    "of its .socket unit and the file agree",
                    name,
                    ", ".join(map(str, listens[name])),
                    address,
                    name,
                )
            else:
                log.warning(
                    "no route listens on %s, which the service manager has opened (%s): "
                    "clients are not served there until its .socket unit is stopped",
                    address,
                    name,
                )

    # --- sending ----------------------------------------------------------------------------

    def _notify(self, *lines: str, fds: Sequence[int] = ()) -> None:
        """Sends it, now or later."""
        message = "\n".join(lines).encode()
        if not self.address or (not self._waiting and self._send(message, fds)):
            return
        if len(self._waiting) == MAX_WAITING:
            return
        kept: list[int] = []
        try:
            for fd in fds:
                kept.append(os.dup(fd))
        except OSError as error:
            log.warning(
                "the service manager can't store listening sockets, so a restart closes them: %s",
                error,
            )
            for fd in kept:
                os.close(fd)
        else:
            self._waiting.append((message, kept))

    def _send(self, message: bytes, fds: Sequence[int] = ()) -> bool:
        """False: there is no room for it yet. True: it is sent, or never will be."""
        if not self.address:
            return True
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT, self.address)
        except OSError as error:
            if error.errno in NO_ROOM:
                return False
            if not self._silent:
                log.warning(
                    "can't notify the service manager of the state (NOTIFY_SOCKET): %s", error
                )
            self._silent = True
        else:
            self._silent = False
        return True


def stored_name(address: Address) -> str:
    """What a listener's sockets are called in the store: different for each address.

    The store takes printable ASCII without ':' (systemd's fdname_is_valid()).
    """
    plain = "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b":%" else f"%{byte:02x}"
        for byte in os.fsencode(str(address))
    )
    # The longest path has 107 bytes: all of them escaped would be too long by some.
    if len(PREFIX + plain) > MAX_NAME:
        plain = "hex-" + os.fsencode(address.path).hex()
    return PREFIX + plain


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket that the service manager has opened or kept."""

    name: str  # FileDescriptorName= of its unit, or what store() called it
    address: Address
    socket: socket.socket

    @property
    def is_stored(self) -> bool:
        """We have opened it, in an earlier incarnation; else a .socket unit did, which keeps it."""
        return self.name == stored_name(self.address)


def inherited_sockets(environ: MutableMapping[str, str]) -> list[Inherited]:
    """The sockets that were handed to this process, which owns them from here on.

    Takes the variables out of `environ`: they are about this start alone. Raises
    TcpmuxError for a descriptor that is no listening stream socket.
    """
    variables = "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"
    count, pid, names, _ = (environ.pop(name, "") for name in variables)
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
    except OSError as error:
        raise TcpmuxError(f"{problem} is no socket: {error.strerror}") from None
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.proto == socket.IPPROTO_TCP
    if sock.type != socket.SOCK_STREAM or not (is_tcp or sock.family == socket.AF_UNIX):
        sock.close()
        raise TcpmuxError(
            f"{problem} is neither TCP nor a UNIX stream socket: its .socket unit needs "
            "ListenStream= and no SocketProtocol="
        )
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise TcpmuxError(f"{problem} does not listen: its .socket unit needs Accept=no")
    sock.setblocking(False)
    if is_tcp:
        # What is accepted inherits it, as from the sockets that we open.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Inherited(name, Address.of_socket(sock), sock)
