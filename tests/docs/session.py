"""A page that is carried out as a reader would: its files written, its commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import pytest

from tests.docs.commands_server import CLIENT
from tests.docs.pages import Block, Page
from tests.support import free_port, patient, wait_for

STEP = patient(60)  # s, for one block
DONE = "the block has ended with"
MARKS = re.compile(r"<!-- (ports|interrupt|needs): (.*?) -->")


class Session:
    """One directory, one shell, and what runs in the background. A context manager.

    commands: the socket of a commands_server, for those that end; without, each is a process."""

    def __init__(self, page: Page, directory: Path, commands: Path | None = None) -> None:
        self.page = page
        self.directory = directory
        named = [rest for what, rest in MARKS.findall(page.text) if what == "ports"]
        for program in self.needed(page):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        self.ports = {port: str(free_port()) for port in " ".join(named).split()}
        self.admin = directory / "admin.sock"
        self.background: list[Background] = []
        programs = directory / "bin"
        programs.mkdir()
        python = shlex.quote(sys.executable)
        for name, line in {"tcpmux": f"{python} -m tcpmux", "python3": python}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (programs / name).chmod(0o755)
        if commands is not None:
            (programs / "client.py").write_text(CLIENT.format(path=str(commands)))
            (programs / "tcpmux").write_text(
                f'#!/bin/sh\ncase "$1" in -c|run) exec {python} -m tcpmux "$@"; esac\n'
                f'exec {python} -I -S {programs}/client.py "$@"\n'
            )
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TCPMUX_ADMIN": str(self.admin),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
        }
        self.last = ""
        self.shell = self._start(["bash", "--norc"])

    @staticmethod
    def needed(page: Page) -> list[str]:
        return " ".join(rest for what, rest in MARKS.findall(page.text) if what == "needs").split()

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=self.environment,
            start_new_session=True,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for program in reversed(self.background):
            program.end()
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.close()
        self.shell.wait(STEP)
        self.shell.stdout.close()

    # --- what a page says ---------------------------------------------------------------------

    def carry_out(self) -> int:
        """All of the page. Returns how many blocks were run. Raises AssertionError."""
        ran = 0
        orders = [(self._line(m.start()), m[2]) for m in MARKS.finditer(self.page.text)
                  if m[1] == "interrupt"]  # fmt: skip
        for block in self.page.blocks:
            while orders and orders[0][0] < block.line:
                self._interrupt(orders.pop(0)[1])
            what, _, name = block.directive.partition(": ")
            if what == "file":
                self._write(name, block.text)
            elif what == "run":
                self.last = self._run(block)
                ran += 1
            elif what == "background":
                self.last = ""
                self.background.append(Background(self._start(["sh", "-c", self._own(block.text)]),
                                                  block.text))  # fmt: skip
                ran += 1
            elif what == "output":
                self._compare(block)
        return ran

    def _line(self, at: int) -> int:
        return self.page.text.count("\n", 0, at) + 1

    def _own(self, text: str) -> str:
        """With the ports of this session instead of those of the page."""
        for theirs, ours in self.ports.items():
            text = re.sub(rf"(?<![\d.]){theirs}(?!\d)", ours, text)
        return text

    def _theirs(self, text: str) -> str:
        for theirs, ours in self.ports.items():
            text = text.replace(ours, theirs)
        return text

    def _write(self, name: str, text: str) -> None:
        text = self._own(text)
        if name.endswith(".yaml") and "routes:" in text:
            assert "\nadmin:" not in f"\n{text}", f"{self.page.name}: {name}: has its own admin"
            text += f"admin: {{socket: {self.admin}}}\n"
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _run(self, block: Block) -> str:
        """What it prints. Every line of it has to succeed."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        script = f"set -e\n{self._own(block.text)}"
        path = self.directory / ".block"
        path.write_text(script)
        # Variables and the directory are the shell's; a command that fails ends the block only.
        self.shell.stdin.write(f"( . ./.block ) </dev/null; code=$?; echo; echo {DONE} $code\n")
        self.shell.stdin.flush()
        said: list[str] = []
        line = "nothing"
        clock = threading.Timer(STEP, os.killpg, (self.shell.pid, signal.SIGKILL))
        clock.start()
        try:
            for line in self.shell.stdout:
                if line.startswith(DONE):
                    break
                said.append(line)
        finally:
            clock.cancel()
        text = self._theirs("".join(said))
        assert line.strip() == f"{DONE} 0", f"{block.name}: {block.text}{text}{line}"
        return text

    def _interrupt(self, text: str) -> None:
        (program,) = [one for one in self.background if text in one.text]
        program.end(signal.SIGINT)

    def _compare(self, block: Block) -> None:
        if self.background and not self.last:
            program = self.background[-1]
            wait_for(lambda: matches(block.text, self._theirs(program.said), whole=False),
                     f"{block.name}: {program.text} to print this; {program.said}")  # fmt: skip
            return
        assert matches(block.text, self.last), f"{block.name}:\n{block.text}\nis not\n{self.last}"


class Background:
    """A program that runs on. said: what it has printed."""

    def __init__(self, process: subprocess.Popen[str], text: str) -> None:
        self.process = process
        self.text = text
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """As Ctrl-C does, or a kill: all of its group."""
        if self.process.returncode is not None:
            return
        os.killpg(self.process.pid, number)
        try:
            self.process.wait(STEP)
        finally:
            os.killpg(self.process.pid, signal.SIGKILL) if self.process.poll() is None else None
            self._reader.join(STEP)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def matches(expected: str, found: str, *, whole: bool = True) -> bool:
    """Whether a text is as a page shows it: … stands for anything, spaces may be more or fewer."""
    lines = [re.escape(" ".join(line.split())) for line in expected.strip().splitlines()]
    # A line that is nothing but … stands for any number of lines.
    pattern = "".join(
        r"(?:.*\n)*?" if line == re.escape("…") else line.replace(re.escape("…"), ".*") + r"\n"
        for line in lines
    )
    text = "".join(f"{' '.join(line.split())}\n" for line in found.strip().splitlines())
    return bool(re.fullmatch(pattern, text) if whole else re.search(pattern, text))
