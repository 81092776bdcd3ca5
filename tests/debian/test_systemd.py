"""The package in a Debian 12 with systemd as pid 1: the service as its operator meets it.
`make systemd-test` runs this."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.debian.conftest import bring, install
from tests.debian.machine import Machine, machine
from tests.integration.routes import route, routes
from tests.support import EchoServer, ask, free_port, patient, wait_for

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
# Waits until it is told to become systemd.
LATER = (
    "import os, time\n"
    "while not os.path.exists('/run/boot'): time.sleep(0.02)\n"
    f"os.execv({SYSTEMD!r}, [{SYSTEMD!r}])"
)


def has_booted(debian: Machine) -> bool:
    state = debian.run("systemctl", "is-system-running", check=False).stdout.strip()
    assert state != "degraded", debian.said("systemctl", "--failed", "--no-pager")
    return state == "running"


class Service:
    """tcpmux.service of a machine, with route `r` to two servers, all to `one`."""

    def __init__(self, debian: Machine, one: EchoServer, two: EchoServer) -> None:
        self.debian = debian
        self.one, self.two = one, two
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.configure()

    def configure(self, weights: tuple[int, int] = (1, 0), **top: Any) -> None:
        (v1, v2), file = weights, self.debian.path("etc/tcpmux/routes.yaml")
        destinations = {"v1": (v1, self.one.address), "v2": (v2, self.two.address)}
        file.write_text(yaml.safe_dump(routes(route("r", self.port, **destinations), **top)))

    def drop_in(self, text: str) -> None:
        """Until the machine ends, or the next one."""
        folder = self.debian.path("run/systemd/system/tcpmux.service.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        self.debian.run("systemctl", "daemon-reload")

    def control(self, verb: str) -> None:
        if self.debian.run("systemctl", verb, "tcpmux", check=False).returncode:
            lines = [line["MESSAGE"] for line in self.journal("--lines=20")]
            raise AssertionError(f"systemctl {verb}: " + "\n".join(lines))

    def show(self, name: str) -> str:
        return self.debian.said("systemctl", "show", "--value", f"--property={name}", "tcpmux")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.debian.said("tcpmux", "status", "--json"))
        return found

    def kill(self, pid: int, number: signal.Signals) -> None:
        """pid: as the machine has it."""
        self.debian.run("kill", f"-{number}", str(pid))

    def journal(self, *arguments: str) -> list[dict[str, str]]:
        said = self.debian.said("journalctl", "-o", "json", "-u", "tcpmux", *arguments)
        return [json.loads(line) for line in said.splitlines()]

    @contextmanager
    def open_connection(self) -> Iterator[socket.socket]:
        """One to `one`, that answers before the block and after it."""
        with socket.create_connection(self.address, patient(20)) as client:
            for _ in range(2):
                client.sendall(b"still\n")
                assert client.recv(100) == b"one still\n"
                if _ == 0:
                    yield client


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine"), [SYSTEMD]) as found:
        wait_for(lambda: has_booted(found), "Debian to be up", patient(60))
        install(found)
        yield found


@pytest.fixture
def service(debian: Machine, one: EchoServer, two: EchoServer) -> Iterator[Service]:
    """Started anew for each test, with the package's own unit."""
    if "next" in debian.said("tcpmux", "--version"):
        debian.run("apt-get", "install", "-qq", "--allow-downgrades", "/root/now.deb")
    found = Service(debian, one, two)
    found.drop_in("")
    debian.run("systemctl", "reset-failed")
    found.control("start")
    yield found
    found.configure(drain_timeout="0s")
    debian.run("tcpmux", "reload", check=False)
    debian.run("systemctl", "stop", "tcpmux")
    assert debian.run("pgrep", "-u", "tcpmux", check=False).returncode == 1, "none stays"


def test_a_start_waits_until_it_serves(service: Service) -> None:
    """READY: the first client after `systemctl start` is served; systemd shows what it says."""
    assert ask(service.address) == "one hello\n"
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText").startswith("1 route, ")
    assert int(service.show("NFileDescriptorStore")) > 0
    owner = service.debian.said("stat", "--format=%U", f"/proc/{service.show('MainPID')}")
    assert owner == "tcpmux"


def test_it_is_confined(service: Service) -> None:
    """systemd's own measure of the unit as it is loaded, 0 to 10."""
    service.debian.run("systemd-analyze", "security", "--threshold=20", "--no-pager", "tcpmux")


def test_only_root_and_its_user_operate_it(service: Service) -> None:
    """Anybody else is told so, and not that none is running."""
    debian = service.debian
    debian.run("tcpmux", "weight", "r", "v1=1", "v2=1", user="tcpmux")
    said = debian.run("tcpmux", "status", user="daemon", check=False)
    assert said.returncode != 0
    assert "sudo" in said.stdout
    assert "/run/tcpmux/tcpmux.sock of user tcpmux" in said.stdout


