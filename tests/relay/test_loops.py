"""Connections that come back to the worker that made them."""

from __future__ import annotations

import socket

import pytest

from tcpmux.logger.refusals import Refusal, refusal
from tcpmux.shm._readings import read_log
from tcpmux.worker.messages import LOOPED
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import FAMILIES, Destination, Family, address_of, await_idle
from tests.support import DEADLINE

EVERY = 8  # connects, of which one begins a trace: csrc/trace.h


def from_port(port: int) -> socket.socket | None:
    """A client with that port of its own; None: the kernel has not done with the one before."""
    sock = socket.socket()
    sock.settimeout(DEADLINE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return None
    return sock


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_loop_ends_after_some_steps(start_worker: StartWorker, family: Family) -> None:
    """The worker's own listener is its endpoint: one client takes some places, not all, and not for
    long."""
    worker = start_worker(loop=family)
    for count in range(1, 4):
        before = worker.route().opened
        worker.assert_turns_away(family)
        await_idle(worker)
        assert worker.route().looped == count
        assert worker.route().opened - before <= EVERY + 1
    assert FAMILIES[worker.await_told(LOOPED)] == family


def test_a_connection_in_a_loop_has_a_line_in_the_log(start_worker: StartWorker) -> None:
    worker = start_worker(loop="v4", logs=True)
    worker.assert_turns_away("v4")
    await_idle(worker)
    entries = read_log(worker.live, 1000)
    (looped,) = [entry for entry in entries if entry[0] == "refused"]
    assert refusal(looped[19]) == Refusal("looped")
    assert looped[4].startswith("127.0.0.1:")
    assert len(entries) > 1  # the steps before it, which were served


def test_a_loop_that_takes_every_second_connection_leaves_the_others_alone(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    serving = open_endpoint()
    worker = start_worker(loop="v4", destinations=[Destination((address_of(serving),))])
    for _ in range(40):
        # From the client, or after a step or two through the loop.
        link = worker.link(serving)
        link.server.sendall(b"served")
        assert link.client.recv(10) == b"served"
        link.close()
        await_idle(worker)


def test_clients_whose_ports_have_been_seen_are_served(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """A note under the port of a client, of a connection that is over, is not taken for its own."""
    serving = open_endpoint()
    worker = start_worker(serving)
    served = 0
    while served < 2 * EVERY:
        link = worker.link(serving)
        port = link.server.getpeername()[1]  # the worker's own
        link.server.close()
        assert link.client.recv(1) == b""
        link.client.close()
        await_idle(worker)
        client = from_port(port)
        if client is None:
            continue
        served += 1
        again = worker.own(client)
        again.connect(worker.listeners["v4"].getsockname())
        server = worker.own(serving.accept()[0])
        server.sendall(b"served")
        assert again.recv(10) == b"served"
        again.close()
        server.close()
        await_idle(worker)
    assert worker.route().looped == 0
