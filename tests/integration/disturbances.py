"""What connections outlive, done to a proxy while they are under way; and looking at them."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from random import Random
from typing import Any

from tests.integration.proxy import Proxy, stopped
from tests.integration.routes import routes
from tests.support import DEADLINE, wait_for


def address(proxy: Proxy) -> tuple[str, int]:
    """Of its first listener."""
    host, _, port = proxy.status()["routes"][0]["listen"][0].rpartition(":")
    return host, int(port)


@contextmanager
def connected(proxy: Proxy, count: int) -> Iterator[list[socket.socket]]:
    """To its first listener."""
    where = proxy.status()["routes"][0]["listen"][0]
    with ExitStack() as stack:
        clients = [_connected(where) for _ in range(count)]
        yield [stack.enter_context(client) for client in clients]


@contextmanager
def workers_stopped(proxy: Proxy) -> Iterator[None]:
    """What clients send meanwhile is there when their connections are accepted."""
    pids = proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: all(map(stopped, pids)), "the workers to stop")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _connected(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    if host != "unix":
        return socket.create_connection((host, int(port)), timeout=DEADLINE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect(port)
    return client


def closed(proxy: Proxy) -> dict[str, int]:
    """How many connections of the first route ended, by reason."""
    found = proxy.status()["routes"][0]["closed"]
    return {reason: count for reason, count in found.items() if count}


def connections(proxy: Proxy) -> list[dict[str, Any]]:
    return [dict(row) for row in proxy.client.connections()["connections"]]


def states(proxy: Proxy) -> dict[str, int]:
    return Counter(row["state"] for row in connections(proxy))


def kill_workers(proxy: Proxy) -> None:
    """All of them; waits for the next incarnations."""
    incarnations = [worker["starts"] for worker in proxy.status()["workers"]]
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: all(
            w["starts"] > before and w["pid"]
            for w, before in zip(proxy.status()["workers"], incarnations, strict=True)
        ),
        "the next incarnations",
    )


def perhaps_kill(proxy: Proxy, chance: Random, one_in: int) -> None:
    """One of the workers, in one of so many calls."""
    if chance.randrange(one_in) == 0:
        with suppress(ProcessLookupError):  # it may have ended since
            os.kill(chance.choice(proxy.worker_pids()), signal.SIGKILL)


def set_workers(proxy: Proxy, route: dict[str, Any], count: int) -> None:
    """Those that stay take over the connections of those that go."""
    proxy.reload(routes(route, workers=count))
    wait_for(lambda: len(proxy.status()["workers"]) == count, "so many workers")


def upgrade(proxy: Proxy, number: int) -> None:
    """number: from 1, of those of this instance."""
    proxy.children |= proxy.tree()
    proxy.signal(signal.SIGUSR2)
    wait_for(partial(_is_upgraded, proxy, number), "the upgrade")


def _is_upgraded(proxy: Proxy, number: int) -> bool:
    try:
        found = proxy.status()["upgrade"]
    except Exception:
        return False  # control is being replaced
    return bool(found["count"] == number and found["state"] != "running")
