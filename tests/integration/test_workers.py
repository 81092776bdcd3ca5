"""Workers and control die; new connections do not notice, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest

from tcpmux.master.limits import usable_cpus
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy, stopped
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, split, talk
from tests.support import DEADLINE, EchoServer, ask, free_port, wait_for


def deaths_logged(proxy: Proxy, times: int) -> bool:
    return proxy.log.count("killed by SIGKILL") == times


def aborts_logged(proxy: Proxy, times: int) -> bool:
    return proxy.log.count("worker 0 killed by SIGABRT") == times


def first_has_started(proxy: Proxy, times: int) -> bool:
    return proxy.status()["workers"][0]["starts"] == times


def started_again(proxy: Proxy, times: int) -> bool:
    return all(worker["starts"] >= times for worker in proxy.status()["workers"])


def test_killed_with_a_full_queue_no_new_connection_is_lost(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """SIGKILL of every worker while connections wait in their queues: all are served."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    for incarnation in (2, 3):
        pids = proxy.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            wait_for(partial(stopped, pid), "the worker to stop")
        waiting = [
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(100)
        ]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for client in waiting:
            assert talk(client) == "one hello\n"
            client.close()
        wait_for(partial(started_again, proxy, incarnation), "new workers")
        assert not set(pids) & set(proxy.worker_pids())
    wait_for(lambda: deaths_logged(proxy, 4), "the log")


def test_connections_outlive_their_workers(start_proxy: StartProxy, one: EchoServer) -> None:
    """SIGKILL of every worker, several times: connections go on, and every count is right."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    clients = [held(port) for _ in range(6)]
    for incarnation in range(2, 5):
        for pid in proxy.worker_pids():
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            assert talk(client) == "one hello\n"
        wait_for(partial(started_again, proxy, incarnation), "new workers")
        assert proxy.active() == 6
    for client in clients:
        client.close()
    wait_for(lambda: proxy.active() == 0, "connections to end")
    found = proxy.destination("v1")
    assert found["connections_total"] == 6
    assert found["closed"]["finished"] == 6
    assert found["bytes_out_total"] == 6 * 4 * len("one hello\n")


def test_a_worker_that_keeps_failing_is_started_ever_more_slowly(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """By a fault of its own, which SIGABRT looks like. Meanwhile the other one serves its
    shard as well."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with held(port) as long_lived:
        for incarnation in range(2, 6):
            wait_for(lambda: proxy.status()["workers"][0]["pid"], "it to be there")
            os.kill(proxy.status()["workers"][0]["pid"], signal.SIGABRT)
            wait_for(partial(aborts_logged, proxy, incarnation - 1), "its end to be noticed")
            assert split(port, 10, at_once=5) == {"one": 10}
            wait_for(partial(first_has_started, proxy, incarnation), "a new one")
        assert talk(long_lived) == "one hello\n"
    proxy.says("worker 0 killed by SIGABRT", times=4)
    assert proxy.status()["workers"][1]["starts"] == 1


