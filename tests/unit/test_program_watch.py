"""When the master takes a program for stopped or hanging, and what it does then."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from tcpmux import programs
from tcpmux.master import log_process, program, program_watch
from tcpmux.master.log_process import LogProcess
from tcpmux.master.program import Program
from tcpmux.master.program_watch import BLOCKED, BUSY, LOADING_BLOCKED, LOADING_BUSY, ProgramWatch
from tcpmux.privileges import oneself
from tcpmux.shm._beat import Beat
from tcpmux.shm._declared import HANGING, PRESENT, STOPPED
from tcpmux.worker.process import STABLE_SECONDS
from tests.support import DEADLINE, wait_for

HANG_TIME = 10.0  # s
STOP_TIME = program_watch.STOP_TIME


# --- the judgement, by given numbers --------------------------------------------------------------


class Bench:
    """A watch over a process of which a test says what it does."""

    def __init__(self) -> None:
        self.watch = ProgramWatch(os.getpid(), Beat.create(), HANG_TIME)
        self.ms = round(time.monotonic() * 1000)
        self.cpu_us = self.watch._cpu_us
        self.steps = 0

    def look(
        self, seconds: float = 1.0, *, cpu: float = 0.0, step: int = 0, state: str = "S"
    ) -> int:
        """What it is taken for so many s later, with so many s of CPU time and steps more."""
        self.ms += round(seconds * 1000)
        self.cpu_us += round(cpu * 1e6)
        self.steps += step
        self.watch.assess(self.ms, self.steps, self.cpu_us, state)
        return self.watch.presence


@pytest.fixture
def bench() -> Bench:
    """One that has made its first step."""
    bench = Bench()
    assert bench.look(step=2, cpu=0.001) == PRESENT
    return bench


def test_one_that_makes_steps_goes_on_however_busy_it_is(bench: Bench) -> None:
    assert {bench.look(step=1, cpu=1.0, state="R") for _ in range(100)} == {PRESENT}


def test_one_that_waits_for_a_cpu_does_not_hang(bench: Bench) -> None:
    """However long, and however little it gets."""
    assert {bench.look(state="R") for _ in range(1000)} == {PRESENT}
    # Seen asleep between two bits of CPU time, which it has had since the last look.
    assert {bench.look(cpu=0.001) for _ in range(1000)} == {PRESENT}


def test_one_without_cpu_time_that_wants_none_hangs(bench: Bench) -> None:
    seen = [bench.look(state="D") for _ in range(int(BLOCKED) + 1)]
    assert seen[0] == PRESENT
    assert seen[-1] == HANGING
    assert "disk" in bench.watch.describe()
    assert bench.look(step=1, cpu=0.001) == PRESENT


def test_one_that_goes_round_in_circles_hangs_by_its_own_cpu_time(bench: Bench) -> None:
    """A turn of its loop may be long on a machine that is slow, or shared by many."""
    seen = [bench.look(10.0, cpu=BUSY / 20, state="R") for _ in range(20)]
    assert seen == [PRESENT] * 19 + [HANGING]
    assert "10 s of CPU time" in bench.watch.describe()


def test_what_it_is_becomes_too_long_only_after_a_while(bench: Bench) -> None:
    while bench.look() == PRESENT:
        pass
    began = bench.ms
    while not bench.watch.overdue:
        assert bench.look() == HANGING
    assert bench.ms - began == HANG_TIME * 1000
    assert bench.look(step=1) == PRESENT
    assert not bench.watch.overdue
    while bench.look(state="T") == PRESENT:
        pass
    began = bench.ms
    while not bench.watch.overdue:
        assert bench.look(state="T") == STOPPED
    assert bench.ms - began == STOP_TIME * 1000


@pytest.mark.parametrize("state", ["T", "t"])
def test_a_stop_is_seen_at_the_second_look(bench: Bench, state: str) -> None:
    """At the first it may have run until a moment ago: a tracer that has it go on stops it at
    each of its system calls."""
    assert bench.look(cpu=0.001, state=state) == PRESENT
    assert bench.look(0.25, state=state) == STOPPED
    assert bench.look(0.25) == PRESENT


def test_a_stop_is_seen_even_by_a_master_that_gets_little_cpu_time(bench: Bench) -> None:
    """Each look comes as after a pause."""
    assert [bench.look(10.0, state="T") for _ in range(3)] == [PRESENT, STOPPED, STOPPED]


def test_one_under_a_tracer_goes_on(bench: Bench) -> None:
    assert {bench.look(cpu=0.001, state="t") for _ in range(100)} == {PRESENT}


@pytest.mark.parametrize("state", ["S", "D", "T", "R"])
def test_a_pause_of_the_master_says_nothing_of_others(bench: Bench, state: str) -> None:
    """It was stopped, or the whole machine: when it goes on, others may not have yet."""
    assert bench.look(3600.0, state=state) == PRESENT
    assert bench.look(0.25, step=1, cpu=0.001) == PRESENT
    for _ in range(20):  # looks come late, as each time others have the CPU
        assert bench.look(10.0, step=1, cpu=0.001) == PRESENT


def test_nor_does_a_pause_use_up_what_one_that_hangs_may_take(bench: Bench) -> None:
    while bench.look() == PRESENT:
        pass
    assert bench.look(3600.0) == HANGING
    assert not bench.watch.overdue


def test_the_first_step_may_take_longer() -> None:
    """It loads what it needs, from a disk that may be slow, on a machine that may be."""
    bench = Bench()
    began = bench.ms
    while bench.look(state="D") == PRESENT:
        pass
    assert bench.ms - began == LOADING_BLOCKED * 1000
    bench = Bench()
    seen = [bench.look(cpu=LOADING_BUSY / 10, state="R") for _ in range(10)]
    assert seen == [PRESENT] * 9 + [HANGING]


def test_where_its_state_is_not_shown_it_gets_more_time(bench: Bench) -> None:
    """It may wait for a CPU."""
    seen = [bench.look(state="") for _ in range(int(program_watch.UNSEEN) + 1)]
    assert seen[:-2] == [PRESENT] * (len(seen) - 2)
    assert seen[-1] == HANGING


def test_whatever_it_writes_is_a_step_and_no_more(bench: Bench) -> None:
    for steps in (2**64 - 1, 0, 1, 2**63):
        bench.steps = steps
        assert bench.look() == PRESENT
    while bench.look() == PRESENT:
        pass


def test_only_the_program_can_write_its_page() -> None:
    mine = Beat.create()
    with pytest.raises(AssertionError):
        mine.step()
    its = Beat.attach(os.dup(mine.fd))
    mine.give_away()
    its.step()
    assert (mine.steps, its.steps) == (1, 1)
    assert mine.fd == its.fd == -1
    with pytest.raises(ValueError, match="not a tcpmux region"):
        Beat.attach(os.memfd_create("x"))


# --- real processes -------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
from tcpmux.shm._beat import Beat
def main():
    beat = Beat.attach(int(sys.argv[sys.argv.index("--beat-fd") + 1]))
    what = sys.argv[-1]
    beat.step()
    while what == "go on":
        beat.step()
        time.sleep(0.01)
    while what == "spin":
        pass
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1000)
"""


