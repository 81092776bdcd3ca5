"""One worker process without a master: its regions, its listening sockets and its end.

No thread runs in here: the process that forks the worker holds both ends of every relayed
connection itself and moves their bytes with poll().
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fcntl import ioctl
from itertools import zip_longest
from pathlib import Path
from termios import TIOCOUTQ
from typing import Literal

from tcpmux.config import Address
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import CLOSE_REASONS, LOG_ENDS, PICK_REASONS, PRESENT
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._readings import Counters
from tcpmux.shm._table import Table
from tcpmux.shm.counters import SlotCounters
from tcpmux.shm.image import DestinationRow, EndpointRow, Image, ListenerRow, RouteRow
from tcpmux.shm.rules import DestinationRules, EndpointRules, RouteRules
from tcpmux.shm.serving import with_turns_and_weights
from tcpmux.worker.messages import (
    ADD,
    CONVERGE,
    MESSAGE,
    REHOME,
    REMOVE,
    REMOVED,
    SYNC,
    SYNCED,
    UNREAD,
)
from tcpmux.worker.process import BLOCKED, Inheritance, ListeningSocket, serve
from tests.support import DEADLINE, wait_for, will_reset

Family = Literal["v4", "v6", "unix"]
FAMILIES: tuple[Family, ...] = ("v4", "v6", "unix")
NO_DESTINATION_RULES, NO_ROUTE_RULES = DestinationRules(), RouteRules()


def listen(
    family: Family, directory: Path, backlog: int = 1024, receive_buffer: int = 0
) -> socket.socket:
    """A listening socket with a deadline on accept. receive_buffer: bytes, 0 = the kernel's way."""
    sock = bound(family, directory)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.listen(backlog)
    return sock


def bound(family: Family, directory: Path) -> socket.socket:
    """Bound and not listening: a connect to it is refused, and nobody else gets the address."""
    kind = {"v4": socket.AF_INET, "v6": socket.AF_INET6, "unix": socket.AF_UNIX}[family]
    sock = socket.socket(kind, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE)
    if family == "unix":
        path = directory / f"{len(list(directory.iterdir()))}.sock"
        sock.bind(str(path))
        path.chmod(0o666)  # a worker may run as another user
    else:
        sock.bind(("127.0.0.1" if family == "v4" else "::1", 0))
    return sock


