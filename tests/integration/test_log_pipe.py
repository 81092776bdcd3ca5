"""Whoever reads the log, or does not: nothing else depends on it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tcpmux.control.client import AdminError, Client
from tests.integration.routes import route, routes
from tests.support import DEADLINE, EchoServer, ask, free_port, wait_for

Ends = tuple[int, int]  # (what the test keeps, what tcpmux gets as its standard error)


def full_pipe() -> Ends:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    return reader, writer


def full_socket() -> Ends:
    """As the journal's."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    try:
        while True:
            writer.send(b"x" * 4096)
    except BlockingIOError:
        writer.setblocking(True)
    return reader.detach(), writer.detach()


def pipe_without_reader() -> Ends:
    reader, writer = os.pipe()
    os.close(reader)
    return os.open(os.devnull, os.O_RDONLY), writer


def full_disk() -> Ends:
    return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


def controls(master: int) -> list[int]:
    found = []
    for child in psutil.Process(master).children():
        with suppress(psutil.Error):  # it has just ended
            found += [child.pid] if child.cmdline()[:1] == ["tcpmux: control"] else []
    return found


@pytest.mark.parametrize("ends", [full_pipe, full_socket, pipe_without_reader, full_disk])
def test_all_goes_on_when_nobody_takes_the_log(
    tmp_path: Path, one: EchoServer, ends: Callable[[], Ends]
) -> None:
    """Start, weights, deaths of workers and control, reload and stop."""
    port, admin, file = free_port(), str(tmp_path / "admin.sock"), tmp_path / "routes.yaml"
    config = routes(route("r", port, v1=(1, one.address)), workers=2, admin={"socket": admin})
    file.write_text(yaml.safe_dump(config))
    client = Client(admin)
    kept, given = ends()
    process = subprocess.Popen(
        [sys.executable, "-m", "tcpmux", "-c", str(file)], stdin=subprocess.DEVNULL, stderr=given
    )

    def ready() -> bool:
        try:
            return client.status()["pid"] == process.pid
        except AdminError:
            return False

    try:
        wait_for(ready, "tcpmux to be ready")
        for weight in range(2, 6):
            client.set_weights("r", {"v1": weight})
        for worker in client.status()["workers"]:
            os.kill(worker["pid"], signal.SIGKILL)
        wait_for(
            lambda: all(w["starts"] == 2 for w in client.status()["workers"]),
            "the next incarnations",
        )
        assert ask(("127.0.0.1", port)) == "one hello\n"
        (old,) = controls(process.pid)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: controls(process.pid) not in ([old], []) and ready(), "another control")
        process.send_signal(signal.SIGHUP)
        client.set_weights("r", {"v1": 9})
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(kept)
        os.close(given)
