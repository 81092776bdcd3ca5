"""Starts `python -m tcpmux` without what takes most of a start, which is to import it: a process
that has imported it forks, and the child goes on as the interpreter would with that command line.

What a fork does not show (imports that are missing, the environment that an exec passes on, how
much memory is used) has tests of its own, which start the program themselves or with a prefix.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Protocol

import tcpmux.__main__ as program
import tcpmux.config  # noqa: F401  # which adds a variable to the environment
from tcpmux.build import build
from tests.integration import programs_by_fork

# What a master has loaded when it is ready.
LOADED = ("tcpmux.cli.run", "tcpmux.master.start", "difflib", "encodings.utf_8_sig")
MODULE = "tcpmux"
# Of the environment: what nobody but the program looks at, when it runs. A fork can have it.
AT_RUN_TIME = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
MOST = 1 << 16  # of a request, in bytes
LOG, STATUS, GIVEN = 0, 1, 2  # of the descriptors that come with one; GIVEN: and all that follow
MOST_FDS = 253  # of a message
FIRST_GIVEN = 3  # SD_LISTEN_FDS_START
OUT_OF_THE_WAY = 200  # descriptors from here on are none that tcpmux is given


class Process(Protocol):
    """What tests use of subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A child of the process that forks, which says how it ended."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(MODULE, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            said = self._status.recv(64)
            assert said, "the process that forks has ended"
            self.returncode = os.waitstatus_to_exitcode(int(said))
            self._status.close()
        return self.returncode


def start(
    arguments: Sequence[str],
    log: BinaryIO,
    prefix: Sequence[str] = (),
    nofile: int = 0,
    given: Sequence[tuple[str, int]] = (),
) -> Process:
    """`python -m tcpmux ARGUMENTS`, which writes into the log. Is forked if nothing distinguishes
    it from others but what is given here, and AT_RUN_TIME.

    prefix: a command that becomes it. nofile: its RLIMIT_NOFILE, if not 0. given: sockets, with
    their names, as a service manager passes them.
    """
    if not prefix and (_usual(os.environ), Path.cwd()) == (ENVIRONMENT, DIRECTORY):
        return _forking().start(arguments, log.fileno(), nofile, given)
    assert not given, f"sockets are given to what is forked; changed: {_changed()}"
    limit = ["prlimit", f"--nofile={nofile}"] if nofile else []
    return subprocess.Popen(
        [*limit, *prefix, sys.executable, "-m", MODULE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def _usual(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the one in which pytest says what test runs, and those that a fork is told."""
    special = ("PYTEST_CURRENT_TEST", *AT_RUN_TIME)
    return {name: value for name, value in environment.items() if name not in special}


# Those of the process that forks: as they are while tests are collected. It starts when first
# wanted, which may be in a test that changes them.
ENVIRONMENT, DIRECTORY = _usual(os.environ), Path.cwd()


def _changed() -> list[str]:
    """What differs from them now."""
    names = {name for name, _ in ENVIRONMENT.items() ^ _usual(os.environ).items()}
    return sorted(names) + ["directory"] * (Path.cwd() != DIRECTORY)


class _Forking:
    """The process that forks, as those see it who have it do that. It ends with them."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                cwd=DIRECTORY,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._line.close()

    def start(
        self, arguments: Sequence[str], log: int, nofile: int, given: Sequence[tuple[str, int]]
    ) -> Forked:
        told = {name: os.environ[name] for name in AT_RUN_TIME if name in os.environ}
        if given:
            told["LISTEN_FDS"] = str(len(given))
            told["LISTEN_FDNAMES"] = ":".join(name for name, _ in given)
        request = json.dumps([*arguments]), json.dumps(told), str(nofile)
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = [log, theirs.fileno(), *(fd for _, fd in given)]
            socket.send_fds(self._line, ["\n".join(request).encode()], fds)
        return Forked(int(self._line.recv(64)), status)


@cache
def _forking() -> _Forking:
    return _Forking()


# --- in the process that forks --------------------------------------------------------------------


def fork_on_demand(line: socket.socket) -> list[str]:
    """Returns only in children, with the arguments of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # by Ctrl-C: who gives the orders ends then
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.set_wakeup_fd(writing)
    children: dict[int, socket.socket] = {}
    while True:
        ready = select.select([line.fileno(), reading], [], [])[0]
        if reading in ready:
            os.read(reading, MOST)
            _tell_of_the_ended(children)
        if line.fileno() not in ready:
            continue
        request, fds, _, _ = socket.recv_fds(line, MOST, MOST_FDS)
        if not request:
            os._exit(0)
        if pid := os.fork():
            children[pid] = socket.socket(fileno=fds[STATUS])
            for fd in (fds[LOG], *fds[GIVEN:]):
                os.close(fd)
            line.send(str(pid).encode())
            continue
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in (reading, writing, line.detach()):
            os.close(fd)
        for other in children.values():
            other.close()
        return _asked_for(request, fds)


def _asked_for(request: bytes, fds: list[int]) -> list[str]:
    """In the child: descriptors, environment and limit as the request has them; its arguments."""
    arguments, told, nofile = request.decode().split("\n")
    for fd in (1, 2):
        os.dup2(fds[LOG], fd)
    # First out of the way of where they go, which may be where others are.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) for fd in fds[GIVEN:]]
    for fd in fds:
        os.close(fd)
    for at, fd in enumerate(moved, FIRST_GIVEN):
        os.dup2(fd, at)
        os.close(fd)
    os.environ.update(json.loads(told))
    if moved:
        os.environ["LISTEN_PID"] = str(os.getpid())
    if int(nofile):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(nofile), int(nofile)))
    return list(json.loads(arguments))


def _tell_of_the_ended(children: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with children.pop(pid) as one, suppress(OSError):  # nobody wants to know
                one.send(str(status).encode())


def _main() -> None:
    for name in LOADED:
        import_module(name)
    programs_by_fork.load()
    build()
    gc.collect()
    gc.freeze()
    arguments = fork_on_demand(socket.socket(fileno=int(sys.argv[1])))
    programs_by_fork.install()
    # As the interpreter has them.
    sys.argv[:] = [program.__file__, *arguments]
    sys.orig_argv[:] = [sys.executable, "-m", MODULE, *arguments]
    programs_by_fork.run(program.main)  # type: ignore[attr-defined]  # which it imports


if __name__ == "__main__":
    _main()
