"""A worker dies, in whatever way and at whatever moment: its next incarnation goes on with every
connection, and no byte is lost, doubled or moved."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import pytest

from tcpmux.master._watch import process_cpu_us
from tcpmux.shm._declared import fields_of
from tcpmux.worker import process
from tcpmux.worker.messages import RENEWED
from tests.relay.cases import drive_into_splice
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Family,
    Flow,
    Link,
    RelayWorker,
    assert_reset,
    await_idle,
    reset,
    transfer,
)
from tests.support import DEADLINE, patient, wait_for

# Machine code that jumps to itself.
ENDLESS_LOOPS = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14"}

FAULTS = {"x86_64": b"\x0f\x0b", "aarch64": b"\x00\x00\x00\x00"}  # ud2, udf #0: SIGILL

MAX_LOOP_US = 10_000_000  # of CPU time: by then a guardian that had any has noticed

BLOCK = bytes(n * 7 % 251 for n in range(1 << 16))

families = pytest.mark.parametrize(
    ("client", "server"), [(client, server) for client in FAMILIES for server in FAMILIES]
)


def spoil(worker: RelayWorker, call: str, codes: dict[str, bytes]) -> None:
    """Has a function of the C library do something else, in this incarnation of the worker: the
    guardian's copy stays whole, and the next incarnation begins with that."""
    with open(f"/proc/{worker.live.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(ctypes.cast(getattr(ctypes.CDLL(None), call), ctypes.c_void_p).value or 0)
        memory.write(codes[platform.machine()])


def descriptors(worker: RelayWorker) -> int:
    return len(os.listdir(f"/proc/{worker.live.pid}/fd"))


@families
def test_an_idle_connection_goes_on(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, client: Family, server: Family
) -> None:
    endpoint = open_endpoint(server)
    worker = start_worker(endpoint)
    link = worker.link(endpoint, client)
    for incarnation in range(2, 5):
        transfer(Flow(link.client, link.server, b"question"))
        worker.kill()
        assert worker.live.starts == incarnation
        transfer(Flow(link.server, link.client, b"answer"))
    assert worker.live.counters()["recovered"] == 3
    transfer(
        Flow(link.client, link.server, b"the end", shut=True),
        Flow(link.server, link.client, BLOCK, shut=True),
    )
    await_idle(worker)
    assert worker.closed() == {"finished": 1}
    counters = worker.destination()
    assert counters.bytes_in == 3 * len(b"question") + len(b"the end")
    assert counters.bytes_out == 3 * len(b"answer") + len(BLOCK)


@families
@pytest.mark.parametrize("pipes", [0, 64], ids=["without pipes", "with pipes"])
def test_killed_in_the_middle_of_everything(
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    client: Family,
    server: Family,
    pipes: int,
) -> None:
    """Kills at random moments, under bulk (splice) and small packets (copy) both ways."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    endpoint = open_endpoint(server)
    worker = start_worker(endpoint, pipes=pipes)
    links = [worker.link(endpoint, client) for _ in range(4)]
    flows = [
        Flow(source, sink, BLOCK * 48, shut=True, piece=piece)
        for link, piece in zip(links, (1 << 18, 1 << 18, 700, 9000), strict=True)
        for source, sink in ((link.client, link.server), (link.server, link.client))
    ]
    for flow in flows:
        flow.sender.setblocking(False)
        flow.data = flow.data[: max(1 << 14, len(flow.data) * flow.piece >> 18)]
    for incarnation in range(2, 22):
        deadline = time.monotonic() + chance.uniform(0, 0.02)
        while time.monotonic() < deadline:
            for flow in flows:
                flow.step()
        worker.kill()
        assert worker.live.starts == incarnation
    transfer(*flows)
    await_idle(worker)
    assert worker.closed() == {"finished": 4}
    counters = worker.destination()
    assert counters.opened == 4
    assert worker.live.counters()["abandoned"] == 0


def test_the_queue_and_connects_under_way_are_served(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Clients that wait in the queue, or whose endpoint has not answered yet."""
    slow = open_endpoint("v4", 0)
    fillers = []
    for _ in range(2):  # a full queue leaves further connects without an answer
        filler = socket.socket()
        filler.setblocking(False)
        with suppress(BlockingIOError):
            filler.connect(slow.getsockname())
        fillers.append(filler)
    worker = start_worker(slow, connect_timeout=20000)
    clients = [worker.connect() for _ in range(3)]
    wait_for(lambda: worker.live.connections == 3, "the connects")
    worker.kill()
    worker.send_signal(signal.SIGSTOP)
    clients += [worker.connect() for _ in range(3)]
    worker.kill()
    for client in clients:
        client.sendall(b"x")
    for filler in fillers:
        filler.close()
    served = 0
    while served < len(clients):
        server = worker.own(slow.accept()[0])
        server.settimeout(DEADLINE)
        with suppress(ConnectionError):
            served += server.recv(1) == b"x"


def test_half_closed_connections_stay_so(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    links = [worker.link(endpoint) for _ in range(2)]
    transfer(Flow(links[0].client, links[0].server, b"question", shut=True))
    transfer(Flow(links[1].server, links[1].client, b"banner", shut=True))
    worker.kill()
    transfer(Flow(links[0].server, links[0].client, BLOCK, shut=True))
    transfer(Flow(links[1].client, links[1].server, BLOCK, shut=True))
    await_idle(worker)
    assert worker.closed() == {"finished": 2}


def test_what_happened_while_nobody_was_there(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """FIN, RST and bytes that arrive between two incarnations are passed on by the second."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    ended, was_reset, spoke = links = [worker.link(endpoint) for _ in range(3)]
    for link in links:
        transfer(Flow(link.client, link.server, b"question"))
    worker.send_signal(signal.SIGSTOP)
    ended.client.shutdown(socket.SHUT_WR)
    reset(was_reset.client)
    spoke.server.sendall(b"answer")
    worker.kill()
    assert ended.server.recv(1) == b""
    assert_reset(was_reset.server)
    assert spoke.client.recv(100) == b"answer"


def test_a_reader_that_waits_gets_what_was_queued(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Bytes in the pipe and in both socket buffers outlive the worker."""
    endpoint = open_endpoint("v4", 1024, 4096)
    worker = start_worker(endpoint, receive_buffer=4096)
    link = worker.link(endpoint)
    flow = Flow(link.client, link.server, BLOCK * 100, shut=True)
    link.client.setblocking(False)
    while flow.sent < len(flow.data):
        before = flow.sent
        flow.step_sender()
        if flow.sent == before:
            break
    for _ in range(5):
        worker.kill()
    transfer(flow)


def test_descriptors_do_not_leak(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    """What nobody owns after a death (idle pipes, the old epoll) is closed."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    worker.kill()
    before = descriptors(worker)
    links = [worker.link(endpoint) for _ in range(5)]
    for link in links:
        transfer(Flow(link.client, link.server, BLOCK * 20))
    for _ in range(3):
        worker.kill()
    assert descriptors(worker) <= before + 4 * len(links)
    for link in links:
        link.close()
    await_idle(worker)
    worker.kill()
    assert descriptors(worker) == before


# --- records that can't be true, or that kill -------------------------------------------------

# Of a record (csrc/live.h): which half of it, the offset there, and the format.
Place = tuple[str, int, str]


def place(name: str, layout: str, further: int = 0) -> Place:
    for half in ("tm_conn", "tm_cold"):
        if name in fields_of(half):
            return half, fields_of(half)[name][0] + further, layout
    raise KeyError(name)


STATE = place("state", "=B")
CLIENT_FD, ENDPOINT_FD = place("fd", "=i"), place("fd", "=i", 4)
ROUTE_SLOT, CLIENT_PORT = place("route_slot", "=I"), place("client", "=H", 2)


FLOOD = (
    "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.setblocking(True)\n"
    "while True: s.sendall(bytes(1 << 20))"
)
DRAIN = (
    "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.setblocking(True)\n"
    "while s.recv(1 << 20): pass"
)


def where_is(worker: RelayWorker, index: int, field: Place) -> int:
    live, (half, offset, _) = worker.live, field
    return offset + (live.record_offset if half == "tm_conn" else live.cold_offset)(index)


def read_field(worker: RelayWorker, index: int, field: Place) -> int:
    layout = field[2]
    found = os.pread(worker.live.fd, struct.calcsize(layout), where_is(worker, index, field))
    return int(struct.unpack(layout, found)[0])


def record_of(worker: RelayWorker, link: Link) -> int:
    """Index of the record of a connection."""
    port = link.client.getsockname()[1]
    for index in range(worker.live.records_used):
        if read_field(worker, index, CLIENT_PORT) == port:
            return index
    raise AssertionError("no record of that connection")


def write_field(worker: RelayWorker, index: int, field: Place, value: int) -> None:
    os.pwrite(worker.live.fd, struct.pack(field[2], value), where_is(worker, index, field))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(STATE, 99, id="state"),
        pytest.param(ROUTE_SLOT, 1 << 30, id="slot"),
        pytest.param(CLIENT_FD, 5000, id="not open"),
        pytest.param(CLIENT_FD, 1 << 30, id="out of bounds"),
        pytest.param(ENDPOINT_FD, -1, id="missing"),
        pytest.param(ENDPOINT_FD, 2, id="not its own"),
    ],
)
def test_a_corrupt_record_is_given_up_alone(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, field: Place, value: int
) -> None:
    """Its peers are reset; the other connections go on."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    links = [worker.link(endpoint) for _ in range(5)]
    for link in links:
        transfer(Flow(link.client, link.server, b"question"))
    worker.send_signal(signal.SIGSTOP)
    write_field(worker, record_of(worker, links[2]), field, value)
    worker.kill()
    assert worker.live.counters()["abandoned"] == 1
    assert_reset(links[2].client)
    assert_reset(links[2].server)
    for link in links[:2] + links[3:]:
        transfer(Flow(link.client, link.server, b"question"))
        link.close()
    await_idle(worker)
    assert worker.closed() == {"finished": 4, "worker_lost": 1}


def test_a_connection_that_kills_twice_is_reset_alone(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """SIGSEGV while the worker is busy with one connection, again and again."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    idle = [worker.link(endpoint) for _ in range(4)]
    busy = worker.link(endpoint)
    # Processes of their own, so that the worker never has to wait for them.
    with ExitStack() as stack:
        for code, sock in ((FLOOD, busy.client), (DRAIN, busy.server)):
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(sock.fileno())],
                pass_fds=[sock.fileno()],
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_for(lambda: worker.destination().bytes_in > 1 << 24, "the flood")
        for _ in range(200):  # on a busy machine it may be at rest whenever it dies
            worker.kill(signal.SIGSEGV)
            if worker.live.counters()["abandoned"]:
                break
    assert worker.live.counters()["abandoned"] == 1
    for link in idle:
        transfer(Flow(link.client, link.server, b"question"))
    assert worker.closed() == {"worker_lost": 1}


def test_a_hanging_worker_is_killed_and_taken_up(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Stopped for longer than the guardian's patience."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: worker.live.presence == 2, "the guardian to notice")
    transfer(Flow(link.client, link.server, b"question"))
    assert worker.live.starts == 2


@pytest.mark.skipif(platform.machine() not in ENDLESS_LOOPS, reason="no loop for this machine")
def test_a_worker_that_goes_round_in_circles_is_killed_and_taken_up(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """In the middle of one event, taking nothing but CPU time."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    transfer(Flow(link.client, link.server, b"question"))
    spoil(worker, "recv", ENDLESS_LOOPS)
    link.client.sendall(b"question")
    wait_for(lambda: worker.live.presence == 3, "the guardian to notice")
    # It is killed after 2 s of CPU time, for which it may have to wait.
    looping = worker.live.pid
    wait_for(
        lambda: worker.live.starts == 2 or process_cpu_us(looping, 0) > MAX_LOOP_US,
        "the next incarnation",
        patient(300),
    )
    assert worker.live.starts == 2
    worker.await_incarnation(2)
    assert link.server.recv(100) == b"question"
    transfer(Flow(link.server, link.client, b"answer"))


@pytest.mark.skipif(platform.machine() not in FAULTS, reason="no fault for this machine")
@pytest.mark.parametrize("call", ["accept4", "recvmsg"])
def test_a_fault_that_is_no_connections_resets_none(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, call: str
) -> None:
    """Three incarnations end while they accept, or read what the master says: in the same
    iteration as an event of a connection, which has nothing to do with it."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    waiting = []
    for incarnation in range(2, 5):
        transfer(Flow(link.client, link.server, b"question"))
        spoil(worker, call, FAULTS)
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: worker.live.presence == 2, "the stop")
        link.client.sendall(b"first")
        if call == "accept4":
            waiting.append(worker.connect())
        else:
            worker.ask()
        worker.send_signal(signal.SIGCONT)
        worker.await_incarnation(incarnation)
        assert link.server.recv(5) == b"first"
    assert worker.live.counters()["abandoned"] == 0
    for client in waiting:
        server = worker.own(endpoint.accept()[0])
        transfer(Flow(client, server, b"question"))
    transfer(Flow(link.client, link.server, b"question"), Flow(link.server, link.client, BLOCK))


@pytest.mark.skipif(platform.machine() not in ENDLESS_LOOPS, reason="no loop for this machine")
def test_a_queue_that_is_served_to_its_end_keeps_nobody_waiting(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """A listener with 300 clients in its queue is removed: those of other events have their turn
    after some of them. Seen with a worker that goes no further than the event of a connection."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    drive_into_splice(link)
    spoil(worker, "splice", ENDLESS_LOOPS)
    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: worker.live.presence == 2, "the stop")
    queued = [worker.connect("v6") for _ in range(300)]
    worker.remove_listener("v6")
    link.client.sendall(BLOCK)
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: worker.live.presence == 3, "the worker to come to the connection")
    assert 1 < worker.live.counters()["accepted"] <= 1 + 16 + 128
    worker.kill()  # sooner than its guardian does it
    for client in queued:
        client.sendall(b"x")
    for _ in queued:
        server = worker.own(endpoint.accept()[0])
        server.settimeout(DEADLINE)
        assert server.recv(1) == b"x"
    worker.await_removed("v6")


def test_each_event_of_a_turn_counts_as_progress(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """However long the turn is as a whole, which is what may take long, its guardian sees it."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    links = [worker.link(endpoint) for _ in range(50)]
    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: worker.live.presence == 2, "the stop")
    before, turns = worker.live.progress, worker.live.counters()["wakeups"]
    for link in links:
        link.client.sendall(b"x")
    worker.send_signal(signal.SIGCONT)
    for link in links:
        assert link.server.recv(1) == b"x"
    wait_for(lambda: worker.live.progress - before >= 50, "the progress")
    assert worker.live.counters()["wakeups"] - turns < 50


def test_stopped_for_a_while_is_no_harm(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: worker.live.presence == 2, "the guardian to notice")
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: worker.live.presence == 1, "the guardian to notice")
    assert worker.live.starts == 1


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_region_whose_lives_die_at_their_start_begins_anew(
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    deaths: int,
) -> None:
    """After three of them, not after two: its connections are reset, and it serves again."""
    begin, left = process._work, mmap.mmap(-1, 1)

    def stillborn(*arguments: Any) -> NoReturn:
        if left[0]:
            left[0] -= 1
            os.kill(os.getpid(), signal.SIGSEGV)
        begin(*arguments)

    monkeypatch.setattr(process, "_work", stillborn)
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    links = [worker.link(endpoint) for _ in range(3)]
    for link in links:
        transfer(Flow(link.client, link.server, b"question"))
    left[0] = deaths
    worker.kill()
    renewed = deaths == 3
    for link in links:
        if renewed:
            assert_reset(link.client)
            assert_reset(link.server)
        else:
            transfer(Flow(link.client, link.server, b"question"))
        link.close()
    assert worker.told(RENEWED) == ([3] if renewed else [])
    another = worker.link(endpoint)
    transfer(Flow(another.client, another.server, BLOCK))
    another.close()
    await_idle(worker)
    closed = worker.closed()
    assert closed.get("worker_lost", 0) == (3 if renewed else 0)
    assert sum(closed.values()) == 4
    assert worker.counted() == (0, 0, 0, 0)
