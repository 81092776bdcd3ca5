"""One of three versions dies under load: nobody notices after it has been found out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.integration.test_health import CHECK, answers, await_health
from tests.support import EchoServer, ask, free_port

CLIENTS = 8


@pytest.mark.parametrize("policy", ["redistribute", "reject"])
def test_a_version_dies_under_load(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
    policy: str,
) -> None:
    port = free_port()
    last = echo_servers("three")
    part = route("r", port, v1=(50, one.address), v2=(30, two.address), v3=(20, last.address))
    proxy = start_proxy(routes({**part, "check": CHECK, "on_unavailable": policy}, workers=2))
    over, found_out = threading.Event(), threading.Event()
    seen: list[Counter[str]] = [Counter(), Counter()]  # before and after it was found out
    lock = threading.Lock()

    def visit() -> None:
        while not over.is_set():
            late = found_out.is_set()
            try:
                answer = ask(("127.0.0.1", port)).split(" ")[0]
            except OSError:
                answer = "error"
            with lock:
                seen[late][answer] += 1

    clients = [threading.Thread(target=visit) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        time.sleep(0.3)
        address = last.address
        last.close()
        await_health(proxy, address, "down")
        found_out.set()
        time.sleep(1.0)
    finally:
        over.set()
        for client in clients:
            client.join()
    before, after = seen
    assert before["three"] > 0
    assert sum(after.values()) > 20
    assert after["three"] == 0
    if policy == "redistribute":
        assert after["error"] == 0
        assert answers(port, 80) == {"one": 50, "two": 30}
    else:  # each has begun or ended somewhere in a period of ten
        assert abs(after["error"] - sum(after.values()) * 0.2) <= CLIENTS + 2
        assert answers(port, 100) == {"one": 50, "two": 30, "reset": 20}