def address_of(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address("", 0, name)
    return Address(name[0], name[1], "")


@dataclass(frozen=True, slots=True)
class Destination:
    """endpoint_weights, priorities, limits: of its endpoints, in order; what is missing is as by
    default."""

    endpoints: tuple[Address, ...]
    weight: int = 1
    endpoint_weights: tuple[int, ...] = ()
    priorities: tuple[int, ...] = ()
    limits: tuple[int, ...] = ()
    rules: DestinationRules = NO_DESTINATION_RULES


@dataclass(slots=True)
class Link:
    """Both ends of one relayed connection."""

    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        self.client.close()
        self.server.close()


@dataclass(slots=True)
class RelayWorker:
    """A running worker with one route, open on all three families, and its guardian (`pid`).

    Slots: 0 is the route's, then one per destination, then one per endpoint, in order.
    Times in milliseconds; receive_buffer in bytes, of the sockets it accepts (0 = the
    kernel's way); pipes as in Inheritance; rules: of the route. loop: a last destination has this
    listener of the worker itself for an endpoint. logs: whether entries of the log are written.
    """

    directory: Path
    destinations: Sequence[Destination]
    capacity: int = 1024
    connect_timeout: int = 5000
    idle_timeout: int = 0
    receive_buffer: int = 0
    pipes: int = 64
    rules: RouteRules = NO_ROUTE_RULES
    loop: Family | None = None
    logs: bool = False
    pid: int = field(init=False, default=0)
    live: Live = field(init=False)
    counters: Counters = field(init=False)
    listeners: dict[Family, socket.socket] = field(init=False, default_factory=dict)
    _regions: tuple[Table, Commons] = field(init=False)
    _channel: socket.socket = field(init=False)
    _sockets: list[socket.socket] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        table = Table.create(1, 1, os.getpid(), int(time.time()))
        commons = Commons.create()
        self._regions = table, commons
        self.live = Live.create(0, self.capacity)
        self.counters = Counters([self.live])
        for family in FAMILIES:
            sock = listen(family, self.directory, receive_buffer=self.receive_buffer)
            sock.setblocking(False)
            self.listeners[family] = sock
        if self.loop:
            own = Destination((address_of(self.listeners[self.loop]),))
            self.destinations = [*self.destinations, own]
        publish_image(table, self.image())
        table.log(LOG_ENDS if self.logs else 0, 100)
        table.numbers_given = self.slots, 1 + len(self.destinations)
        self.start()

    def start(self) -> None:
        """Forks the guardian, which starts the worker."""
        table, commons = self._regions
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inheritance = Inheritance(
            0,
            table.reader_fd,
            commons.fd,
            (self.live.fd,),
            theirs.fileno(),
            tuple(
                ListeningSocket(number, 0, sock.fileno(), sock.family == socket.AF_UNIX)
                for number, sock in enumerate(self.listeners.values())
            ),
            self.pipes,
            None,
            user="65534:65534" if os.geteuid() == 0 else "",
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                table.unmap()  # the worker maps it again, read-only
                # pytest's write to numbers that may be a client's here.
                faulthandler.disable()
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                serve(inheritance)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        theirs.close()
        self.await_incarnation(1)

    def await_incarnation(self, number: int) -> None:
        """Until the worker's incarnation `number` runs and has resumed its work."""
        wait_for(
            lambda: self.live.starts >= number and self.live.presence == PRESENT,
            f"incarnation {number} of the worker",
        )

    def image(self) -> Image:
        """As it was published at the start."""
        endpoint_slot = 1 + len(self.destinations)
        timeouts = {
            "connect_timeout_ms": self.connect_timeout, "idle_timeout_ms": self.idle_timeout,
        }  # fmt: skip
        rows = []
        for number, destination in enumerate(self.destinations):
            endpoints = []
            for address, endpoint_weight, priority, limit in zip_longest(
                destination.endpoints,
                destination.endpoint_weights,
                destination.priorities,
                destination.limits,
            ):
                row = EndpointRow(
                    address,
                    endpoint_slot,
                    1,
                    weight=1 if endpoint_weight is None else endpoint_weight,
                    rules=EndpointRules(priority=priority or 0, max_connections=limit or 0),
                )
                endpoints.append(row)
                endpoint_slot += 1
            weight = destination.weight
            rows.append(
                DestinationRow(
                    f"d{number}",
                    weight,
                    weight,
                    weight,
                    1 + number,
                    1 + number,
                    1,
                    tuple(endpoints),
                    rules=replace(destination.rules, **timeouts),  # type: ignore[type-var]
                )
            )
        route = RouteRow("route", 0, 0, 1, tuple(rows), self.rules)
        listeners = tuple(
            ListenerRow(address_of(sock), number, 0)
            for number, sock in enumerate(self.listeners.values())
        )
        return Image((with_turns_and_weights(route),), listeners)

    def publish(self, image: Image) -> None:
        """As a reload does."""
        publish_image(self._regions[0], image)
        self.ask()
        self.await_told(SYNCED)

    # --- looking at it ------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return 1 + sum(1 + len(destination.endpoints) for destination in self.destinations)

    def route(self) -> SlotCounters:
        return self.counters.slot(0)

    def destination(self, number: int = 0) -> SlotCounters:
        return self.counters.slot(1 + number)

    def endpoint(self, number: int = 0) -> SlotCounters:
        """Of the endpoints of all destinations, in order."""
        return self.counters.slot(1 + len(self.destinations) + number)

    def closed(self, slot: int = 0) -> dict[str, int]:
        """Why connections of a slot ended: the reasons that occurred."""
        return {
            reason: count
            for reason, count in zip(CLOSE_REASONS, self.counters.slot(slot).closed, strict=True)
            if count
        }

    def picked(self, slot: int) -> dict[str, int]:
        """Why connections came to a destination: the reasons that occurred."""
        counts = self.counters.slot(slot).picked
        return {name: n for name, n in zip(PICK_REASONS, counts, strict=True) if n}

    def memory(self) -> int:
        """Resident bytes of the worker."""
        for line in Path(f"/proc/{self.live.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no Rss in smaps_rollup")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.live.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- acting on it -------------------------------------------------------------------------

    def connect(self, family: Family = "v4", source: str = "") -> socket.socket:
        """A client, from that address; it may still wait in the listen queue. Closed at the end of
        the test."""
        listener = self.listeners[family]
        sock = self.own(socket.socket(listener.family, socket.SOCK_STREAM))
        sock.settimeout(DEADLINE)
        if source:
            sock.bind((source, 0))
        sock.connect(listener.getsockname())
        return sock

    def assert_turns_away(self, family: Family = "v4") -> None:
        """A client is reset at once; a TCP one, if the worker is that fast, in connect itself."""
        try:
            client = self.connect(family)
        except ConnectionResetError:
            return
        assert_reset(client)

    def link(self, endpoint: socket.socket, family: Family = "v4") -> Link:
        client = self.connect(family)
        server = self.own(endpoint.accept()[0])
        server.settimeout(DEADLINE)
        return Link(client, server)

    def own(self, sock: socket.socket) -> socket.socket:
        """Has the socket closed before the worker is stopped."""
        self._sockets.append(sock)
        return sock

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.live.pid, number)

    def orphan(self) -> None:
        """Closes the line to the worker, as the death of its master does."""
        self._channel.close()

    def drain(self) -> None:
        """SIGTERM, which a worker obeys when it has no master."""
        self.orphan()
        self.send_signal(signal.SIGTERM)

    def give_listeners(self) -> None:
        """As a master does after each death: hands out those that the worker does not have."""
        has = {number for number, _ in self.live.listening}
        for number, sock in enumerate(self.listeners.values()):
            if number not in has:
                shared = sock.family == socket.AF_UNIX
                message = MESSAGE.pack(ADD, number, 0, shared, 0)
                socket.send_fds(self._channel, [message], [sock.fileno()])

    def remove_listener(self, family: Family) -> None:
        """Tells the worker to serve the listener's queue and let go of it."""
        self._channel.send(MESSAGE.pack(REMOVE, FAMILIES.index(family), 0, 0, 0))

    @property
    def buffers(self) -> tuple[int, int, int, int, int, int]:
        return self._regions[0].buffers

    @buffers.setter
    def buffers(self, sizes: tuple[int, int, int, int, int, int]) -> None:
        self._regions[0].buffers = sizes

    def pinned(self) -> int:
        """Bytes that connections held a moment ago which nobody reads."""
        return self._regions[1].pinned

    def ask(self) -> None:
        """Has the worker answer, which changes nothing."""
        self._channel.send(MESSAGE.pack(SYNC, 0, 0, 0, 1))

    def converge(
        self, index: int, generation: int, quiet: int = 0, late: bool = False, age: int = 0
    ) -> None:
        """Until the worker has obeyed. quiet: ms. age: of the order, in ms."""
        ordered = int(time.monotonic() * 1000) - age & (1 << 32) - 1
        order = MESSAGE.pack(CONVERGE, index, quiet, late, ordered << 32 | generation)
        self._channel.send(order)
        self.ask()
        self.await_told(SYNCED)

    def rehome(
        self, index: int, generation: int, destination: int, quiet: int = 0, age: int = 0
    ) -> None:
        """As converge(): the connection is to go on with another destination, by number. It does
        so later, if at all."""
        ordered = int(time.monotonic() * 1000) - age & (1 << 32) - 1
        order = MESSAGE.pack(REHOME, index, quiet, 1 + destination, ordered << 32 | generation)
        self._channel.send(order)
        self.ask()
        self.await_told(SYNCED)

    def told(self, kind: int) -> list[int]:
        """The values of all messages of a kind that have come to the master so far."""
        found = []
        self._channel.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                got, _, _, _, value = MESSAGE.unpack(self._channel.recv(MESSAGE.size))
                if got == kind:
                    found.append(value)
        return found

    def counted(self) -> tuple[int, int, int, int]:
        """What is counted over all workers: Commons.totals()."""
        return self._regions[1].totals()

    def await_told(self, what: int) -> int:
        """Until the worker sends such a message to its master; which listener it is about."""
        self._channel.settimeout(DEADLINE)
        while True:
            kind, listener, _, _, _ = MESSAGE.unpack(self._channel.recv(MESSAGE.size))
            if kind == what:
                return int(listener)

    def await_unread(self, count: int) -> int:
        """Until the worker has told its master that it has reset so many connections that were not
        read; how many of them for their client's sake."""
        told = by_source = 0
        self._channel.settimeout(DEADLINE)
        while told < count:
            kind, one, _, _, value = MESSAGE.unpack(self._channel.recv(MESSAGE.size))
            if kind == UNREAD:
                told, by_source = told + value, by_source + one
        assert told == count
        return by_source

    def await_removed(self, family: Family) -> None:
        """Until the worker says that it has let go of the listener."""
        assert self.await_told(REMOVED) == FAMILIES.index(family)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends this incarnation of the worker, and waits for the next one."""
        incarnation = self.live.starts
        os.kill(self.live.pid, number)
        self.await_incarnation(incarnation + 1)

    def await_exit(self) -> None:
        """Asserts that the worker ends by itself, with code 0, and has counted every end."""
        pidfd = os.pidfd_open(self.pid)
        try:
            ended, _, _ = select.select([pidfd], [], [], DEADLINE)
        finally:
            os.close(pidfd)
        if not ended:
            worker = self.live.pid
            os.kill(self.pid, signal.SIGKILL)
            if worker:
                os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        assert ended, (
            f"the worker did not end within {DEADLINE:g} s; "
            f"{self.live.connections} connections were open"
        )
        assert os.waitstatus_to_exitcode(status) == 0
        assert self.live.connections == 0
        for slot in range(self.slots):
            counters = self.counters.slot(slot)
            assert counters.opened == sum(counters.closed), (slot, counters)

    def abandon(self) -> None:
        """Ends the worker in whatever state it is: its books are not looked at."""
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        os.kill(self.pid, signal.SIGKILL)
        if self.live.pid > 0:
            os.kill(self.live.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def stop(self) -> None:
        """Closes every socket it knows of, ends the worker and checks what it leaves behind."""
        try:
            for sock in self._sockets:
                sock.close()
            if self.pid:
                self.drain()
                self.await_exit()
        finally:
            self._channel.close()
            for sock in self.listeners.values():
                sock.close()
            for region in (*self._regions, self.live):
                region.close()


# --- bytes ------------------------------------------------------------------------------------


def reset(sock: socket.socket) -> None:
    """Closes with an RST. A UNIX socket can say so only while it holds unread bytes."""
    if sock.family != socket.AF_UNIX:
        will_reset(sock)
    sock.close()


def ends_by_reset(sock: socket.socket) -> bool:
    """Reads one time, up to the deadline: True for a reset, False for the end of input.

    Fails on data, and on an end of input where TCP would have told of a reset.
    """
    try:
        data = sock.recv(1)
    except ConnectionResetError:
        return True
    assert data == b"", f"{data!r} instead of the end"
    return False


def assert_reset(sock: socket.socket) -> None:
    """The worker has reset it. On a UNIX socket that may look like an end of input."""
    assert ends_by_reset(sock) or sock.family == socket.AF_UNIX


def unsent(sock: socket.socket) -> int:
    """Bytes written to a socket and not yet taken by the other end's kernel."""
    return int.from_bytes(ioctl(sock, TIOCOUTQ, b"\0" * 4), "little", signed=True)


def is_over(sock: socket.socket) -> bool:
    """The connection is over both ways, by a reset or by two FINs."""
    poll = select.poll()
    poll.register(sock, 0)  # hang-ups and errors are always told
    return bool(poll.poll(0))


def is_silent(sock: socket.socket, seconds: float) -> bool:
    """Nothing to read, no end and no error comes within that time."""
    return not select.select([sock], [], [], seconds)[0]


@dataclass(slots=True)
class Flow:
    """Bytes on their way from one socket to another; `shut`: with a FIN after the last.

    piece: the most bytes of one send.
    """

    sender: socket.socket
    receiver: socket.socket
    data: bytes
    shut: bool = False
    sent: int = 0
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False  # the receiver has seen the end of input
    piece: int = 1 << 18

    @property
    def done(self) -> bool:
        if self.shut:
            return self.ended
        return self.sent == len(self.data) and len(self.received) >= len(self.data)

    def step_sender(self) -> None:
        if self.sent < len(self.data):
            with suppress(BlockingIOError):
                self.sent += self.sender.send(self.data[self.sent : self.sent + self.piece])
                if self.shut and self.sent == len(self.data):
                    self.sender.shutdown(socket.SHUT_WR)

    def step(self) -> None:
        self.step_sender()
        if not self.ended:
            with suppress(BlockingIOError):
                got = self.receiver.recv(1 << 18)
                self.received += got
                self.ended = not got
        assert not self.ended or self.shut, "an end of input nobody sent"


def transfer(*flows: Flow, deadline: float = DEADLINE * 2) -> None:
    """Moves all flows at once and asserts that each arrives, byte for byte."""
    end = time.monotonic() + deadline
    sockets = {sock for flow in flows for sock in (flow.sender, flow.receiver)}
    for sock in sockets:
        sock.setblocking(False)
    while waiting := [flow for flow in flows if not flow.done]:
        assert time.monotonic() < end, [(f.sent, len(f.received), len(f.data)) for f in waiting]
        writers = [flow.sender for flow in waiting if flow.sent < len(flow.data)]
        select.select([flow.receiver for flow in waiting], writers, [], 0.1)
        for flow in waiting:
            flow.step()
    for sock in sockets:
        sock.settimeout(DEADLINE)
    for flow in flows:
        assert flow.received == flow.data


def await_idle(worker: RelayWorker) -> None:
    wait_for(lambda: worker.live.connections == 0, "the worker to close its connections")
