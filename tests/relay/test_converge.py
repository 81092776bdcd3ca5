"""Connections that a worker is told to close in a quiet moment: it does so then, and only then."""

from __future__ import annotations

import socket
from errno import EPIPE
from typing import TYPE_CHECKING

import pytest

from tcpmux.shm._connections import Relaying
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Family,
    Link,
    RelayWorker,
    assert_reset,
    await_idle,
    ends_by_reset,
)
from tests.support import wait_for

if TYPE_CHECKING:
    from tcpmux.shm._connections import RelayingRow


def rows(worker: RelayWorker, quiet: int = 0) -> list[RelayingRow]:
    found = Relaying([worker.live], {0: (quiet, False, worker.rules.converge_protocol, False)})
    for _ in found.steps():
        pass
    assert sum(found.counts[0].values()) >= len(found.rows[0])
    return found.rows[0]


def the_one(worker: RelayWorker) -> RelayingRow:
    (row,) = rows(worker)
    return row


def say(sender: socket.socket, receiver: socket.socket, text: bytes) -> None:
    sender.sendall(text)
    assert receiver.recv(100) == text


def answered(worker: RelayWorker, endpoint: socket.socket, family: Family = "v4") -> Link:
    """Its client has asked and got the answer."""
    link = worker.link(endpoint, family)
    say(link.client, link.server, b"question")
    say(link.server, link.client, b"answer")
    wait_for(lambda: the_one(worker)[8], "the record to say who spoke last")
    return link


def order(worker: RelayWorker, quiet: int = 0, late: bool = False, age: int = 0) -> None:
    row = the_one(worker)
    worker.converge(row[1], row[2], quiet, late, age)


def converge(worker: RelayWorker) -> None:
    """Again until the last acknowledgement has come."""

    def is_closed() -> bool:
        if rows(worker):
            order(worker)
        return not rows(worker)

    wait_for(is_closed, "the connection to be closed")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_that_is_answered_ends_by_fin_on_both_sides(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, family: Family
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint, family)
    converge(worker)
    assert not ends_by_reset(link.client)
    assert not ends_by_reset(link.server)
    await_idle(worker)
    assert worker.closed() == {"converged": 1}


def test_what_a_client_sends_after_that_is_answered_by_a_reset(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    converge(worker)
    link.client.sendall(b"crosses")
    assert not ends_by_reset(link.server)  # and gets none of it
    error = link.client.getsockopt
    wait_for(lambda: error(socket.SOL_SOCKET, socket.SO_ERROR) == EPIPE, "the client's reset")


@pytest.mark.parametrize("disturbance", ["none", "kill"])
def test_a_client_that_waits_for_an_answer_is_never_closed(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, disturbance: str
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    say(link.client, link.server, b"another question")
    if disturbance == "kill":
        worker.kill()
    for _ in range(20):
        order(worker)
    assert not the_one(worker)[8]
    say(link.server, link.client, b"another answer")
    converge(worker)
    assert worker.closed() == {"converged": 1}


def test_one_whose_endpoint_has_said_nothing_stays(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    wait_for(lambda: len(rows(worker)) == 1, "it to be relayed")
    order(worker)
    say(link.client, link.server, b"still there")


def test_neither_an_old_order_nor_one_for_another_generation_is_obeyed(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    row = the_one(worker)
    for late in (False, True):
        order(worker, late=late, age=1100)
        worker.converge(row[1], row[2] + 1, late=late)
        worker.converge(1 << 31, row[2], late=late)
    order(worker, quiet=3_600_000)
    assert rows(worker, 3_600_000) == []
    say(link.client, link.server, b"still there")


def test_the_end_of_a_half_keeps_the_other(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    link.client.shutdown(socket.SHUT_WR)
    assert link.server.recv(1) == b""
    order(worker)
    say(link.server, link.client, b"the rest")


def test_after_a_kill_who_spoke_last_is_known(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    worker.kill()
    assert the_one(worker)[8]
    converge(worker)
    assert not ends_by_reset(link.client)


def test_late_ones_are_reset(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = answered(worker, endpoint)
    say(link.client, link.server, b"another question")
    order(worker, late=True)
    assert_reset(link.client)
    assert_reset(link.server)
    await_idle(worker)
    assert worker.closed() == {"converged_late": 1}
