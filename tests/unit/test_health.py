"""Who is healthy, as control finds out: checks, over real memory and endpoints."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from tcpmux.config import Check, Passive
from tcpmux.config.checks import Watch
from tests.integration.servers import saying, serving
from tests.support import DEADLINE
from tests.unit.watching import Watching, destination, endpoint, route, watched

QUICK = Check("http", interval=0.02, fast_interval=0.02, timeout=DEADLINE, fall=2, rise=2)
OFF = Passive(errors=0)


class Answers:
    """What a server says, which changes while it runs."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def __call__(self, client: socket.socket) -> None:
        client.recv(4096)
        with suppress(OSError):
            client.sendall(self.answer)


def test_a_check_outlives_whatever_it_is_answered() -> None:
    """70,000 bytes without a newline take the endpoint out, and when it answers again it is back:
    it has been checked all the time."""
    answers = Answers(b"x" * 70_000)

    async def scenario(watching: Watching) -> None:
        await watching.until(lambda: watching.healths() == ["down", "up"], "it to be down")
        answers.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        await watching.until(lambda: watching.healths() == ["up", "up"], "it to be up")

    with serving(answers) as bad, serving(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as good:
        v1 = destination(1, "v1", 1, endpoint(2, bad.address), endpoint(3, good.address))
        watching = watched(route(v1), scenario, check=QUICK, passive=OFF)
    assert watching.said("is down, http check: answered 'xxxx")
    assert watching.said("is up, http check, 2 in a row")


def test_another_check_begins_even_if_the_one_before_is_still_under_way() -> None:
    held: list[socket.socket] = []
    hang: Callable[[socket.socket], None] = lambda client: held.append(client.dup())  # noqa: E731

    async def scenario(watching: Watching) -> None:
        await watching.until(lambda: held, "a check to be under way")
        watching.watch_anew({"v1": Watch(Check("tcp", interval=0.02, fall=1), OFF, 0.0, 10)})
        known = next(iter(watching.health.registry.endpoints.values()))
        await watching.until(lambda: known.checked >= 2, "the other check")

    with serving(hang) as silent:
        row = route(destination(1, "v1", 1, endpoint(2, silent.address)))
        long = Check("redis", interval=0.02, timeout=0.3)
        watched(row, scenario, check=long, passive=OFF)
    for sock in held:
        sock.close()


def test_a_refusal_of_the_master_loses_nothing() -> None:
    """Neither how endpoints are to be checked, nor what has been found out meanwhile."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        watching.refuses = True
        bad.answer = b"nothing of the kind\r\n"
        known = next(iter(watching.health.registry.endpoints.values()))
        await watching.until(lambda: known.is_down, "it to be found down")
        watching.refuses = False
        await watching.until(lambda: watching.healths() == ["down"], "that to be in force")

    bad = Answers(b"HTTP/1.1 200 OK\r\n\r\n")
    with serving(bad) as server:
        row = route(destination(1, "v1", 1, endpoint(2, server.address)))
        watching = watched(row, scenario, check=QUICK, passive=OFF)
    assert watching.said("is down, http check")
