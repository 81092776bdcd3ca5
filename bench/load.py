"""The Python side of the load generator: a backend, and clients that report one JSON line.

Runs in the bench process.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.processes import pinned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The client completes what it has begun within 5 s after its time; the rest is slack.
GRACE_SECONDS = 15.0
BACKEND_SECONDS = 300.0


class LoadError(Exception):
    """The load generator could not measure: no backend, or no outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client saw. Units are what the mode counts; seconds are wall time.

    curve_us: pairs of a quantile (0..1) and the latency in us that it has. by: units by server, of
    mode ask.
    """

    units: int
    seconds: float
    bytes: int
    errors: int
    first_error: str | None
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    curve_us: list[list[float]]
    by: tuple[int, int] = (0, 0)

    def quantile_us(self, share: float) -> float:
        """One of the curve's. Raises ValueError."""
        (found,) = (value for at, value in self.curve_us if at == share)
        return found


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """The compiled program and the CPU it runs on (None: anywhere)."""

    program: Path
    cpu: int | None

    def _start(self, arguments: list[str]) -> subprocess.Popen[str]:
        with pinned(self.cpu):
            return subprocess.Popen(
                [str(self.program), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    @contextmanager
    def backend(self, role: str) -> Iterator[int]:
        """A backend with `role` (echo, source, sink) on loopback; gives its port."""
        process = self._start(
            [
                "backend",
                "--role",
                role,
                "--address",
                "127.0.0.1:0",
                "--seconds",
                f"{BACKEND_SECONDS:g}",
            ]
        )
        try:
            assert process.stdout is not None
            yield _parse(process, process.stdout.readline())["port"]
        finally:
            _finish(process)

    def run(self, arguments: list[str], port: int, seconds: float) -> Outcome:
        """One client against 127.0.0.1:`port`, to its end. Raises LoadError."""
        process = self._start(
            [*arguments, "--address", f"127.0.0.1:{port}", "--seconds", f"{seconds:g}"]
        )
        try:
            output, complaint = process.communicate(timeout=seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"no outcome within {seconds + GRACE_SECONDS:g} s") from error
        finally:
            _finish(process)
        return Outcome(**_without_mode(_parse(process, output, complaint)))

    @contextmanager
    def hold(self, connections: int, port: int, seconds: float) -> Iterator[IdleClient]:
        """Open `connections`, one byte echoed on each, and hold them inside the block."""
        process = self._start(
            [
                "idle",
                "--connections",
                str(connections),
                "--address",
                f"127.0.0.1:{port}",
                "--seconds",
                f"{seconds:g}",
            ]
        )
        try:
            assert process.stdout is not None
            held = _parse(process, process.stdout.readline())["held"]
            yield IdleClient(process, held)
        finally:
            _finish(process)

    @contextmanager
    def asking(
        self, protocol: str, connections: int, rate: int, port: int, seconds: float
    ) -> Iterator[Asking]:
        """Clients that are connected, and ask by the clock inside the block."""
        process = self._start(
            ["ask", "--role", protocol, "--connections", str(connections), "--rate", str(rate),
             "--address", f"127.0.0.1:{port}", "--seconds", f"{seconds:g}"]
        )  # fmt: skip
        try:
            assert process.stdout is not None
            opened = Outcome(**_without_mode(_parse(process, process.stdout.readline())))
            if opened.errors:
                raise LoadError(f"{opened.errors} of {connections}: {opened.first_error}")
            yield Asking(process)
        finally:
            _finish(process)


@dataclass(frozen=True, slots=True)
class Asking:
    """Clients that ask, period after period."""

    process: subprocess.Popen[str]

    def period(self) -> Outcome:
        """Ends one; what it has seen."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Outcome(**_without_mode(_parse(self.process, self.process.stdout.readline())))

    def end(self) -> Outcome:
        """Of the last one, with all that was under way."""
        return _last(self.process)


@dataclass(frozen=True, slots=True)
class IdleClient:
    """A client that holds `held` open connections until `release`."""

    process: subprocess.Popen[str]
    held: int

    def release(self) -> Outcome:
        """Close them all and give the outcome: an error if one did not stay open."""
        return _last(self.process)


def _last(process: subprocess.Popen[str]) -> Outcome:
    """What it says once its stdin has closed; it ends by its own time limit at the latest.

    By the file that its first line came from: `communicate` would miss what is in that one's
    buffer, which is all of it where the process ended early.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    return Outcome(**_without_mode(_parse(process, process.stdout.readline())))


def _parse(
    process: subprocess.Popen[str], line: str, complaint: str | None = None
) -> dict[str, Any]:
    """The JSON object of `line`; without one, raises LoadError with what stderr says.

    complaint: what it said, of a process whose pipes have been read to their ends.
    """
    if not line.strip():
        if complaint is None:
            assert process.stderr is not None
            complaint = process.stderr.read()
            process.wait(GRACE_SECONDS)
        raise LoadError(complaint.strip() or f"loadgen ended with {process.returncode}")
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def _without_mode(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "mode"}


def _finish(process: subprocess.Popen[str]) -> None:
    """Ask by closing stdin, then insist; closes the pipes and reaps the process."""
    if process.poll() is None and process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5.0)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
