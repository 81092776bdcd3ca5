"""Connections whose endpoint changes while their client stays: in a quiet moment, and only then."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from tcpmux.shm.rules import DestinationRules
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
    is_silent,
    transfer,
)
from tests.relay.test_converge import rows, say, the_one
from tests.relay.test_recovery import BLOCK, descriptors
from tests.support import DEADLINE, wait_for

if TYPE_CHECKING:
    from tcpmux.shm._connections import RelayingRow


@dataclass(slots=True)
class Moving:
    """A connection of destination 0, and its endpoints: `servers` has that of each destination that
    it has come to."""

    worker: RelayWorker
    endpoints: list[socket.socket]
    client: socket.socket
    servers: dict[int, socket.socket]

    @property
    def row(self) -> RelayingRow:
        return the_one(self.worker)

    @property
    def at(self) -> int:
        return self.row[4] - 1

    def order(self, to: int, quiet: int = 0, age: int = 0) -> None:
        self.worker.rehome(self.row[1], self.row[2], to, quiet, age)

    def scout(self, to: int) -> socket.socket:
        """Orders it, again until the last acknowledgement has come: the other end of the new
        connection."""
        endpoint = self.endpoints[to]
        endpoint.setblocking(False)
        found: list[socket.socket] = []

        def has_come() -> bool:
            self.order(to)
            try:
                found.append(endpoint.accept()[0])
            except BlockingIOError:
                return False
            return True

        wait_for(has_come, "a connect to the new destination")
        found[0].settimeout(DEADLINE)
        return self.worker.own(found[0])

    def rehome(self, to: int) -> None:
        self.servers[to] = self.scout(to)
        wait_for(lambda: self.at == to, "the connection to have moved")

    def ask(self, at: int, text: bytes = b"x") -> None:
        say(self.client, self.servers[at], b"question " + text)
        say(self.servers[at], self.client, b"answer " + text)
        wait_for(lambda: self.row[8], "the record to say who spoke last")


def start(
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    families: tuple[Family, Family] = ("v4", "v4"),
    client: Family = "v4",
    rules: DestinationRules = DestinationRules(),
    **options: int,
) -> Moving:
    """With a connection that was answered."""
    endpoints = [open_endpoint(family) for family in families]
    made = [
        Destination((address_of(endpoint),), weight=1 - number, rules=rules)
        for number, endpoint in enumerate(endpoints)
    ]
    worker = start_worker(destinations=made, **options)
    link = worker.link(endpoints[0], client)
    moving = Moving(worker, endpoints, link.client, {0: link.server})
    moving.ask(0)
    return moving


@pytest.mark.parametrize("client", FAMILIES)
@pytest.mark.parametrize("first", ["v4", "unix"])
@pytest.mark.parametrize("second", ["v6", "unix"])
def test_the_endpoint_changes_and_the_client_stays(
    start_worker: StartWorker,
    open_endpoint: OpenEndpoint,
    client: Family,
    first: Family,
    second: Family,
) -> None:
    moving = start(start_worker, open_endpoint, (first, second), client)
    worker = moving.worker
    moving.rehome(1)
    assert not ends_by_reset(moving.servers[0])
    moving.ask(1, b"y")
    assert worker.destination(0).active == 0
    assert worker.destination(1).active == 1
    assert worker.endpoint(0).active == 0
    assert worker.endpoint(1).active == 1
    assert worker.route().active == 1
    assert worker.closed(1) == worker.closed(3) == {"rehomed": 1}
    assert worker.picked(2) == {"rehomed": 1}
    moving.rehome(0)
    moving.ask(0, b"z")
    moving.client.shutdown(socket.SHUT_WR)
    assert moving.servers[0].recv(1) == b""
    moving.servers[0].close()
    assert moving.client.recv(1) == b""
    await_idle(worker)
    assert worker.closed() == {"finished": 1}
    asked = worker.destination(0).bytes_in, worker.destination(1).bytes_in
    assert asked == (2 * len(b"question x"), len(b"question y"))


def test_who_speaks_meanwhile_is_heard_by_the_old_one(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """And while its client waits for an answer it stays, for good after a while."""
    moving = start(start_worker, open_endpoint)
    scout = moving.scout(1)
    for number in range(10):
        moving.ask(0, str(number).encode())
    say(moving.client, moving.servers[0], b"is anybody there")
    assert scout.recv(1) == b""
    assert moving.at == 0
    say(moving.servers[0], moving.client, b"yes")
    assert moving.worker.closed(4) == {"not_rehomed": 1}
    assert moving.worker.endpoint(1).active == moving.worker.destination(1).opened == 0


def test_one_that_speaks_first_is_not_tried_again(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Its client would be greeted once more."""
    moving = start(start_worker, open_endpoint)
    scout = moving.scout(1)
    scout.sendall(b"220 welcome")
    assert_over(scout)
    for _ in range(20):
        moving.order(1)
    with pytest.raises(BlockingIOError):
        moving.endpoints[1].accept()
    moving.ask(0)
    assert is_silent(moving.client, 0)


