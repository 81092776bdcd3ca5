"""Shadows: what a client sends goes to another destination as well, whose answers are compared and
dropped. The connection itself never notices."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import pytest

from tcpmux.shm.mirror_status import FATES
from tcpmux.shm.rules import DestinationRules, RouteRules
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Destination,
    Family,
    Flow,
    Link,
    RelayWorker,
    address_of,
    assert_reset,
    await_idle,
    ends_by_reset,
    is_over,
    is_silent,
    reset,
    transfer,
)
from tests.relay.test_recovery import BLOCK
from tests.support import DEADLINE, patient, wait_for

ALL = 10_000  # of 10,000 connections
PREFIX = 1 << 16


@dataclass(slots=True)
class Mirrored:
    """A worker whose connections to destination 0 have shadows in destination 1."""

    worker: RelayWorker
    endpoint: socket.socket
    shadows: socket.socket
    links: list[tuple[Link, socket.socket]] = field(default_factory=list)

    def link(self, family: Family = "v4") -> tuple[Link, socket.socket]:
        """A connection, and the other end of its shadow."""
        link = self.worker.link(self.endpoint, family)
        return link, self.shadow()

    def shadow(self) -> socket.socket:
        shadow = self.worker.own(self.shadows.accept()[0])
        shadow.settimeout(DEADLINE)
        return shadow

    def fates(self) -> dict[str, int]:
        """What became of shadows: the ways that occurred."""
        route = self.worker.route()
        return {word: n for name, word in FATES.items() if (n := getattr(route, name))}

    def await_fate(self, **expected: int) -> None:
        wait_for(lambda: self.fates() == expected, f"{expected}, not {self.fates()}")
        assert self.worker.route().mirrored == sum(expected.values())


@pytest.fixture
def mirrored(start_worker: StartWorker, open_endpoint: OpenEndpoint) -> Any:
    def start(
        server: Family = "v4",
        shadow: Family = "v4",
        backlog: int | None = 1024,
        share: int = ALL,
        lag: int = 1 << 20,
        prefix: int = PREFIX,
        rules: DestinationRules | None = None,
        **options: Any,
    ) -> Mirrored:
        one, two = open_endpoint(server), open_endpoint(shadow, backlog)
        made = [
            Destination((address_of(one),)),
            Destination((address_of(two),), weight=0, rules=rules or DestinationRules()),
        ]
        of_route = RouteRules(mirror_to=1, mirror_share=share, mirror_lag=lag, mirror_prefix=prefix)
        worker = start_worker(destinations=made, rules=of_route, **options)
        return Mirrored(worker, one, two)

    return start


def say(link: Link, shadow: socket.socket, text: bytes) -> None:
    """The client says it, and both hear it."""
    link.client.sendall(text)
    for sock in (link.server, shadow):
        heard = b""
        while len(heard) < len(text):
            heard += sock.recv(len(text) - len(heard))
        assert heard == text


def finish(link: Link, shadow: socket.socket) -> None:
    """All three end, the client first."""
    link.client.shutdown(socket.SHUT_WR)
    assert link.server.recv(1) == b""
    assert shadow.recv(1) == b""
    link.server.close()
    shadow.close()
    assert link.client.recv(1) == b""


@pytest.mark.parametrize("client", FAMILIES)
@pytest.mark.parametrize("server", FAMILIES)
@pytest.mark.parametrize("shadow", FAMILIES)
def test_a_copy_that_answers_the_same_agrees(
    mirrored: Any, client: Family, server: Family, shadow: Family
) -> None:
    of = mirrored(server, shadow)
    link, copy = of.link(client)
    for text in (b"question", b"another", b"x" * 3000):
        say(link, copy, text)
        link.server.sendall(b"answer")
        copy.sendall(b"answer")
        assert link.client.recv(100) == b"answer"
    finish(link, copy)
    of.await_fate(agreed=1)
    await_idle(of.worker)
    assert of.worker.closed(0) == of.worker.closed(1) == {"finished": 1}
    assert of.worker.closed(2) == {}  # no connection of the shadow's destination
    assert of.worker.closed(4) == {"shadow": 1}
    assert of.worker.picked(2) == {"mirrored": 1}
    assert of.worker.destination(0).bytes_out == 3 * len(b"answer")
    for destination in (0, 1):
        times = of.worker.counters.times(1 + destination).mirror_first_byte
        assert sum(times.buckets) == 1


@pytest.mark.parametrize(
    ("one", "other", "fate"),
    [
        (b"answer", b"answer", "agreed"),
        (b"", b"", "agreed"),
        (b"answer", b"ansver", "content"),
        (b"answer", b"answers", "bytes"),
        (b"answers", b"answer", "bytes"),
        (b"", b"answer", "bytes"),
        (BLOCK * 3, BLOCK * 3, "agreed"),
        (BLOCK * 3, BLOCK * 3 + b"x", "bytes"),
        (BLOCK, BLOCK[:-1] + b"x", "content"),
        (BLOCK + b"x", BLOCK + b"y", "agreed"),  # behind the prefix
    ],
)
def test_answers_are_compared(mirrored: Any, one: bytes, other: bytes, fate: str) -> None:
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    link.client.shutdown(socket.SHUT_WR)
    transfer(Flow(link.server, link.client, one))
    link.server.close()
    copy.sendall(other)
    copy.close()
    of.await_fate(**{fate: 1})


def test_ends_are_compared(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    copy.close()
    reset(link.server)
    assert_reset(link.client)
    of.await_fate(end=1)
    link, copy = of.link()
    say(link, copy, b"question")
    reset(copy)
    reset(link.server)
    assert_reset(link.client)
    of.await_fate(end=1, agreed=1)


def test_one_that_is_reset_is_given_up(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    reset(copy)
    of.await_fate(reset=1)
    transfer(
        Flow(link.client, link.server, BLOCK * 20, shut=True),
        Flow(link.server, link.client, BLOCK * 20, shut=True),
    )
    await_idle(of.worker)


def test_one_that_refuses_is_given_up(mirrored: Any) -> None:
    of = mirrored(backlog=None)
    link = of.worker.link(of.endpoint)
    of.await_fate(refused=1)
    transfer(Flow(link.client, link.server, BLOCK, shut=True))
    counters = of.worker.destination(1)
    assert (counters.connect_failures, counters.opened) == (0, 0)
    assert of.worker.endpoint(1).connect_failures == 1


def test_one_without_a_place_says_nothing_of_its_endpoint(mirrored: Any) -> None:
    of = mirrored(rules=DestinationRules(max_connections=1))
    link, copy = of.link()
    other = of.worker.link(of.endpoint)
    transfer(Flow(other.client, other.server, BLOCK, shut=True))
    say(link, copy, b"question")
    finish(link, copy)
    of.await_fate(agreed=1, cut=1)


@pytest.mark.parametrize("piece", [700, 1 << 18], ids=["copied", "spliced"])
def test_one_that_does_not_read_is_given_up(mirrored: Any, piece: int) -> None:
    """And resetting it takes no time of the connection."""
    of = mirrored(lag=1 << 16)
    link, copy = of.link()
    size = 1 << (22 if piece == 700 else 26)
    transfer(Flow(link.client, link.server, BLOCK * (size // len(BLOCK)), piece=piece))
    of.await_fate(behind=1)
    wait_for(lambda: is_over(copy), "the shadow's end")
    transfer(Flow(link.server, link.client, b"answer", shut=True))


def test_one_that_reads_is_not_given_up_for_the_size_of_a_turn(mirrored: Any) -> None:
    """Though more than may wait for it comes at once."""
    lag = 1 << 16
    of = mirrored(lag=lag)
    link, copy = of.link()
    for _ in range(8):  # from the fourth on it is spliced
        say(link, copy, b"x" * (lag + lag // 2))
    finish(link, copy)
    of.await_fate(agreed=1)


@pytest.mark.parametrize("shadow", FAMILIES)
@pytest.mark.parametrize("piece", [700, 9000, 1 << 18])
def test_the_copy_is_exact(mirrored: Any, shadow: Family, piece: int) -> None:
    """Small packets and bulk, and all in turn, up to FIN; the answers are as large."""
    of = mirrored(shadow=shadow)
    link, copy = of.link()
    data = random.Random(piece).randbytes(1 << 16) * max(1, piece >> 13)
    for at in range(0, len(data), piece):
        say(link, copy, data[at : at + piece])
    link.client.shutdown(socket.SHUT_WR)
    assert link.server.recv(1) == copy.recv(1) == b""
    transfer(Flow(link.server, link.client, data, shut=True, piece=piece))
    copy.sendall(data)
    copy.close()
    await_idle(of.worker)
    of.await_fate(agreed=1)


def test_the_endpoint_hears_of_the_client_and_that_it_is_a_shadow(mirrored: Any) -> None:
    of = mirrored(rules=DestinationRules(send_proxy=2, send_decision=0xE5))
    link, copy = of.link()
    link.client.sendall(b"question")
    assert link.server.recv(100) == b"question"
    heard = b""
    while not heard.endswith(b"question"):
        heard += copy.recv(100)
    assert heard.startswith(b"\r\n\r\n\0\r\nQUIT\n")
    assert b"route/d1 1 mirrored" in heard


@pytest.mark.parametrize("share", [1, 37, 1000, 2500, 9999])
def test_the_share_is_exact(mirrored: Any, share: int) -> None:
    """Of any so many in a row, to the next whole one."""
    of = mirrored(share=share, backlog=None)
    for _ in range(40):
        link = of.worker.link(of.endpoint)
        link.client.sendall(b"x")
        assert link.server.recv(1) == b"x"
        link.close()
    await_idle(of.worker)
    assert abs(of.worker.route().mirrored - 40 * share / ALL) < 1


def test_a_connection_that_is_cut_off_says_nothing(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    reset(link.client)
    assert ends_by_reset(copy)
    of.await_fate(cut=1)


def test_one_that_goes_on_after_the_end_is_given_up(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    link.client.shutdown(socket.SHUT_WR)
    link.server.close()
    assert copy.recv(1) == b""
    of.await_fate(late=1)
    wait_for(lambda: is_over(copy), "the shadow's end")


def test_one_that_never_stops_answering_waits_for_the_endpoint(mirrored: Any) -> None:
    """It takes no more of the worker's time than its connection, and differs at its end."""
    of = mirrored()
    link, copy = of.link()
    say(link, copy, b"question")
    copy.setblocking(False)
    sent, far_too_much = 0, 1 << 28
    while sent < far_too_much and select.select([], [copy], [], patient(1))[1]:
        sent += copy.send(BLOCK)
    assert len(BLOCK) < sent < far_too_much
    link.server.sendall(b"answer")
    assert link.client.recv(100) == b"answer"
    assert of.fates() == {}
    link.client.shutdown(socket.SHUT_WR)
    link.server.close()
    of.await_fate(content=1)


