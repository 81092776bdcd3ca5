"""Reading files whose paths somebody has given us: at once, whatever is there, and not too much.

A FIFO makes its reader wait for a writer, a device may do anything when it is opened, and some
files never end. Only regular files are opened, and no more is read than was agreed on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tcpmux.errors import TcpmuxError

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
LARGEST = 16 << 20  # bytes
AT_ONCE = 256 << 10  # bytes
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unreadable(TcpmuxError):
    """It can't be read; the text says why, without the path."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was in a file, and whose it was."""

    data: bytes
    status: os.stat_result


def read_file(path: str | Path, largest: int = LARGEST) -> Contents:
    """The whole of a regular file of at most so many bytes. Raises Unreadable, and never waits."""
    try:
        _check(os.stat(path), largest)  # opening a device may do something already
        descriptor = os.open(path, FLAGS)
        try:
            status = os.fstat(descriptor)
            _check(status, largest)
            return Contents(_read(descriptor, largest), status)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror or error}") from None
    except ValueError:  # a NUL or half a character in it
        raise Unreadable("can't be read: no file has such a name") from None


def _check(status: os.stat_result, largest: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise Unreadable(f"can't be read: expected a regular file, and it is {kind}")
    if status.st_size > largest:
        raise too_large(largest)


def _read(descriptor: int, largest: int) -> bytes:
    parts: list[bytes] = []
    left = largest + 1
    while left > 0:
        part = os.read(descriptor, min(left, AT_ONCE))
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise too_large(largest)


def too_large(largest: int) -> Unreadable:
    """More bytes than that."""
    size = f"{largest >> 20} MiB" if largest >= 1 << 20 else f"{largest} bytes"
    return Unreadable(f"larger than {size}, the most that is read")
