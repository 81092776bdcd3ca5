"""What the worker makes of a stream beyond the matrix: counters, pipes, urgent data, hasty
servers, and bytes that must not wait for company."""

from __future__ import annotations

import os
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from tests.relay.cases import BLOCK, fill
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Family,
    Flow,
    Link,
    RelayWorker,
    await_idle,
    ends_by_reset,
    reset,
    transfer,
)
from tests.support import DEADLINE, patient, read_all, wait_for

SMALL = bytes(range(256)) * 3
BULK = BLOCK * 128 + SMALL  # 8 MiB and an odd rest

families = pytest.mark.parametrize(
    ("client", "server"), [(client, server) for client in FAMILIES for server in FAMILIES]
)
sizes = pytest.mark.parametrize("payload", [SMALL, BULK], ids=["small", "bulk"])


class Pair:
    """A worker, its only endpoint, and links through them."""

    def __init__(self, start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
        self.start_worker = start_worker
        self.open_endpoint = open_endpoint
        self.worker: RelayWorker

    def link(self, client: Family, server: Family) -> Link:
        endpoint = self.open_endpoint(server)
        self.worker = self.start_worker(endpoint)
        return self.worker.link(endpoint, client)


@pytest.fixture
def pair(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> Pair:
    return Pair(start_worker, open_endpoint)


@families
@sizes
def test_both_ways_at_once(pair: Pair, client: Family, server: Family, payload: bytes) -> None:
    link = pair.link(client, server)
    answer = payload[::-1]
    transfer(
        Flow(link.client, link.server, payload, shut=True),
        Flow(link.server, link.client, answer, shut=True),
    )
    await_idle(pair.worker)
    assert pair.worker.closed() == {"finished": 1}
    counters = pair.worker.destination()
    assert (counters.bytes_in, counters.bytes_out) == (len(payload), len(answer))


@pytest.mark.parametrize("pipes", [0, 1])
def test_bulk_without_pipes_to_spare(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, pipes: int
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint, pipes=pipes)
    links = [worker.link(endpoint) for _ in range(2)]
    transfer(
        *(
            flow
            for link in links
            for flow in (
                Flow(link.client, link.server, BULK, shut=True),
                Flow(link.server, link.client, BULK, shut=True),
            )
        )
    )


@families
def test_many_turns(pair: Pair, client: Family, server: Family) -> None:
    """Requests and answers that wait for each other: nothing is held back for company."""
    link = pair.link(client, server)
    for turn in range(200):
        transfer(Flow(link.client, link.server, b"q" * (turn + 1)))
        transfer(Flow(link.server, link.client, b"a" * (2 * turn + 1)))


def test_reset_while_the_other_side_does_not_read(pair: Pair) -> None:
    """A receiver that has stopped reading hears of the reset all the same."""
    link = pair.link("v4", "v4")
    fill([link.client], quiet=patient(0.3))
    reset(link.client)
    await_idle(pair.worker)
    assert pair.worker.closed() == {"client_reset": 1}
    with pytest.raises(ConnectionResetError):
        read_all(link.server)


@pytest.mark.parametrize("server", FAMILIES)
def test_a_server_that_only_says_a_line(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, server: Family
) -> None:
    """It may have accepted, written and closed before the worker looks at its connect."""
    endpoint, sibling = open_endpoint(server), open_endpoint(server)
    worker = start_worker(endpoint, sibling)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(_say_and_close, endpoint, sibling, 300)
        for _ in range(300):
            with worker.connect() as client:
                assert read_all(client) == b"busy"
        served.result()
    await_idle(worker)
    assert worker.closed() == {"finished": 300}
    assert worker.destination().connect_failures == 0


def test_a_server_that_says_a_line_and_resets(pair: Pair) -> None:
    """Its line arrives even if its RST comes before the worker has looked at its connect."""
    rounds = 1500
    endpoint = pair.open_endpoint()
    worker = pair.start_worker(endpoint)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(_say_and_reset, endpoint, rounds)
        for _ in range(rounds):
            with suppress(ConnectionResetError):  # by connect itself, if the reset is that fast
                client = worker.connect()
                assert client.recv(100) == b"busy"
                assert ends_by_reset(client)
        served.result()
    await_idle(worker)
    assert worker.closed() == {"endpoint_reset": rounds}


def _say_and_reset(endpoint: socket.socket, count: int) -> None:
    for _ in range(count):
        server = endpoint.accept()[0]
        server.sendall(b"busy")
        reset(server)


def _say_and_close(endpoint: socket.socket, sibling: socket.socket, count: int) -> None:
    for _ in range(count):
        (ready, *_), _, _ = select.select([endpoint, sibling], [], [], DEADLINE)
        with ready.accept()[0] as server:
            server.sendall(b"busy")


def test_bytes_around_urgent_data_arrive(pair: Pair) -> None:
    """Urgent data has no place in a relayed stream; what surrounds it has."""
    link = pair.link("v4", "v4")
    transfer(Flow(link.client, link.server, BULK))
    link.client.send(b"!", socket.MSG_OOB)
    transfer(Flow(link.client, link.server, BULK))
    link.client.send(b"!", socket.MSG_OOB)
    transfer(
        Flow(link.client, link.server, SMALL, shut=True),
        Flow(link.server, link.client, BULK, shut=True),
    )


@pytest.mark.parametrize("amount", [1000, 100_000])
def test_what_follows_urgent_data_does_not_wait_for_more(pair: Pair, amount: int) -> None:
    """A read stops short in front of it; nothing else will come to say that there is more."""
    link = pair.link("v4", "v4")
    os.kill(pair.worker.live.pid, signal.SIGSTOP)
    link.client.sendall(b"a" * amount)
    link.client.send(b"!", socket.MSG_OOB)
    link.client.sendall(b"b" * amount)
    os.kill(pair.worker.live.pid, signal.SIGCONT)
    link.server.settimeout(DEADLINE)
    got = b""
    while len(got) < 2 * amount:
        got += link.server.recv(1 << 20)
    assert got == b"a" * amount + b"b" * amount


def test_what_follows_a_passed_descriptor_does_not_wait_for_more(pair: Pair) -> None:
    """The descriptor itself can't be passed on."""
    link = pair.link("unix", "v4")
    os.kill(pair.worker.live.pid, signal.SIGSTOP)
    link.client.sendall(b"a" * 1000)
    socket.send_fds(link.client, [b"b" * 1000], [0])
    link.client.sendall(b"c" * 1000)
    os.kill(pair.worker.live.pid, signal.SIGCONT)
    link.server.settimeout(DEADLINE)
    got = b""
    while len(got) < 3000:
        got += link.server.recv(1 << 20)
    assert got == b"a" * 1000 + b"b" * 1000 + b"c" * 1000


def test_byte_counters_move_while_the_connection_lives(pair: Pair) -> None:
    link = pair.link("v4", "v4")

    def counted(total: int) -> bool:
        counters = pair.worker.destination()
        return (counters.bytes_in, counters.bytes_out) == (total, total // 2)

    for total in (100, 200, 300):
        transfer(Flow(link.client, link.server, b"i" * 100))
        transfer(Flow(link.server, link.client, b"o" * 50))
        wait_for(partial(counted, total), "the counters to follow")
    assert pair.worker.live.connections == 1
