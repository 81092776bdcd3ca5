"""A tcpmux to be looked into while it runs: its shared memory is mapped here.

Runs in the bench process.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.processes import Program, wait_for
from tcpmux.shm._live import Live

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A running tcpmux. port: of its first route."""

    directory: Path
    program: Program
    port: int

    @property
    def pid(self) -> int:
        """Of the master."""
        return self.program.family()[0].pid

    @property
    def admin(self) -> Path:
        """Its admin socket."""
        return self.directory / "admin.sock"

    def write(self, config: dict[str, Any]) -> None:
        """Writes its configuration, which is read at start and at a reload."""
        write(self.directory, config)

    def control(self) -> psutil.Process:
        """The control process."""
        (found,) = (
            each
            for each in self.program.family()
            if each.cmdline()[0].startswith("tcpmux: control")
        )
        return found

    def lives(self) -> list[Live]:
        """The live region of each worker that there is, in order."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                name = os.readlink(entry)
                if "tcpmux-live-" in name and name not in found:
                    found[name] = Live.attach(os.open(entry, os.O_RDONLY | os.O_CLOEXEC))
        every = sorted(found.values(), key=lambda live: live.worker)
        return [live for live in every if live.guardian_pid]


def write(directory: Path, config: dict[str, Any]) -> None:
    """The configuration, with an admin socket, as directory/routes.yaml."""
    admin = {"socket": str(directory / "admin.sock"), **config.get("admin", {})}
    whole = yaml.safe_dump({**config, "admin": admin}, sort_keys=False)
    (directory / "routes.yaml").write_text(whole)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has bound a moment ago."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def route(name: str, port: int, endpoints: Sequence[int], weights: Sequence[int]) -> dict[str, Any]:
    """A route on `port` with one destination for each weight, to `endpoints` in turn."""
    return {
        "name": name,
        "listen": f"127.0.0.1:{port}",
        "destinations": [
            {
                "name": f"v{number}",
                "weight": weight,
                "endpoints": [f"127.0.0.1:{endpoints[number % len(endpoints)]}"],
            }
            for number, weight in enumerate(weights)
        ],
    }


@contextmanager
def running(config: dict[str, Any], cpu: int | None = None) -> Iterator[Instance]:
    """tcpmux with this configuration (without `admin.socket`), ready; ended at exit."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        port = int(config["routes"][0]["listen"].rpartition(":")[2])
        command = [sys.executable, "-m", "tcpmux", "-c", str(directory / "routes.yaml")]
        log = directory / "output.log"
        write(directory, config)
        program = Program(command, cpu=cpu, log=log, directory=REPOSITORY)
        try:
            if not wait_for(lambda: "control is ready" in log.read_text(), START_SECONDS):
                raise RuntimeError(f"tcpmux did not become ready: {program.log_tail()}")
            yield Instance(directory, program, port)
        finally:
            program.stop()