def test_a_reload_changes_where_new_clients_go_and_a_refused_one_says_why(
    service: Service,
) -> None:
    with service.open_connection():
        service.configure((0, 1))
        service.control("reload")
        assert ask(service.address) == "two hello\n"
        service.debian.path("etc/tcpmux/routes.yaml").write_text("routes: 7\n")
        refused = service.debian.run("systemctl", "reload", "tcpmux", check=False)
        assert refused.returncode != 0
        assert service.show("ActiveState") == "active"
        assert ask(service.address) == "two hello\n"
        assert any("routes.yaml:1" in line["MESSAGE"] for line in service.journal("-p", "warning"))
        service.debian.run("tcpmux", "weight", "r", "v1=1", "v2=0")
        assert ask(service.address) == "one hello\n"


def test_another_master_takes_over_when_it_is_killed(service: Service) -> None:
    with service.open_connection():
        before = service.show("MainPID")
        service.kill(int(before), signal.SIGKILL)
        wait_for(lambda: service.show("MainPID") not in {"0", before}, "systemd to start another")
        wait_for(lambda: service.show("ActiveState") == "active", "it to be ready")
        assert ask(service.address) == "one hello\n"
    assert any("taken over" in line["MESSAGE"] for line in service.journal())


def test_a_worker_that_is_killed_is_replaced_and_systemd_has_nothing_to_do(
    service: Service,
) -> None:
    with service.open_connection():
        restarts, master = service.show("NRestarts"), service.show("MainPID")
        for worker in (before := service.status()["workers"]):
            service.kill(worker["pid"], signal.SIGKILL)

        def replaced() -> bool:
            now = service.status()["workers"]
            return all(
                new["pid"] not in (0, old["pid"]) for old, new in zip(before, now, strict=True)
            )

        wait_for(replaced, "others in their place")
        assert ask(service.address) == "one hello\n"
        assert (service.show("NRestarts"), service.show("MainPID")) == (restarts, master)


def test_the_watchdog_replaces_a_master_that_is_stopped(service: Service) -> None:
    """Traffic goes on meanwhile, and after."""
    service.control("stop")
    service.drop_in("WatchdogSec=2s")
    service.control("start")
    with service.open_connection():
        before = service.show("MainPID")
        service.kill(int(before), signal.SIGSTOP)
        assert ask(service.address) == "one hello\n"
        wait_for(lambda: service.show("MainPID") not in {"0", before}, "the watchdog", patient(30))
        wait_for(lambda: service.show("ActiveState") == "active", "it to be ready")
        assert ask(service.address) == "one hello\n"


def test_a_restart_drains_and_refuses_nobody(service: Service) -> None:
    """An open connection goes on until its client ends it; who connects meanwhile is served by the
    next instance."""
    with service.open_connection():
        before = service.show("MainPID")
        restart = threading.Thread(target=service.control, args=("restart",))
        restart.start()
        wait_for(lambda: service.show("ActiveState") == "deactivating", "the drain")
        waiting = socket.create_connection(service.address, patient(20))
        waiting.sendall(b"me\n")
    restart.join(patient(60))
    assert service.show("MainPID") != before
    with waiting:
        waiting.settimeout(patient(20))
        assert waiting.recv(100) == b"one me\n"


def test_a_cpu_quota_is_the_number_of_workers(service: Service) -> None:
    if os.cpu_count() == 1:
        pytest.skip("one CPU has one worker without a quota as well")
    service.control("stop")
    service.drop_in("CPUQuota=100%")
    service.control("start")
    assert len(service.status()["workers"]) == 1
    assert ask(service.address) == "one hello\n"


def test_the_journal_has_fields_and_priorities(service: Service) -> None:
    service.control("stop")
    service.configure(log={"target": "journal"})
    service.control("start")
    service.debian.run("tcpmux", "weight", "r", "v1=0", "v2=1")

    def change() -> dict[str, str]:
        return next(iter(service.journal("TCPMUX_EVENT=weights")), {})

    line = wait_for(change, "the journal to have it")
    assert (line["PRIORITY"], line["TCPMUX_ROUTE"], line["TCPMUX_PROCESS"]) == ("6", "r", "master")
    assert line["SYSLOG_IDENTIFIER"] == "tcpmux"


def test_logrotate_moves_the_logs_and_tcpmux_goes_on_in_new_ones(service: Service) -> None:
    logs = service.debian.path("var/log/tcpmux")
    service.control("stop")
    service.configure(
        log={"target": "file", "file": "/var/log/tcpmux/tcpmux.log"},
        access_log="/var/log/tcpmux/access.log",
    )
    service.control("start")
    ask(service.address)
    access, log = logs / "access.log", logs / "tcpmux.log"
    wait_for(lambda: access.exists() and access.stat().st_size, "a line of the access log")
    service.debian.run("logrotate", "--force", "/etc/logrotate.d/tcpmux")
    wait_for(
        lambda: ask(service.address) and access.exists() and access.stat().st_size,
        "a line in the new access log",
    )
    service.debian.run("tcpmux", "weight", "r", "v1=1", "v2=1")
    wait_for(lambda: "v2 0->1" in log.read_text(), "a line in the new log")
    assert all((logs / f"{name}.log.1").stat().st_size for name in ("access", "tcpmux"))
    for path in (access, log):
        assert service.debian.said("stat", "--format=%U %a", f"/var/log/tcpmux/{path.name}") == (
            "tcpmux 640"
        )


