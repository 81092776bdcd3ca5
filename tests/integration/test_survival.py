"""Masters, guardians and builds come and go, workers become more and fewer: connections and
queues do not notice."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, split, talk
from tests.others import needs_reachable
from tests.support import DEADLINE, EchoServer, ask, free_port, patient, wait_for


@contextmanager
def conversations(port: int, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(held(port)) for _ in range(number)]


def all_talk(clients: list[socket.socket]) -> None:
    for client in clients:
        assert talk(client) == "one hello\n"


def worker(proxy: Proxy, number: int) -> dict[str, Any]:
    return next(dict(w) for w in proxy.status()["workers"] if w["id"] == number)


def upgraded(proxy: Proxy, number: int) -> bool:
    try:
        upgrade = proxy.status()["upgrade"]
    except Exception:
        return False  # control is being replaced
    return upgrade["count"] == number and upgrade["state"] != "running"


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer, port: int) -> Proxy:
    return start_proxy(routes(route("r", port, v1=(1, one.address))))


# --- masters ----------------------------------------------------------------------------------


def kill_master(proxy: Proxy) -> None:
    proxy.children |= proxy.tree()
    proxy.process.kill()
    proxy.process.wait()


def test_a_new_master_takes_over_from_a_killed_one(proxy: Proxy, port: int) -> None:
    """Same workers, same connections, same counters and tickets; and it supervises them."""
    with conversations(port, 4) as clients:
        before = proxy.status()
        kill_master(proxy)
        wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
        assert split(port, 10) == {"one": 10}
        all_talk(clients)
        result = proxy.run("weight", "r", "v1=3")
        assert result.returncode == 1
        assert "the master is gone" in result.stderr
        proxy.start()
        after = proxy.status()
        assert after["state"] == "running"
        assert [w["pid"] for w in after["workers"]] == [w["pid"] for w in before["workers"]]
        assert after["started_at"] == before["started_at"]
        assert after["routes"][0]["connections_total"] == 14
        all_talk(clients)
        for pid in proxy.worker_pids():
            os.kill(pid, signal.SIGKILL)
        all_talk(clients)
        assert proxy.run("weight", "r", "v1=7").returncode == 0
        assert proxy.destination("v1")["weight"] == 7
    proxy.says("taken over: 2 workers")


def programs_of(proxy: Proxy) -> list[psutil.Process]:
    """Control and the log process that a master has just started, while they load."""
    found = []
    for child in psutil.Process(proxy.process.pid).children():
        with suppress(psutil.Error):  # it ends
            if {"tcpmux.control.__main__", "tcpmux.logger.__main__"} & {*child.cmdline()}:
                found.append(child)
    return found if len(found) == 2 else []


def loading_programs(proxy: Proxy) -> list[psutil.Process]:
    """The same, of the next master. On a busy machine they may have loaded before they are looked
    for: then of the one after that."""
    while True:
        ready = proxy.log.count("control is ready")
        kill_master(proxy)
        with proxy.log_file.open("ab") as output:
            proxy.process = subprocess.Popen(
                [sys.executable, "-m", "tcpmux", "-c", str(proxy.file)], stderr=output
            )
        wait_for(
            lambda ready=ready: programs_of(proxy) or proxy.log.count("control is ready") > ready,  # type: ignore[misc]
            "control and log to be started",
        )
        if found := programs_of(proxy):
            return found


def test_what_a_master_started_at_its_end_does_not_outlive_it(
    start_proxy: StartProxy, one: EchoServer, port: int, tmp_path: Path
) -> None:
    """Its control would answer that there is no master, and its log process keep the entries from
    that of the next."""
    log = tmp_path / "access.log"
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), access_log=str(log)))
    programs = loading_programs(proxy)
    for program in programs:
        program.suspend()
    kill_master(proxy)
    proxy.start()
    for program in programs:
        with suppress(psutil.NoSuchProcess):
            program.resume()
    pids = {program.pid for program in programs}
    proxy.children |= pids
    wait_for(lambda: pids.isdisjoint(proxy.left()), "the programs of before to end")
    assert split(port, 2) == {"one": 2}
    wait_for(log.read_text, "the lines of connections")


def test_a_take_over_keeps_run_time_weights_and_reads_the_file(
    proxy: Proxy, port: int, two: EchoServer
) -> None:
    """What was set at run time stays; what the file says differently now is applied."""
    assert proxy.run("weight", "r", "v1=5").returncode == 0
    kill_master(proxy)
    other = free_port()
    proxy.start()
    assert proxy.destination("v1")["weight"] == 5
    kill_master(proxy)
    config = yaml.safe_load(proxy.file.read_text())
    config["routes"].append(route("s", other, v1=(1, two.address)))
    proxy.write(config)
    proxy.start()
    assert proxy.destination("v1")["weight"] == 5
    assert split(other, 2) == {"two": 2}
    assert split(port, 2) == {"one": 2}


def test_masters_can_die_any_number_of_times(proxy: Proxy, port: int) -> None:
    with conversations(port, 2) as clients:
        for _ in range(3):
            kill_master(proxy)
            for pid in [w["pid"] for w in proxy.status()["workers"]]:
                os.kill(pid, signal.SIGKILL)  # and nobody but its guardian is there
            all_talk(clients)
            proxy.start()
            all_talk(clients)
    assert split(port, 4) == {"one": 4}


def test_a_master_takes_over_with_few_descriptors_at_first(
    start_proxy: StartProxy, proxy: Proxy, port: int
) -> None:
    """It raises its soft limit before it asks for the instance's descriptors. If the hard limit is
    too low, that is one line, and the workers go on and wait for another master."""
    with conversations(port, 2) as clients:
        kill_master(proxy)
        few = ["prlimit", "--nofile=12:12", sys.executable, "-m", "tcpmux", "-c", str(proxy.file)]
        result = subprocess.run(
            few, capture_output=True, text=True, timeout=patient(60), check=False
        )
        assert result.returncode == 1
        assert "RLIMIT_NOFILE is 12, too low" in result.stderr
        assert "Traceback" not in result.stderr
        all_talk(clients)
        proxy.prefix = ["prlimit", "--nofile=12:4096"]
        proxy.start()
        all_talk(clients)
        assert split(port, 4) == {"one": 4}


def test_control_outlives_the_pause_between_two_lives(proxy: Proxy, port: int) -> None:
    """A guardian that has no worker at the moment will have one: without a master, control waits
    for that."""
    control, guardians = proxy.control_pid(), proxy.guardian_pids()
    with conversations(port, 1) as clients:
        kill_master(proxy)
        wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
        for pid in guardians:
            os.kill(pid, signal.SIGSTOP)
        try:
            for pid in proxy.worker_pids():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: "worker" in proxy.log and "0 left" in proxy.log, "control to see that")
            assert not none_lives({control})
        finally:
            for pid in guardians:
                os.kill(pid, signal.SIGCONT)
        all_talk(clients)
        assert not none_lives({control})
        assert proxy.run("stop", "--no-wait").returncode == 0
        all_talk(clients)
    wait_for(lambda: not proxy.left(), "all to end")
    for name in (proxy.admin, proxy.admin + ".takeover"):
        os.unlink(name)
    proxy.process.returncode = 0


def test_without_its_master_it_can_be_stopped(proxy: Proxy, port: int) -> None:
    with conversations(port, 1) as clients:
        kill_master(proxy)
        wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
        assert proxy.run("stop", "--no-wait").returncode == 0
        all_talk(clients)
    wait_for(lambda: not proxy.left(), "all to end")
    # What the killed master could not do; the next start would.
    for name in (proxy.admin, proxy.admin + ".takeover"):
        os.unlink(name)
    proxy.process.returncode = 0


def test_a_hung_worker_does_not_keep_a_new_master_from_coming(proxy: Proxy, port: int) -> None:
    """Its guardian ends it, and its next incarnation answers."""
    with conversations(port, 4) as clients:
        kill_master(proxy)
        os.kill(proxy.worker_pids()[0], signal.SIGSTOP)
        proxy.start()
        all_talk(clients)
        assert len(proxy.status()["workers"]) == 2


# --- guardians --------------------------------------------------------------------------------


def has_other_guardian(proxy: Proxy, old: int) -> bool:
    return bool(worker(proxy, 0)["guardian_pid"] != old)


def test_a_killed_guardian_is_replaced(proxy: Proxy, port: int) -> None:
    """Its worker goes on and makes another, which guards it as well as the first. So do those that
    came of a guardian that such a worker had made."""
    with conversations(port, 4) as clients:
        for _ in range(3):
            before = worker(proxy, 0)
            os.kill(before["guardian_pid"], signal.SIGKILL)
            wait_for(partial(has_other_guardian, proxy, before["guardian_pid"]), "another one")
            proxy.children |= proxy.tree()
            assert worker(proxy, 0)["pid"] == before["pid"]
            os.kill(before["pid"], signal.SIGKILL)
            all_talk(clients)
            wait_for(partial(has_next_incarnation, proxy, before["pid"]), "its next incarnation")
            proxy.children |= proxy.tree()


def test_a_guardian_that_dies_without_a_master_is_replaced(proxy: Proxy, port: int) -> None:
    """So the worker may die afterwards, too: its connections go on."""
    with conversations(port, 4) as clients:
        kill_master(proxy)
        for _ in range(2):
            before = worker(proxy, 0)
            os.kill(before["guardian_pid"], signal.SIGKILL)
            wait_for(partial(has_other_guardian, proxy, before["guardian_pid"]), "another one")
            proxy.children.add(worker(proxy, 0)["guardian_pid"])
            assert worker(proxy, 0)["pid"] == before["pid"]
            os.kill(before["pid"], signal.SIGKILL)
            all_talk(clients)
            wait_for(partial(has_next_incarnation, proxy, before["pid"]), "its next incarnation")
            proxy.children.add(worker(proxy, 0)["pid"])
        proxy.start()
        all_talk(clients)


def has_next_incarnation(proxy: Proxy, before: int) -> bool:
    return worker(proxy, 0)["pid"] not in (0, before) and count_is(proxy, 2)


# --- how many ---------------------------------------------------------------------------------


def count_is(proxy: Proxy, count: int) -> bool:
    workers = proxy.status()["workers"]
    return [w["id"] for w in workers] == list(range(count)) and all(
        w["state"] == "running" for w in workers
    )


def test_workers_become_more_and_fewer(proxy: Proxy, port: int) -> None:
    """Connections of a worker that goes are taken over by those that stay; no process and no
    connection is left behind, and no count is wrong."""
    with conversations(port, 12) as clients:
        for number, count in (
            (signal.SIGTTIN, 3),
            (signal.SIGTTIN, 4),
            (signal.SIGTTOU, 3),
            (signal.SIGTTOU, 2),
            (signal.SIGTTOU, 1),
            (signal.SIGTTIN, 2),
        ):
            proxy.children |= proxy.tree()
            proxy.signal(number)
            wait_for(partial(count_is, proxy, count), f"{count} workers")
            all_talk(clients)
            assert split(port, 8, at_once=4) == {"one": 8}
            assert proxy.active() == 12
    wait_for(lambda: proxy.active() == 0, "connections to end")
    found = proxy.destination("v1")
    assert found["connections_total"] == found["closed"]["finished"] == 12 + 6 * 8


def test_there_is_always_one_worker(proxy: Proxy, port: int) -> None:
    proxy.signal(signal.SIGTTOU)
    wait_for(partial(count_is, proxy, 1), "one worker")
    proxy.signal(signal.SIGTTOU)
    proxy.says("SIGTTOU refused")
    assert split(port, 4) == {"one": 4}


def test_a_reload_changes_the_number_of_workers(proxy: Proxy, port: int, one: EchoServer) -> None:
    with conversations(port, 6) as clients:
        for count in (4, 1, 2):
            proxy.reload(routes(route("r", port, v1=(1, one.address)), workers=count))
            wait_for(partial(count_is, proxy, count), f"{count} workers")
            proxy.children |= proxy.tree()
            all_talk(clients)
    proxy.says("workers 2->4")


def test_queues_of_a_retired_worker_are_served(proxy: Proxy, port: int) -> None:
    """Connections wait in the queues of stopped workers while one of these is let go."""
    pids = proxy.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(60)]
    proxy.signal(signal.SIGTTOU)
    proxy.says("workers 2->1")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    all_talk(waiting)
    wait_for(partial(count_is, proxy, 1), "one worker")
    all_talk(waiting)
    for client in waiting:
        client.close()


# --- trouble ----------------------------------------------------------------------------------


def test_queues_of_a_stopped_worker_are_served_by_the_others(proxy: Proxy, port: int) -> None:
    """While it is stopped; and when it has been killed for that, its connections go on."""
    with conversations(port, 6) as clients:
        os.kill(proxy.worker_pids()[0], signal.SIGSTOP)
        assert split(port, 40, at_once=10) == {"one": 40}
        proxy.says("worker 0")
        all_talk(clients)  # waits for the next incarnation of their worker
        assert worker(proxy, 0)["starts"] == 2


def test_a_stopped_worker_does_not_hold_up_reloads(
    proxy: Proxy, port: int, one: EchoServer
) -> None:
    """It is killed and recovered: the next table needs the place of the one before."""
    with conversations(port, 6) as clients:
        os.kill(proxy.worker_pids()[0], signal.SIGSTOP)
        for weight in (2, 3, 4):
            proxy.reload(routes(route("r", port, v1=(weight, one.address))))
            assert proxy.destination("v1")["weight"] == weight
        all_talk(clients)


@pytest.mark.parametrize("start_proxy", [{"nofile": 120}], indirect=True)
def test_a_full_worker_leaves_its_queue_to_those_with_room(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """The connection limit is that of all workers together."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=2))
    limit = sum(w["connections_limit"] for w in proxy.status()["workers"])
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            for _ in range(limit)
        ]
        all_talk(clients)
        assert proxy.active() == limit
        extra = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
        clients.pop().close()
        all_talk([extra])


