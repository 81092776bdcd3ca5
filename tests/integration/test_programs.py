"""Control, the log process and guardians are watched: one that is stopped is told of and replaced,
or goes on, and neither traffic nor what is known of it is any the worse."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from tcpmux.control.client import AdminError
from tests.integration.conftest import StartProxy
from tests.integration.looking import connected, metric, talk
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, ask, free_port, refusing_port, wait_for


def pid_of(proxy: Proxy, name: str) -> int:
    """Of control or log; 0 = there is none at the moment."""
    for pid in proxy.tree():
        with suppress(psutil.Error):
            if psutil.Process(pid).cmdline()[:1] == [f"tcpmux: {name}"]:
                return pid
    return 0


def stop(pid: int) -> None:
    """By a descriptor, which can mean no other process."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    finally:
        os.close(pidfd)


def test_a_stopped_control_is_replaced_and_health_stays_as_it_was(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """All that time connections are served, and none is sent to what is known to be down."""
    port = free_port()
    with refusing_port() as dead:
        check = {"type": "tcp", "interval": "200ms", "fall": 1}
        part = route("r", port, v1=(1, one.address), v2=(1, f"127.0.0.1:{dead}"))
        proxy = start_proxy(routes({**part, "check": check, "passive": "off"}))
        wait_for(lambda: proxy.destination("v2")["endpoints"][0]["health"] == "down", "the check")
        failures = proxy.destination("v2")["connect_failures_total"]
        pid, seen = pid_of(proxy, "control"), len(proxy.log)
        stop(pid)

        def replaced() -> bool:
            assert ask(("127.0.0.1", port)) == "one hello\n"
            return "control is ready" in proxy.log[seen:]

        wait_for(replaced, "another control", 2 * DEADLINE)
        said = proxy.log[seen:]
        assert f"WARNING control (pid {pid}) is stopped, by a signal or a debugger: no e" in said
        assert f"ERROR control (pid {pid}) is stopped, by a signal or a debugger, for long" in said
        assert said.count(" is stopped") == 2
        proxy.children |= proxy.tree()
        v2 = proxy.destination("v2")
        assert (v2["endpoints"][0]["health"], v2["connect_failures_total"]) == ("down", failures)
        assert not [e for e in proxy.client.events() if "is up" in e["text"]]
        assert [e["kind"] for e in proxy.client.events() if "is stopped" in e["text"]] == [
            "control",
            "control",
        ]
        (program,) = proxy.status()["programs"]
        assert program == {
            "name": "control",
            "pid": pid_of(proxy, "control"),
            "state": "running",
            "starts": 2,
            "hangs": 1,
        }
        for name, value in (("up", 1), ("starts_total", 2), ("hangs_total", 1)):
            assert metric(proxy.admin, f"tcpmux_program_{name}", program="control") == value


def test_a_stopped_log_process_is_shown_and_replaced_and_each_line_is_written_or_counted(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    port, file = free_port(), tmp_path / "access.log"
    config = routes(
        route("r", port, v1=(1, one.address)),
        access_log={"path": str(file), "format": "{route}", "buffer": "64KiB"},
    )
    proxy = start_proxy(config)
    assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(file.exists, "the file")
    pid = pid_of(proxy, "log")
    stop(pid)
    states = set()

    def replaced() -> bool:
        assert ask(("127.0.0.1", port)) == "one hello\n"
        (program,) = (p for p in proxy.status()["programs"] if p["name"] == "log")
        states.add(program["state"])
        return program["starts"] == 2 and program["state"] == "running"

    wait_for(replaced, "another log process", 2 * DEADLINE)
    assert states >= {"away", "running"}
    proxy.says(f"WARNING log (pid {pid}) is stopped, by a signal or a debugger: lines of")

    def accounted_for() -> bool:
        ended = proxy.destination("v1")["closed"]["finished"]
        dropped = metric(proxy.admin, "tcpmux_worker_log_dropped_total")
        told = sum(map(int, re.findall(r"(\d+) lines of the access log were dropped", proxy.log)))
        return bool(ended == len(file.read_text().split()) + dropped and told == dropped)

    wait_for(accounted_for, "each line to be written, or told of")
    proxy.children |= proxy.tree()


def test_another_master_goes_on_counting(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    stop(pid_of(proxy, "control"))

    def starts() -> int:
        with suppress(AdminError):
            return proxy.status()["programs"][0]["starts"]
        return 0

    wait_for(lambda: starts() == 2, "another control", 2 * DEADLINE)
    proxy.children |= proxy.tree()
    proxy.process.kill()
    proxy.process.wait()
    proxy.start()
    (program,) = proxy.status()["programs"]
    assert (program["starts"], program["hangs"]) == (3, 1)


def test_a_stopped_guardian_goes_on_and_so_do_connections_of_a_worker_that_died_meanwhile(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """Nobody else could start that worker again."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=1))
    (guardian,), (worker,) = proxy.guardian_pids(), proxy.worker_pids()
    with connected(port) as sock:
        stop(guardian)
        os.kill(worker, signal.SIGKILL)
        assert talk(sock).startswith(b"one ")
        proxy.says(f"WARNING guardian 0 (pid {guardian}) is stopped, by a signal or a debu")
        assert proxy.guardian_pids() == [guardian]
    proxy.children |= proxy.tree()