def test_a_newer_package_is_an_upgrade_in_place(service: Service) -> None:
    with service.open_connection():
        before = service.show("MainPID")
        service.debian.run("apt-get", "install", "-qq", "/root/next.deb")
        assert service.status()["version"] == "0.1.0+next"
        assert service.show("MainPID") == before
        assert service.show("ActiveState") == "active"
        service.control("reload")


def test_the_socket_unit_opens_the_port(service: Service) -> None:
    """Before tcpmux runs: the first client starts it and is served."""
    service.control("stop")
    example = service.debian.path("usr/share/tcpmux/systemd/tcpmux.socket").read_text()
    unit = example.replace("0.0.0.0:31400", f"127.0.0.1:{service.port}").replace("tcp-echo", "r")
    service.debian.path("run/systemd/system/tcpmux.socket").write_text(unit)
    service.debian.run("systemctl", "daemon-reload")
    service.debian.run("systemctl", "start", "tcpmux.socket")
    try:
        assert service.show("ActiveState") == "inactive"
        assert ask(service.address) == "one hello\n"
        wait_for(lambda: service.show("ActiveState") == "active", "it to be ready")
    finally:
        service.debian.run("systemctl", "stop", "tcpmux.socket")
        service.debian.path("run/systemd/system/tcpmux.socket").unlink()


def test_it_starts_with_the_system_after_the_network_and_a_removal_ends_it(
    tmp_path: Path, one: EchoServer, two: EchoServer
) -> None:
    """Installed and enabled before systemd runs, as where an image of a disk is made."""
    with machine(tmp_path, ["/usr/bin/python3.11", "-c", LATER]) as debian:
        install(debian)
        service = Service(debian, one, two)
        service.control("enable")
        debian.path("run/boot").touch()
        wait_for(lambda: has_booted(debian), "Debian to be up", patient(60))
        assert ask(service.address) == "one hello\n"
        when = {
            unit: int(debian.said("systemctl", "show", "--value", f"--property={what}", unit))
            for unit, what in (
                ("network-online.target", "ActiveEnterTimestampMonotonic"),
                ("tcpmux", "ExecMainStartTimestampMonotonic"),
            )
        }
        assert 0 < when["network-online.target"] <= when["tcpmux"]

        debian.run("apt-get", "purge", "-qq", "tcpmux")
        assert debian.run("pgrep", "-u", "tcpmux", check=False).returncode == 1
        assert not debian.path("etc/systemd/system/multi-user.target.wants/tcpmux.service").exists()
        assert (
            debian.said("systemctl", "list-units", "--all", "--plain", "--no-legend", "tcpmux*")
            == ""
        )


def test_the_unit_for_other_installations_has_a_user_of_the_moment(
    tmp_path: Path, one: EchoServer, two: EchoServer
) -> None:
    """configs/tcpmux.service, where tcpmux is in a directory of its own and nothing made a user: it
    starts, reloads, and another master, of the same user, takes over from one that was killed."""
    with machine(tmp_path, [SYSTEMD]) as debian:
        wait_for(lambda: has_booted(debian), "Debian to be up", patient(60))
        bring(debian)
        unpack = "dpkg-deb --fsys-tarfile /root/now.deb | tar -x -C / --keep-directory-symlink"
        debian.run("sh", "-c", unpack)
        debian.path("lib/systemd/system/tcpmux.service").unlink()
        unit = debian.path("etc/systemd/system/tcpmux.service")
        unit.write_text((ROOT / "configs/tcpmux.service").read_text())
        debian.path("usr/local/bin/tcpmux").symlink_to("/usr/bin/tcpmux")
        service = Service(debian, one, two)
        debian.run("systemctl", "daemon-reload")
        service.control("start")
        with service.open_connection():
            service.configure((0, 1))
            service.control("reload")
            assert ask(service.address) == "two hello\n"
            said = debian.run("tcpmux", "status", user="daemon", check=False)
            assert "sudo" in said.stdout
            before = service.show("MainPID")
            owner = debian.said("stat", "--format=%u", f"/proc/{before}")
            assert 61184 <= int(owner) <= 65519, "systemd's range of such users"
            service.kill(int(before), signal.SIGKILL)
            wait_for(lambda: service.show("MainPID") not in {"0", before}, "another master")
            wait_for(lambda: service.show("ActiveState") == "active", "it to be ready")
            assert debian.said("stat", "--format=%u", f"/proc/{service.show('MainPID')}") == owner
            assert ask(service.address) == "two hello\n"
