"""Which process can write which memory, and that a master that takes over writes all of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import split
from tests.integration.test_survival import kill_master
from tests.support import EchoServer, wait_for


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer, port: int, tmp_path: Path) -> Proxy:
    config = routes(route("r", port, v1=(1, one.address), v2=(0, one.address)))
    config["access_log"] = {"path": str(tmp_path / "log")}
    config["workers"] = 2
    return start_proxy(config)


def memory(pid: int) -> dict[str, set[int]]:
    """Regions that a process has open: name -> access modes of its descriptors."""
    found: dict[str, set[int]] = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(fd)
            text = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
        except FileNotFoundError:  # the master has one for each turn of its loop
            continue
        if name.startswith("/memfd:tcpmux-"):
            flags = int(text.partition("flags:")[2].split()[0], 8)
            region = name.removeprefix("/memfd:tcpmux-").split()[0]
            found.setdefault(region, set()).add(flags & os.O_ACCMODE)
    return found


def check_workers(proxy: Proxy) -> None:
    for worker in proxy.status()["workers"]:
        for pid in (worker["pid"], worker["guardian_pid"]):
            modes = memory(pid)
            own = f"live-{worker['id']}"
            assert {name for name, of in modes.items() if of != {os.O_RDONLY}} == {"commons", own}
            assert {"table", "live-0", "live-1"} <= modes.keys()


def test_only_its_writer_can_write_a_region(proxy: Proxy, port: int) -> None:
    check_workers(proxy)
    assert set.union(*memory(proxy.control_pid()).values()) == {os.O_RDONLY}
    assert os.O_RDWR in set.union(*memory(proxy.process.pid).values())


def test_a_new_master_writes_what_workers_could_only_read(proxy: Proxy, port: int) -> None:
    kill_master(proxy)
    wait_for(lambda: proxy.status()["state"] == "orphaned", "control to notice")
    proxy.start()
    assert proxy.run("weight", "r", "v1=3", "v2=1").returncode == 0
    assert proxy.run("workers", "3").returncode == 0
    wait_for(lambda: len(proxy.worker_pids()) == 3, "the third worker")
    assert split(port, 3) == {"one": 3}
    check_workers(proxy)
