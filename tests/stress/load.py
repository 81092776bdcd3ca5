"""The load generator as an object: built, started, stopped, and asked what it saw."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.build import build
from tests.support import patient

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
END_TIME = patient(40)  # s: what is under way at the end comes back, or is lost after 20


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of large writes and of small messages, and new connections a second.

    patience: s without progress after which a connection is lost.
    """

    bulk: int = 40
    small: int = 160
    rate: int = 500
    patience: float = patient(20)


@dataclass(slots=True)
class Seen:
    """What the clients saw: `streams`, which stayed open, and connections that were `opened`
    for one request. Lost ones are counted by cause (refused, reset, ended, silent, wrong,
    other). Delays in ms: of a message's echo, and of a new connection from when it was due to
    the end of its answer.
    """

    streams: int = 0
    streams_lost_by: dict[str, int] = field(default_factory=dict)
    opened: int = 0
    opened_lost_by: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    wrong: int = 0
    first_loss: str = ""
    delay_p50_ms: float = 0.0
    delay_p99_ms: float = 0.0
    delay_max_ms: float = 0.0
    new_p50_ms: float = 0.0
    new_p99_ms: float = 0.0
    new_max_ms: float = 0.0

    @property
    def streams_lost(self) -> int:
        return sum(self.streams_lost_by.values())

    @property
    def opened_lost(self) -> int:
        return sum(self.opened_lost_by.values())

    @property
    def lost(self) -> int:
        """Connections; one with wrong bytes is among them."""
        return self.streams_lost + self.opened_lost

    @property
    def causes(self) -> str:
        """Of what was lost, in words; empty if nothing was."""
        by = (("streams", self.streams_lost_by), ("new", self.opened_lost_by))
        parts = [
            f"{kind} " + ", ".join(f"{count} {cause}" for cause, count in counts.items())
            for kind, counts in by
            if counts
        ]
        return "; ".join(parts)


def _start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """The process, and the first line it prints. Raises bench.build.BuildError."""
    program = build(HERE / "generator", HERE / "build" / "generator")
    process = subprocess.Popen(
        [str(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise AssertionError(f"the load generator ended at once: exit code {process.wait()}")
    return process, line


def _end(process: subprocess.Popen[str]) -> str:
    """What it printed after the first line, once its stdin has ended."""
    try:
        output, _ = process.communicate(timeout=END_TIME)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, f"load generator: exit code {process.returncode}"
    return output


@contextmanager
def echo_server() -> Iterator[int]:
    """A server that echoes, in a process of its own; its port on loopback."""
    process, port = _start("serve")
    try:
        yield int(port)
    finally:
        _end(process)


@contextmanager
def driving(port: int, load: Load, seed: int) -> Iterator[Seen]:
    """Load through `port` for the length of the block; afterwards, what it saw."""
    seen = Seen()
    patience = int(load.patience * 1000)
    process, _ = _start("drive", port, load.bulk, load.small, load.rate, seed, patience)
    try:
        yield seen
    finally:
        for name, value in json.loads(_end(process)).items():
            setattr(seen, name, value)
