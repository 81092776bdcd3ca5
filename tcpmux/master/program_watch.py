"""Watches programs that the master has started for progress. Runs in the master.

The program makes a step in shared memory at least every half second, from its loop, so that one
whose loop is stuck makes none. That it makes none says little by itself: it may wait for a CPU, and
so may the master. csrc/watch.h says what counts.
"""

from __future__ import annotations

import time

from tcpmux.master._watch import Watch, process_cpu_us, process_state
from tcpmux.shm._beat import Beat
from tcpmux.shm._declared import HANGING, PRESENT, STOPPED

TICK = 1.0  # s between two looks,
SOON = 0.25  # s, and while something is not as it should be
# It hangs if, without a step, it
BUSY = 10.0  # s; has had so much CPU time: the longest turns of its loop are shorter
BLOCKED = 2.0  # s; has had none, and wanted none
# The same until its first step, while it loads what it needs, maybe from a disk that is slow.
LOADING_BUSY, LOADING_BLOCKED = 60.0, 10.0
# Where /proc does not tell whether it waits for a CPU.
UNSEEN = 10.0  # s
# A stop is seen as such, and workers get no more time either. That it hangs is a conclusion, and
# what it waits for may come: how long it gets is said for each program.
STOP_TIME = 2.0  # s; then it is overdue
STOPS = ("T", "t")  # proc_pid_stat(5)


class ProgramWatch:
    """Over one process, from its start on. hang_time: s; hanging for longer, it is overdue."""

    def __init__(self, pid: int, beat: Beat, hang_time: float) -> None:
        self._pid = pid
        self._beat = beat
        self._hang_time = hang_time
        self._first = beat.steps
        self._looked_ms = round(time.monotonic() * 1000)
        self._cpu_us = process_cpu_us(pid, 0)
        self._watch = Watch(self._looked_ms, self._first, self._cpu_us)
        self._state = ""
        self.due = next_tick(time.monotonic(), TICK)  # monotonic
        self.presence = PRESENT  # or STOPPED, HANGING
        self.away_since: float | None = None  # monotonic

    @property
    def limit(self) -> float:
        """s; being what it is for longer, it is overdue."""
        return STOP_TIME if self.presence == STOPPED else self._hang_time

    @property
    def overdue(self) -> bool:
        """It has been stopped or hanging for as long as it may."""
        return self._watch.overdue

    @property
    def told(self) -> int:
        """What the program claims: Beat.told."""
        return self._beat.told

    def close(self) -> None:
        self._beat.close()

    def check(self) -> bool:
        """Returns whether `presence` has changed."""
        now = time.monotonic()
        before = self.presence
        self._cpu_us = process_cpu_us(self._pid, self._cpu_us)
        calm = self.assess(
            round(now * 1000), self._beat.steps, self._cpu_us, process_state(self._pid)
        )
        self.due = next_tick(now, TICK if calm else SOON)
        if self.presence == PRESENT:
            self.away_since = None
        elif self.away_since is None:
            self.away_since = now
        return self.presence != before

    def assess(self, now_ms: int, steps: int, cpu_us: int, state: str) -> bool:
        """By what one look has shown. Returns whether all is as it should be. steps: whatever the
        program says; state: of the process, "" = not known."""
        paused = now_ms - self._looked_ms > 2000 * TICK  # this process, and maybe the machine
        is_idle = self._watch.check(now_ms, steps, cpu_us, state)
        is_stopped = state in STOPS
        seems_stopped = is_stopped and is_idle and (not paused or self._state in STOPS)
        self._looked_ms = now_ms
        self._state = state
        loading = steps == self._first
        blocked = LOADING_BLOCKED if loading else BLOCKED if state else UNSEEN
        self.presence = self._watch.assess(
            # Between two steps a debugger that lets it go on stops it, too; and what has stopped
            # this process as well may not have let go of that one yet.
            seems_stopped,
            round(TICK * 1000),
            round((LOADING_BUSY if loading else BUSY) * 1000),
            round(blocked * 1000),
            round((STOP_TIME if is_stopped else self._hang_time) * 1000),
        )
        if not loading:
            self._first = -1
        return self.presence == PRESENT and not is_idle and not is_stopped

    def describe(self) -> str:
        """What it is, for the log: "is stopped", "hangs: ..."."""
        if self.presence == STOPPED:
            return "is stopped, by a signal or a debugger"
        if self.presence != HANGING:
            return "goes on"
        circling = self._watch.circling_us / 1e6
        if circling >= BUSY:
            return f"hangs: {circling:.0f} s of CPU time without an end of what it does"
        if self._state == "D":
            return "hangs: it waits for a disk, or for a file system elsewhere"
        return "hangs: it waits in the kernel for something that does not come"


def next_tick(now: float, every: float) -> float:
    """At the same times for all that is watched, so that the master wakes up once. Monotonic."""
    return (now // every + 1) * every
