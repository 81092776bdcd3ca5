"""Work that others may make long, done by a child so that the master does not wait. Runs in the
master.

The child is a copy of the master that has no rights, can open nothing, has no descriptor but its
answer and the log, may not grow beyond MAX_MEMORY, and ends with its answer or after TIME.
Whatever it does or whatever becomes of it, nothing of the master changes.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from tcpmux.config import ConfigError
from tcpmux.errors import TcpmuxError
from tcpmux.master.answers import Later, Refusal
from tcpmux.master.duty import Duty
from tcpmux.privileges import User, drop

log = logging.getLogger("tcpmux.master")

TIME = 20.0  # s; control waits for an answer a little longer
MAX_MEMORY = 1 << 30  # bytes of its own
MAX_ANSWER = 1 << 20  # bytes
MAX_PROBLEMS = 100  # of a file, in an answer
NOBODY = User(65534, 65534)
NICENESS = 10
_ANSWER = 3  # descriptor of the child


class Aside(Duty):
    """One piece of work at a time. user: as whom the child runs."""

    def __init__(self, user: User, limit: float = TIME) -> None:
        self._user = user
        self._limit = limit
        self._pid = 0  # 0 = nothing is under way, or it is over and reaped
        self._answer = -1  # read end of the pipe
        self._data = b""
        self._deadline = 0.0
        self._later: Later | None = None

    def start(self, work: Callable[[], Mapping[str, Any]]) -> Later:
        """Has it done; what it raises is the outcome as well. Raises Refusal while another piece
        of work is under way, or if no child can be started."""
        if self._later is not None:
            raise Refusal("refused", "another such request is under way: try again")
        try:
            read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Refusal("refused", f"no pipe can be made: {error.strerror}") from None
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read_end)
            os.close(write_end)
            raise Refusal("refused", f"no process can be started: {error.strerror}") from None
        if pid == 0:
            _be_the_child(work, write_end, self._limit, self._user)
        os.close(write_end)
        self._pid, self._answer, self._data = pid, read_end, b""
        self._deadline = time.monotonic() + self._limit
        self._later = Later()
        return self._later

    def register(self, selector: selectors.BaseSelector) -> None:
        if self._answer >= 0:
            selector.register(self._answer, selectors.EVENT_READ)

    def due(self) -> float | None:
        return self._deadline if self._later is not None else None

    def do(self, now: float) -> None:
        """Takes what has come of the answer; when it is there, or never will be, says so."""
        if self._answer < 0:
            return
        while len(self._data) <= MAX_ANSWER:
            try:
                part = os.read(self._answer, 65536)
            except BlockingIOError:
                if now < self._deadline:
                    return
                self._finish(_refused(f"given up: it took longer than {self._limit:g} s"))
                return
            if not part:
                break
            self._data += part
        self._finish(self._outcome())

    def _outcome(self) -> dict[str, Any]:
        with suppress(ValueError, RecursionError):
            outcome = json.loads(self._data)
            if isinstance(outcome, dict) and "ok" in outcome:
                return outcome
        return _refused("given up: it needed too much memory or time")

    def _finish(self, outcome: Mapping[str, Any]) -> None:
        later, self._later = self._later, None
        self._close()
        if later is not None:
            later.come(outcome)

    def _close(self) -> None:
        os.close(self._answer)
        self._answer, self._data = -1, b""
        if self._pid:  # not reaped yet, so that it is still this child's
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def child_ended(self, pid: int, _status: int) -> bool:
        """Takes note of it; False if it was another child. What it has written comes by do()."""
        if not pid or pid != self._pid:
            return False
        self._pid = 0
        return True

    def end(self) -> None:
        """Whoever waits is told that nothing comes of it."""
        if self._answer >= 0:
            self._finish(_refused("given up: tcpmux is stopping"))


def _refused(error: str, kind: str = "refused") -> dict[str, Any]:
    return {"ok": False, "kind": kind, "error": error}


def _be_the_child(
    work: Callable[[], Mapping[str, Any]], answer: int, limit: float, user: User
) -> NoReturn:
    code = 1
    try:
        import_module("tcpmux.config.translate")  # a child that is confined opens no file
        import_module("encodings.unicode_escape")  # of printable()
        try:
            _confine(answer, limit, user)
            outcome = _outcome_of(work)
        except OSError as error:
            outcome = _refused(f"a process for it can't become {user.text}: {error.strerror}")
        text = json.dumps(outcome).encode()
        while text:
            text = text[os.write(_ANSWER, text) :]
        code = 0
    finally:
        os._exit(code)


def _confine(answer: int, limit: float, user: User) -> None:
    """Raises OSError if it can't become that user."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # a terminal's, to the whole group
    signal.setitimer(signal.ITIMER_REAL, limit + 1.0)  # if the master is not there to end it
    log.handlers.clear()  # those that tell control
    os.dup2(answer, _ANSWER, inheritable=False)
    os.set_blocking(_ANSWER, True)
    # The lock that says who is the master among them: it must not outlive the master here.
    os.closerange(_ANSWER + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError):
        os.nice(NICENESS)
    seconds = int(limit) + 1
    for kind, most in (
        (resource.RLIMIT_DATA, MAX_MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    if user.is_root:  # as all run then; this needs nothing of it, but a host may have no other user
        with suppress(OSError):
            drop(NOBODY)
    drop(user)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _outcome_of(work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, "result": dict(work())}
    except ConfigError as error:
        lines = str(error).splitlines()
        if len(lines) > MAX_PROBLEMS:
            lines[MAX_PROBLEMS:] = [f"and {len(lines) - MAX_PROBLEMS} more"]
        return _refused("\n".join(lines), "bad_file")
    except Refusal as error:
        return _refused(str(error), error.kind)
    except TcpmuxError as error:
        return _refused(str(error))
    except MemoryError:
        return _refused(f"given up: it took more than {MAX_MEMORY >> 20} MiB of memory")
    except Exception as error:
        log.error("internal error in tcpmux, in work for the API: %r", error)  # noqa: TRY400
        return _refused(f"internal error in tcpmux: {error!r:.200}")
