"""The master's line to the control process: started, restarted, answered. Runs in the master.

The protocol is narrow on purpose: one JSON object a packet, and three verbs.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tcpmux import programs
from tcpmux.config import ConfigError
from tcpmux.errors import TcpmuxError
from tcpmux.master.line import describe_exit
from tcpmux.worker.process import FIRST_DELAY, GROWN_UP, LONGEST_DELAY

log = logging.getLogger("tcpmux.master")

LARGEST_REQUEST = 256 * 1024  # bytes
Answer = Mapping[str, Any]


class Refusal(TcpmuxError):
    """A request that can't be carried out. kind: invalid, not_found or refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ControlProcess:
    """The control process and the socketpair to it.

    arguments: its command line after the descriptors of the socketpair; kept_fds: what it
    inherits besides.
    """

    def __init__(self, arguments: Sequence[str], kept_fds: Sequence[int]) -> None:
        self._arguments = list(arguments)
        self._kept_fds = list(kept_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._started = 0.0
        self._delay = 0.0
        self._start_at = 0.0

    @property
    def link(self) -> socket.socket | None:
        return self._link

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def next_start(self) -> float | None:
        """Monotonic time at which start_due() has something to do; None = it is running."""
        return None if self._process else self._start_at

    def start_due(self, now: float) -> None:
        if self._process or now < self._start_at:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # A program of its own, so that nothing it imports is ever in the master.
        arguments = ["--master-fd", str(theirs.fileno()), *self._arguments]
        try:
            self._process = subprocess.Popen(
                programs.command("tcpmux.control", arguments),
                stdin=subprocess.DEVNULL,
                cwd="/",
                close_fds=True,
                pass_fds=[theirs.fileno(), *self._kept_fds],
                env=programs.environment(),
            )
        except OSError as error:
            ours.close()
            log.error("can't start control: %s", error)  # noqa: TRY400
            self._fell(now)
            return
        finally:
            theirs.close()
        self._link = ours
        self._started = now

    def end(self, timeout: float) -> None:
        """Ends it if it runs; by force after `timeout` s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def died(self, pid: int, status: int, *, wanted: bool) -> bool:
        """Takes note of a child's end; False if it was not control."""
        if self._process is None or pid != self._process.pid:
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)  # reaped by the loop
        self._process = None
        if self._link is not None:
            self._link.close()
            self._link = None
        if not wanted:
            now = time.monotonic()
            if now - self._started >= GROWN_UP:
                self._delay = 0.0
            log.error(
                "control (pid %d) %s; traffic does not depend on it; a new one starts in %.1f s",
                pid,
                describe_exit(status),
                self._delay,
            )
            self._fell(now)
        return True

    def _fell(self, now: float) -> None:
        self._start_at = now + self._delay
        self._delay = min(LONGEST_DELAY, self._delay * 2 or FIRST_DELAY)

    def serve(
        self, handle: Callable[[dict[str, Any]], Answer], on_ready: Callable[[], object]
    ) -> None:
        """Answers what has been asked. handle() raises TcpmuxError to refuse."""
        while self._link is not None:
            try:
                packet = self._link.recv(LARGEST_REQUEST)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:  # it is going; SIGCHLD will tell
                self._link.close()
                self._link = None
                return
            request = json.loads(packet)
            if request.get("verb") == "ready":
                log.info("control is ready (pid %d)", self.pid)
                on_ready()
                continue
            self._answer(request, handle)

    def push(self, message: Mapping[str, Any]) -> bool:
        """Tells control something that it has not asked for. False if it can't be told now."""
        if self._link is None:
            return False
        try:
            self._link.send(json.dumps(message).encode())
        except OSError as error:
            log.warning("control could not be told: %s", error)
            return False
        return True

    def _answer(self, request: dict[str, Any], handle: Callable[[dict[str, Any]], Answer]) -> None:
        answer: dict[str, Any]
        try:
            answer = {"id": request["id"], "ok": True, "result": handle(request)}
        except TcpmuxError as error:
            kind = "bad_file" if isinstance(error, ConfigError) else "refused"
            kind = error.kind if isinstance(error, Refusal) else kind
            answer = {"id": request["id"], "ok": False, "kind": kind, "error": str(error)}
        except Exception as error:
            log.exception("a fault in the master")
            message = f"a fault in tcpmux: {error!r}; its log has the details"
            answer = {"id": request["id"], "ok": False, "kind": "refused", "error": message}
        if self._link is not None:
            try:
                self._link.send(json.dumps(answer).encode())
            except OSError as error:
                log.warning("control did not take an answer: %s", error)
