"""Where a connection goes: the exact split, turns of endpoints, and those that don't answer."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

import pytest

from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Destination,
    Family,
    Flow,
    RelayWorker,
    address_of,
    await_idle,
    ends_by_reset,
    reset,
    transfer,
)
from tests.support import DEADLINE, patient, wait_for


def _visits(endpoints: Sequence[socket.socket], total: int) -> list[int]:
    """Takes `total` connections from the listen queues; returns how many came to each. Fails
    if there are more."""
    counts = [0] * len(endpoints)
    while sum(counts) < total:
        ready = select.select(endpoints, [], [], DEADLINE)[0]
        assert ready, f"only {counts} of {total} connections came"
        for endpoint in ready:
            endpoint.accept()[0].close()
            counts[endpoints.index(endpoint)] += 1
    assert not select.select(endpoints, [], [], 0)[0]
    return counts


def _open_one(worker: RelayWorker) -> None:
    before = worker.route().opened
    worker.connect().close()
    wait_for(lambda: worker.route().opened > before, "the connection to be taken")


def _open_until(worker: RelayWorker, total: int) -> None:
    """Connections one after the other, until there have been `total`."""
    while worker.route().opened < total:
        _open_one(worker)


@pytest.fixture
def full(open_endpoint: OpenEndpoint) -> Iterator[socket.socket]:
    """A TCP listener whose queue is full: it does not answer a connect."""
    endpoint = open_endpoint("v4", backlog=0)
    with ExitStack() as stack:
        while True:
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(endpoint.getsockname()) == errno.EINPROGRESS
            if not select.select([], [filler], [], patient(0.2))[1]:
                break
        yield endpoint


# --- which one --------------------------------------------------------------------------------


def test_64_destinations_split_exactly(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Any run of as many connections as the weights sum up to meets each weight exactly."""
    weights = [number % 4 for number in range(64)]
    endpoints = [open_endpoint() for _ in weights]
    worker = start_worker(
        destinations=[
            Destination((address_of(endpoint),), weight)
            for endpoint, weight in zip(endpoints, weights, strict=True)
        ]
    )
    for cycle in range(1, 3):
        _open_until(worker, cycle * sum(weights))
        assert _visits(endpoints, sum(weights)) == weights
        assert [worker.destination(number).opened for number in range(64)] == [
            weight * cycle for weight in weights
        ]
        assert worker.route().opened == cycle * sum(weights)


def test_endpoints_take_turns(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    endpoints = [open_endpoint(family) for family in FAMILIES]
    worker = start_worker(*endpoints)
    for turn in range(9):
        _open_one(worker)
        assert _visits(endpoints, 1) == [int(turn % 3 == place) for place in range(3)]
    assert [worker.endpoint(place).opened for place in range(3)] == [3, 3, 3]


def test_weight_zero_gets_nothing(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    old, new = open_endpoint(), open_endpoint()
    worker = start_worker(
        destinations=[Destination((address_of(old),), 0), Destination((address_of(new),), 7)]
    )
    _open_until(worker, 20)
    assert _visits([old, new], 20) == [0, 20]


@pytest.mark.parametrize("destination", [Destination(()), Destination((), weight=0)])
def test_nowhere_to_go(start_worker: StartWorker, destination: Destination) -> None:
    """No endpoint, or no weight at all: the client is reset at once."""
    worker = start_worker(destinations=[destination])
    for family in FAMILIES:
        worker.assert_turns_away(family)
    await_idle(worker)
    assert worker.closed() == {"no_endpoint": 3}


# --- those that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("client", FAMILIES)
@pytest.mark.parametrize("server", FAMILIES)
def test_refusal_resets_the_client(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, client: Family, server: Family
) -> None:
    worker = start_worker(open_endpoint(server, backlog=None))
    worker.assert_turns_away(client)
    await_idle(worker)
    for slot in range(worker.slots):
        assert worker.closed(slot) == {"connect_failed": 1}
    for counters in (worker.destination(), worker.endpoint()):
        assert (counters.connect_failures, counters.connect_timeouts) == (1, 0)


@pytest.mark.parametrize("server", FAMILIES)
def test_a_refusing_endpoint_is_passed_over(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, server: Family
) -> None:
    """Its sibling serves every connection. The failure is on its account alone, and for a second
    nobody tries it again."""
    refusing, serving = open_endpoint(server, backlog=None), open_endpoint(server)
    worker = start_worker(refusing, serving)
    begin = time.monotonic()
    for _ in range(4):
        link = worker.link(serving)
        transfer(
            Flow(link.client, link.server, b"question", shut=True),
            Flow(link.server, link.client, b"answer", shut=True),
        )
    await_idle(worker)
    assert worker.closed() == {"finished": 4}
    lasted = time.monotonic() - begin
    tries = 1 if lasted < 1 else worker.destination().connect_failures
    assert worker.destination().connect_failures == worker.destination().retries == tries
    assert (worker.endpoint(0).opened, worker.endpoint(0).connect_failures) == (tries, tries)
    assert (worker.endpoint(1).opened, worker.endpoint(1).connect_failures) == (4, 0)


def test_what_the_client_sends_waits_for_an_endpoint(
    start_worker: StartWorker, full: socket.socket, open_endpoint: OpenEndpoint
) -> None:
    """The first endpoint times out; the second gets all, a half-close included."""
    serving = open_endpoint()
    worker = start_worker(full, serving, connect_timeout=300)
    client = worker.connect()
    client.sendall(b"early")
    client.shutdown(socket.SHUT_WR)
    server = worker.own(serving.accept()[0])
    assert server.recv(100) == b"early"
    assert server.recv(100) == b""
    server.sendall(b"answer")
    server.close()
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""
    assert (worker.endpoint(0).connect_failures, worker.endpoint(0).connect_timeouts) == (1, 1)
    assert worker.closed(2) == {"connect_timeout": 1}
    await_idle(worker)
    assert worker.closed() == {"finished": 1}


def test_connect_timeout(start_worker: StartWorker, full: socket.socket) -> None:
    worker = start_worker(full, connect_timeout=200)
    client = worker.connect()
    assert ends_by_reset(client)
    await_idle(worker)
    for slot in range(worker.slots):
        assert worker.closed(slot) == {"connect_timeout": 1}
    assert worker.destination().connect_timeouts == worker.destination().connect_failures == 1


def test_a_reset_behind_a_fin_while_connecting_is_passed_on(
    start_worker: StartWorker, full: socket.socket
) -> None:
    """After the FIN was read no call returns its error: the endpoint gets the bytes, then RST."""
    worker = start_worker(full, connect_timeout=60000)
    client = worker.connect()
    wait_for(lambda: worker.route().opened == 1, "the connection to be taken")
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    reset(client)
    server = None
    full.settimeout(DEADLINE)
    while server is None:  # those that fill the queue come first, and say nothing
        found = worker.own(full.accept()[0])
        found.settimeout(patient(0.5))
        with suppress(TimeoutError):
            server = found if found.recv(8, socket.MSG_PEEK) == b"question" else None
    server.settimeout(DEADLINE)
    assert server.recv(100) == b"question"
    assert ends_by_reset(server)
    await_idle(worker)
    assert worker.closed() == {"client_reset": 1}


def test_a_client_that_leaves_while_connecting(
    start_worker: StartWorker, full: socket.socket
) -> None:
    worker = start_worker(full, connect_timeout=300)
    client = worker.connect()
    wait_for(lambda: worker.route().opened == 1, "the connection to be taken")
    client.close()
    await_idle(worker)
    assert worker.closed() == {"connect_timeout": 1}
