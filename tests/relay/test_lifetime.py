"""When connections and the worker itself end: idle timeout, the connection limit, signals."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Family,
    Flow,
    RelayWorker,
    assert_reset,
    await_idle,
    ends_by_reset,
    is_silent,
    transfer,
)
from tests.support import DEADLINE, read_all, wait_for

# --- idle timeout -----------------------------------------------------------------------------


@pytest.mark.parametrize("client", FAMILIES)
def test_an_idle_connection_is_closed(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, client: Family
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint, idle_timeout=300)
    started = time.monotonic()
    link = worker.link(endpoint, client)
    assert link.client.recv(1) == b""
    assert link.server.recv(1) == b""
    assert time.monotonic() - started >= 0.29
    await_idle(worker)
    assert worker.closed() == {"idle_timeout": 1}


@pytest.mark.parametrize("talker", ["client", "server"])
def test_activity_postpones_the_idle_timeout(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, talker: str
) -> None:
    """Bytes of one side are enough: the other one may only listen."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint, idle_timeout=1000)
    link = worker.link(endpoint)
    speaks, listens = link.client, link.server
    if talker == "server":
        speaks, listens = listens, speaks
    for _ in range(8):
        assert is_silent(listens, 0.25)
        transfer(Flow(speaks, listens, b"."))
    assert worker.live.connections == 1
    assert listens.recv(1) == b""
    await_idle(worker)
    assert worker.closed() == {"idle_timeout": 1}


# --- the connection limit ---------------------------------------------------------------------


def test_at_the_limit_the_next_one_waits_in_the_queue(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint, capacity=4)
    links = [worker.link(endpoint) for _ in range(4)]
    fifth = worker.connect()
    fifth.sendall(b"waiting")
    wait_for(lambda: worker.live.counters()["accept_pauses"], "the worker to notice")
    before = worker.cpu_seconds()
    assert is_silent(endpoint, 1.0)
    assert worker.cpu_seconds() - before < 0.2, "the worker spins"
    transfer(Flow(links[0].client, links[0].server, b"still served"))
    links[0].close()
    server = worker.own(endpoint.accept()[0])
    server.settimeout(DEADLINE)
    assert server.recv(100) == b"waiting"
    assert worker.live.connections == 4


def test_a_full_worker_serves_a_long_queue(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Each record is used again and again, over all three listeners."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint, capacity=2)
    clients = [worker.connect(family) for family in FAMILIES * 10]
    for client in clients:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
    for _ in clients:
        with endpoint.accept()[0] as server:
            server.settimeout(DEADLINE)
            assert read_all(server) == b"question"
            server.sendall(b"answer")
    for client in clients:
        assert read_all(client) == b"answer"
    await_idle(worker)
    assert worker.closed() == {"finished": 30}


def test_a_listener_removed_at_the_limit_is_let_go(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """A full worker serves its queue when it can, and tells the master when it is done."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint, capacity=2)
    links = [worker.link(endpoint) for _ in range(2)]
    queued = worker.connect("v6")
    wait_for(lambda: worker.live.counters()["accept_pauses"], "the worker to be full")
    worker.remove_listener("v6")
    links[0].close()
    served = worker.own(endpoint.accept()[0])
    transfer(Flow(queued, served, b"question"))
    served.close()
    queued.close()
    worker.await_removed("v6")
    transfer(Flow(links[1].client, links[1].server, b"goes on"))
    later = worker.link(endpoint, "v4")
    transfer(Flow(later.client, later.server, b"other listeners do as well"))


# --- signals ----------------------------------------------------------------------------------


def _queue(worker: RelayWorker, count: int) -> list[socket.socket]:
    """Connections the worker finds in its queues together with whatever comes before it runs
    again: it is stopped until SIGCONT."""
    worker.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{worker.live.pid}/stat")
    wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "SIGSTOP to work")
    return [worker.connect(FAMILIES[number % 3]) for number in range(count)]


def test_drain_serves_the_queue_and_open_connections(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """SIGTERM: whoever is connected or waits to be is served to the end; then it exits."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    queued = _queue(worker, 50)
    worker.drain()
    worker.send_signal(signal.SIGCONT)
    servers = [worker.own(endpoint.accept()[0]) for _ in queued]
    wait_for(lambda: worker.live.connections == 51, "all to be taken")
    for client in queued:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
    for server in servers:
        server.settimeout(DEADLINE)
        assert read_all(server) == b"question"
        server.sendall(b"answer")
        server.close()
    for client in queued:
        assert read_all(client) == b"answer"
    wait_for(lambda: worker.live.connections == 1, "the queued ones to end")
    transfer(
        Flow(link.client, link.server, b"late", shut=True),
        Flow(link.server, link.client, b"later", shut=True),
    )
    worker.await_exit()
    assert worker.closed() == {"finished": 51}


def test_drain_at_the_limit_serves_the_queue(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """A worker that is full when told to drain still owes the queue its turn."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint, capacity=1)
    link = worker.link(endpoint)
    queued = _queue(worker, 3)
    for client in queued:
        client.shutdown(socket.SHUT_WR)
    worker.drain()
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: worker.live.counters()["accept_pauses"], "the worker to be full")
    link.close()
    for _ in queued:
        endpoint.accept()[0].close()
    for client in queued:
        assert client.recv(1) == b""
    worker.await_exit()
    assert worker.closed() == {"finished": 4}


def test_drain_without_connections_ends_at_once(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    worker = start_worker(open_endpoint())
    worker.drain()
    worker.await_exit()


def test_quit_resets_what_is_open(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    links = [worker.link(endpoint, family) for family in FAMILIES]
    worker.send_signal(signal.SIGQUIT)
    worker.await_exit()
    for link in links:
        assert_reset(link.client)
        assert ends_by_reset(link.server)
    assert worker.closed() == {"shutdown": 3}


def test_traffic_survives_the_master(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """The line to the master breaks: connections go on, and new ones are taken."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    worker.orphan()
    transfer(Flow(link.client, link.server, b"open before"))
    later = worker.link(endpoint)
    transfer(Flow(later.client, later.server, b"opened after"))
    before = worker.cpu_seconds()
    assert is_silent(endpoint, 0.5)
    assert worker.cpu_seconds() - before < 0.1, "the worker spins"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_for_the_master_do_nothing(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, number: signal.Signals
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    worker.send_signal(number)
    transfer(Flow(link.client, link.server, b"question"))
