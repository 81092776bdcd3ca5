"""Live connections that follow the weights while their clients stay: `converge`, method rehome."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.disturbances import upgrade
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_converge import (
    closed,
    live,
    open_to,
    state,
    with_converge,
)
from tests.integration.test_shifting import talk
from tests.others import needs_reachable
from tests.pool import Ledger, Pool, assert_unnoticed
from tests.support import DEADLINE, free_port, patient, refusing_port, wait_for

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


def replace_master(proxy: Proxy) -> None:
    proxy.children |= proxy.tree()
    proxy.process.kill()
    proxy.process.wait()
    proxy.start()


def rehomed(proxy: Proxy) -> int:
    return sum(closed(proxy, name).get("rehomed", 0) for name in ("v1", "v2"))


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


@pytest.mark.parametrize("who", ["workers", "control", "master"])
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
        for _ in range(4 if who == "workers" else 1):  # control is started anew later each time
            before = rehomed(proxy)
            wait_for(lambda: state(proxy) is None or rehomed(proxy) > before, "a move")  # noqa: B023
            if who == "master":
                replace_master(proxy)
                continue
            for pid in proxy.worker_pids() if who == "workers" else [proxy.control_pid()]:
                os.kill(pid, signal.SIGKILL)
        await_share(proxy, *goal)
    assert_unnoticed(pool, ledgers)


@needs_reachable
def test_upgrades_meanwhile_lose_nothing(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    """What is ordered or under way when the old processes go is done by the new ones."""
    port = free_port()
    made = with_converge(port, (1, ledgers[0]), (0, ledgers[1]), **{**FAST, "rate": "50/s"})
    proxy = start_proxy({**made, "workers": 2})
    pool = pools(port, 40, 0.1)
    wait_for(lambda: live(proxy) == {"v1": 40, "v2": 0}, "all to be connected")
    for number, goal in enumerate(((0, 40), (40, 0)), 1):
        before = rehomed(proxy)
        proxy.client.set_weights("r", {"v1": goal[0], "v2": goal[1]})
        wait_for(lambda: rehomed(proxy) > before, "a move")  # noqa: B023
        upgrade(proxy, number)
        await_share(proxy, *goal)
    assert_unnoticed(pool, ledgers)
    assert rehomed(proxy) == 80


def test_a_command_says_what_it_does(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    """Without the key; the connections are shown where they are then."""
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, ledgers[0]), (0, ledgers[1])))
    pool = pools(port, 10, 0.3)
    wait_for(lambda: live(proxy)["v1"] == 10, "all to be connected")
    proxy.client.set_weights("r", {"v1": 50, "v2": 50})
    options = ("--method", "rehome", "--quiet", "20ms", "--rate", "100/s")
    plan = proxy.run("converge", "r", *options, "--dry-run")
    assert "10 live connections; too many: v1 5; about 5 to be rehomed" in plan.stdout
    done = proxy.run("converge", "r", *options, "--tolerance", "0", "--wait")
    assert done.returncode == 0, done.stderr
    assert "r: live connections follow the weights: 5 connections rehomed" in done.stdout
    found = proxy.client.connections()["connections"]
    assert sorted(each["rehomed"] for each in found) == [0] * 5 + [1] * 5
    for each in found:
        at = "v2" if each["rehomed"] else "v1"
        assert each["destination"] == at
        assert ledgers[at == "v2"].address in str(each["endpoint"])
        assert each["pick_reason"] == ("rehomed" if each["rehomed"] else "only")
    assert_unnoticed(pool, ledgers)


def test_a_drained_endpoint_is_left_for_another_of_its_destination(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    port = free_port()
    one, two = ledgers
    r = route("r", port, v1=(1, one.address))
    r["destinations"][0]["endpoints"].append(two.address)
    proxy = start_proxy(routes({**r, "converge": FAST}))
    pool = pools(port, 20, 0.2)
    wait_for(lambda: live(proxy) == {"v1": 20}, "all to be connected")
    done = proxy.run("drain", f"r/v1/{one.address}", "--rehome", "--wait")
    assert done.returncode == 0, done.stderr
    assert " to be rehomed, in " in done.stdout

    def at() -> list[int]:
        return [e["connections_active"] for e in proxy.destination("v1")["endpoints"]]

    wait_for(
        lambda: at() == [0, 20] and state(proxy) is None, "all to be at the other", 4 * DEADLINE
    )
    assert_unnoticed(pool, ledgers)


def test_an_endpoint_that_refuses_costs_nobody_anything_and_stops_it(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    port = free_port()
    with refusing_port() as refusing:
        r = route("r", port, v1=(1, ledgers[0].address), v2=(0, f"127.0.0.1:{refusing}"))
        proxy = start_proxy(routes({**r, "converge": FAST}))
        pool = pools(port, 20, 0.2)
        wait_for(lambda: live(proxy)["v1"] == 20, "all to be connected")
        proxy.client.set_weights("r", {"v1": 0, "v2": 100}, force=True)
        wait_for(lambda: (state(proxy) or {}).get("state") == "paused", "it to pause")
        assert "failed just now" in state(proxy)["reason"]
        assert live(proxy) == {"v1": 20, "v2": 0}
        assert closed(proxy, "v1") == {}
    assert_unnoticed(pool, ledgers)


def test_connections_change_worker_and_endpoint_at_once(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    """Fewer and more workers, and the next build, while all move to and fro."""
    port = free_port()
    made = with_converge(port, (1, ledgers[0]), (0, ledgers[1]), **{**FAST, "rate": "100/s"})
    proxy = start_proxy({**made, "workers": 2})
    pool = pools(port, 40, 0.1)
    wait_for(lambda: live(proxy) == {"v1": 40, "v2": 0}, "all to be connected")
    for number, goal in enumerate(((0, 40), (40, 0), (0, 40), (40, 0))):
        before = rehomed(proxy)
        proxy.client.set_weights("r", {"v1": goal[0], "v2": goal[1]})
        wait_for(lambda: rehomed(proxy) > before, "some to have moved")  # noqa: B023
        proxy.client.set_workers(1 + number % 2)
        await_share(proxy, *goal)
    assert_unnoticed(pool, ledgers)
    assert all(worker["counters"]["abandoned"] == 0 for worker in proxy.status()["workers"])


def test_an_endpoint_that_is_down_is_left_before_a_client_asks_it(
    start_proxy: StartProxy, ledgers: tuple[Ledger, Ledger]
) -> None:
    """It accepts no more, and says nothing of that to those who are idle."""
    port = free_port()
    one, two = ledgers
    r = route("r", port, v1=(1, one.address))
    r["destinations"][0].update(
        endpoints=[one.address, two.address],
        check={"type": "tcp", "interval": "100ms", "fall": 2, "timeout": "1s"},
    )
    proxy = start_proxy(routes({**r, "converge": {**FAST, "when": ["recovery"]}}))
    with ExitStack() as stack:
        clients = open_to(stack, proxy, port, 8)
        one.close()  # no new ones

        def at() -> list[int]:
            return [e["connections_active"] for e in proxy.destination("v1")["endpoints"]]

        wait_for(lambda: at() == [0, 8], "all to be at the other", patient(60))
        assert [talk(client) for client in clients] == ["two hello\n"] * 8
