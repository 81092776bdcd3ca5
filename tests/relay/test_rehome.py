"""Connections whose endpoint changes while their client stays: in a quiet moment, and only then."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tcpmux.shm.rules import DestinationRules
from tests.relay.conftest import OpenEndpoint, StartWorker
from tests.relay.harness import (
    FAMILIES,
    Destination,
    Family,
    RelayWorker,
    address_of,
    await_idle,
    ends_by_reset,
)
from tests.relay.test_converge import say, the_one
from tests.support import wait_for

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
        found[0].settimeout(20)
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
