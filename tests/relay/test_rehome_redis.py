"""Connections of Redis whose endpoint changes: what the next one is told, and when that holds."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tcpmux.config.converge import CONVERGE_METHOD, CONVERGE_PROTOCOL
from tcpmux.shm.rules import RouteRules
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import Destination, Family, address_of, is_silent
from tests.relay.test_converge import say
from tests.relay.test_rehome import Moving, assert_over
from tests.support import receive, wait_for

REDIS = RouteRules(
    converge_protocol=[*CONVERGE_PROTOCOL].index("redis"),
    converge_method=[*CONVERGE_METHOD].index("rehome"),
)
Start = Callable[..., Moving]
PING = b"*1\r\n$4\r\nPING\r\n"
AUTH = b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"


def select(number: int) -> bytes:
    return b"*2\r\n$6\r\nSELECT\r\n$1\r\n%d\r\n" % number


def exchange(moving: Moving, request: bytes, answer: bytes) -> None:
    """At the endpoint of now."""
    server = moving.servers[moving.at]
    say(moving.client, server, request)
    say(server, moving.client, answer)
    wait_for(lambda: moving.row[8], "the record to say who spoke last")


@pytest.fixture
def start(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> Start:
    """A connection that has logged in and selected database 7."""

    def started(second: Family = "v4") -> Moving:
        endpoints = [open_endpoint("v4"), open_endpoint(second)]
        made = [Destination((address_of(each),), weight=1 - n) for n, each in enumerate(endpoints)]
        worker = start_worker(destinations=made, rules=REDIS)
        link = worker.link(endpoints[0])
        moving = Moving(worker, endpoints, link.client, {0: link.server})
        exchange(moving, AUTH + select(7), b"+OK\r\n+OK\r\n")
        return moving

    return started


def is_told(scout: socket.socket, expected: bytes) -> None:
    assert receive(scout, len(expected)) == expected
    assert is_silent(scout, 0)


def answered_bit_by_bit(moving: Moving) -> socket.socket | None:
    """A scout to which the connection has moved, after an exchange at the old endpoint meanwhile.
    None: it has been given up, as all this took more than a second."""
    scout = moving.scout(1)
    try:
        is_told(scout, AUTH + select(7) + PING)
        for byte in b"+OK\r\n+OK\r\n+PON":
            scout.sendall(bytes([byte]))
        exchange(moving, PING, b"+PONG\r\n")
        assert moving.at == 0
        scout.sendall(b"G\r\n")
    except ConnectionError:
        return None
    wait_for(lambda: moving.at == 1 or not is_silent(scout, 0), "it to move, or to stay")
    return scout if moving.at == 1 else None


@pytest.mark.parametrize("second", ["v4", "v6", "unix"])
def test_it_moves_when_all_is_answered(start: Start, second: Family) -> None:
    moving = start(second)
    scout = None
    while scout is None:
        scout = answered_bit_by_bit(moving)
    moving.servers[1] = scout
    assert moving.servers[0].recv(1) == b""
    for _ in range(2):
        exchange(moving, PING, b"+PONG\r\n")
        exchange(moving, select(3), b"+OK\r\n")
        assert is_silent(moving.client, 0)
        moving.worker.kill()
    assert moving.worker.closed(1) == {"rehomed": 1}


@pytest.mark.parametrize(
    "answer",
    [b"-WRONGPASS no\r\n", b"+OK\r\n-ERR DB index is out of range\r\n", b"HTTP/1.1 400\r\n",
     b"+OK\r\n+OK\r\n-LOADING\r\n", b"+OK\r\n+OK\r\n+PONG\r\n+PONG\r\n"],
)  # fmt: skip
def test_it_stays_where_anything_is_refused(start: Start, answer: bytes) -> None:
    moving = start()
    scout = moving.scout(1)
    is_told(scout, AUTH + select(7) + PING)
    scout.sendall(answer)
    assert_over(scout)
    for _ in range(20):
        moving.order(1)
    with pytest.raises(BlockingIOError):
        moving.endpoints[1].accept()
    exchange(moving, PING, b"+PONG\r\n")
    assert moving.at == 0


def test_what_changes_meanwhile_is_told_the_next_time(start: Start) -> None:
    moving = start()
    scout = moving.scout(1)
    is_told(scout, AUTH + select(7) + PING)
    exchange(moving, select(8), b"+OK\r\n")
    scout.sendall(b"+OK\r\n+OK\r\n+PONG\r\n")
    assert_over(scout)
    assert moving.at == 0
    scout = moving.scout(1)
    is_told(scout, AUTH + select(8) + PING)
    scout.sendall(b"+OK\r\n+OK\r\n+PONG\r\n")
    wait_for(lambda: moving.at == 1, "the connection to have moved")


@pytest.mark.parametrize("answered", [b"", b"+OK\r\n", b"+OK\r\n+OK\r\n+PONG\r\n"])
def test_a_death_on_the_way_leaves_it_at_one_of_both(start: Start, answered: bytes) -> None:
    moving = start()
    scout = moving.scout(1)
    is_told(scout, AUTH + select(7) + PING)
    scout.sendall(answered)
    moving.worker.kill()
    wait_for(lambda: moving.at in (0, 1), "it to go on")
    if moving.at == 0:
        assert_over(scout)
    moving.servers[1] = scout
    exchange(moving, PING, b"+PONG\r\n")
    assert is_silent(moving.client, 0)
