"""What a running instance shows of its problems: the same wherever it is shown."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tcpmux.control.client import Client, Problem
from tests.integration.conftest import StartProxy
from tests.integration.looking import connected, get, start, with_http
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, ask, free_port, refusing_port, wait_for


def connect(port: int, times: int) -> list[str]:
    """What each got: the first word, or nothing."""
    found = []
    for _ in range(times):
        try:
            found.append(ask(("127.0.0.1", port)).split(" ")[0])
        except OSError:
            found.append("")
    return found


def problem(proxy: Proxy, word: str) -> Problem:
    """The only one, once it is that bad."""
    wait_for(lambda: [p for p in proxy.status()["problems"] if p["condition"] == word], word)
    (found,) = proxy.status()["problems"]
    return found


def streamed(admin: str) -> list[dict[str, Any]]:
    """The first conditions that the stream tells."""
    with Client(admin) as client:
        for update in client.stream():
            if update.kind == "conditions":
                return update.data["routes"]
    raise AssertionError("the stream has ended")


def test_a_dead_canary_is_down_wherever_one_looks(start_proxy: StartProxy, one: EchoServer) -> None:
    """Though nothing but clients' connections has noticed, and since the same time after the
    death of whoever tells it. Then it answers."""
    port = free_port()
    with refusing_port() as dead:
        address = f"127.0.0.1:{dead}"
        part = route("shop", port, v1=(9, one.address), canary=(1, address))
        proxy = start_proxy(routes(part | {"on_unavailable": "reject"}))
        assert proxy.status()["problems"] == []
        assert connect(port, 40).count("") == 4
        found = problem(proxy, "down")
        assert (found["severity"], found["route"], found["destination"]) == (
            "error",
            "shop",
            "canary",
        )
        why = f"{address}: connection refused, 4 in a row"
        assert found["text"] == f"{why}; 10% of new connections fail"
        assert found["since"] is not None
        (whole,) = proxy.status()["routes"]
        assert (whole["condition"], whole["destinations"][1]["condition"]) == ("degraded", "down")
        assert whole["destinations"][0]["condition"] == "healthy"
        at = whole["destinations"][1]["endpoints"][0]
        assert (at["condition"], at["health"]) == ("down", "up")
        (told,) = streamed(proxy.admin)
        assert told["destinations"][1]["endpoints"][0]["condition"] == "down"
        shown = proxy.run("status").stdout
        assert shown.index("1 problem\n") < shown.index("WORKER")
        for command in ("status", "endpoint", "routes"):
            assert "down" in proxy.run(command).stdout
        assert "4  no endpoint accepted" in proxy.run("status", "shop").stdout
        os.kill(proxy.control_pid(), signal.SIGKILL)
        wait_for(lambda: proxy.log.count("control is ready") == 2, "another control process")
        again = problem(proxy, "down")
        assert again["text"] == found["text"]
        assert again["since"] is not None
        assert abs(again["since"] - found["since"]) < time.time() - found["since"]


def test_a_route_that_loses_every_client_is_down(start_proxy: StartProxy) -> None:
    """Its endpoint stays in use, as nobody stands in for it; that does not make it healthy."""
    port = free_port()
    with refusing_port() as dead:
        proxy = start_proxy(routes(route("alone", port, v1=(1, f"127.0.0.1:{dead}"))))
        assert connect(port, 10) == [""] * 10
        found = problem(proxy, "down")
        assert (found["severity"], found["destination"]) == ("error", None)
        assert "new connections fail" in found["text"]
        assert proxy.status()["routes"][0]["available"]
        assert "alone  down since " in proxy.run("status").stdout


def test_a_refused_reload_is_a_problem_until_one_is_not(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """Also for another control process."""
    config = routes(route("r", free_port(), v1=(1, one.address)))
    proxy = start_proxy(config)
    assert proxy.status()["last_reload"] == {"ok": True, "time": None, "error": ""}
    proxy.reload("routes: 7\n")
    before = time.time()
    found = problem(proxy, "degraded")
    last = proxy.status()["last_reload"]
    assert not last["ok"]
    assert last["error"]
    assert last["error"] in found["text"]
    assert last["time"] is not None
    assert abs(last["time"] - before) < 60
    os.kill(proxy.control_pid(), signal.SIGKILL)
    wait_for(lambda: proxy.log.count("control is ready") == 2, "another control process")
    assert problem(proxy, "degraded")["text"] == found["text"]
    proxy.write(config)
    assert proxy.run("reload").returncode == 0
    assert proxy.status()["problems"] == []
    assert proxy.status()["last_reload"]["ok"]


def test_load_balancers_ask_whether_it_serves_without_a_token(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """Over TCP they get no names of routes, and everything else stays closed. While it drains it
    serves, and takes no new connections; a route that is down is no reason, all of them are."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    port = free_port()
    with refusing_port() as dead:
        lost = free_port()
        alone = route("lost", lost, v1=(1, f"127.0.0.1:{dead}"))
        config, http = with_http(alone, route("shop", port, v1=(1, one.address)))
        proxy = start(start_proxy, config, http, token_file=str(token))
        assert get(http, "/v1/status")[0] == 401
        assert get(http, "/healthz") == get(http, "/readyz") == (200, "ok\n")
        assert connect(lost, 10) == [""] * 10
        problem(proxy, "down")
        assert get(http, "/readyz") == (200, "ok\n")
        proxy.reload({**config, "admin": proxy_admin(proxy, http, token), "routes": [alone]})
        wait_for(lambda: get(http, "/readyz")[0] == 503, "not ready: its only route is down")
        assert get(http, "/readyz")[1] == "every route is down\n"
        assert get(proxy.admin, "/readyz")[1] == "every route is down: lost\n"
        assert get(http, "/healthz")[0] == 200
    proxy.reload({**config, "admin": proxy_admin(proxy, http, token)})
    with connected(port):
        proxy.signal(signal.SIGTERM)
        wait_for(lambda: get(http, "/readyz")[0] == 503, "not ready: it drains")
        assert get(http, "/readyz")[1].startswith("draining\n")
        assert "lost" not in get(http, "/readyz")[1]
        assert get(http, "/healthz") == (200, "ok\n")
    assert proxy.process.wait(DEADLINE) == 0


def proxy_admin(proxy: Proxy, http: str, token: Path) -> dict[str, str]:
    return {"socket": proxy.admin, "http": http, "token_file": str(token)}
