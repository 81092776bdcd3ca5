"""Has cases played by a scenario process under the shim, and says what became of each. Runs in
tests and in `python -m tests.fault`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Timer
from typing import IO

from tests.fault.cases import Case
from tests.fault.control import Control, build
from tests.fault.sites import name_of
from tests.support import patient, short_directory

CASE_TIME = patient(60)  # for one case: above the sum of all deadlines in it


@dataclass(slots=True)
class Result:
    case: Case
    problems: list[str]
    fired: list[int] = field(default_factory=list)
    closed: dict[str, int] = field(default_factory=dict)
    said: str = ""  # on stderr

    def report(self) -> str:
        command = f"python -m tests.fault --case {shlex.quote(self.case.dump())}"
        fired = [
            f"{rule.site}/{name_of(rule.error)} x{times}"
            for rule, times in zip(self.case.all_rules(), self.fired, strict=False)
            if times
        ]
        lines = [
            str(self.case),
            *self.problems,
            "fired: " + ", ".join(fired),
            *filter(None, [self.said.strip()]),
            command,
        ]
        return "\n    ".join(lines)


class Scenario:
    """A process that plays one case after the other."""

    def __init__(self, control: Control) -> None:
        self._errors = (control.file.parent / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.scenario"],
            env=control.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def play(self, case: Case) -> Result:
        seen = self._errors.seek(0, 2)
        timer = Timer(CASE_TIME, self.process.kill)
        timer.start()
        try:
            writing, reading = self._pipes()
            writing.write(case.dump() + "\n")
            writing.flush()
            answer = reading.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        self._errors.seek(seen)
        said = self._errors.read()
        if not answer:
            return Result(case, ["the scenario itself has died or hangs"], said=said)
        outcome = json.loads(answer)
        return Result(case, outcome["problems"], outcome["fired"], outcome["closed"], said)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def close(self) -> str:
        """Ends it; what it had to complain of in its end, or ""."""
        writing, reading = self._pipes()
        seen = self._errors.tell()
        writing.close()
        try:
            code = self.process.wait(CASE_TIME)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        reading.close()
        self._errors.seek(seen)
        said = self._errors.read()
        self._errors.close()
        return f"the scenario ended with {code}\n{said}" if code else ""


@contextmanager
def shim() -> Iterator[Control]:
    """Built, and off."""
    with short_directory() as directory:
        yield Control.create(build(directory), directory)


def run(cases: Iterable[Case], control: Control) -> Iterator[Result]:
    """One after the other; a scenario that dies is followed by another."""
    scenario: Scenario | None = None
    case = None
    try:
        for case in cases:
            scenario = scenario or Scenario(control)
            result = scenario.play(case)
            yield result
            if scenario.process.poll() is not None:
                scenario.close()
                scenario = None
    finally:
        complaint = scenario.close() if scenario else ""
    if complaint and case:
        yield Result(case, [complaint])
