"""The program of hooks. Runs in control.

In a thread that nobody waits for: to start a program may take for ever, on a file system that does
not answer. The program has a session of its own, no descriptors but its output, and a time limit,
after which that session is killed.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from tcpmux.control.hook_requests import HookFailed
from tcpmux.errors import printable

MAX_OUTPUT = 64 << 10  # bytes, after which its output is closed
SHOWN = 200  # characters of it
LOOK = 20  # ms
PART = 4096  # bytes of one read
STARTED_LATE = 5.0  # s beyond the time limit, and a start is given up
MAX_THREADS = 16  # of starts that take for ever
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Run:
    """One run of it."""

    def __init__(self, path: str, environment: Mapping[str, str], seconds: float) -> None:
        self._path = path
        self._environment = dict(environment)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_over = False  # nobody waits for it any more

    def run(self) -> str:
        """Why it failed; "" = it has not."""
        try:
            child = subprocess.Popen(
                [self._path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            return f"it can't be run: {why}"
        with self._lock:
            self._child = child
            if self._is_over:
                _kill(child)
        assert child.stdout is not None
        with child.stdout as output:
            said, ended = self._wait(child, output)
        with self._lock:
            _kill(child)  # with what it has left behind
            self._child = None
        code = child.wait()
        if not ended:
            return f"it had not ended after {self._seconds:g} s, and was killed{_shown(said)}"
        if code < 0:
            return f"it was ended by signal {-code}{_shown(said)}"
        return f"exit code {code}{_shown(said)}" if code else ""

    def _wait(self, child: subprocess.Popen[bytes], output: IO[bytes]) -> tuple[bytes, bool]:
        """What it has said, and whether it has ended."""
        deadline = time.monotonic() + self._seconds
        os.set_blocking(output.fileno(), False)
        poll = select.poll()  # numbers of descriptors may be too large for select()
        poll.register(output, select.POLLIN)
        said, size, ended = b"", 0, False
        while not ended and time.monotonic() < deadline:
            if output.closed:
                time.sleep(LOOK / 1000)
            else:
                poll.poll(LOOK)
            ended = _has_ended(child)
            while not output.closed:
                try:
                    part = os.read(output.fileno(), PART)
                except BlockingIOError:
                    break
                said, size = (said + part)[: 4 * SHOWN], size + len(part)
                if not part or size > MAX_OUTPUT:
                    poll.unregister(output)
                    output.close()
        return said, ended

    def stop(self) -> None:
        with self._lock:
            self._is_over = True
            if self._child is not None:
                _kill(self._child)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """It is not waited for by that: its number remains its own."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The group that it leads. Not after it has been waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _shown(said: bytes) -> str:
    text = printable(" ".join(said.decode(errors="replace").split()))[:SHOWN]
    return f": {text}" if text else ""


_threads: set[threading.Thread] = set()


async def run_program(path: str, environment: Mapping[str, str], seconds: float) -> None:
    """Until it has ended. Raises HookFailed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    run = _Run(path, {"PATH": PATH, **environment}, seconds)

    def outcome(why: str) -> None:
        if not done.done():
            done.set_result(why)

    def work() -> None:
        try:
            why = run.run()
        except BaseException as error:
            why = f"internal error: {error!r:.200}"
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(outcome, why)

    _threads.difference_update([each for each in _threads if not each.is_alive()])
    if len(_threads) >= MAX_THREADS:
        raise HookFailed(f"{len(_threads)} runs of hooks have not ended")
    thread = threading.Thread(target=work, name="hook", daemon=True)
    _threads.add(thread)
    thread.start()
    try:
        await asyncio.wait({done}, timeout=seconds + STARTED_LATE)
    finally:
        run.stop()
    why = done.result() if done.done() else f"it could not be started within {seconds:g} s"
    if why:
        raise HookFailed(why)
