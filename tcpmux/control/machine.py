"""What only the kernel knows of an instance: open descriptors, queues of connections that wait
to be accepted. Runs in control."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tcpmux import sock_diag


def descriptors(pid: int) -> int:
    """How many a process has open; 0 if that can't be seen."""
    path = f"/proc/{pid}/fd"
    try:
        # Linux 6.2 counts them for us.
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return 0


def accept_queues(ports: Iterable[int]) -> dict[tuple[str, int], tuple[int, int]]:
    """(address, port) of each listening TCP socket on these ports -> (connections that wait, the
    most there can be), of all sockets that share the address. {} if the kernel does not say."""
    wanted = set(ports)
    found: dict[tuple[str, int], tuple[int, int]] = {}
    try:
        for sock in sock_diag.listening():
            if sock.port in wanted:
                before = found.get((sock.host, sock.port), (0, 0))
                found[sock.host, sock.port] = before[0] + sock.waiting, before[1] + sock.most
    except OSError:
        pass
    return found
