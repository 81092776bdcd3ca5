"""Live connections that follow the weights while their clients stay: `converge`, method rehome."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.pool import Pool
from tests.integration.proxy import Proxy
from tests.integration.test_converge import (
    Ledger,
    assert_nothing_lost,
    closed,
    live,
    state,
    with_converge,
)
from tests.support import free_port, patient, wait_for

FAST = {"when": ["weights", "drain"], "method": "rehome", "rate": "500/s", "quiet": "20ms"}


@pytest.fixture
def pools() -> Iterator[Any]:
    started: list[Pool] = []

    def start(*arguments: Any) -> Pool:
        started.append(Pool(*arguments))
        return started[-1]

    yield start
    for pool in started:
        pool.stop()


@pytest.fixture
def ledgers() -> Iterator[tuple[Ledger, Ledger]]:
    pair = Ledger("one"), Ledger("two")
    yield pair
    for server in pair:
        server.close()


def await_share(proxy: Proxy, v1: int, v2: int) -> None:
    wait_for(
        lambda: live(proxy) == {"v1": v1, "v2": v2} and state(proxy) is None,
        f"{v1} and {v2} connections",
        patient(60),
    )


def rehomed(proxy: Proxy) -> int:
    return sum(closed(proxy, name).get("rehomed", 0) for name in ("v1", "v2"))


def assert_unnoticed(pool: Pool, ledgers: tuple[Ledger, Ledger]) -> None:
    assert_nothing_lost(pool, ledgers)
    assert pool.counts["connected"] == pool.size
    assert pool.counts["closed"] == pool.counts["reset"] == 0


def test_a_pool_changes_sides_and_notices_nothing(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, ledgers[0]), (0, ledgers[1]), **FAST))
    pool = pools(port, 40, 0.2)
    wait_for(lambda: live(proxy) == {"v1": 40, "v2": 0}, "all to be connected")
    for _ in range(3):
        proxy.client.set_weights("r", {"v1": 0, "v2": 100})
        await_share(proxy, 0, 40)
        proxy.client.set_weights("r", {"v1": 100, "v2": 0})
        await_share(proxy, 40, 0)
    assert_unnoticed(pool, ledgers)
    assert closed(proxy, "v1")["rehomed"] == closed(proxy, "v2")["rehomed"] == 120
    proxy.says("r: live connections follow the weights: 40 connections rehomed", times=6)
    assert ledgers[1].heard


@pytest.mark.parametrize("who", ["workers", "control"])
def test_while_processes_die_nothing_is_lost(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger], who: str
) -> None:
    port = free_port()
    made = with_converge(port, (1, ledgers[0]), (0, ledgers[1]), **{**FAST, "rate": "50/s"})
    proxy = start_proxy({**made, "workers": 2})
    pool = pools(port, 40, 0.1)
    wait_for(lambda: live(proxy) == {"v1": 40, "v2": 0}, "all to be connected")
    for goal in ((0, 40), (40, 0), (0, 40)):
        proxy.client.set_weights("r", {"v1": goal[0], "v2": goal[1]})
        for _ in range(4):
            before = rehomed(proxy)
            wait_for(lambda: state(proxy) is None or rehomed(proxy) > before, "a move")  # noqa: B023
            for pid in proxy.worker_pids() if who == "workers" else [proxy.control_pid()]:
                os.kill(pid, signal.SIGKILL)
        await_share(proxy, *goal)
    assert_unnoticed(pool, ledgers)
