"""Runs under the shim, as a process of its own: one kind of shortage, as long as it lasts and
after it. Prints what came of it, as JSON.

    python -m tests.fault.shortage connects|accepts|pipes|clock SITE ERROR
"""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from tests.fault.control import ALWAYS, Control, Rule
from tests.relay.harness import (
    Destination,
    Flow,
    Link,
    RelayWorker,
    address_of,
    await_idle,
    listen,
    transfer,
)
from tests.support import DEADLINE, short_directory, wait_for

CLIENTS = 5
YEARS = 10 * 365 * 86400  # s
CLOCKS = {1: "CLOCK_MONOTONIC", 6: "CLOCK_MONOTONIC_COARSE"}
PAUSES = 10  # of accepting, until the shortage is over: 1 s
BLOCK = bytes(n * 7 % 251 for n in range(1 << 16))


@dataclass(slots=True)
class Setting:
    worker: RelayWorker
    endpoints: list[socket.socket]  # listening, non-blocking
    control: Control
    rule: Rule

    def accept(self) -> socket.socket | None:
        for endpoint in self.endpoints:
            with suppress(BlockingIOError):
                sock = self.worker.own(endpoint.accept()[0])
                sock.settimeout(DEADLINE)
                return sock
        return None

    def link(self) -> Link:
        """A client and its connection to an endpoint; no other may be under way."""
        client = self.worker.connect()
        server = wait_for(self.accept, "the connection to an endpoint")
        assert server
        return Link(client, server)


def converse(link: Link, question: bytes = b"question", answer: bytes = b"answer") -> None:
    """To the ends of both."""
    transfer(
        Flow(link.client, link.server, question, shut=True),
        Flow(link.server, link.client, answer, shut=True),
    )


def connects(setting: Setting) -> object:
    """Connections can't be made, then they can."""
    worker, rule = setting.worker, setting.rule
    if rule.site == "epoll_ctl_add":  # the second of each connection: the endpoint's
        rule = Rule(rule.site, rule.error, first=2, every=2, count=CLIENTS)
    with setting.control.armed([rule]):
        for _ in range(CLIENTS):
            worker.assert_turns_away()
            await_idle(worker)
    while given_up := setting.accept():  # it was connected, and what came next failed
        given_up.close()
    for _ in range(CLIENTS):
        converse(setting.link())
    await_idle(worker)
    return {
        "closed": worker.closed(),
        "connect_failures": [worker.endpoint(n).connect_failures for n in range(2)],
        "accepted": worker.live.counters()["accepted"],
    }


def accepts(setting: Setting) -> object:
    """The queue can't be served, while a connection goes on; then it is."""
    worker, control = setting.worker, setting.control
    inside = setting.link()
    before = worker.live.counters()
    began = time.monotonic()
    with control.armed([setting.rule]):
        waiting = [worker.connect() for _ in range(CLIENTS)]
        for _ in range(PAUSES):
            seen = control.calls().get("accept4", 0)
            wait_for(lambda seen=seen: control.calls().get("accept4", 0) > seen, "another try")  # type: ignore[misc]
            transfer(
                Flow(inside.client, inside.server, b"q"), Flow(inside.server, inside.client, b"a")
            )
        lasted = time.monotonic() - began
        after = worker.live.counters()
    served = 0
    for client in waiting:
        client.sendall(b"waited")
    for _ in waiting:
        server = wait_for(setting.accept, "a client to be served")
        assert server
        served += server.recv(100) == b"waited"
    return {
        "served": served,
        "starts": worker.live.starts,
        "pauses": after["accept_pauses"] - before["accept_pauses"],
        "most_pauses": 1 + int(lasted / 0.1),  # ACCEPT_RETRY_MS
    }


def pipes(setting: Setting) -> object:
    """Bulk both ways with no pipe available."""
    with setting.control.armed([setting.rule]):
        for _ in range(CLIENTS):
            converse(setting.link(), BLOCK * 40, BLOCK * 40)
    await_idle(setting.worker)
    return {
        "closed": setting.worker.closed(),
        "fallbacks": setting.worker.live.counters()["pipe_fallbacks"],
    }


def clock(setting: Setting) -> object:
    """The calendar jumps."""
    held = setting.link()
    with setting.control.armed([]):
        for shift in (YEARS, -YEARS, 0):
            setting.control.shift_realtime(shift)
            converse(setting.link())
            wait_for(lambda: setting.worker.live.connections == 1, "the worker to look")
        clocks = setting.control.clocks
    converse(held)
    await_idle(setting.worker)
    return {
        "closed": setting.worker.closed(),
        "clocks": sorted(CLOCKS.get(number, f"clock {number}") for number in clocks),
    }


def main() -> None:
    kind, site, error = sys.argv[1], sys.argv[2], int(sys.argv[3])
    control = Control.of_this_process()
    actions = {"connects": connects, "accepts": accepts, "pipes": pipes, "clock": clock}
    with short_directory() as directory:
        endpoints = [listen("v4", directory) for _ in range(2)]
        worker = RelayWorker(directory, [Destination(tuple(map(address_of, endpoints)))])
        for endpoint in endpoints:
            endpoint.setblocking(False)
        try:
            found = actions[kind](
                Setting(worker, endpoints, control, Rule(site, error, count=ALWAYS))
            )
        finally:
            control.disarm()
            worker.stop()
        for endpoint in endpoints:
            endpoint.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
