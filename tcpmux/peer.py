"""Who is at the other end of a UNIX socket, as the kernel keeps it, and what a user is called."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Any

CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def peer_of(sock: Any) -> tuple[int, int]:
    """The pid and the uid of whoever connected or, where we did, of who called listen() (unix(7)).
    pid: 0 = of another pid namespace. Raises OSError."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(raw)
    return pid, uid


def user_name(uid: int) -> str:
    """The number, if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