@pytest.mark.parametrize("start_proxy", [{"nofile": 120}], indirect=True)
def test_listeners_that_find_no_room_in_a_full_worker_come_later(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """A reload adds more than it has descriptors left: that is said, and they are served when
    connections have ended. Nothing else is missed meanwhile."""
    first = route("r", port, v1=(1, one.address))
    proxy = start_proxy(routes(first, workers=1))
    limit = proxy.status()["workers"][0]["connections_limit"]
    ports = [free_port() for _ in range(40)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            for _ in range(limit - 1)
        ]
        all_talk(clients)
        addresses = [f"127.0.0.1:{number}" for number in (port, *ports)]
        proxy.reload(routes({**first, "listen": addresses}, workers=1))
        proxy.says("ERROR worker 0 has too few descriptors")
        all_talk(clients)
    for number in ports:
        assert split(number, 1) == {"one": 1}


# --- builds -----------------------------------------------------------------------------------


@needs_reachable
def test_an_upgrade_keeps_everything_but_the_processes(proxy: Proxy, port: int) -> None:
    """The master stays the process it is; workers, guardians and control are new ones."""
    with conversations(port, 8) as clients:
        proxy.run("weight", "r", "v1=9")
        for number in (1, 2):
            before = proxy.status()
            proxy.children |= proxy.tree()
            proxy.signal(signal.SIGUSR2)
            wait_for(partial(upgraded, proxy, number), "the upgrade")
            after = proxy.status()
            assert after["upgrade"] == {"count": number, "state": "idle", "error": ""}
            assert after["pid"] == before["pid"] == proxy.process.pid
            old = {w["pid"] for w in before["workers"]}
            assert not old & {w["pid"] for w in after["workers"]}
            wait_for(partial(none_lives, old), "the old workers to be gone")
            all_talk(clients)
            assert split(port, 10, at_once=5) == {"one": 10}
            assert proxy.destination("v1")["weight"] == 9
        assert proxy.active() == 8
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
        all_talk(clients)
    proxy.says("8 connections kept", times=2)


def becoming_guardian(proxy: Proxy, pids: list[int]) -> psutil.Process:
    """One that has just begun to become the next build's, in an upgrade: it is stopped. One that
    has loaded before it was looked at is let go, and the next upgrade tried."""
    guardians = [psutil.Process(pid) for pid in pids]
    for number in count(1):
        proxy.signal(signal.SIGUSR2)
        while f"upgrade {number}: done" not in proxy.log:
            for guardian in guardians:
                if is_loading(guardian):
                    guardian.suspend()
                    wait_for(partial(is_stopped, guardian), "it to be stopped")
                    if is_loading(guardian):
                        return guardian
                    guardian.resume()
    raise AssertionError


def is_loading(process: psutil.Process) -> bool:
    return "tcpmux.worker.__main__" in process.cmdline()


def is_stopped(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


def has_asked(proxy: Proxy) -> bool:
    """Whether a new master has had the answer of one worker, and asks for another: who listens at
    the takeover socket, the line to the first, and a connection that waits."""
    sockets = Path("/proc/net/unix").read_text()
    return sockets.count(f"{proxy.admin}.takeover") >= 3


@needs_reachable
def test_a_guardian_that_becomes_the_next_build_is_waited_for(proxy: Proxy, port: int) -> None:
    """The master dies in the middle of an upgrade. While its guardian loads, a worker has neither a
    process nor a title that says so, and another one must not begin in its place."""
    with conversations(port, 4) as clients:
        pids = proxy.guardian_pids()
        guardian = becoming_guardian(proxy, pids)
        kill_master(proxy)
        before = proxy.log.count("taken over")
        with proxy.log_file.open("ab") as output:
            proxy.process = subprocess.Popen(
                [sys.executable, "-m", "tcpmux", "-c", str(proxy.file)], stderr=output
            )
        wait_for(
            lambda: has_asked(proxy) or proxy.log.count("taken over") > before,
            "the new master to ask all workers",
        )
        guardian.resume()
        proxy.says("taken over: 2 workers", times=before + 1)
        assert proxy.guardian_pids() == pids
        all_talk(clients)


def none_lives(pids: set[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


@needs_reachable
def test_very_many_listening_sockets_come_along(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """More than a command line could name, and with descriptors beyond those that select() knows:
    an upgrade takes all of them over, and so does a new master."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_000:
        pytest.skip("needs a higher RLIMIT_NOFILE")
    addresses = [f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(400)]
    part = {**route("r", port, v1=(1, one.address)), "listen": [f"127.0.0.1:{port}", *addresses]}
    proxy = start_proxy(routes(part))
    with conversations(port, 4) as clients:
        proxy.children |= proxy.tree()
        proxy.signal(signal.SIGUSR2)
        wait_for(partial(upgraded, proxy, 1), "the upgrade")
        found = proxy.status()["upgrade"]
        assert (found["state"], found["error"]) == ("idle", "")
        kill_master(proxy)
        proxy.start()
        all_talk(clients)
    assert split(port, 8) == {"one": 8}


@needs_reachable
def test_an_upgrade_without_the_files_of_its_sockets_goes_on(proxy: Proxy, port: int) -> None:
    """As when something has cleaned up /tmp: nothing but commands depends on them."""
    with conversations(port, 2) as clients:
        proxy.children |= proxy.tree()
        for name in (proxy.admin, f"{proxy.admin}.takeover"):
            Path(name).unlink()
        proxy.signal(signal.SIGUSR2)
        proxy.says("upgrade 1: done, 2 connections kept")
        proxy.says(f"ERROR the admin socket {proxy.admin} is not reachable any more")
        all_talk(clients)
    assert proxy.process.poll() is None


@needs_reachable
def test_an_upgrade_with_a_bad_file_is_refused(proxy: Proxy, port: int) -> None:
    """The old build goes on; the reason is in the log and in status. A good file then works."""
    good = proxy.file.read_text()
    proxy.write("routes: 7\n")
    with conversations(port, 2) as clients:
        pids = proxy.worker_pids()
        proxy.signal(signal.SIGUSR2)
        wait_for(partial(upgraded, proxy, 1), "the refusal")
        found = proxy.status()["upgrade"]
        assert found["state"] == "failed"
        assert "routes" in found["error"]
        proxy.says("upgrade refused")
        assert proxy.worker_pids() == pids
        proxy.write(good)
        proxy.signal(signal.SIGUSR2)
        wait_for(partial(upgraded, proxy, 2), "the upgrade")
        assert proxy.status()["upgrade"]["state"] == "idle"
        all_talk(clients)


@needs_reachable
def test_a_second_upgrade_at_the_same_time_is_refused(proxy: Proxy) -> None:
    proxy.signal(signal.SIGUSR2)
    proxy.says("upgrade 1: checking")
    proxy.signal(signal.SIGUSR2)
    proxy.says("upgrade 1 is under way")
    wait_for(partial(upgraded, proxy, 1), "the upgrade")
    assert proxy.status()["upgrade"]["state"] == "idle"


@needs_reachable
def test_a_signal_while_the_master_becomes_the_next_build_is_for_that(proxy: Proxy) -> None:
    """It waits for control to end, which a stopped one does only when it is killed."""
    before = len(proxy.worker_pids())
    os.kill(proxy.control_pid(), signal.SIGSTOP)
    proxy.signal(signal.SIGUSR2)
    proxy.says("the new build takes over")
    proxy.signal(signal.SIGTTIN)
    proxy.says(f"workers {before}->{before + 1}")
    proxy.says("upgrade 1: done")


@needs_reachable
def test_a_build_of_another_layout_lets_the_old_workers_finish(proxy: Proxy, port: int) -> None:
    """What can't be shared is not: old connections end where they are, new ones come to new
    workers, and the listening sockets stay the same."""
    with conversations(port, 4) as clients:
        old = set(proxy.worker_pids())
        proxy.children |= proxy.tree()
        make_foreign(proxy)
        proxy.signal(signal.SIGUSR2)
        proxy.says("keep their connections until these end")
        wait_for(lambda: split(port, 10, at_once=5) == {"one": 10}, "new workers")
        all_talk(clients)
        assert not old & set(proxy.worker_pids())
        assert not none_lives(old)
        proxy.children |= proxy.tree()
    wait_for(partial(none_lives, old), "the old workers to end with their connections")


def make_foreign(proxy: Proxy) -> None:
    """Writes another format number into the head of the table, as another build would have."""
    for entry in Path(f"/proc/{proxy.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the master has one for each turn of its loop
            if "tcpmux-table" in os.readlink(entry):
                with open(entry, "r+b", buffering=0) as table:
                    table.seek(8)
                    table.write(b"\xff\xff\0\0")
                return
    raise AssertionError("no table")


def test_help_is_at_hand_for_a_live_instance(proxy: Proxy, port: int) -> None:
    """A second master for the same admin socket says who is there, and changes nothing."""
    result = tcpmux("-c", str(proxy.file))
    assert result.returncode == 1
    assert f"pid {proxy.process.pid}" in result.stderr
    assert ask(("127.0.0.1", port)) == "one hello\n"
