"""The shim from Python: built, preloaded and switched. Runs in tests and in what they start.

build(directory) -> path of the library
Control.create(directory) -> the file that a process is told of by environment()
Control.of_this_process() in a process that runs under the shim
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import patient

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "FAULT_CONTROL"
COMPILER = shlex.split(os.environ.get("CC", "gcc"))
FLAGS = shlex.split("-std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -shared -fPIC")

MAX_SITES = 64
MAX_RULES = 256
ALWAYS = 0xFFFFFFFF


class _Rule(ctypes.Structure):
    _fields_ = (
        ("site", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("first", ctypes.c_uint32),
        ("every", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("chance", ctypes.c_uint32),
        ("fired", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    )


class _Control(ctypes.Structure):
    """shim.h: struct fault_control."""

    _fields_ = (
        ("enabled", ctypes.c_uint32),
        ("rule_count", ctypes.c_uint32),
        ("random", ctypes.c_uint64),
        ("clocks", ctypes.c_uint64),
        ("realtime_offset", ctypes.c_int64),
        ("started_pid", ctypes.c_uint32),
        ("ended_pid", ctypes.c_uint32),
        ("calls", ctypes.c_uint64 * MAX_SITES),
        ("deaths", ctypes.c_uint64 * MAX_SITES),
        ("rules", _Rule * MAX_RULES),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls of `site` number first, first + every, ... fail, `count` times at most.

    error: an errno, or how the call is cut short (sites.py). chance: probability for each call
    from `first` on, instead of `every`; 0 = certain.
    """

    site: str
    error: int
    first: int = 1
    every: int = 1
    count: int = 1
    chance: float = 0.0


def build(directory: Path) -> Path:
    """Compiles the shim. Raises RuntimeError with the compiler's words."""
    library = directory / "shim.so"
    command = [*COMPILER, *FLAGS, "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
    return library


def sites(library: Path) -> dict[str, str]:
    """The shim's table: site -> symbol, in the order of their numbers."""
    shim = ctypes.CDLL(str(library))
    found: dict[str, str] = {}
    shim.fault_site_name.restype = shim.fault_site_symbol.restype = ctypes.c_char_p
    while name := shim.fault_site_name(len(found)):
        found[name.decode()] = shim.fault_site_symbol(len(found)).decode()
    return found


class Control:
    """The switch of the processes that run under one shim."""

    def __init__(self, library: Path, file: Path) -> None:
        self.library = library
        self.file = file
        self._numbers = {name: number for number, name in enumerate(sites(library))}
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), ctypes.sizeof(_Control))
        self._fields = _Control.from_buffer(self._map)

    @classmethod
    def create(cls, library: Path, directory: Path) -> Control:
        file = directory / "control"
        file.write_bytes(bytes(ctypes.sizeof(_Control)))
        return cls(library, file)

    @classmethod
    def of_this_process(cls) -> Control:
        return cls(Path(os.environ["LD_PRELOAD"]), Path(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """What a process needs to run under the shim."""
        return {**os.environ, "LD_PRELOAD": str(self.library), VARIABLE: str(self.file)}

    def arm(self, rules: Sequence[Rule], seed: int = 0) -> None:
        """Faults from here on, and all counts from zero."""
        assert len(rules) <= MAX_RULES
        self.disarm()
        fields = self._fields
        pids = fields.started_pid, fields.ended_pid
        ctypes.memset(ctypes.addressof(fields), 0, ctypes.sizeof(_Control))
        fields.started_pid, fields.ended_pid = pids
        fields.random = seed * 2 + 1
        for place, rule in enumerate(rules):
            fields.rules[place] = _Rule(
                self._numbers[rule.site],
                rule.error,
                rule.first,
                rule.every,
                rule.count,
                int(rule.chance * 0x100000000),
            )
        fields.rule_count = len(rules)
        fields.enabled = 1

    def disarm(self) -> None:
        self._fields.enabled = 0

    @contextmanager
    def armed(self, rules: Sequence[Rule], seed: int = 0) -> Iterator[None]:
        self.arm(rules, seed)
        try:
            yield
        finally:
            self.disarm()

    @property
    def fired(self) -> list[int]:
        """How often each rule has."""
        return [self._fields.rules[n].fired for n in range(self._fields.rule_count)]

    def calls(self) -> dict[str, int]:
        """Calls of each site since the faults were armed: those that were made."""
        counts = {name: self._fields.calls[number] for name, number in self._numbers.items()}
        return {name: count for name, count in counts.items() if count}

    def deaths(self, site: str) -> int:
        """How often a worker has died there, by a rule."""
        count: int = self._fields.deaths[self._numbers[site]]
        return count

    @property
    def worker(self) -> int:
        """Pid of the worker that was started last; 0 if it has died by a rule."""
        started: int = self._fields.started_pid
        return 0 if started == self._fields.ended_pid else started

    @property
    def clocks(self) -> set[int]:
        """Ids of the clocks that a worker has asked."""
        return {number for number in range(64) if self._fields.clocks >> number & 1}

    def shift_realtime(self, seconds: int) -> None:
        """Lets the calendar of every process jump, but for those that don't ask libc."""
        self._fields.realtime_offset = seconds
