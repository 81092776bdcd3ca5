"""The program tcpmux.logger, which the master starts (tcpmux/programs.py).

SIGTERM   writes what is left, and ends
SIGUSR1   opens the file again

Both are blocked when it is started, so that none comes too early.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from tcpmux import programs
from tcpmux.logger.lines import Line, writer
from tcpmux.logger.source import Source
from tcpmux.logger.targets import Target, open_target
from tcpmux.logs import begin_log, follow, refresh
from tcpmux.processes import is_alive
from tcpmux.shm._beat import Beat
from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.log")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # of a terminal; meant for the master
MIN_WAIT, MAX_WAIT = 0.02, 0.25  # s between two looks, by how much there was to write
BUSY = 100  # lines at one look
SAY_EVERY = 10.0  # s between two words about lines that were dropped
END_STALL = 1.5  # s to wait for room at the end,
END_LIMIT = 8.0  # s, and for all that is left; the master waits 10 s for our end


class Log:
    """Takes from a source and writes to a target, until told to end. beat: makes a step for
    each line, and at each look."""

    def __init__(
        self,
        source: Source,
        target: Target,
        text: Callable[[Line], str],
        interval: float,
        beat: Beat,
    ) -> None:
        self._source = source
        self._target = target
        self._line_text = text
        self._beat = beat
        self._interval = interval
        self._next_interval = time.monotonic() + interval
        self._next_word = 0.0
        self._lost = 0  # lines that could not be written, and have not been told of
        self._failing = False

    def step(self) -> int:
        """Writes what is there and finds room; returns how many lines. Never raises OSError: what
        can't be written is counted, and lost; what finds no room stays with the workers, until
        they have none either."""
        self._beat.step()
        written = 0
        if self._target.wait(0.0):
            for batch in self._source.batches():
                done = self._write([self._text(line) for line in batch.lines])
                batch.release(done)
                written += done
                if done < len(batch.lines):
                    break
        if self._interval and time.monotonic() >= self._next_interval:
            self._next_interval = time.monotonic() + self._interval
            lines = [self._text(line) for line in self._source.open_connections()]
            self._lost += len(lines) - self._write(lines)
        self._report()
        return written

    def finish(self) -> None:
        """Writes what is left, as long as there is room again within END_STALL. What is not
        written then stays for the next log process, or for the master to count."""
        self._source.end_interval()
        progress = time.monotonic()
        end = progress + END_LIMIT
        while (now := time.monotonic()) < min(end, progress + END_STALL):
            if self.step():
                progress = now
            elif not self._source.unwritten():
                break
            else:
                self._target.wait(MAX_WAIT)
        self._next_word = 0.0
        self._report()

    def _text(self, line: Line) -> str:
        self._beat.step()
        return self._line_text(line)

    def _write(self, lines: list[str]) -> int:
        """How many are done with: written or, after an error, lost."""
        try:
            written = self._target.write(lines)
        except OSError as error:
            self._lost += len(lines)
            if not self._failing:
                log.warning(
                    "can't write the access log: %s; lines are dropped, traffic is not affected",
                    error.strerror,
                )
            self._failing = True
            return len(lines)
        if self._failing and written:
            log.info("the access log can be written again")
            self._failing = False
        return written

    def _report(self) -> None:
        self._lost += self._source.dropped()
        if self._lost and time.monotonic() >= self._next_word:
            self._next_word = time.monotonic() + SAY_EVERY
            log.warning("%d lines of the access log were dropped", self._lost)
            self._lost = 0
        if not self._lost:
            self._beat.told = self._source.counted_dropped


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tcpmux.logger", allow_abbrev=False)
    parser.add_argument("--beat-fd", type=int, required=True)
    parser.add_argument("--table-fd", type=int, required=True)
    parser.add_argument("--live-fd", type=int, action="append", required=True)
    parser.add_argument("--master-pid", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--stderr-link", type=int, required=True)
    parser.add_argument("--told", type=int, default=0)
    parser.add_argument("--link-fd", type=int, required=True)
    parser.add_argument("--file-fd", type=int, default=-1)
    return parser.parse_args(arguments)


def _own_file(fd: int) -> int:
    """Of the same memory, for a lock: the region's open file is shared by all processes."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _take_over(
    own: int, goes_on: Callable[[], object], is_orphan: Callable[[], bool]
) -> int | None:
    """Waits until the log process before this one has ended: only one may take entries. Returns
    SIGTERM if that came meanwhile, else 0; None if there is nothing to wait for any more. own: of
    _own_file()."""
    told = 0
    end = float("inf")
    while time.monotonic() < end:
        goes_on()
        if is_orphan():
            return None
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _signal(MAX_WAIT) == signal.SIGTERM and not told:
                told, end = signal.SIGTERM, time.monotonic() + END_LIMIT
        else:
            return told
    raise TimeoutError("another log process is still running")


def _signal(timeout: float) -> int:
    """The next of SIGNALS; 0 = none within `timeout` s."""
    found = signal.sigtimedwait(SIGNALS, timeout)
    return found.si_signo if found else 0


def _is_orphan(view: View, master: int) -> bool:
    """There is no master and no worker to wait for, or another master, with a log process of its
    own."""
    if os.getppid() == master:
        return False
    return view.table.master_pid != master or not any(
        is_alive(pid)
        for live in view.lives
        for pid in (
            live.guardian_pid,
            live.pid,
        )  # between two incarnations only the guardian is there
    )


def _reopen(target: Target) -> None:
    try:
        target.reopen()
    except OSError as error:
        log.warning(
            "can't reopen the access log, lines still go to the old file: %s",
            error.strerror,
        )


def main() -> int:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # taken between two steps
    from setproctitle import setproctitle

    setproctitle("tcpmux: log")
    options = parse_arguments(sys.argv[1:])
    begin_log()
    beat = Beat.attach(options.beat_fd)
    own = _own_file(options.live_fd[0])
    view = View(options.table_fd, options.live_fd, writable=True)
    follow(lambda: view.table.log_style, socket.socket(fileno=options.stderr_link))
    link = socket.socket(fileno=options.link_fd)
    source, target = Source(view, options.told), open_target(options.path, options.file_fd, link)
    traceback.format_stack()  # loads what a fault would be told with
    programs.drop()
    try:
        # The pid is what the master says of itself: it may have died before it could be asked for.
        told = _take_over(own, beat.step, lambda: _is_orphan(view, options.master_pid))
    except TimeoutError as error:
        log.error("%s", error)  # noqa: TRY400
        return 1
    if told is None:
        return 0
    written = Log(source, target, writer(options.format), options.interval, beat)
    wait = MIN_WAIT
    while told != signal.SIGTERM and not _is_orphan(view, options.master_pid):
        busy = written.step() >= BUSY or source.unwritten()
        wait = MIN_WAIT if busy else min(MAX_WAIT, wait * 2)
        told = _signal(wait)
        refresh()
        if told == signal.SIGUSR1:
            written.step()
            _reopen(target)
    written.finish()
    left = source.unwritten()
    if left and os.getppid() != options.master_pid:
        log.warning("%d lines of the access log were lost at the end", left)
    return 0


if __name__ == "__main__":
    sys.exit(main())