def test_control_that_does_not_end_for_a_reload_is_ended(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    config = routes(route("r", free_port(), v1=(1, one.address)))
    proxy = start_proxy(config)
    old = proxy.control_pid()
    os.kill(old, signal.SIGSTOP)
    admin = {"socket": proxy.admin, "http": f"127.0.0.1:{free_port()}", "insecure": True}
    proxy.reload(json.dumps({"workers": 2, "admin": admin, **config}))
    proxy.says(f"killing control (pid {old})")
    proxy.says(f"INFO page http://{admin['http']}/\n", times=1)
    assert proxy.status()["pid"]
    assert proxy.control_pid() != old
    proxy.children.add(old)


def test_control_is_replaced_and_traffic_does_not_notice(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with held(port) as long_lived:
        old = proxy.control_pid()
        os.kill(old, signal.SIGKILL)
        assert ask(("127.0.0.1", port)) == "one hello\n"
        # The admin socket is the master's: a client just waits for the next control.
        assert proxy.status()["routes"][0]["connections_total"] == 2
        assert proxy.control_pid() != old
        assert talk(long_lived) == "one hello\n"
        proxy.children.add(old)


def test_a_worker_takes_orders_from_the_master_only(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """SIGTERM to a worker, by mistake or by a supervisor: it goes on, and so does its shard."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    pids = proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    assert split(port, 20, at_once=5) == {"one": 20}
    assert proxy.worker_pids() == pids


def test_every_process_says_what_it_is(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    titles = sorted(psutil.Process(pid).cmdline()[0] for pid in proxy.tree())
    assert titles == [
        "tcpmux: control",
        "tcpmux: guardian 0",
        "tcpmux: guardian 1",
        "tcpmux: worker 0",
        "tcpmux: worker 1",
    ]
    assert psutil.Process(proxy.process.pid).cmdline()[0] == "tcpmux: master routes.yaml"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.skipif(usable_cpus().is_limited, reason="a CPU quota holds here: none is pinned")
def test_each_worker_has_a_cpu_of_its_own(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    pins = [os.sched_getaffinity(pid) for pid in proxy.worker_pids()]
    assert [len(pin) for pin in pins] == [1, 1]
    assert pins[0] != pins[1]


def test_the_admin_socket_is_private(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    assert os.stat(proxy.admin).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("start_proxy", [{"nofile": 120}], indirect=True)
def test_at_the_connection_limit_clients_wait_in_the_queue(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """With few descriptors the rest waits in the kernel's queue, is served as places come free,
    and a full worker does not spin."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=1))
    (worker,) = proxy.status()["workers"]
    limit = worker["connections_limit"]
    assert 5 <= limit <= 30
    clients = [held(port) for _ in range(limit)]
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(20)]
    wait_for(lambda: proxy.status()["workers"][0]["counters"]["accept_pauses"], "the pause")
    proxy.says(f"at its limit of {limit} connections: new clients wait")
    (problem,) = proxy.status()["problems"]
    assert problem["severity"] == "error"
    assert problem["text"].endswith("worker 0; new clients wait")
    wakeups = proxy.status()["workers"][0]["counters"]["wakeups"]
    assert talk(clients[0]) == "one hello\n"  # those inside are served as ever
    used = proxy.status()["workers"][0]["counters"]["wakeups"] - wakeups
    assert used < 50, "a full worker sleeps"
    for client in clients:
        client.close()
    for client in waiting:  # at most `limit` at a time fit in
        assert talk(client) == "one hello\n"
        client.close()
    wait_for(lambda: proxy.active() == 0, "all to end")
    proxy.says("worker 0 has room for connections again")
    assert not proxy.status()["problems"]
    assert proxy.destination("v1")["connections_total"] == limit + 20


def descriptors_allowed(pid: int) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in limits if line.startswith("Max open files"))


def limit_descriptors(pid: int, soft: int) -> None:
    """Of a process that runs as another user: as that user, who may do so."""
    owner = os.stat(f"/proc/{pid}")
    subprocess.run(
        ["prlimit", "--pid", str(pid), f"--nofile={soft}:"],
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=[] if os.geteuid() == 0 else None,
        check=True,
    )


def test_accepting_that_fails_is_told(start_proxy: StartProxy, one: EchoServer) -> None:
    """There are too few descriptors, whatever the worker had room for when it was started."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=1))
    (pid,) = proxy.worker_pids()
    limit = descriptors_allowed(pid)
    limit_descriptors(pid, 3)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        proxy.says("worker 0 can't accept connections: Too many open files; clients wait")
        limit_descriptors(pid, limit)
        assert talk(client) == "one hello\n"
    proxy.says("connections are accepted again: for 5 s no accept has failed")


def test_workers_hold_no_descriptor_that_is_not_theirs(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """No leak from the master, and none from the connections that came and went."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(
        lambda: all(worker["state"] == "running" for worker in proxy.status()["workers"]),
        "every worker to have opened what it needs",
    )
    pids = proxy.worker_pids()

    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    before = descriptors()
    assert split(port, 200, at_once=20) == {"one": 200}
    wait_for(lambda: proxy.active() == 0, "connections to end")
    wait_for(
        lambda: all(now <= then + 3 for now, then in zip(descriptors(), before, strict=True)),
        "descriptors to be closed, but for a pipe kept for re-use and a line to the other worker",
    )
    # Three standard streams, epoll, channel, signalfd; table, tickets and the two sockets of
    # the instance for a master to come; a region for each possible worker, and the shards.
    shards = max(2 * len(os.sched_getaffinity(0)), 8)
    assert max(before) == 6 + 4 + shards + shards
