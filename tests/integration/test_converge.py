"""Live connections that follow the weights: `converge`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.integration.conftest import StartProxy, proxies
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, talk
from tests.pool import Ledger, Pool, assert_nothing_lost
from tests.support import DEADLINE, EchoServer, free_port, patient, refusing_port, wait_for

QUICK = {"rate": "50/s", "quiet": "50ms", "deadline": "60s"}


@pytest.fixture
def pools() -> Iterator[Any]:
    started: list[Pool] = []

    def start(*arguments: Any) -> Pool:
        started.append(Pool(*arguments))
        return started[-1]

    yield start
    for pool in started:
        pool.stop()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One that is asked for what can't be."""
    with proxies(tmp_path_factory.mktemp("converge")) as start:
        yield start(routes(route("r", free_port(), v1=(1, "127.0.0.1:1"))))


def live(proxy: Proxy, name: str = "r") -> dict[str, int]:
    """How many connections each destination has."""
    found = next(route for route in proxy.status()["routes"] if route["name"] == name)
    return {d["name"]: d["connections_active"] for d in found["destinations"]}


def state(proxy: Proxy) -> Any:
    return proxy.status()["routes"][0]["convergence"]


def closed(proxy: Proxy, name: str) -> dict[str, int]:
    """Why connections of a destination ended."""
    return {reason: n for reason, n in proxy.destination(name)["closed"].items() if n}


def open_to(stack: ExitStack, proxy: Proxy, port: int, count: int) -> list[socket.socket]:
    """Connections that have had an answer each."""
    found = [stack.enter_context(held(port)) for _ in range(count)]
    wait_for(lambda: sum(live(proxy).values()) == count, "all to be counted")
    return found


def ended(sock: socket.socket) -> bool:
    sock.settimeout(0)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def ledgers() -> Iterator[tuple[Ledger, Ledger]]:
    pair = Ledger("one"), Ledger("two")
    yield pair
    for server in pair:
        server.close()


def with_converge(
    port: int, v1: tuple[int, EchoServer], v2: tuple[int, EchoServer], **settings: Any
) -> dict[str, Any]:
    destinations = {"v1": (v1[0], v1[1].address), "v2": (v2[0], v2[1].address)}
    found = route("r", port, **destinations)
    return routes({**found, "converge": {**QUICK, **settings}} if settings else found)


