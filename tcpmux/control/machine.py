"""What only the kernel knows of an instance: queues of connections that wait
to be accepted. Runs in control."""

from __future__ import annotations

from collections.abc import Iterable

from tcpmux import sock_diag


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
