"""Nobody's word is taken: pids in shared memory, sockets in shared directories."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tcpmux.processes import is_alive
from tcpmux.shm._live import Live
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route, routes
from tests.integration.test_survival import all_talk, conversations, kill_master
from tests.others import needs_root
from tests.support import DEADLINE, EchoServer, ask, free_port, wait_for


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer, port: int) -> Proxy:
    return start_proxy(routes(route("r", port, v1=(1, one.address))))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with all this."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def target(entry: Path) -> str:
    """ "" = it is gone: the master has one for each turn of its loop."""
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return ""


def regions(pid: int) -> list[Live]:
    """Of the workers of a master, writable as to one of them."""
    found = []
    for entry in sorted(Path(f"/proc/{pid}/fd").iterdir()):
        if "memfd:tcpmux-live" in target(entry):
            found.append(Live.attach(os.open(entry, os.O_RDWR), writable=True))
    assert found
    return found


def claim_to_be(lives: list[Live], pid: int) -> None:
    for live in lives:
        live.pid = live.guardian_pid = pid


@pytest.mark.parametrize("how", ["at once", "taken over", "killed for being late"])
def test_a_pid_in_shared_memory_is_never_signalled(
    proxy: Proxy, port: int, one: EchoServer, bystander: subprocess.Popen[bytes], how: str
) -> None:
    """Not at a stop, not by another master, not for a worker that hangs."""
    before = proxy.worker_pids()
    lives = regions(proxy.process.pid)
    proxy.children |= proxy.tree()
    if how == "killed for being late":
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        claim_to_be(lives, bystander.pid)
        for weight in (2, 3):  # the second needs that each worker uses the first
            proxy.reload(routes(route("r", port, v1=(weight, one.address))))
        proxy.children |= proxy.tree()
    if how == "taken over":
        kill_master(proxy)
        claim_to_be(lives, bystander.pid)
        proxy.start()
        with conversations(port, 2) as clients:
            all_talk(clients)
    claim_to_be(lives, bystander.pid)
    proxy.signal(signal.SIGQUIT)
    proxy.process.wait(DEADLINE)
    assert is_alive(bystander.pid)
    wait_for(lambda: not any(map(is_alive, before)), "the workers to end")
    for live in lives:
        live.close()


def test_the_master_before_is_followed_by_one_control(proxy: Proxy, port: int) -> None:
    """The control process and the log process of a killed master end by themselves."""
    old = proxy.control_pid()
    kill_master(proxy)
    wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
    proxy.start()
    wait_for(lambda: not is_alive(old), "the old control to end")
    assert proxy.control_pid() != old
    proxy.says("another master has taken over")
    assert ask(("127.0.0.1", port)) == "one hello\n"


def test_a_new_master_knows_the_guardians(proxy: Proxy, port: int) -> None:
    """They tell it, so that it sees them die."""
    for _ in range(2):
        kill_master(proxy)
        before = len(proxy.log)
        proxy.start()
        wait_for(partial(guardians_are_known, proxy, before), "the guardians to be known")
        guardians = proxy.guardian_pids()
        os.kill(guardians[0], signal.SIGKILL)
        wait_for(partial(died_and_was_seen, proxy, guardians[0]), "it to be noticed")
        wait_for(partial(has_others, proxy, guardians), "another guardian")
        proxy.children |= proxy.tree()
        assert ask(("127.0.0.1", port)) == "one hello\n"


def guardians_are_known(proxy: Proxy, before: int) -> bool:
    return all(f"guardian (pid {pid})" in proxy.log[before:] for pid in proxy.guardian_pids())


def died_and_was_seen(proxy: Proxy, pid: int) -> bool:
    return f"(pid {pid}) died; its worker starts another" in proxy.log


def has_others(proxy: Proxy, guardians: list[int]) -> bool:
    return proxy.guardian_pids() != guardians


@needs_root
def test_a_shared_directory_is_refused(tmp_path: Path, one: EchoServer) -> None:
    """Where others could put their own socket in the place of ours."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    file = tmp_path / "routes.yaml"
    file.write_text(
        f"admin: {{socket: {place}/admin.sock}}\n"
        f"routes: [{{name: r, listen: '127.0.0.1:{free_port()}', "
        f"destinations: [{{name: v1, endpoints: ['{one.address}']}}]}}]\n"
    )
    result = tcpmux("-c", str(file))
    assert result.returncode == 1
    assert f"others may write to {place} (mode 0777)" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(place.iterdir()) == []
