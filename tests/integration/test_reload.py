"""Reload: routes, listeners and timeouts come and go in running workers; a bad file is refused."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, split, talk
from tests.support import DEADLINE, EchoServer, ask, free_port, wait_for


def refused(port: int) -> bool:
    """A reset is no refusal: the listener was closed with this one in its queue."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_routes_and_addresses_come_and_go(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    first, second, third = free_port(), free_port(), free_port()
    proxy = start_proxy(routes(route("a", first, v1=(1, one.address))))
    pids = proxy.worker_pids()
    proxy.reload(
        routes(route("a", first, v1=(1, one.address)), route("b", second, v2=(1, two.address)))
    )
    assert ask(("127.0.0.1", second)) == "two hello\n"
    with held(first) as on_a:
        # a goes away, b moves to another address, c takes over a's.
        proxy.reload(
            routes(route("b", third, v2=(1, two.address)), route("c", first, v2=(1, two.address)))
        )
        assert ask(("127.0.0.1", third)) == "two hello\n"
        assert ask(("127.0.0.1", first)) == "two hello\n"
        wait_for(lambda: refused(second), "the old address to be closed")
        assert talk(on_a) == "one hello\n"
    assert proxy.worker_pids() == pids
    assert [r["name"] for r in proxy.status()["routes"]] == ["b", "c"]


def test_a_new_listener_outlives_a_worker(start_proxy: StartProxy, one: EchoServer) -> None:
    """An address handed to running workers is there for their successors too."""
    first, second = free_port(), free_port()
    proxy = start_proxy(routes(route("a", first, v1=(1, one.address))))
    proxy.reload(
        routes(route("a", first, v1=(1, one.address)), route("b", second, v1=(1, one.address)))
    )
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert split(second, 8) == {"one": 8}


def test_removing_a_listener_serves_its_queue(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    keep = route("keep", free_port(), v1=(1, one.address))
    proxy = start_proxy(routes(keep, route("a", port, v1=(1, one.address))))
    pids = proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(20)]
    proxy.write(routes(keep))
    proxy.signal(signal.SIGHUP)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert talk(client) == "one hello\n"
        client.close()
    proxy.says("a: removed")
    assert refused(port)


def test_counters_keep_their_names_across_reloads(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    assert split(port, 6) == {"one": 6}
    proxy.reload(routes(route("r", port, v2=(0, two.address), v1=(1, one.address))))
    assert split(port, 4) == {"one": 4}
    assert proxy.destination("v1")["connections_total"] == 10
    assert proxy.destination("v2")["connections_total"] == 0


BAD_FILES = {
    "not yaml": "routes: [",
    "wrong type": "routes: 7",
    "unknown key": "routes: []\nweigths: 3",
    "empty": "",
    "not utf-8": None,
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_changes_nothing(start_proxy: StartProxy, one: EchoServer, kind: str) -> None:
    port = free_port()
    good = routes(route("r", port, v1=(7, one.address)))
    proxy = start_proxy(good)
    with held(port) as long_lived:
        bad = BAD_FILES[kind]
        if bad is None:
            proxy.file.write_bytes(b"routes: \xff\xfe")
            proxy.signal(signal.SIGHUP)
            proxy.says("refused")
        else:
            proxy.reload(bad)
        (line,) = [line for line in proxy.log.splitlines() if "refused" in line]
        assert f"{proxy.file}:" in line, "it says which file"
        assert proxy.status()["generation"] == 1
        assert talk(long_lived) == "one hello\n"
        assert ask(("127.0.0.1", port)) == "one hello\n"
        proxy.reload(routes(route("r", port, v1=(8, one.address))))
        proxy.says("r: v1 7->8, generation 2")


def test_a_missing_file_changes_nothing(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    good = routes(route("r", port, v1=(7, one.address)))
    proxy = start_proxy(good)
    proxy.file.unlink()
    proxy.signal(signal.SIGHUP)
    proxy.says("refused")
    result = proxy.run("reload")
    assert result.returncode == 2
    assert str(proxy.file) in result.stderr
    assert ask(("127.0.0.1", port)) == "one hello\n"
    proxy.reload(good)
    proxy.says("nothing changed, generation 1")


def test_an_address_in_use_refuses_the_whole_reload(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Nothing of the file is applied, not even what could be: the new route is not bound."""
    port, other = free_port(), free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    proxy.reload(
        routes(
            route("r", port, v1=(9, one.address)),
            route("new", other, v1=(1, one.address)),
            route("taken", two.port, v1=(1, one.address)),
        )
    )
    proxy.says(f"can't listen on 127.0.0.1:{two.port}: Address already in use")
    assert proxy.destination("v1")["weight"] == 1
    assert refused(other)
    assert ask(("127.0.0.1", port)) == "one hello\n"


def test_reload_command_tells_which_workers_have_it(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    proxy.write(routes(route("r", port, v1=(5, one.address))))
    result = proxy.run("reload")
    assert result.returncode == 0, result.stderr
    assert "r: v1 1->5" in result.stdout
    assert "2 of 2 workers" in result.stdout
    proxy.write("routes: [{name: r}]")
    result = proxy.run("reload")
    assert result.returncode == 2
    assert f"{proxy.file}:1:" in result.stderr
    assert proxy.destination("v1")["weight"] == 5


def test_run_time_weights_last_until_the_next_reload(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    config = routes(route("tcp-echo", port, v1=(80, one.address), v2=(20, two.address)))
    proxy = start_proxy(config)
    result = proxy.run("weight", "tcp-echo", "v1=50", "v2=50")
    assert result.returncode == 0, result.stderr
    assert "v1 80->50, v2 20->50" in result.stdout
    assert split(port, 20) == {"one": 10, "two": 10}
    found = proxy.destination("v1")
    assert (found["weight"], found["file_weight"], found["effective_weight"]) == (50, 80, 50)
    assert "80" in proxy.run("status").stdout
    proxy.reload(config)
    told = "the file's weights replace the ones set at run time (v1=50, v2=50)"
    proxy.says(told)  # on a line of its own, after the change
    assert split(port, 20) == {"one": 16, "two": 4}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nope", "v1=1"), "no route named 'nope'; there are: r"),
        (("r", "v9=1"), "no destination of route r named 'v9'; there are: v1"),
    ],
)
def test_a_wrong_weight_request_changes_nothing(
    start_proxy: StartProxy, one: EchoServer, arguments: tuple[str, ...], complaint: str
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    result = proxy.run("weight", *arguments)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert proxy.status()["generation"] == 1


def test_a_unix_socket_left_by_a_crash_is_replaced(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    proxy = start_proxy(routes(route("r", f"unix:{path}", v1=(1, one.address))))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(path))
        assert talk(sock) == "one hello\n"
    proxy.stop()
    assert not path.exists()
