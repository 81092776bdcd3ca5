"""The program under test as an object: started as a user would, waited for, and at the end
asserted to have left nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from click.testing import CliRunner

from tcpmux.cli.app import cli
from tcpmux.control.asking import Interrupted
from tcpmux.control.client import AdminError, Client, Status
from tests.integration.starting import Process, start
from tests.support import DEADLINE, patient, wait_for


def tcpmux(*arguments: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command of the tool to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tcpmux", *arguments],
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
        stdin=subprocess.DEVNULL,
        **extra,
    )


def stopped(pid: int) -> bool:
    """Whether a process that was sent SIGSTOP runs no more."""
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


class Proxy:
    """A running tcpmux, with its configuration file, its log and its admin socket."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | str,
        nofile: int = 0,
        more: Sequence[str] = (),
        prefix: Sequence[str] = (),
        source: str = "",
    ) -> None:
        self.directory = directory
        self.file = directory / "routes.yaml"
        self.source = source or str(self.file)
        self.admin = str(directory / "admin.sock")
        self.log_file = directory / "log"
        self.write(config)
        # A command that becomes tcpmux. {admin} stands for the path of the admin socket.
        self.prefix = self._filled(prefix)
        self.nofile = nofile
        self._more = self._filled(more)
        self.client = Client(self.admin)
        self.children: set[int] = set()
        self.log_file.touch()
        self.start()

    def _filled(self, arguments: Sequence[str]) -> list[str]:
        return [argument.replace("{admin}", self.admin) for argument in arguments]

    def start(self) -> None:
        """Starts the master: at first, and again after one has died."""
        self._controls = self.log.count("control is ready")
        with self.log_file.open("ab") as log:
            self.process: Process = start(
                ["-c", self.source, *self._more], log, self.prefix, self.nofile
            )
        try:
            wait_for(self._ready, "tcpmux to be ready")
        except BaseException:
            self._end_at_once()
            raise AssertionError(f"tcpmux did not start:\n{self.log}") from None

    def _end_at_once(self) -> None:
        """The master, and what would go on without it."""
        with suppress(psutil.NoSuchProcess):
            self.children |= self.tree()
        self.process.kill()
        self.process.wait()
        left = self.left()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none may start another meanwhile
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"tcpmux has ended: {self.process.returncode}")
        if self.log.count("control is ready") <= self._controls:
            return False  # and to be asked would take it longer
        try:
            status = self.status()
        except AdminError:
            return False
        self.children |= self.tree()
        return status["pid"] == self.process.pid

    # --- looking at it ------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def says(self, text: str, *, times: int | None = None, after: int = 0) -> None:
        """Waits until the log, from character `after` on, says it, and no more often than `times`.
        What is said of a change may come later than what one sees of it."""

        def said() -> int:
            return self.log[after:].count(text)

        wait_for(lambda: said() >= (times or 1), f"the log to say {text!r}")
        assert times in (None, said()), f"{text!r} is said {said()} times:\n{self.log}"

    def status(self) -> Status:
        return self.client.status()

    def tree(self) -> set[int]:
        """Process ids below the master."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def worker_pids(self) -> list[int]:
        """Of all workers, once each of them runs: between two incarnations a worker has pid 0."""
        return self._pids("pid")

    def guardian_pids(self) -> list[int]:
        return self._pids("guardian_pid")

    def _pids(self, which: Literal["pid", "guardian_pid"]) -> list[int]:
        def found() -> list[int]:
            try:
                pids = [worker[which] for worker in self.status()["workers"]]
            except Interrupted:  # by the end of the control process of a master that is gone
                return []
            return pids if all(pids) else []

        return wait_for(found, "every worker to run")

    def control_pid(self) -> int:
        (pid,) = (
            pid
            for pid in self.tree()
            if psutil.Process(pid).cmdline()[:1] == ["tcpmux: control"]  # none: it is ending
        )
        return pid

    def destination(self, name: str, route: int = 0) -> dict[str, Any]:
        (found,) = (d for d in self.status()["routes"][route]["destinations"] if d["name"] == name)
        return dict(found)

    def active(self) -> int:
        return sum(route["connections_active"] for route in self.status()["routes"])

    def left(self) -> list[int]:
        """Processes of it that still run. What has ended and is nobody's child that cares
        (init of a container) does not count."""
        found = []
        for pid in self.children:
            with suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
        return found

    # --- acting on it -------------------------------------------------------------------------

    def write(self, config: dict[str, Any] | str) -> None:
        """Replaces the configuration file at once, as an editor would."""
        if isinstance(config, dict):
            full = {"workers": 2, "admin": {"socket": self.admin}, **config}
            config = yaml.safe_dump(full, sort_keys=False)
        new = self.file.with_suffix(".new")
        new.write_text(config)
        new.replace(self.file)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def reload(self, config: dict[str, Any] | str) -> None:
        """Writes the file, sends SIGHUP and waits until the outcome is in the log."""
        seen = len(self.log)
        self.write(config)
        self.signal(signal.SIGHUP)
        wait_for(
            lambda: "generation" in self.log[seen:] or "refused" in self.log[seen:],
            "the reload to be logged",
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the tool, told to talk to this instance. Runs here: to start Python takes
        longer than most commands do. tcpmux() starts it."""
        line = [*arguments, "--admin", self.admin]
        done = CliRunner().invoke(cli, line, prog_name="tcpmux", catch_exceptions=False)
        return subprocess.CompletedProcess(line, done.exit_code, done.stdout, done.stderr)

    # --- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends it if it still runs, and asserts that it ended well and left nothing."""
        if self.process.poll() is None:
            self.children |= self.tree()
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"tcpmux did not end after SIGTERM:\n{self.log}") from None
        wait_for(lambda: not self.left(), f"the processes to end: {self.children}")
        left = self.left()
        assert not left, f"processes left behind: {left}\n{self.log}"
        for name in (self.admin, self.admin + ".takeover"):
            assert not Path(name).exists(), f"{name} was left behind"
        assert self.process.returncode == 0, f"exit code {self.process.returncode}:\n{self.log}"
