"""The TCP socket of the admin API, where the configuration names one. Runs in the master."""

from __future__ import annotations

import socket

from tcpmux.config import Address
from tcpmux.master.listeners import hint_of
from tcpmux.master.port_guard import ListenError

BACKLOG = 1024


def bind_http(address: Address) -> socket.socket:
    """Listens there. Raises ListenError."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address.sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(
            f"can't listen on {address}, which admin.http names: {error.strerror}"
            f"{hint_of(error, address)}"
        ) from None
    return sock
