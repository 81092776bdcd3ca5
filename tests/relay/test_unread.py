"""What connections pin whose peer does not read: little at first, and no more than the limits."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import pytest

from tests.relay.cases import BLOCK, fill, filling
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import Flow, Link, RelayWorker, assert_reset, await_idle, transfer
from tests.support import patient, read_all, wait_for

KIB, MIB = 1 << 10, 1 << 20
SMALL = 64 * KIB  # of the peers' buffers
QUIET = patient(0.3)  # s
BRIEFLY = 0.3  # s; where the time without a byte counts, and how full it is does not matter
PAUSE = 2.5  # s: several looks of the worker
SETTLED = 1.6  # s: three of them
MAX_TAKEN = 768 * KIB  # bytes that the ends take and what is between them, together
SO_MEMINFO = 55


def small_link(worker: RelayWorker, endpoint: socket.socket, sender: str) -> Link:
    """Ends that hold next to nothing themselves."""
    link = worker.link(endpoint)
    writes, reads = ends(link, sender)
    writes.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    reads.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    return link


def ends(link: Link, sender: str) -> tuple[socket.socket, socket.socket]:
    return (link.client, link.server) if sender == "client" else (link.server, link.client)


def limit(worker: RelayWorker, per_source: int = 0, total: int = 0) -> None:
    worker.buffers = (16 * KIB, 16 * KIB, MIB, per_source, total, 0)


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_peer_that_never_reads_is_given_little(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, sender: str
) -> None:
    """Neither the worker's buffers nor a pipe fill up for it; and once it reads all of it comes."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = small_link(worker, endpoint, sender)
    writes, reads = ends(link, sender)
    (taken,) = fill([writes], QUIET)
    assert taken < MAX_TAKEN
    assert worker.live.pipes <= 1  # one is kept for whoever needs it next
    writes.shutdown(socket.SHUT_WR)
    assert read_all(reads) == filling(taken)
    link.close()
    await_idle(worker)
    assert worker.closed() == {"finished": 1}


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_peer_that_has_read_gets_all_the_kernel_gives(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, sender: str
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    writes, reads = ends(link, sender)
    transfer(Flow(writes, reads, BLOCK * 8))
    writes.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    (taken,) = fill([writes], QUIET)
    assert taken > MIB
    writes.shutdown(socket.SHUT_WR)
    assert len(read_all(reads)) == taken


def test_the_bound_outlives_the_worker(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = small_link(worker, endpoint, "server")
    (taken,) = fill([link.server], QUIET)
    worker.kill()
    (more,) = fill([link.server], QUIET)
    assert taken + more < MAX_TAKEN
    link.server.shutdown(socket.SHUT_WR)
    got = read_all(link.client)
    assert len(got) == taken + more
    assert got == filling(taken) + filling(more)


def stalled(worker: RelayWorker, endpoint: socket.socket, count: int) -> list[Link]:
    links = [small_link(worker, endpoint, "server") for _ in range(count)]
    fill([link.server for link in links], QUIET)
    return links


@pytest.mark.parametrize("which", ["per_source", "total"])
def test_what_is_too_much_is_reset(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, which: str
) -> None:
    """Of ten that do not read some stay, those that read are not touched, and the reason is
    counted and told."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    healthy = worker.link(endpoint)
    limit(worker)
    links = stalled(worker, endpoint, 10)
    enough = all_pinned(worker) // 6  # the memory of one or two: they may stay for ever
    limit(worker, **{which: enough})
    wait_for(lambda: worker.closed().get("unread", 0), "one to be reset")
    wait_for(lambda: worker.pinned() <= 4 * enough, "those to be reset that are at once")
    limit(worker, **{which: 1 << 40})  # the next one would go some seconds later
    ended = worker.closed()["unread"]
    assert 1 <= ended < 10
    assert worker.live.connections == 11 - ended
    assert worker.await_unread(ended) == (ended if which == "per_source" else 0)
    gone = [link for link in links if is_reset(link.client)]
    assert len(gone) == ended
    for link in gone:
        assert_reset(link.server)
    transfer(
        Flow(healthy.client, healthy.server, BLOCK), Flow(healthy.server, healthy.client, BLOCK)
    )


def all_pinned(worker: RelayWorker) -> int:
    """Bytes, once all connections that have stalled are counted: the sum does not grow any more."""
    found, since = 0, 0.0

    def has_settled() -> bool:
        nonlocal found, since
        now, before = time.monotonic(), found
        found = worker.pinned()
        if found != before or not found:
            since = now
        return now - since > SETTLED

    wait_for(has_settled, "all to be counted")
    return found


def is_reset(client: socket.socket) -> bool:
    """Of a client that has not read anything: its socket's error."""
    state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state == b"\7"  # TCP_CLOSE


@pytest.mark.parametrize("which", ["per_source", "total"])
def test_a_pause_is_no_end(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, which: str
) -> None:
    """A program that has read a good deal stops for some seconds, as those do that collect garbage
    or write to a disk. It is above the limit, but not far."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    healthy = worker.link(endpoint)
    link = proven(worker, endpoint)
    fill([link.server], BRIEFLY)
    wait_for(worker.pinned, "it to be counted")
    limit(worker, **{which: worker.pinned() * 3 // 4})
    until = time.monotonic() + PAUSE
    while time.monotonic() < until:
        transfer(Flow(healthy.server, healthy.client, BLOCK))
    assert worker.closed() == {}
    link.server.shutdown(socket.SHUT_WR)
    assert read_all(link.client)
    link.close()
    wait_for(worker.closed, "its end")
    assert worker.closed() == {"finished": 1}


def test_without_limits_nobody_is_reset(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    limit(worker)
    links = stalled(worker, endpoint, 5)
    wait_for(lambda: worker.pinned() > 0, "them to be seen")
    assert worker.live.connections == 5
    for link in links:
        link.server.shutdown(socket.SHUT_WR)
        assert read_all(link.client)


def test_a_slow_reader_is_not_stalled(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """It reads a little, again and again, and is not touched whatever the limit."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    limit(worker, per_source=64 * KIB, total=64 * KIB)
    link = small_link(worker, endpoint, "server")
    data = BLOCK * 4
    link.server.setblocking(False)
    sent = got = 0
    while got < len(data):
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += link.server.send(data[sent:])
        got += len(link.client.recv(16 * KIB))
    assert worker.closed() == {}


def proven(worker: RelayWorker, endpoint: socket.socket) -> Link:
    """One whose client has read enough to be given all there is."""
    link = small_link(worker, endpoint, "server")
    transfer(Flow(link.server, link.client, BLOCK * 8))
    return link


def test_a_reader_that_takes_a_little_now_and_then_does_not_get_around_it(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """What it is sent would take it longer than anybody waits."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = proven(worker, endpoint)
    fill([link.server], QUIET)
    wait_for(lambda: link.client.recv(KIB) and worker.pinned(), "it to be counted")
    limit(worker, per_source=64 * KIB)
    wait_for(lambda: is_reset(link.client) or not link.client.recv(KIB), "it to be reset")
    assert worker.closed() == {"unread": 1}


# --- pipes ------------------------------------------------------------------------------------


def test_the_more_pipes_there_are_the_smaller_they_get(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Together they have about what they may, also those that are filled and stay so, and every
    byte arrives."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    worker.buffers = (16 * KIB, 16 * KIB, MIB, 0, 0, 2 * MIB)
    links = [proven(worker, endpoint) for _ in range(12)]
    taken = fill([link.server for link in links], QUIET)
    wait_for(lambda: worker.live.pipes >= len(links), "each to have one")
    wait_for(lambda: worker.live.pipe_bytes <= 6 * MIB, "them to be smaller")
    for link, length in zip(links, taken, strict=True):
        link.server.shutdown(socket.SHUT_WR)
        assert read_all(link.client) == filling(length)
    assert worker.live.counters()["pipe_fallbacks"] == 0


def test_another_size_of_pipes_is_used_at_once(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Though the routes are the same, so that there is no new generation of them."""
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    worker.buffers = (16 * KIB, 16 * KIB, 128 * KIB, 0, 0, 0)
    link = proven(worker, endpoint)
    fill([link.server], QUIET)
    wait_for(lambda: worker.live.pipes, "a pipe")
    assert worker.live.pipe_bytes == worker.live.pipes * 128 * KIB