def test_a_pool_follows_the_weights_and_loses_nothing(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    """60 clients that are busy now and then, from v1 to v2, and some of them back."""
    port = free_port()
    one, two = ledgers
    proxy = start_proxy(with_converge(port, (1, one), (0, two), when=["weights"]))
    pool = pools(port, 60, 0.3)
    wait_for(lambda: live(proxy)["v1"] == 60, "the pool to be open")
    proxy.client.set_weights("r", {"v1": 0, "v2": 100})
    wait_for(lambda: live(proxy) == {"v1": 0, "v2": 60}, "the pool to be at v2")
    wait_for(lambda: state(proxy) is None, "the end of it")
    proxy.says("r: live connections follow the weights: 60 connections closed")
    assert closed(proxy, "v1") == {"converged": 60}
    proxy.client.set_weights("r", {"v1": 20, "v2": 80})
    wait_for(lambda: state(proxy) is None, "the end of it again", 4 * DEADLINE)
    found = live(proxy)
    assert abs(found["v1"] - 12) <= 1, found
    assert set(closed(proxy, "v2")) == {"converged"}
    assert_nothing_lost(pool, ledgers)


def test_a_client_that_waits_for_its_answer_stays_until_it_has_it(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """And one that has said nothing yet stays as well: its server may be about to speak."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as slow:
        address = f"127.0.0.1:{slow.getsockname()[1]}"
        r = route("r", port, v1=(1, address), v2=(0, one.address))
        proxy = start_proxy(routes({**r, "converge": {**QUICK, "when": ["weights"]}}))
        with (
            socket.create_connection(("127.0.0.1", port)) as asks,
            socket.create_connection(("127.0.0.1", port)) as silent,
        ):
            asks.sendall(b"question")
            servers = [slow.accept()[0] for _ in range(2)]
            wait_for(lambda: live(proxy)["v1"] == 2, "both to be open")
            proxy.client.set_weights("r", {"v1": 0, "v2": 1})
            wait_for(lambda: (state(proxy) or {}).get("unanswered") == 2, "both to be seen")
            asked = next(server for server in servers if _is_there(server))
            assert asked.recv(100) == b"question"
            asked.sendall(b"answer")
            asks.settimeout(patient(DEADLINE))
            assert asks.recv(100) == b"answer"
            assert asks.recv(100) == b""  # in its quiet moment
            assert not ended(silent)
            wait_for(lambda: live(proxy)["v1"] == 1, "one to be left")
            for server in servers:
                server.close()


def _is_there(sock: socket.socket) -> bool:
    sock.settimeout(0.2)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


def test_a_command_closes_only_what_is_too_much(
    start_proxy: StartProxy, pools: Any, one: EchoServer, two: EchoServer
) -> None:
    """Without the key. It says before what it would do."""
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, one), (0, two)))
    pools(port, 10)
    wait_for(lambda: live(proxy)["v1"] == 10, "the pool to be open")
    proxy.client.set_weights("r", {"v1": 50, "v2": 50})
    assert state(proxy) is None
    plan = proxy.client.converge("r", quiet=0.05, dry_run=True)
    assert plan["surplus"] == [{"name": "v1", "connections": 5}]
    assert (plan["connections"], plan["closes"], plan["started"]) == (10, 10, False)
    done = proxy.run("converge", "r", "--quiet", "50ms", "--rate", "50/s", "--wait")
    assert "10 live connections; too many: v1 5; about 10 to be closed" in done.stdout
    assert "r: live connections follow the weights: " in done.stdout
    assert done.returncode == 0
    wait_for(lambda: sum(live(proxy).values()) == 10, "all to be back")
    assert abs(live(proxy)["v1"] - 5) <= 1


def test_it_waits_for_clients_to_come_back(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, one), (0, two)))
    with ExitStack() as stack:
        socks = open_to(stack, proxy, port, 20)
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})
        proxy.client.converge("r", quiet=0.05, rate="100/s")
        proxy.says("10 connections were closed within 30 s, and 0 have come")
        assert (state(proxy) or {})["state"] == "paused"
        assert sum(map(ended, socks)) == 10
        back = [stack.enter_context(held(port)) for _ in range(20)]
        proxy.says("r: connections are closed for the weights again")
        assert all(talk(sock).startswith("two") for sock in back)


def test_a_version_that_refuses_stops_it(
    start_proxy: StartProxy, pools: Any, one: EchoServer
) -> None:
    """Within 2 s; and those who were at v1 stay there."""
    port = free_port()
    with refusing_port() as refusing:
        r = route("r", port, v1=(1, one.address), v2=(0, f"127.0.0.1:{refusing}"))
        proxy = start_proxy(
            routes({**r, "converge": {**QUICK, "rate": "10/s", "when": ["weights"]}})
        )
        pools(port, 40)
        wait_for(lambda: live(proxy)["v1"] == 40, "the pool to be open")
        proxy.client.set_weights("r", {"v1": 50, "v2": 50})
        proxy.says("connects to v2 failed just now")
        assert live(proxy)["v1"] >= 40 - 20
        assert proxy.destination("v1")["closed"]["converged"] <= 20
        assert state(proxy)["state"] == "paused"
        assert "connects to v2 failed" in state(proxy)["reason"]


@pytest.mark.parametrize("then", ["keep", "reset"])
def test_at_the_deadline_who_waits_stays_or_is_reset(
    start_proxy: StartProxy, two: EchoServer, then: str
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as mute, ExitStack() as stack:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        r = route("r", port, v1=(1, address), v2=(0, two.address))
        settings = {**QUICK, "when": ["weights"], "deadline": "1s", "then": then}
        proxy = start_proxy(routes({**r, "converge": settings}))
        asking = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        asking.sendall(b"question")
        server = stack.enter_context(mute.accept()[0])
        wait_for(lambda: live(proxy)["v1"] == 1, "it to be open")
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})
        wait_for(lambda: state(proxy) is None, "the end of it")
        if then == "keep":
            proxy.says("WARNING r: the deadline for live connections to follow the weights is over")
            proxy.says("too many are left: v1 1 (1 waiting for an answer); they stay")
            server.sendall(b"answer")
            assert asking.recv(100) == b"answer"
        else:
            proxy.says("r: live connections follow the weights: 0 connections closed, 1 reset")
            with pytest.raises(ConnectionResetError):
                asking.recv(100)
            assert closed(proxy, "v1") == {"converged_late": 1}


def at_most(proxy: Proxy, left: int) -> bool:
    return live(proxy)["v1"] <= left


def test_it_goes_on_when_control_and_workers_are_killed(
    start_proxy: StartProxy, pools: Any, ledgers: tuple[Ledger, Ledger]
) -> None:
    port = free_port()
    one, two = ledgers
    proxy = start_proxy(with_converge(port, (1, one), (0, two), when=["weights"], rate="20/s"))
    pool = pools(port, 60, 0.3)
    wait_for(lambda: live(proxy)["v1"] == 60, "the pool to be open")
    proxy.client.set_weights("r", {"v1": 0, "v2": 1})
    for left in (50, 40, 30, 20, 10):
        wait_for(partial(at_most, proxy, left), f"at most {left} to be left")
        os.kill(proxy.control_pid() if left % 20 else proxy.worker_pids()[0], signal.SIGKILL)
    wait_for(lambda: live(proxy)["v1"] == 0, "none to be left")
    wait_for(lambda: state(proxy) is None, "the end of it")
    assert closed(proxy, "v1") == {"converged": 60}
    assert_nothing_lost(pool, ledgers)


def test_a_drain_sets_it_off_and_an_endpoint_is_left_by_all(
    start_proxy: StartProxy, pools: Any, one: EchoServer, two: EchoServer, echo_servers: Any
) -> None:
    port = free_port()
    other = echo_servers("other")
    r = route("r", port, v1=(1, one.address), v2=(1, two.address))
    r["destinations"][0]["endpoints"].append(other.address)
    proxy = start_proxy(routes({**r, "converge": {**QUICK, "when": ["drain"]}}))
    pools(port, 20)
    wait_for(lambda: sum(live(proxy).values()) == 20, "the pool to be open")
    proxy.client.drain("r", "v1", one.address)

    def at_one() -> int:
        endpoints = proxy.destination("v1")["endpoints"]
        return int(next(e for e in endpoints if e["address"] == one.address)["connections_active"])

    wait_for(lambda: at_one() == 0, "the endpoint to be left")
    wait_for(lambda: sum(live(proxy).values()) == 20 and state(proxy) is None, "all to be back")
    assert abs(live(proxy)["v1"] - 10) <= 1
    proxy.client.set_weights("r", {"v1": 0, "v2": 1})  # is no cause here
    assert state(proxy) is None
    proxy.client.drain("r", "v1")
    wait_for(lambda: live(proxy) == {"v1": 0, "v2": 20}, "all to be at v2")


def test_it_can_be_stopped_and_ends_with_its_key(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    config = with_converge(port, (1, one), (0, two), when=["weights"], quiet="1h")
    proxy = start_proxy(config)
    with ExitStack() as stack:
        socks = open_to(stack, proxy, port, 5)
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})
        wait_for(lambda: (state(proxy) or {}).get("busy") == 5, "it to be under way")
        done = proxy.run("converge", "r", "--stop")
        assert "r: live connections stay where they are" in done.stdout
        assert state(proxy) is None
        proxy.client.set_weights("r", {"v1": 1, "v2": 2})
        wait_for(lambda: state(proxy), "it to be under way again")
        proxy.reload(with_converge(port, (1, one), (2, two)))
        assert state(proxy) is None
        proxy.says("converge {when: [weights], rate: 50/s}->{when: manual, rate: 10/s}")
        assert [talk(sock) for sock in socks] == ["one hello\n"] * 5


def test_clients_of_a_sticky_route_leave_only_for_another_home(
    start_proxy: StartProxy, pools: Any, one: EchoServer, two: EchoServer
) -> None:
    """All of these have one address: they belong to one destination, whatever the weights."""
    port = free_port()
    r = route("r", port, v1=(1, one.address), v2=(0, two.address))
    proxy = start_proxy(
        routes({**r, "sticky": "source", "converge": {**QUICK, "when": ["weights"]}})
    )
    pools(port, 20)
    wait_for(lambda: live(proxy)["v1"] == 20, "the pool to be open")
    proxy.client.set_weights("r", {"v1": 1000, "v2": 1})
    wait_for(lambda: state(proxy) is None, "the end of it")
    assert live(proxy) == {"v1": 20, "v2": 0}
    proxy.client.set_weights("r", {"v1": 0, "v2": 1})
    wait_for(lambda: live(proxy) == {"v1": 0, "v2": 20}, "all to have gone home")


def test_each_rule_has_its_own_share(
    start_proxy: StartProxy, pools: Any, one: EchoServer, two: EchoServer
) -> None:
    """And connections that meet another rule now go by that."""
    port, other = free_port(), free_port()
    r = route("r", port, v1=(1, one.address), v2=(0, two.address))
    r["listen"] = [f"127.0.0.1:{port}", f"127.0.0.1:{other}"]
    rules = [{"name": "canary", "port": [other], "weights": {"v1": 1, "v2": 1}}]
    settings = {**QUICK, "when": ["weights"]}
    proxy = start_proxy(routes({**r, "rules": rules, "converge": settings}))
    pools(port, 10)
    pools(other, 10)
    wait_for(lambda: live(proxy) == {"v1": 15, "v2": 5}, "the pools to be open")
    proxy.client.set_rule_weights("r", "canary", {"v1": 0, "v2": 1})
    wait_for(lambda: live(proxy) == {"v1": 10, "v2": 10}, "the rule's to be at v2")
    wait_for(lambda: state(proxy) is None, "the end of it")
    swapped = [{"name": "all", "port": [port], "weights": {"v1": 0, "v2": 1}}]
    proxy.reload(routes({**r, "rules": swapped, "converge": settings}))
    wait_for(lambda: live(proxy) == {"v1": 10, "v2": 10}, "each to be with the other")
    wait_for(lambda: state(proxy) is None, "the end of it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "10"], "rate: expected a rate such as 10/s"),
        (["--rate", "0/s"], "rate: expected a rate such as 10/s"),
        (["--rate", "1_0/s"], "rate: expected a rate such as 10/s"),
        (["--rate", " 10/s"], "rate: expected a rate such as 10/s"),
        (["--rate", "101%/s"], "rate: expected a rate such as 10/s"),
        (["--quiet", "2d"], "quiet: expected 1ms..1h, got 172800 s"),
        (["--deadline", "0s"], "deadline: expected 1ms..30d, got 0 s"),
        (["--stop", "--rate", "1/s"], "--stop takes no other option"),
        (["--dry-run", "--wait"], "--dry-run changes nothing"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    started: Proxy, arguments: list[str], message: str
) -> None:
    done = started.run("converge", "r", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert state(started) is None


def test_an_unknown_route_has_a_hint(started: Proxy) -> None:
    done = started.run("converge", "rr")
    assert done.returncode != 0
    assert "did you mean r?" in done.stderr