def test_one_that_answers_before_it_is_asked(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    copy.sendall(b"greeting")
    link.server.sendall(b"greeting")
    assert link.client.recv(100) == b"greeting"
    say(link, copy, b"question")
    finish(link, copy)
    of.await_fate(agreed=1)


def test_an_endpoint_that_ends_first(mirrored: Any) -> None:
    """And the client goes on; its shadow ends its answer first of all."""
    of = mirrored()
    link, copy = of.link()
    for end in (copy, link.server):
        end.sendall(b"answer")
        end.shutdown(socket.SHUT_WR)
    heard = b""
    while got := link.client.recv(100):
        heard += got
    assert heard == b"answer"
    for size in (100, 1 << 17):
        say(link, copy, b"x" * size)
    link.client.shutdown(socket.SHUT_WR)
    assert link.server.recv(1) == copy.recv(1) == b""
    of.await_fate(agreed=1)


def test_a_shadow_that_has_not_heard_all_is_not_told_that_it_has(mirrored: Any) -> None:
    """It had ended its answer, so that it is compared at once."""
    of = mirrored()
    link, copy = of.link()
    copy.shutdown(socket.SHUT_WR)
    size = 1 << 19
    Thread(target=link.client.sendall, args=(b"x" * size,), daemon=True).start()
    left = size
    while left:
        left -= len(link.server.recv(left))
    link.client.shutdown(socket.SHUT_WR)
    assert link.server.recv(1) == b""
    link.server.close()
    wait_for(lambda: of.fates() != {}, "its end")
    heard = 0
    try:
        while got := copy.recv(1 << 18):
            heard += len(got)
    except ConnectionResetError:
        return
    assert heard == size


def test_shadows_make_room_for_connections(mirrored: Any) -> None:
    capacity = 16
    of = mirrored(capacity=capacity)
    links = [of.worker.link(of.endpoint) for _ in range(capacity)]
    assert of.worker.live.connections == capacity
    assert of.fates() == {"cut": of.worker.route().mirrored}
    for link in links:
        link.client.sendall(b"question")
        assert link.server.recv(100) == b"question"


@pytest.mark.parametrize("kills", [1, 3])
def test_a_connection_that_ends_by_a_death_ends_its_shadow_once(mirrored: Any, kills: int) -> None:
    """Both are found to be over by the next incarnation, the connection first."""
    of = mirrored()
    pairs = [of.link() for _ in range(8)]
    for link, copy in pairs:
        say(link, copy, b"question")
        link.client.shutdown(socket.SHUT_WR)
        assert link.server.recv(1) == copy.recv(1) == b""
    os.kill(of.worker.live.pid, signal.SIGSTOP)
    for link, _ in pairs:
        reset(link.client)
    for _ in range(kills):
        of.worker.kill()
    wait_for(lambda: sum(of.fates().values()) == 8, "all shadows to end")
    await_idle(of.worker)
    link, copy = of.link()
    say(link, copy, b"question")
    finish(link, copy)
    await_idle(of.worker)
    assert of.worker.route().mirrored == sum(of.fates().values()) == 9


class Listening:
    """What a shadow hears, until it ends or is reset."""

    def __init__(self, copy: socket.socket) -> None:
        self._copy = copy
        copy.setblocking(False)
        self.heard = bytearray()
        self.is_over = False

    def step(self) -> None:
        try:
            while not self.is_over:
                got = self._copy.recv(1 << 18)
                self.heard += got
                self.is_over = not got
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.is_over = True


@pytest.mark.parametrize("client", FAMILIES)
def test_killed_in_the_middle_of_everything(mirrored: Any, client: Family) -> None:
    """No connection notices, and what a shadow has heard is what its client has sent."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    of = mirrored()
    pairs = [of.link(client) for _ in range(4)]
    flows = []
    for (link, _), piece in zip(pairs, (1 << 18, 1 << 18, 700, 9000), strict=True):
        size = max(1 << 14, len(BLOCK) * 48 * piece >> 18)
        for source, sink in ((link.client, link.server), (link.server, link.client)):
            flows.append(Flow(source, sink, (BLOCK * 48)[:size], shut=True, piece=piece))
            source.setblocking(False)
    shadows = [Listening(copy) for _, copy in pairs]
    moving: list[Flow | Listening] = [*flows, *shadows]
    for _ in range(20):
        until = time.monotonic() + chance.uniform(0, 0.02)
        while time.monotonic() < until:
            for each in moving:
                each.step()
        of.worker.kill()
    until = time.monotonic() + patient(20)
    while not all(flow.done for flow in flows) or not all(each.is_over for each in shadows):
        assert time.monotonic() < until
        for each in moving:
            each.step()
    for flow, shadow in zip(flows[::2], shadows, strict=True):
        assert flow.received == flow.data
        assert flow.data.startswith(shadow.heard)
    for _, copy in pairs:
        copy.close()
    await_idle(of.worker)
    assert of.worker.closed() == {"finished": 4}
    assert of.worker.route().mirrored == sum(of.fates().values()) == 4


def test_a_silent_shadow_costs_nothing_but_itself(mirrored: Any) -> None:
    of = mirrored()
    link, copy = of.link()
    for _ in range(10):
        say(link, copy, b"question")
        link.server.sendall(b"answer")
        assert link.client.recv(100) == b"answer"
    assert is_silent(copy, 0)
    copy.close()
    link.close()
    await_idle(of.worker)
