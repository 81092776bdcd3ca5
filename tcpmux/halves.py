"""A file of two halves, which is whole whenever somebody is killed or the power fails. For the
master and control.

Each half has a head (magic, number, size, checksum) and a body. The one with the lower number is
written, so that a write that is cut off leaves the other as it was; of two that are whole the one
with the higher number counts.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from typing import NamedTuple


class NotWhole(ValueError):
    """Something has been written, and nothing of it can be read."""


class Overtaken(Exception):
    """Somebody else has written since. number: of what is there now."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Halves(NamedTuple):
    """A kind of such files. magic: what a half begins with; largest: bytes of one."""

    magic: bytes
    largest: int

    @property
    def _head(self) -> struct.Struct:
        return struct.Struct(f"<{len(self.magic)}sQI32s")

    @property
    def room(self) -> int:
        """Bytes that a body may have."""
        return self.largest - self._head.size

    def read(self, fd: int) -> bytes | None:
        """What was written last; None = nothing yet. Raises OSError, NotWhole."""
        found = [half for at in (0, self.largest) if (half := self._half(fd, at)) is not None]
        if found:
            return max(found)[1]
        if os.fstat(fd).st_size:
            raise NotWhole("neither of its halves is whole")
        return None

    def write(self, fd: int, body: bytes, last: int | None = None) -> int:
        """Replaces what was there, as a whole, and waits for the disk. last: the number of what has
        to be there; None = whatever is. Returns the number that it has. Raises OSError, Overtaken,
        and ValueError if it is too large."""
        if len(body) > self.room:
            raise ValueError(f"{len(body)} bytes are more than a state file can hold")
        if os.fstat(fd).st_nlink == 0:
            raise FileNotFoundError(2, "the state file has been removed")
        halves = (0, self.largest)
        numbers = [half[0] if (half := self._half(fd, at)) else 0 for at in halves]
        at = self.largest if numbers[0] > numbers[1] else 0
        number = max(numbers) + 1
        if last is not None and last != number - 1:
            raise Overtaken(number - 1)
        head = self._head.pack(self.magic, number, len(body), _digest(number, body))
        whole = memoryview(head + body)
        while whole:
            written = os.pwrite(fd, whole, at)
            whole, at = whole[written:], at + written
        os.fdatasync(fd)
        return number

    def _half(self, fd: int, at: int) -> tuple[int, bytes] | None:
        """(number, body) of one, if it is whole."""
        head = os.pread(fd, self._head.size, at)
        if len(head) < self._head.size:
            return None
        magic, number, size, digest = self._head.unpack(head)
        if magic != self.magic or size > self.room:
            return None
        body = os.pread(fd, size, at + self._head.size)
        return (number, body) if _digest(number, body) == digest else None


FLEET = Halves(b"tcpmux fleet 1\n", 32 << 20)  # written by control, read by the master at a start


def _digest(number: int, body: bytes) -> bytes:
    return sha256(number.to_bytes(8, "little") + body).digest()