class Started:
    """A Program whose process does what a test says, and its time, which passes quickly."""

    def __init__(self, directory: Path, what: str) -> None:
        (directory / "watched.py").write_text(PROGRAM)
        self.what = what
        self.program = Program("control", "watched", oneself(), lambda: ([self.what], []))
        self.program.start_due(time.monotonic())
        self.first = self.program.pid

    def turn(self) -> bool:
        """As the master's loop does. Never true."""
        pid, status = os.waitpid(self.program.pid, os.WNOHANG) if self.program.pid else (0, 0)
        if pid:
            assert self.program.died(pid, status)
        now = time.monotonic()
        self.program.start_due(now)
        self.program.check(now)
        return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where programs of a test are found."""
    for name, value in {
        "TICK": 0.1,
        "SOON": 0.05,
        "BUSY": 0.2,
        "BLOCKED": 0.4,
        "STOP_TIME": 0.2,
    }.items():
        monkeypatch.setattr(program_watch, name, value)
    monkeypatch.setattr(Program, "hang_time", 0.2)
    begin = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {programs.BEGIN}"
    monkeypatch.setattr(programs, "BEGIN", begin)
    return tmp_path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("stop", "is stopped, by a signal or a debugger"),
        ("block", "hangs: it waits in the kernel"),
        ("spin", "s of CPU time without an end of what it does"),
    ],
)
def test_one_that_does_not_go_on_is_told_of_and_replaced(
    quick: Path, caplog: pytest.LogCaptureFixture, what: str, said: str
) -> None:
    started = Started(quick, what)
    wait_for(lambda: started.turn() or caplog.records, "it to be noticed")
    assert started.program.presence != PRESENT
    assert started.program.hangs == 1
    started.what = "go on"
    wait_for(lambda: started.turn() or started.program.pid not in (0, started.first), "another")
    told, replaced, died = caplog.records
    assert told.levelno == logging.WARNING
    assert f"control (pid {started.first}) " in told.getMessage()
    assert said in told.getMessage()
    assert replaced.levelno == logging.ERROR
    assert "it is replaced" in replaced.getMessage()
    assert "killed by SIGKILL" in died.getMessage()
    watch = started.program._watch
    assert watch is not None
    wait_for(lambda: started.turn() or watch._beat.steps > 10, "the other one to go on")
    assert started.program.presence == PRESENT
    assert (started.program.starts, started.program.hangs) == (2, 1)
    assert len(caplog.records) == 3
    started.program.end(DEADLINE)


def test_one_that_goes_on_again_is_left_alone(
    quick: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_watch, "STOP_TIME", 1000.0)
    caplog.set_level(logging.INFO)
    started = Started(quick, "go on")
    os.kill(started.first, signal.SIGSTOP)
    wait_for(lambda: started.turn() or started.program.presence == STOPPED, "it to be noticed")
    os.kill(started.first, signal.SIGCONT)
    wait_for(lambda: started.turn() or started.program.presence == PRESENT, "it to go on")
    assert started.program.pid == started.first
    assert caplog.records[-1].getMessage() == f"control (pid {started.first}) is running again"
    started.program.end(DEADLINE)


def test_one_that_hangs_again_and_again_is_started_ever_more_slowly(quick: Path) -> None:
    """The time for which it was stopped or hanging is none in which it worked."""
    started = Started(quick, "stop")
    started.program._started -= STABLE_SECONDS - 0.01
    delays = []
    for _ in range(3):
        pid = wait_for(lambda: started.turn() or started.program.pid, "it to run")
        wait_for(lambda pid=pid: started.turn() or started.program.pid != pid, "its end")  # type: ignore[misc]
        delays.append(started.program._delay)
    assert delays == sorted(set(delays))
    wait_for(lambda: started.turn() or started.program.pid, "it to run")
    started.program.end(DEADLINE)


def test_one_that_a_kill_does_not_end_is_told_of_once(
    quick: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it waits for a disk. Nothing else can be done: two of it would be worse."""
    monkeypatch.setattr(program, "KILLED_TIME", 0.1)
    monkeypatch.setattr(Program, "signal", lambda *_: None)
    started = Started(quick, "stop")
    wait_for(lambda: started.turn() or "does not exit" in caplog.text, "it to be told")
    watch = started.program._watch
    assert watch is not None
    later = watch.due + 3 * program_watch.SOON
    wait_for(lambda: started.turn() or watch.due > later, "more looks")
    assert caplog.text.count("does not exit") == 1
    assert started.program.pid == started.first
    monkeypatch.undo()
    started.program.end(0.0)


