"""The commands of the tool against real instances, and starts that can't be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tcpmux.cli.instance import candidates
from tcpmux.control.client import Client, PermissionDenied
from tests.integration.conftest import StartProxy
from tests.integration.proxy import tcpmux
from tests.integration.routes import route, routes
from tests.integration.test_shifting import split
from tests.support import DEMO_PORTS, EchoServer, free_port, listening, patient, wait_for

STATUS_KEYS = {"pid", "version", "generation", "workers", "routes"}
WORKER_KEYS = {"id", "pid", "generation", "connections"}
DESTINATION_KEYS = {
    "name",
    "weight",
    "effective_weight",
    "connections_active",
    "connections_total",
    "connect_failures_total",
    "bytes_in_total",
    "bytes_out_total",
}


def write(path: Path, config: object) -> Path:
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def test_status_json_has_what_scripts_rely_on(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("tcp-echo", port, v1=(4, one.address), v2=(1, two.address))))
    assert split(port, 5) == {"one": 4, "two": 1}
    status = json.loads(proxy.run("status", "--json").stdout)
    assert status.keys() >= STATUS_KEYS
    assert status["pid"] == proxy.process.pid
    assert all(worker.keys() >= WORKER_KEYS for worker in status["workers"])
    (found,) = status["routes"]
    assert (found["name"], found["listen"]) == ("tcp-echo", [f"127.0.0.1:{port}"])
    assert all(d.keys() >= DESTINATION_KEYS for d in found["destinations"])
    assert [d["connections_total"] for d in found["destinations"]] == [4, 1]


def test_status_reads_well(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("tcp-echo", port, v1=(4, one.address))))
    text = proxy.run("status").stdout
    for part in ("tcp-echo", f"127.0.0.1:{port}", "v1", str(proxy.process.pid)):
        assert part in text


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["reload"],
        ["weight", "r", "v1=1"],
        ["stop"],
    ],
)
def test_nothing_runs(tmp_path: Path, command: list[str]) -> None:
    result = tcpmux(*command, "--admin", str(tmp_path / "none.sock"))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "no tcpmux is running" in line
    assert str(tmp_path / "none.sock") in line


def test_a_single_instance_is_found_and_several_are_listed(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """Without --admin: by its sockets, wherever they are. Other tests may run instances now."""
    environment = {k: v for k, v in os.environ.items() if k != "TCPMUX_ADMIN"}
    first = start_proxy(routes(route("first", free_port(), v1=(1, one.address))))
    (found,) = (one for one in candidates() if one.path == os.path.realpath(first.admin))
    assert (found.trusted, found.usable) == (True, True)
    result = tcpmux("status", env=environment)
    if result.returncode == 0:
        assert "first" in result.stdout
    else:
        assert first.admin in result.stderr
    second = start_proxy(routes(route("second", free_port(), v1=(1, one.address))))
    result = tcpmux("status", env=environment)
    assert result.returncode != 0
    assert first.admin in result.stderr
    assert second.admin in result.stderr
    assert f"(with {second.file})" in result.stderr
    result = tcpmux("status", env={**environment, "TCPMUX_ADMIN": second.admin})
    assert "second" in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_else_may_not_talk_to_it(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    for directory in [proxy.directory, *proxy.directory.parents][:-2]:
        directory.chmod(0o755)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            Client(proxy.admin).status()
        except PermissionDenied as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end) as answer:
        message = answer.read()
    assert f"may not talk to tcpmux at {proxy.admin}" in message
    assert "root's, mode 0600" in message


def test_a_bad_file_does_not_start(tmp_path: Path) -> None:
    file = write(tmp_path / "routes.yaml", "routes:\n  - name: r\n    wieght: 1\n")
    for command in (["-c", str(file)], ["check", "-c", str(file)]):
        result = tcpmux(*command)
        assert result.returncode == 2
        assert f"{file}:3:5: routes[0]: unknown key wieght" in result.stderr + result.stdout


def test_an_address_in_use_does_not_start(tmp_path: Path, one: EchoServer, two: EchoServer) -> None:
    config = {
        "admin": {"socket": str(tmp_path / "admin.sock")},
        **routes(route("r", one.port, v1=(1, two.address))),
    }
    result = tcpmux("-c", str(write(tmp_path / "routes.yaml", config)))
    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{one.port}: Address already in use" in result.stderr
    assert f"(pid {os.getpid()}) has 127.0.0.1:{one.port})" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "admin.sock").exists()


def test_a_second_instance_at_the_same_admin_socket_does_not_start(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    result = tcpmux("-c", str(proxy.file))
    assert result.returncode == 1
    assert f"another tcpmux (pid {proxy.process.pid}) runs with this admin socket" in result.stderr
    assert proxy.status()["state"] == "running"


def test_two_instances_do_not_share_a_port(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """SO_REUSEPORT would allow it, and give each a half of the connections."""
    port = free_port()
    start_proxy(routes(route("r", port, v1=(1, one.address))))
    config = {
        "admin": {"socket": str(tmp_path / "other.sock")},
        **routes(route("r", port, v1=(1, one.address))),
    }
    result = tcpmux("-c", str(write(tmp_path / "other.yaml", config)))
    assert result.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr


@pytest.fixture
def demo_ports() -> Iterator[None]:
    """The ports of the demo, which are the same for everybody: one test after the other has them,
    also of other processes. The lock is a name that is of this network, as they are."""

    def is_ours() -> bool:
        with suppress(OSError):
            lock.bind("\0tcpmux tests: the demo's ports")
            return True
        return False

    with socket.socket(socket.AF_UNIX) as lock:
        wait_for(is_ours, "another test with the demo's ports to end", patient(100))
        busy = [port for port in DEMO_PORTS if listening(port)]
        if busy:
            pytest.skip(f"the demo's ports are in use: {busy}")
        yield


@pytest.mark.usefixtures("demo_ports")
def test_the_demo_shows_16_to_4_and_leaves_nothing() -> None:
    result = tcpmux("demo")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["v1", "20", "20", "16", "16"] in rows
    assert ["v2", "0", "0", "4", "4"] in rows


@pytest.mark.usefixtures("demo_ports")
def test_demo_serve_stays_until_interrupted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tcpmux", "demo", "--serve"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(
            lambda: "31400" in log.read_text() and "nc " in log.read_text(),
            "the hints",
            patient(30),
        )
        children = psutil.Process(process.pid).children(recursive=True)
        assert split(31400, 4) == {"one": 4}
        process.send_signal(signal.SIGINT)
        assert process.wait(patient(30)) == 0, log.read_text()
        assert not [child for child in children if child.is_running()]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(patient(30))
