"""Messages over a stream between two processes of one instance: in master and control.

    length (4 bytes, network order) | one JSON object

So a message is as large as it has to be. What the other end does not take yet waits in an
Outbox, in order; nobody blocks. How much may wait is for its owner to decide.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Any

from tcpmux.errors import TcpmuxError

HEAD = struct.Struct("!I")
MAX_SIZE = 64 << 20  # bytes of a message; 65,536 endpoints with long names take 20 MiB
AT_ONCE = 256 << 10  # bytes read or written by one call
SHORTAGE = (errno.ENOBUFS, errno.ENOMEM)  # of this host, and no end of the stream

Message = dict[str, Any]


class FrameError(TcpmuxError):
    """What came is no message, or what is to go is too large for one."""


def packed(message: Mapping[str, Any]) -> bytes:
    """A frame. Raises FrameError."""
    text = json.dumps(message, separators=(",", ":")).encode()
    if len(text) > MAX_SIZE:
        raise FrameError(f"a message of {len(text)} bytes is too large: at most {MAX_SIZE}")
    return HEAD.pack(len(text)) + text


class Inbox:
    """Puts messages together from the parts in which they arrive."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # where the next frame begins

    def receive(self, sock: socket.socket) -> bool:
        """Takes one part from the socket. False: the other end is gone. Raises BlockingIOError:
        nothing can be had now."""
        try:
            part = sock.recv(AT_ONCE)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            if error.errno in SHORTAGE:
                raise BlockingIOError from None
            part = b""
        self._data += part
        return bool(part)

    @property
    def has_message(self) -> bool:
        """Whether take() has something to say; of a broken frame, too."""
        size = self._size()
        return size is not None and (size > MAX_SIZE or self._end(size) <= len(self._data))

    def take(self) -> Message | None:
        """The next message; None: it has not arrived in full. Raises FrameError, and then
        nothing more can be read from this stream."""
        size = self._size()
        if size is not None and size > MAX_SIZE:
            raise FrameError(f"a message of {size} bytes is too large: at most {MAX_SIZE}")
        if size is None or self._end(size) > len(self._data):
            del self._data[: self._at]
            self._at = 0
            return None
        begin, end = self._at + HEAD.size, self._end(size)
        self._at = end
        try:
            message = json.loads(self._data[begin:end])
        except (ValueError, RecursionError) as error:
            raise FrameError(f"a message that is not JSON: {error}") from None
        if not isinstance(message, dict):
            raise FrameError("a message that is not a JSON object")
        return message

    def _size(self) -> int | None:
        if len(self._data) - self._at < HEAD.size:
            return None
        return int(HEAD.unpack_from(self._data, self._at)[0])

    def _end(self, size: int) -> int:
        return self._at + HEAD.size + size


class Outbox:
    """What a non-blocking socket has not taken yet."""

    def __init__(self) -> None:
        self._frames: deque[memoryview] = deque()
        self.waiting = 0  # bytes

    def put(self, frame: bytes) -> None:
        self._frames.append(memoryview(frame))
        self.waiting += len(frame)

    def flush(self, sock: socket.socket) -> int:
        """Sends as much as the socket takes; returns how many bytes that were. Raises OSError if
        the other end is gone."""
        sent = 0
        while self._frames:
            first = self._frames[0]
            try:
                count = sock.send(first[:AT_ONCE])
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in SHORTAGE:
                    break
                raise
            sent += count
            if count == len(first):
                self._frames.popleft()
            else:
                self._frames[0] = first[count:]
        self.waiting -= sent
        return sent

    def clear(self) -> None:
        self._frames.clear()
        self.waiting = 0
