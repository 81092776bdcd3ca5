"""The load generator as an object: built, started, stopped, and asked what it saw."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("load.c")
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
END_TIME = 40.0  # s: everything under way comes back, or is lost after 20


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of large writes and of small messages, and new connections a second."""

    bulk: int = 40
    small: int = 160
    new: int = 500


@dataclass(slots=True)
class Seen:
    """What the clients saw. Delays in milliseconds: of a message's echo, and of a new
    connection from connect to the end of its answer."""

    streams: int = 0
    streams_lost: int = 0
    bytes: int = 0
    wrong: int = 0
    opened: int = 0
    failed: int = 0
    messages: int = 0
    first_error: int = 0  # errno; -1 = an end of input
    delay_p50_ms: int = 0
    delay_p99_ms: int = 0
    delay_max_ms: int = 0
    new_p99_ms: int = 0
    new_max_ms: int = 0

    @property
    def lost(self) -> int:
        return self.streams_lost + self.failed + self.wrong


@cache
def program() -> Path:
    """The compiled load generator, for as long as this process lives."""
    directory = Path(tempfile.mkdtemp(prefix="tcpmux-stress-"))
    path = directory / "load"
    subprocess.run(["gcc", *FLAGS, "-o", str(path), str(SOURCE), "-lm"], check=True)
    return path


def _start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """The process, and the first line it prints."""
    process = subprocess.Popen(
        [str(program()), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@contextmanager
def echo_server() -> Iterator[int]:
    """A server that echoes; its port on loopback."""
    process, port = _start("serve")
    try:
        yield int(port)
    finally:
        process.communicate(timeout=END_TIME)


@contextmanager
def driving(port: int, load: Load, seed: int) -> Iterator[Seen]:
    """Load through `port` for the length of the block; afterwards, what it saw."""
    seen = Seen()
    process, _ = _start("drive", port, load.bulk, load.small, load.new, seed)
    try:
        yield seen
    finally:
        output, _ = process.communicate(timeout=END_TIME)
    for name, value in json.loads(output).items():
        setattr(seen, name, value)
