"""Long-lived connections are shared out among the workers, and don't notice."""

from __future__ import annotations

import os
import random
import signal
from functools import partial

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, talk
from tests.support import EchoServer, free_port, wait_for

WORKERS = 4


def counts(proxy: Proxy) -> list[int]:
    return [worker["connections"] for worker in proxy.status()["workers"]]


def is_balanced(proxy: Proxy, total: int) -> bool:
    found = counts(proxy)
    mean = total / WORKERS
    return sum(found) == total and max(found) <= max(mean * 1.1, mean + 2)


def test_long_lived_connections_are_shared_out(start_proxy: StartProxy, one: EchoServer) -> None:
    """128 over four workers: none has more than a tenth above its share, and all go on."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=WORKERS))
    clients = [held(port) for _ in range(128)]
    wait_for(partial(is_balanced, proxy, 128), "equal shares")
    for client in clients:
        assert talk(client) == "one hello\n"
    # The clients of one worker go, and by that the others have too many; new ones make it look.
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(clients)
    for client in clients[:64]:
        client.close()
    wait_for(lambda: sum(counts(proxy)) == 64, "64 connections to end")
    clients = clients[64:] + [held(port) for _ in range(64)]
    wait_for(partial(is_balanced, proxy, 128), "equal shares again")
    for client in clients:
        assert talk(client) == "one hello\n"
        client.close()
    wait_for(lambda: proxy.active() == 0, "connections to end")
    found = proxy.destination("v1")
    assert found["connections_total"] == 192
    assert found["closed"]["finished"] == 192


def test_workers_that_die_while_they_share_lose_nothing(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=WORKERS))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    clients = []
    for _ in range(16):
        clients += [held(port) for _ in range(8)]
        os.kill(chance.choice(proxy.worker_pids()), signal.SIGKILL)
        for client in chance.sample(clients, 4):
            assert talk(client) == "one hello\n"
    wait_for(partial(is_balanced, proxy, 128), "equal shares")
    for client in clients:
        assert talk(client) == "one hello\n"
        client.close()
    wait_for(lambda: proxy.active() == 0, "connections to end")
    assert proxy.destination("v1")["closed"]["finished"] == 128
