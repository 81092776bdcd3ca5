"""Stopping: what is queued is served, what is open may end, and a second signal is final."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial

import psutil
import pytest

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy, stopped
from tests.integration.routes import route, routes
from tests.integration.test_reload import refused
from tests.integration.test_shifting import held, talk
from tests.support import DEADLINE, EchoServer, free_port, wait_for


def log_has_grown(proxy: Proxy, seen: int) -> bool:
    return len(proxy.log) > seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_connections_may_end(
    start_proxy: StartProxy, one: EchoServer, number: signal.Signals
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with held(port) as long_lived:
        proxy.signal(number)
        wait_for(lambda: refused(port), "the listener to be closed")
        assert proxy.status()["state"] == "draining"
        assert talk(long_lived) == "one hello\n"
        assert proxy.process.poll() is None
        result = proxy.run("weight", "r", "v1=2")
        assert result.returncode == 1
        assert "draining" in result.stderr
    assert proxy.process.wait(DEADLINE) == 0


def test_children_of_others_are_not_waited_for(start_proxy: StartProxy, one: EchoServer) -> None:
    """A start script may have begun something and become tcpmux, and in a container the first
    process gets the orphans of all others."""
    proxy = start_proxy(
        routes(route("r", free_port(), v1=(1, one.address))),
        prefix=["sh", "-c", 'sleep 600 & exec "$@"', "sh"],
    )
    children = psutil.Process(proxy.process.pid).children()
    (stranger,) = (child for child in children if child.name() == "sleep")
    proxy.children |= proxy.tree()
    proxy.signal(signal.SIGTERM)
    try:
        assert proxy.process.wait(DEADLINE) == 0
        assert proxy.left() == [stranger.pid]
    finally:
        stranger.kill()


def test_what_is_queued_is_served(start_proxy: StartProxy, one: EchoServer) -> None:
    """Connections that no worker had accepted when the signal came get their answer."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    pids = proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        wait_for(partial(stopped, pid), "the stop")
    clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(30)]
    proxy.signal(signal.SIGTERM)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert talk(client) == "one hello\n"
        client.close()
    assert proxy.process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT, signal.SIGTERM],
        [signal.SIGQUIT],
    ],
)
def test_ending_at_once_resets_open_connections(
    start_proxy: StartProxy, one: EchoServer, signals: list[signal.Signals]
) -> None:
    """Reset, not closed: a FIN would pretend that all there was to say had been said."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    proxy.children |= proxy.tree()
    with held(port) as long_lived:
        for number in signals:
            seen = len(proxy.log)
            proxy.signal(number)
            wait_for(partial(log_has_grown, proxy, seen), "the signal to be taken")
        with pytest.raises(ConnectionResetError):
            long_lived.recv(1)
    assert proxy.process.wait(DEADLINE) == 0


def test_the_drain_ends_with_its_timeout(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), drain_timeout="200ms"))
    proxy.children |= proxy.tree()
    with held(port) as long_lived:
        proxy.signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            long_lived.recv(1)
    assert proxy.process.wait(DEADLINE) == 0
    proxy.says("drain_timeout has expired: resetting 1 connection")


def test_the_stop_command_waits_for_the_end(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    proxy.children |= proxy.tree()
    result = proxy.run("stop")
    assert result.returncode == 0, result.stderr
    assert proxy.process.wait(DEADLINE) == 0


def test_the_stop_command_at_once(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    proxy.children |= proxy.tree()
    with held(port) as long_lived:
        assert proxy.run("stop", "--now").returncode == 0
        with pytest.raises(ConnectionResetError):
            long_lived.recv(1)
    assert proxy.process.wait(DEADLINE) == 0
