"""A reader that stops holds its sender back, through the worker as directly, and loses nothing:
what is under way is in kernel buffers of limited size."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tcpmux.shm._readings import Counters
from tests.relay.cases import drive_into_splice, fill, filling, link_directly
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import FAMILIES, Family, Link, RelayWorker, await_idle
from tests.support import patient, read_all, wait_for, will_reset

# v6 has the buffers of v4; what matters is which of a connection's two halves are TCP.
PAIRS: tuple[tuple[Family, Family], ...] = (
    ("v4", "v4"),
    ("v6", "v6"),
    ("v4", "unix"),
    ("unix", "v6"),
    ("unix", "unix"),
)
BUFFER = 1 << 18  # bytes that both ends ask for; the kernel doubles them
PIPE = 1 << 20  # bytes, of the half's pipe (csrc/pipe_pool.h)
WORKER_MEMORY = 1 << 20  # bytes; what it may grow by is not a buffer for each connection
QUIET = patient(0.3)  # s; longer than TCP waits before it asks again for a window (200 ms)


def directed(link: Link, actor: str) -> tuple[socket.socket, socket.socket]:
    """Sender and reader, with buffers of a size that does not grow by itself."""
    ends = (link.client, link.server) if actor == "client" else (link.server, link.client)
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return ends


def taken_directly(actor: str, directory: Path) -> dict[Family, int]:
    """Bytes that a sender can write to a stopped reader with nothing between, by family."""
    links = [link_directly(family, directory) for family in FAMILIES]
    ends = [directed(link, actor) for link in links]
    taken = fill([sender for sender, _ in ends], QUIET)
    for link in links:
        link.close()
    return dict(zip(FAMILIES, taken, strict=True))


def held_by_worker(worker: RelayWorker, actor: str, client: Family, endpoint: Family) -> int:
    """The most bytes that the worker's two sockets and its pipe hold of a stream.

    A TCP buffer grows by itself, up to the last number of tcp_rmem and tcp_wmem; the receive
    buffer of an accepted socket is as large as its listener's. What a UNIX socket has received
    counts as in its sender's buffer, so that only the one that is written to adds some.
    """
    source, target = (client, endpoint) if actor == "client" else (endpoint, client)
    listener = worker.listeners[client]
    held = PIPE
    if target == "unix":
        held += listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    else:
        held += largest("tcp_wmem")
    if source != "unix" and actor == "client":
        held += listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    elif source != "unix":
        held += largest("tcp_rmem")
    return held


def largest(setting: str) -> int:
    """Bytes: the last number of /proc/sys/net/ipv4/tcp_rmem or tcp_wmem."""
    return int(Path("/proc/sys/net/ipv4", setting).read_text().split()[2])


@pytest.mark.parametrize("path", ["copy", "splice"])
@pytest.mark.parametrize("actor", ["client", "endpoint"])
def test_a_sender_is_held_back_and_every_byte_arrives(
    directory: Path,
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    actor: str,
    path: str,
) -> None:
    """What is taken is at most what a direct reader would have, the pipe and the worker's two
    socket buffers; it does not grow with time; and once read on, all of it comes."""
    direct = taken_directly(actor, directory)
    workers, links, limits = [], [], []
    for client, server in PAIRS:
        endpoint = open_endpoint(server)
        worker = start_worker(endpoint, receive_buffer=BUFFER)
        links.append(worker.link(endpoint, client))
        workers.append(worker)
        # A TCP end adds its own buffer, be it the sender's or the reader's.
        most = max(direct[client], direct[server])
        limits.append(most + held_by_worker(worker, actor, client, server))
    ends = [directed(link, actor) for link in links]
    for link in links:
        if path == "splice":
            drive_into_splice(link)
    before = [worker.memory() for worker in workers]
    senders = [sender for sender, _ in ends]
    taken: list[int] = []
    # Until no more is taken: a worker may have waited for a CPU. What goes on exceeds the limit.
    while taken != (taken := fill(senders, QUIET, taken)):
        told = [f"{a}-{b}: {n} of {m}" for (a, b), n, m in zip(PAIRS, taken, limits, strict=True)]
        assert all(n <= limit for n, limit in zip(taken, limits, strict=True)), told
    after = [worker.memory() for worker in workers]
    assert all(b - a < WORKER_MEMORY for a, b in zip(before, after, strict=True)), (before, after)
    for worker, (sender, reader), count in zip(workers, ends, taken, strict=True):
        sender.shutdown(socket.SHUT_WR)
        assert read_all(reader) == filling(count)
        reader.close()
        sender.close()
        await_idle(worker)
        assert worker.closed() == {"finished": 1}


def test_what_cannot_be_passed_on_does_not_wake_the_worker(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Neither does it get lost: it comes when the reader reads on."""
    endpoint = open_endpoint("v4")
    worker = start_worker(endpoint)
    link = worker.link(endpoint, "v4")
    link.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)

    before, sent = passed_on(worker), 0
    while passed_on(worker) - before == sent:
        link.client.sendall(bytes(64 << 10))
        sent += 64 << 10
        await_rest(worker, before + sent)

    pieces = 500
    link.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    switches = context_switches(worker.live.pid)
    for _ in range(pieces):
        link.client.sendall(b"y" * 100)
        time.sleep(0.0005)
    assert context_switches(worker.live.pid) - switches < pieces / 4
    link.client.shutdown(socket.SHUT_WR)
    assert read_all(link.server) == bytes(sent) + b"y" * 100 * pieces


def passed_on(worker: RelayWorker) -> int:
    """Bytes from clients."""
    return int(Counters([worker.live]).slot(1).bytes_in)


def has_passed_on(worker: RelayWorker, count: int) -> bool:
    return passed_on(worker) == count


def await_rest(worker: RelayWorker, count: int) -> None:
    """Until `count` bytes have been passed on, or no more are: the reader's side is full."""
    seen = -1
    while seen != passed_on(worker):
        seen = passed_on(worker)
        with suppress(AssertionError):
            wait_for(partial(has_passed_on, worker, count), "all to be passed on", QUIET)


def context_switches(pid: int) -> int:
    """How often it has gone to sleep of itself (proc(5): voluntary_ctxt_switches)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_a_sender_that_resets_in_the_middle_of_bulk_has_gone(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Its reset comes while a turn's budget is used up, and only then is the reader's side full:
    nothing more ever comes from either, and it must not be waited for. Several, of which each has
    room for another part of it."""
    endpoint = open_endpoint("v4")
    worker = start_worker(endpoint)
    most, count = largest("tcp_wmem"), 6
    links = [worker.link(endpoint, "v4") for _ in range(count)]
    for number, link in enumerate(links, start=1):
        link.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        send_through(link, 32 << 20)  # the kernel has learned by then to buffer much for the worker
        before, size = passed_on(worker), most * number // (2 * count)
        link.client.sendall(bytes(size))
        await_rest(worker, before + size)
    with suspended(worker):
        for link in links:
            link.client.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    link.client.send(bytes(1 << 16))
            will_reset(link.client)
            link.client.close()
    await_idle(worker)
    assert worker.closed() == {"client_reset": count}


def send_through(link: Link, size: int) -> None:
    def read() -> None:
        left = size
        while left:
            left -= len(link.server.recv(min(left, 1 << 20)))

    reader = threading.Thread(target=read)
    reader.start()
    link.client.sendall(bytes(size))
    reader.join()


@contextmanager
def suspended(worker: RelayWorker) -> Iterator[None]:
    os.kill(worker.live.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.live.pid, signal.SIGCONT)
