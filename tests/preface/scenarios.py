"""What a stage that waits for its client's first bytes has to outlive. Run by test_preface.py, in a
tree that has such a stage."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.conftest import StartProxy, echo_servers, one, start_proxy  # noqa: F401
from tests.integration.disturbances import (
    address,
    closed,
    connected,
    kill_workers,
    perhaps_kill,
    set_workers,
    upgrade,
)
from tests.integration.proxy import Proxy, stopped
from tests.integration.routes import route, routes
from tests.others import needs_reachable
from tests.support import DEADLINE, EchoServer, free_port, receive, wait_for, will_reset

CLIENTS = 40
WORDS = (b"word", b"CUT!")  # peeked at and passed on; taken out


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer) -> Proxy:  # noqa: F811
    return start_proxy(routes(route("r", free_port(), v1=(1, one.address))))


def states(proxy: Proxy) -> list[str]:
    return [each["state"] for each in proxy.client.connections()["connections"]]


def await_reading(proxy: Proxy, count: int) -> None:
    wait_for(lambda: states(proxy) == ["reading"] * count, f"{count} that are read from")


def finish(clients: list[socket.socket], words: list[bytes], sent: list[int]) -> None:
    """Each says the rest of its word and a line: the endpoint answers what is left of both."""
    for client, word, so_far in zip(clients, words, sent, strict=True):
        client.sendall(word[so_far:] + b" hello\n")
    for client, word in zip(clients, words, strict=True):
        left = b"" if word == b"CUT!" else word
        expected = b"one " + left + b" hello\n"
        assert receive(client, len(expected)) == expected, word


def in_the_midst(proxy: Proxy, disturb: Callable[[int], None]) -> None:
    """The clients say their words byte by byte, and between two bytes something happens."""
    words = [WORDS[number % 2] for number in range(CLIENTS)]
    with connected(proxy, CLIENTS) as clients:
        for number in range(3):
            for client, word in zip(clients, words, strict=True):
                client.sendall(word[number : number + 1])
            disturb(number)
            await_reading(proxy, CLIENTS)
        finish(clients, words, [3] * CLIENTS)
    wait_for(lambda: closed(proxy) == {"finished": CLIENTS}, "every connection to end well")


def test_nothing_is_lost_without_a_disturbance(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda number: None)


def test_kills(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda number: kill_workers(proxy))


def test_kills_while_words_are_said(proxy: Proxy) -> None:
    """At random moments, also in the midst of a word that is taken out of the stream."""
    chance = random.Random(7)
    for _ in range(10):
        words = [WORDS[chance.randrange(2)] for _ in range(CLIENTS)]
        with connected(proxy, CLIENTS) as clients:
            for client, word in zip(clients, words, strict=True):
                client.sendall(word[:2])
                client.sendall(word[2:])
                perhaps_kill(proxy, chance, CLIENTS // 4)
            finish(clients, words, [4] * CLIENTS)


def test_handoff(proxy: Proxy, one: EchoServer) -> None:  # noqa: F811
    """Workers come and go: those that stay have the connections, in the midst of their words."""
    parts = route("r", address(proxy)[1], v1=(1, one.address))

    in_the_midst(proxy, lambda number: set_workers(proxy, parts, (1, 3, 2)[number]))


@needs_reachable
def test_upgrade(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda number: upgrade(proxy, number + 1))


def test_deadline(proxy: Proxy) -> None:
    """A client that says too little is reset when its time has come, also in a next incarnation."""
    with connected(proxy, 4) as clients:
        for client in clients:
            client.sendall(b"Too")
        kill_workers(proxy)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    wait_for(lambda: closed(proxy) == {"idle_timeout": 4}, "four timeouts")


def test_ends(proxy: Proxy) -> None:
    """A stage ends connections; so does a client that goes while it is waited for."""
    with connected(proxy, 3) as (said, gone, reset):
        said.sendall(b"END!")
        with pytest.raises(ConnectionResetError):
            said.recv(1)
        gone.sendall(b"wo")
        gone.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            gone.recv(1)
        will_reset(reset)
        reset.close()
        wait_for(lambda: closed(proxy) == {"killed": 1, "client_reset": 2}, "three ends")
    assert proxy.active() == 0


def test_a_reset_before_the_first_look(proxy: Proxy) -> None:
    where, pids = address(proxy), proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        wait_for(partial(stopped, pid), "the worker to stop")
    for _ in range(2):
        client = socket.create_connection(where, timeout=DEADLINE)
        will_reset(client)
        client.close()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: sum(closed(proxy).values()) == 2, "both to be seen")
    assert closed(proxy) == {"client_reset": 2}
