"""Shadows of real connections: set by a file or at run time, seen in status and metrics, and kept
through upgrades and the deaths of workers."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Any

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, split, talk
from tests.others import needs_reachable
from tests.support import EchoServer, free_port, patient, wait_for


def with_mirror(port: int, one: EchoServer, two: EchoServer, **settings: Any) -> dict[str, Any]:
    made = route("r", port, v1=(1, one.address), v2=(0, two.address))
    if settings:
        made["mirror"] = {"to": "v2", **settings}
    return routes(made)


def state(proxy: Proxy) -> Any:
    return proxy.status()["routes"][0]["mirror"]


def results(proxy: Proxy) -> dict[str, int]:
    return {word: count for word, count in state(proxy)["results"].items() if count}


def test_it_begins_changes_and_ends_at_run_time(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    config = with_mirror(port, one, two)
    proxy = start_proxy(config)
    assert state(proxy) is None
    assert split(port, 10) == Counter(one=10)
    proxy.client.set_mirror("r", 100, "v2")
    proxy.says("r: mirror off->100% to v2")
    assert split(port, 10) == Counter(one=10)
    wait_for(lambda: results(proxy) == {"content": 10}, "ten comparisons")
    found = state(proxy)
    assert (found["to"], found["percent"], found["at_run_time"]) == ("v2", 100, True)
    assert (found["mirrored_total"], found["active"], found["agreement"]) == (10, 0, 0.0)
    places = {(d["result"], d["offset"], d["within"]) for d in found["differences"]}
    assert (len(found["differences"]), places) == (8, {("content", 0, 1)})
    assert abs(found["differences"][0]["time"] - time.time()) < patient(10)
    assert found["first_byte"]["count"] == found["shadow_first_byte"]["count"] == 10
    shown = proxy.run("mirror", "r")
    assert "10 answered with other bytes" in shown.stdout
    line = "  100% mirrored to v2: 10 shadows, 0 of them open, 0.0% of those compared agreed\n"
    assert line in proxy.run("status").stdout
    assert "first byte that differed     0 in 8 of the last 8\n" in shown.stdout
    assert 'tcpmux_mirror_last_difference_bytes{route="r"} 0' in proxy.client.metrics()
    assert 'tcpmux_mirror_results_total{route="r",result="content"} 10' in proxy.client.metrics()
    proxy.client.set_mirror("r", 25)
    assert split(port, 100) == Counter(one=100)
    wait_for(lambda: results(proxy) == {"content": 35}, "a quarter of them")
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert proxy.run("mirror", "r", "off").returncode == 0
    assert "mirror" not in proxy.run("status").stdout
    assert split(port, 10) == Counter(one=10)
    assert state(proxy)["mirrored_total"] == 35
    proxy.client.set_mirror("r", 50)
    proxy.reload(config)
    proxy.says("r: the file's mirror replaces the one set at run time (50% to v2)")
    assert state(proxy)["percent"] == 0


def test_what_can_not_be_is_refused(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(with_mirror(free_port(), one, two))
    for arguments, text in (
        (("r", "10"), "say which destination gets the copies"),
        (("r", "10", "--to", "v3"), "no destination of route r named 'v3'"),
        (("q", "10", "--to", "v2"), "no route named 'q'"),
        (("r", "101", "--to", "v2"), "expected a percentage"),
    ):
        done = proxy.run("mirror", *arguments)
        assert done.returncode != 0
        assert text in done.stderr
    assert state(proxy) is None


def test_off_ends_the_shadows_that_there_are(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(with_mirror(port, one, two, percent=100))
    with held(port) as client:
        assert state(proxy)["active"] == 1
        proxy.client.set_mirror("r", 0)
        assert talk(client) == "one hello\n"
        wait_for(lambda: results(proxy) == {"cut": 1}, "its end")
        assert talk(client) == "one hello\n"


@needs_reachable
def test_an_upgrade_keeps_shadows(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Also what was set at run time."""
    port = free_port()
    proxy = start_proxy(with_mirror(port, one, two))
    proxy.client.set_mirror("r", 100, "v2")
    with held(port) as client:
        assert proxy.run("upgrade").returncode == 0
        assert talk(client) == "one hello\n"
        assert state(proxy)["active"] == 1
        assert state(proxy)["percent"] == 100
    wait_for(lambda: results(proxy) == {"content": 1}, "the comparison")


def test_a_worker_that_retires_leaves_shadows_behind(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy({**with_mirror(port, one, two, percent=100), "workers": 2})
    clients = [held(port) for _ in range(20)]
    proxy.client.set_workers(1)
    wait_for(lambda: results(proxy).get("cut"), "shadows to be left")
    assert all(talk(client) == "one hello\n" for client in clients)
    for client in clients:
        client.close()
    wait_for(lambda: state(proxy)["active"] == 0, "the others to end")
    assert sum(results(proxy).values()) == 20