def test_one_that_refuses_is_counted_and_costs_nothing(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    moving = start(start_worker, open_endpoint)
    moving.endpoints[1].close()
    failed = moving.worker.endpoint

    def has_failed() -> bool:
        moving.order(1)
        return failed(1).connect_failures > 0

    wait_for(has_failed, "the connect to fail")
    assert moving.worker.closed(4) == {"connect_failed": 1}
    assert moving.worker.destination(1).connect_failures == 1
    for _ in range(20):
        moving.order(1)
    assert failed(1).connect_failures == 1  # it is left alone for a while
    moving.ask(0)


def test_one_that_does_not_answer_times_out(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    full = [open_endpoint(), open_endpoint(backlog=0)]
    made = [Destination((address_of(each),), weight=1 - n) for n, each in enumerate(full)]
    worker = start_worker(destinations=made, connect_timeout=300)
    fillers = []
    for _ in range(3):
        filler = worker.own(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(full[1].getsockname())
        fillers.append(filler)
    link = worker.link(full[0])
    moving = Moving(worker, full, link.client, {0: link.server})
    moving.ask(0)

    def has_timed_out() -> bool:
        moving.order(1)
        return worker.endpoint(1).connect_timeouts > 0

    wait_for(has_timed_out, "the connect to time out")
    assert moving.at == 0
    assert worker.closed(4) == {"connect_timeout": worker.endpoint(1).opened}


@pytest.mark.parametrize("what", ["destination", "endpoint"])
def test_a_limit_of_the_new_one_holds(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, what: str
) -> None:
    """Two connections, of which one has room: the other one moves when that has left."""
    endpoints = [open_endpoint(), open_endpoint()]
    rules = DestinationRules(max_connections=1) if what == "destination" else DestinationRules()
    limits = (1,) if what == "endpoint" else ()
    worker = start_worker(
        destinations=[
            Destination((address_of(endpoints[0]),)),
            Destination((address_of(endpoints[1]),), weight=0, rules=rules, limits=limits),
        ]
    )
    links = [worker.link(endpoints[0]) for _ in range(2)]
    for link in links:
        say(link.client, link.server, b"question")
        say(link.server, link.client, b"answer")
    wait_for(lambda: all(row[8] for row in rows(worker)) and len(rows(worker)) == 2, "answers")

    def order(to: int) -> list[int]:
        for row in rows(worker):
            if row[4] != 1 + to:
                worker.rehome(row[1], row[2], to)
        return sorted(row[4] - 1 for row in rows(worker))

    wait_for(lambda: order(1) == [0, 1], "one to have moved")
    for _ in range(20):
        assert order(1) == [0, 1]
    wait_for(lambda: order(0) == [0, 0], "it to be back")
    wait_for(lambda: order(1) == [0, 1], "one to have moved again")
    for link in links:
        link.close()
    for endpoint in endpoints:
        endpoint.close()  # and with it what nobody has accepted
    await_idle(worker)
    assert worker.counted() == (0, 0, 0, 0)


@pytest.mark.parametrize("second", ["v4", "unix"])
def test_the_new_one_is_told_of_the_client_first(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, second: Family
) -> None:
    """And what recovery counts goes by that."""
    rules = DestinationRules(send_proxy=1)
    endpoints = [open_endpoint(), open_endpoint(second)]
    made = [
        Destination((address_of(each),), weight=1 - n, rules=rules)
        for n, each in enumerate(endpoints)
    ]
    worker = start_worker(destinations=made)
    link = worker.link(endpoints[0])
    name = link.client.getsockname()
    header = f"PROXY TCP4 127.0.0.1 127.0.0.1 {name[1]} {link.client.getpeername()[1]}\r\n".encode()
    assert link.server.recv(200) == header
    moving = Moving(worker, endpoints, link.client, {0: link.server})
    moving.ask(0)
    moving.rehome(1)
    assert moving.servers[1].recv(200) == header
    for number in range(3):
        worker.kill()
        moving.ask(1, str(number).encode())
    assert worker.closed() == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_killed_at_each_step(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, family: Family
) -> None:
    """Under way, established, exchanged: it is at one of the two, whole, and nothing is left."""
    moving = start(start_worker, open_endpoint, (family, family), family)
    worker = moving.worker
    before = descriptors(worker)
    scout = moving.scout(1)
    worker.kill()
    assert_over(scout)
    moving.ask(0)
    at = 0
    for number in range(6):
        at = 1 - at
        moving.rehome(at)
        worker.kill()
        moving.ask(at, str(number).encode())
    wait_for(lambda: descriptors(worker) == before, "the same number of descriptors")
    assert worker.destination(0).active + worker.destination(1).active == 1
    assert worker.endpoint(0).active + worker.endpoint(1).active == 1
    assert "worker_lost" not in worker.closed(1) | worker.closed(2) | worker.closed(3)
    assert worker.live.counters()["abandoned"] == 0


@pytest.mark.parametrize("first", FAMILIES)
@pytest.mark.parametrize("second", FAMILIES)
def test_killed_in_bulk_after_it(
    start_worker: StartWorker, open_endpoint: OpenEndpoint, first: Family, second: Family
) -> None:
    """What the kernel has counted of the new socket is not what the connection has passed on."""
    moving = start(start_worker, open_endpoint, (first, second))
    worker = moving.worker
    chance = random.Random(f"{first} {second}")
    transfer(
        Flow(moving.client, moving.servers[0], BLOCK * 3),
        Flow(moving.servers[0], moving.client, BLOCK * 5),
    )
    moving.ask(0)
    moving.rehome(1)
    flows = [
        Flow(moving.client, moving.servers[1], BLOCK * 64, shut=True, piece=9000),
        Flow(moving.servers[1], moving.client, BLOCK * 64, shut=True, piece=700),
    ]
    for flow in flows:
        flow.sender.setblocking(False)
    while not all(flow.done for flow in flows):
        for _ in range(chance.randrange(5, 200)):
            for flow in flows:
                if not flow.done:
                    flow.step()
        worker.kill()
    assert all(flow.received == flow.data for flow in flows)
    await_idle(worker)
    assert worker.closed() == {"finished": 1}


def assert_over(sock: socket.socket) -> None:
    """Closed by the worker: with something unread that is a reset."""
    with suppress(ConnectionResetError):
        assert sock.recv(1) == b""


def test_an_endpoint_that_is_not_configured_any_more_gets_nobody(
    start_worker: StartWorker, open_endpoint: OpenEndpoint
) -> None:
    """Removed while it is listened to: its destination's slot may be another's by now."""
    moving = start(start_worker, open_endpoint)
    scout = moving.scout(1)
    image = moving.worker.image()
    (route,) = image.routes
    kept, changed = route.destinations
    (other,) = changed.endpoints
    changed = replace(changed, endpoints=(replace(other, slot=9, since_generation=2),))
    route = replace(route, destinations=(kept, changed))
    moving.worker.publish(replace(image, routes=(route,)))
    assert scout.recv(1) == b""
    assert moving.at == 0
    moving.ask(0)