def test_the_master_opens_no_log_again_for_one_that_hung_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file system may be what it waited for."""
    opened = []

    def open_for(_user: object, path: str) -> int:
        opened.append(path)
        return os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)

    monkeypatch.setattr(log_process, "open_for", open_for)
    before = len(os.listdir("/proc/self/fd"))
    path = str(tmp_path / "log")
    writer = LogProcess(oneself(), lambda: path, lambda: 0, lambda: None)

    def given() -> int:
        fd = writer._open(path)
        assert fd is not None
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    inode = given()
    monkeypatch.setattr(LogProcess, "presence", HANGING)
    writer.reopen()
    assert "the log process hangs" in caplog.text
    writer._replace()
    assert given() == inode
    assert opened == [path]
    monkeypatch.setattr(LogProcess, "presence", STOPPED)
    writer._replace()
    given()
    assert opened == [path] * 2
    path = ""
    writer._is_gone()
    assert len(os.listdir("/proc/self/fd")) == before


def test_of_lines_dropped_each_is_told_of_by_one_log_process() -> None:
    """The next one goes on where its word ends, which is believed as far as it can be true."""
    total = 7
    writer = LogProcess(oneself(), lambda: "", lambda: total, lambda: None)
    assert writer.told == 7  # by others, before
    for claim, dropped, told in ((0, 9, 7), (8, 9, 8), (2**64 - 1, 9, 9), (3, 12, 9)):
        beat = Beat.create()
        its = Beat.attach(os.dup(beat.fd))
        beat.give_away()
        its.told, total = claim, dropped
        writer._watch = ProgramWatch(os.getpid(), beat, HANG_TIME)
        writer._is_gone()
        assert writer.told == told
