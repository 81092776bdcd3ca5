"""Connections that `converge` can't close yet or has no place for, and those of what is gone."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.integration.test_converge import ended, live, open_to, pools, state, with_converge
from tests.integration.test_shifting import talk
from tests.support import EchoServer, free_port, refusing_port, wait_for

__all__ = ["pools"]


def test_half_closed_connections_keep_nobody(
    start_proxy: StartProxy, pools: Any, two: EchoServer
) -> None:
    """Nothing moves on them, and they can't be closed yet; they are idle longest."""
    port = free_port()
    with ExitStack() as stack:
        one = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"127.0.0.1:{one.getsockname()[1]}"
        r = route("r", port, v1=(1, address), v2=(0, two.address))
        proxy = start_proxy(routes(r))
        clients = []
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            server = stack.enter_context(one.accept()[0])
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
            clients.append(client)
        half = clients[:3]
        for client in half:
            client.shutdown(socket.SHUT_WR)
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})
        proxy.client.converge("r", quiet=0.05, rate="3/s")
        wait_for(lambda: live(proxy)["v1"] == 3, "the other to be closed")
        assert clients[3].recv(100) == b""
        assert not any(map(ended, half))


@pytest.mark.parametrize("what", ["its destination", "its rule"])
def test_connections_of_what_is_gone_leave_as_well(
    start_proxy: StartProxy, pools: Any, one: EchoServer, two: EchoServer, what: str
) -> None:
    port = free_port()
    rules = [{"name": "all", "port": [port], "weights": {"v1": 1, "v2": 0}}]
    r = route("r", port, v1=(1, one.address), v2=(0, two.address))
    proxy = start_proxy(routes({**r, "rules": rules} if what == "its rule" else r))
    pools(port, 20)
    wait_for(lambda: live(proxy)["v1"] == 20, "the pool to be open")
    if what == "its rule":
        proxy.reload(routes(route("r", port, v1=(0, one.address), v2=(1, two.address))))
    else:
        proxy.reload(routes(route("r", port, v2=(1, two.address))))
    done = proxy.run("converge", "r", "--quiet", "50ms", "--rate", "50/s", "--wait")
    assert "r: live connections follow the weights: 20 connections closed" in done.stdout
    assert done.returncode == 0
    wait_for(lambda: live(proxy)["v2"] == 20, "all to be at v2")


def test_where_nothing_has_weight_they_stay(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, one), (0, two)))
    with ExitStack() as stack:
        socks = open_to(stack, proxy, port, 5)
        proxy.client.set_weights("r", {"v1": 0, "v2": 0}, force=True)
        done = proxy.run("converge", "r", "--quiet", "50ms", "--wait")
        assert "r: nothing has weight where 5 connections would go: they stay" in done.stdout
        assert done.returncode == 1
        assert [talk(sock) for sock in socks] == ["one hello\n"] * 5


def test_waiting_fails_if_another_operator_stops_it(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, one), (0, two)))
    with ExitStack() as stack:
        open_to(stack, proxy, port, 5)
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})

        def stop() -> None:
            wait_for(lambda: (state(proxy) or {}).get("busy") == 5, "it to be under way")
            proxy.client.stop_converging("r")

        other = threading.Thread(target=stop)
        other.start()
        done = proxy.run("converge", "r", "--quiet", "1h", "--wait")
        other.join()
        assert "r: live connections stay where they are" in done.stdout
        assert done.returncode == 1


def test_it_does_not_end_well_while_a_version_that_has_weight_is_down(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """Its share goes to the other meanwhile, which is not what the weights say."""
    port = free_port()
    with refusing_port() as refusing, ExitStack() as stack:
        r = route("r", port, v1=(1, one.address), v2=(1, f"127.0.0.1:{refusing}"))
        r["destinations"][1]["check"] = {"type": "tcp", "interval": "100ms"}
        proxy = start_proxy(routes(r))
        proxy.says("r/v2: no endpoint is healthy")
        open_to(stack, proxy, port, 4)
        done = proxy.run("converge", "r", "--quiet", "50ms", "--deadline", "1s", "--wait")
        assert "paused: v2 can take no connections" in done.stdout
        assert "is over: 0 connections closed; v2 can take no connections" in done.stdout
        assert done.returncode == 1


def test_half_of_them_at_most_wait_for_a_version_that_does_not_answer(
    start_proxy: StartProxy, pools: Any, one: EchoServer
) -> None:
    """No connect there fails before connect_timeout."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as mute, ExitStack() as stack:
        for _ in range(3):  # its queue is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(mute.getsockname())
        r = route("r", port, v1=(1, one.address), v2=(0, f"127.0.0.1:{mute.getsockname()[1]}"))
        proxy = start_proxy(routes({**r, "connect_timeout": "60s"}))
        pools(port, 20)
        wait_for(lambda: live(proxy)["v1"] == 20, "the pool to be open")
        proxy.client.set_weights("r", {"v1": 0, "v2": 1})
        proxy.client.converge("r", quiet=0.05, rate="100/s")
        proxy.says("10 connections were closed within 30 s, and 0 have come")
        wait_for(lambda: live(proxy) == {"v1": 10, "v2": 10}, "them to be back")
        log = len(proxy.log)
        proxy.client.set_weights("r", {"v1": 0, "v2": 2})
        proxy.run("converge", "r", "--quiet", "50ms", "--deadline", "2s", "--wait")
        assert "too many are left: v1 10" in proxy.log[log:]


class Closing(EchoServer):
    """Accepts, and ends each connection at once."""

    def _serve(self, client: socket.socket) -> None:
        client.close()


def test_a_version_that_closes_at_once_stops_it(
    start_proxy: StartProxy, pools: Any, one: EchoServer
) -> None:
    """Its connects succeed, and nobody gets an answer."""
    port = free_port()
    with ExitStack() as stack:
        two = Closing("two")
        stack.callback(two.close)
        proxy = start_proxy(with_converge(port, (1, one), (0, two)))
        pools(port, 40)
        wait_for(lambda: live(proxy)["v1"] == 40, "the pool to be open")
        proxy.client.set_weights("r", {"v1": 80, "v2": 20})
        proxy.client.converge("r", quiet=0.05, rate="5/s")
        proxy.says("connections without an answer")
        assert state(proxy)["state"] == "paused"
        assert live(proxy)["v1"] >= 20


def test_a_drain_that_waits_ends_at_the_deadline(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(with_converge(port, (1, one), (1, two)))
    with ExitStack() as stack:
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_for(lambda: live(proxy) == {"v1": 1, "v2": 1}, "both to be open")
        done = proxy.run("drain", "r/v1", "--converge", "--deadline", "1s", "--wait")
        assert "waiting for 1 connection: too many at v1 1" in done.stdout
        assert "1 connection left, and none is closed any more" in done.stderr
        assert done.returncode == 1
