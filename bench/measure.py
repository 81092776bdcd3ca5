"""Reads from /proc what a family of processes has cost. Runs in the bench process.

CPU time comes from /proc/PID/task/TID/schedstat, whose first field is the time on a CPU
in nanoseconds (Documentation/scheduler/sched-stats.rst of the kernel): user and system
time together, with none of the rounding of the clock ticks that /proc/PID/stat counts in.
Memory comes from /proc/PID/smaps_rollup; a page shared by k processes counts 1/k in each,
so that the sum over a family counts every page once.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.processes import Program

SETTLE_WINDOW = 0.05
# A process that waits does some housekeeping; 1 % of a CPU is nothing beside a run.
SETTLED_SHARE = 0.01


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of all threads of `pid` so far; 0 for a process that is gone."""
    total = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total


def private_bytes(pids: Sequence[int]) -> int:
    """User-space memory of the processes: anonymous and shared-memory pages, each once."""
    kilobytes = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024


def busy_seconds(cpu: int | None) -> float:
    """Time that `cpu` (None: any) has not been idle, by /proc/stat, in clock ticks of 10 ms."""
    wanted = "cpu" if cpu is None else f"cpu{cpu}"
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name == wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[:8])
            ticks = user + nice + system + irq + softirq + steal
            return ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What a family used between two readings.

    `total` is CPU seconds of all its processes, `worker` of the one that used most, `machine` of
    everything on this machine, by clock ticks;
    `foreign` is the share of the time in which others had its CPU, None if not pinned.
    """

    total: float
    worker: float
    machine: float
    processes: int
    foreign: float | None


class CpuMeter:
    """Measures a program from its construction to `read`.

    A descendant that ends in between takes its time with it; the proxies measured here
    start and end no process while they relay.
    """

    def __init__(self, program: Program, cpu: int | None = None) -> None:
        """Take the first reading; `cpu` is the one the program is pinned to."""
        self._program = program
        self._cpu = cpu
        self._began = time.monotonic()
        self._busy = 0.0 if cpu is None else busy_seconds(cpu)
        self._machine = busy_seconds(None)
        self._before = _reading(program)

    def read(self) -> CpuUse:
        """What the family used since the construction."""
        machine = busy_seconds(None) - self._machine
        after = _reading(self._program)
        grown = [now - self._before.get(pid, 0) for pid, now in after.items()]
        total = sum(grown) / 1e9
        foreign = None
        if self._cpu is not None:
            others = busy_seconds(self._cpu) - self._busy - total
            foreign = max(0.0, others / (time.monotonic() - self._began))
        return CpuUse(
            total=total,
            worker=max(grown, default=0) / 1e9,
            machine=machine,
            processes=len(grown),
            foreign=foreign,
        )


def _reading(program: Program) -> dict[int, int]:
    return {pid: cpu_nanoseconds(pid) for pid in program.pids()}


def settle(program: Program, seconds: float = 10.0) -> bool:
    """Wait until the family hardly uses CPU: start-up is over, the last work is done.

    False if it did not come to rest within `seconds`.
    """
    deadline = time.monotonic() + seconds
    quiet = 0
    while quiet < 2:
        meter = CpuMeter(program)
        time.sleep(SETTLE_WINDOW)
        quiet = quiet + 1 if meter.read().total < SETTLED_SHARE * SETTLE_WINDOW else 0
        if time.monotonic() > deadline:
            return False
    return True
