"""A program of tcpmux that the master runs beside the workers: started, restarted, ended."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from tcpmux import programs
from tcpmux.errors import TcpmuxError
from tcpmux.log_targets import STANDARD_ERROR
from tcpmux.master.line import describe_exit
from tcpmux.master.program_watch import ProgramWatch
from tcpmux.privileges import User
from tcpmux.processes import ends_within, is_called
from tcpmux.shm._beat import Beat
from tcpmux.shm._declared import PRESENT
from tcpmux.worker.process import FIRST_DELAY, MAX_DELAY, STABLE_SECONDS

log = logging.getLogger("tcpmux.master")

END_TIME = 2.0  # s
KILLED_TIME = 5.0  # s; what has not ended by then waits in the kernel

# A command line after the module's name, and the descriptors that it names.
Arguments = tuple[Sequence[str], Sequence[int]]


class Program:
    """A program (tcpmux/programs.py), run as long as arguments() returns any; asked before each
    start.

    A program of its own, so that nothing it imports is ever in the master. name: as in its title
    and in the log. user: whom it becomes when it has loaded what it needs. held: signals that wait
    until it takes them, also if it is not ready for them.
    """

    hang_time = 10.0  # s; hanging for longer, it is replaced
    without_it = "what it does is not done"  # while it is stopped or hangs

    def __init__(
        self,
        name: str,
        module: str,
        user: User,
        arguments: Callable[[], Arguments | None],
        held: Sequence[signal.Signals] = (),
    ) -> None:
        self._name = name
        self._module = module
        self._user = user
        self._arguments = arguments
        self._held = held
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._delay = 0.0
        self._start_at = 0.0
        self._expected = False  # its end
        self._kill_at: float | None = None  # monotonic; it has been asked to end
        self._watch: ProgramWatch | None = None
        self._dead_by: float | None = None  # monotonic; it has been killed
        self._stderr: socket.socket | None = None  # over which it is given another standard error
        self.starts = 0
        self.hangs = 0  # times that it was found stopped or hanging

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def presence(self) -> int:
        """PRESENT, STOPPED or HANGING."""
        return self._watch.presence if self._watch else PRESENT

    def next_start(self) -> float | None:
        """Monotonic time at which start_due() has something to do; None = nothing to start."""
        if self._process:
            return self._kill_at
        return None if self._arguments() is None else self._start_at

    def start_due(self, now: float) -> None:
        """Starts it if it is to run, does not, and its delay is over; has one that is to end,
        and does not, end by force."""
        if self._process and self._kill_at is not None and now >= self._kill_at:
            log.warning("killing %s (pid %d): it does not exit", self._name, self.pid)
            self._replace()
        if self._process or now < self._start_at:
            return
        wanted = self._arguments()
        if wanted is None:
            return
        try:
            self._start(*wanted)
        except (OSError, TcpmuxError) as error:
            self._close_link()
            log.error("can't start %s: %s", self._name, error)  # noqa: TRY400
            self._start_later(now)
            return
        self._started = now
        self._expected = False
        self._kill_at = self._dead_by = None
        self.starts += 1

    def _start(self, arguments: Sequence[str], fds: Sequence[int]) -> None:
        """Raises OSError, TcpmuxError."""
        beat = Beat.create()
        self._stderr, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherited: list[int] = []
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._held)  # a child inherits that
        try:
            own, inherited = self._open_link()
            own = ["--beat-fd", str(beat.fd), "--stderr-link", str(theirs.fileno()), *own]
            self._process = subprocess.Popen(
                programs.command(self._module, [*own, *arguments], self._user),
                stdin=subprocess.DEVNULL,
                cwd="/",
                close_fds=True,
                pass_fds=[beat.fd, theirs.fileno(), *inherited, *fds],
                env=programs.environment(),
            )
        except BaseException:
            beat.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            for fd in inherited:
                os.close(fd)
        beat.give_away()  # from now on only that process can write it
        self._watch = ProgramWatch(self._process.pid, beat, self.hang_time)

    def _open_link(self) -> tuple[list[str], list[int]]:
        """What a program needs besides: arguments, and descriptors that are closed here after
        the start. Raises OSError, TcpmuxError."""
        return [], []

    def _close_link(self) -> None:
        pass

    def give_stderr(self) -> None:
        """What is standard error here is so there as well, at its next refresh() (logs.py)."""
        if self._stderr is not None:
            with suppress(OSError):  # it is ending, or has many of them to look at
                socket.send_fds(self._stderr, [b"2"], [STANDARD_ERROR], socket.MSG_DONTWAIT)

    def restart(self, timeout: float) -> None:
        """Has it end, by force after `timeout` s; start_due() starts the next one, if there is to
        be any, when it has."""
        self._start_at = self._delay = 0.0
        self.signal(signal.SIGTERM)
        self._kill_at = time.monotonic() + timeout
        self._expected = True

    # --- whether it goes on -----------------------------------------------------------------

    def next_check(self) -> float | None:
        """Monotonic time at which check() has something to do; None = it does not run."""
        return self._watch.due if self._watch else None

    def check(self, now: float) -> None:
        """Looks whether it goes on with its work; says so when that changes, and has one that has
        been stopped, or hanging, for too long ended."""
        watch = self._watch
        if watch is None or now < watch.due:
            return
        if watch.check():
            self._log_presence(watch)
        if self._dead_by is not None:
            if now >= self._dead_by:
                log.error(
                    "%s (pid %d) was killed and does not exit: it is blocked in the kernel; it "
                    "can't be replaced before it has exited",
                    self._name,
                    self.pid,
                    extra={"event": self._name},
                )
                self._dead_by = float("inf")
        elif watch.overdue:
            log.error(
                "%s (pid %d) %s, for longer than %g s: it is replaced",
                self._name,
                self.pid,
                watch.describe(),
                watch.limit,
                extra={"event": self._name},
            )
            self._replace()

    def _log_presence(self, watch: ProgramWatch) -> None:
        extra = {"event": self._name}
        if watch.presence == PRESENT:
            log.info("%s (pid %d) is running again", self._name, self.pid, extra=extra)
            return
        self.hangs += 1
        log.warning(
            "%s (pid %d) %s: %s meanwhile; traffic is not affected",
            self._name,
            self.pid,
            watch.describe(),
            self.without_it,
            extra=extra,
        )

    def _replace(self) -> None:
        """Ends it at once; the next one is started when it has ended."""
        self._close_link()
        self.signal(signal.SIGKILL)
        self._kill_at, self._dead_by = None, time.monotonic() + KILLED_TIME

    def _is_gone(self) -> None:
        self._process = None
        self._close_link()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # --- its end ----------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None:
            # Not by Popen, which would reap it if it has just ended.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def end(self, timeout: float) -> None:
        """Ends it if it runs; by force after `timeout` s."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            log.warning(
                "killing %s (pid %d): it has not exited after %g s", self._name, self.pid, timeout
            )
            self._process.kill()
            self._process.wait()
        self._is_gone()

    def died(self, pid: int, status: int) -> bool:
        """Takes note of a child's end; False if it was not this one."""
        if self._process is None or pid != self._process.pid:
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)  # reaped by the loop
        now = time.monotonic()
        worked_until = self._watch.away_since if self._watch else None
        self._is_gone()
        if not self._expected:
            if (worked_until or now) - self._started >= STABLE_SECONDS:
                self._delay = 0.0
            log.error(
                "%s (pid %d) %s; traffic does not depend on it; a new one starts in %.1f s",
                self._name,
                pid,
                describe_exit(status),
                self._delay,
                extra={"event": self._name},
            )
            self._start_later(now)
        return True

    def _start_later(self, now: float) -> None:
        self._start_at = now + self._delay
        self._delay = min(MAX_DELAY, self._delay * 2 or FIRST_DELAY)


def end_other(pid: int, name: str, uid: int) -> None:
    """Waits for the end of a program of the master before this one: it may have an address that
    is to be bound again. It ends by itself, when it sees another master in the table.

    One that does not is ended, if that is what the pid still means: the number is from shared
    memory, so it has to have the name, and to run as our processes do (`uid`).
    """
    if pid <= 0:
        return
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if is_called(pid, name, uid) is False:
                return
            for number in (None, signal.SIGTERM, signal.SIGKILL):
                if number is not None:
                    signal.pidfd_send_signal(pidfd, number)
                if ends_within(pidfd, END_TIME):
                    return
                if not is_called(pid, name, uid):
                    return
        finally:
            os.close(pidfd)
