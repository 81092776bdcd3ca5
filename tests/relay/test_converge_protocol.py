"""Connections of a route with a protocol are closed between requests, and only then."""

from __future__ import annotations

import socket

import pytest

from tcpmux.config.converge import CONVERGE_PROTOCOL
from tcpmux.shm.rules import RouteRules
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import FAMILIES, Family, Link, RelayWorker, await_idle
from tests.relay.test_converge import converge, order, rows, say, the_one
from tests.relay.test_recovery import FAULTS, spoil
from tests.support import receive, wait_for

PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
START = b"\0\0\0\x11\0\3\0\0user\0me\0\0"
READY = b"Z\0\0\0\5"
WELCOME = b"R\0\0\0\x08\0\0\0\0" + READY + b"I"
QUERY = b"Q\0\0\0\x0dSELECT 1\0"


def speaking(protocol: str, goodbye: bool = False) -> RouteRules:
    return RouteRules(
        converge_protocol=[*CONVERGE_PROTOCOL].index(protocol), converge_goodbye=int(goodbye)
    )


def moment(worker: RelayWorker) -> str:
    return the_one(worker)[10]


def await_moment(worker: RelayWorker, expected: str) -> None:
    wait_for(lambda: moment(worker) == expected, f"{expected}, not {moment(worker)}")


def linked(
    start_worker: StartWorker, endpoint: socket.socket, family: Family = "v4", **rules: object
) -> tuple[RelayWorker, Link]:
    worker = start_worker(endpoint, rules=speaking(**rules))  # type: ignore[arg-type]
    return worker, worker.link(endpoint, family)


def stays(worker: RelayWorker, link: Link) -> None:
    for _ in range(20):
        order(worker)
    assert len(rows(worker)) == 1
    say(link.client, link.server, PING)  # whatever that is to the protocol


@pytest.mark.parametrize("family", FAMILIES)
def test_one_that_is_between_requests_is_closed(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, family: Family
) -> None:
    worker, link = linked(start_worker, open_endpoint(), family, protocol="redis")
    say(link.client, link.server, PING + PING)
    say(link.server, link.client, PONG)
    await_moment(worker, "busy")
    order(worker)
    say(link.server, link.client, PONG)
    await_moment(worker, "safe")
    converge(worker)
    await_idle(worker)
    assert worker.closed() == {"converged": 1}


def test_a_pipeline_that_is_answered_in_part_stays(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    worker, link = linked(start_worker, open_endpoint(), protocol="redis")
    say(link.client, link.server, PING + PING)
    say(link.server, link.client, PONG)
    await_moment(worker, "busy")
    stays(worker, link)


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        (b"MULTI\r\n", b"+OK\r\n", "transaction"),
        (b"WATCH k\r\n", b"+OK\r\n", "transaction"),
        (b"SUBSCRIBE c\r\n", b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", "subscribed"),
        (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\x00\x05hello", "unknown"),
    ],
)
def test_one_that_is_in_the_middle_of_something_stays(
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    asked: bytes,
    answered: bytes,
    expected: str,
) -> None:
    worker, link = linked(start_worker, open_endpoint(), protocol="redis")
    say(link.client, link.server, asked)
    say(link.server, link.client, answered)
    await_moment(worker, expected)
    stays(worker, link)


def kill_idle(worker: RelayWorker) -> None:
    """When it has done all there was to do: what has been passed on has been heard as well."""
    order(worker, quiet=3_600_000)
    worker.kill()


def test_what_was_heard_outlives_the_worker(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    worker, link = linked(start_worker, open_endpoint(), protocol="redis")
    say(link.client, link.server, b"*1\r\n$5\r\nMUL")
    kill_idle(worker)
    say(link.client, link.server, b"TI\r\n")
    say(link.server, link.client, b"+O")
    kill_idle(worker)
    say(link.server, link.client, b"K\r\n")
    await_moment(worker, "transaction")
    say(link.client, link.server, b"DISCARD\r\n")
    say(link.server, link.client, b"+OK\r\n")
    kill_idle(worker)
    await_moment(worker, "safe")
    converge(worker)


def test_large_answers_are_heard_too(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Others of that size are spliced."""
    worker, link = linked(start_worker, open_endpoint(), protocol="redis")
    say(link.client, link.server, PING)
    value = b"$%d\r\n" % (1 << 20) + (b"+OK\r\n" * (1 << 20))[: 1 << 20] + b"\r\n"
    for at in range(0, len(value), 1 << 16):
        part = value[at : at + (1 << 16)]
        link.server.sendall(part)
        assert receive(link.client, len(part)) == part
    await_moment(worker, "safe")
    converge(worker)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_goodbye_comes_before_the_end(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, family: Family
) -> None:
    worker, link = linked(start_worker, open_endpoint(), family, protocol="postgres", goodbye=True)
    say(link.client, link.server, START)
    say(link.server, link.client, WELCOME)
    converge(worker)
    assert link.server.recv(1) == b""
    told = b"".join(iter(lambda: link.client.recv(4096), b""))
    assert told[:1] == b"E"
    assert int.from_bytes(told[1:5], "big") + 1 == len(told)
    assert b"\0C57P01\0" in told
    await_idle(worker)
    assert worker.closed() == {"converged": 1}


def test_no_goodbye_with_a_reset(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> None:
    worker, link = linked(start_worker, open_endpoint(), protocol="postgres", goodbye=True)
    say(link.client, link.server, START)
    say(link.server, link.client, WELCOME)
    say(link.client, link.server, QUERY)
    await_moment(worker, "busy")
    order(worker, late=True)
    with pytest.raises(ConnectionResetError):
        link.client.recv(1)


def test_nobody_is_heard_without_a_protocol(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    endpoint = open_endpoint()
    worker = start_worker(endpoint)
    link = worker.link(endpoint)
    say(link.client, link.server, b"MULTI\r\n")
    say(link.server, link.client, b"+OK\r\n")
    await_moment(worker, "safe")
    converge(worker)


def test_bytes_that_only_a_recovery_passes_on_are_not_heard(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """The worker dies between reading and sending: from then on nothing is certain."""
    worker, link = linked(start_worker, open_endpoint(), protocol="redis")
    say(link.client, link.server, PING)
    say(link.server, link.client, PONG)
    await_moment(worker, "safe")
    spoil(worker, "send", FAULTS)
    say(link.client, link.server, PING)
    say(link.server, link.client, PONG)
    await_moment(worker, "unknown")
    stays(worker, link)
    order(worker, late=True)
    await_idle(worker)
    assert worker.closed() == {"converged_late": 1}
