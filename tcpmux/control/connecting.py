"""Connects to endpoints, for probes, and what their failures mean. Runs in control."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from tcpmux.shm._address import LOCAL_FAILURES, is_missing_loopback

if TYPE_CHECKING:
    from tcpmux.config import Address

log = logging.getLogger("tcpmux.control")

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close sends RST, and leaves no TIME_WAIT


class ProbeFailed(Exception):
    """The endpoint is not healthy. Its text, which is never empty, says why, in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "it failed")


class ProbeImpossible(Exception):
    """This host could not do it: out of descriptors, ports or memory. It says nothing of the
    endpoint."""


def error_text(number: int) -> str:
    """What a failed connect met with: an errno, which may be none that there is; 0 = no answer in
    time."""
    if not number:
        return "connect timed out"
    if number == errno.ENOENT:
        return "no such socket"
    if number == errno.EPROTONOSUPPORT:  # csrc/conn/endpoint.h: TM_REFUSES_TLS
        return "it refuses TLS (ssl = off?)"
    if number == errno.EPROTO:  # csrc/conn/starttls.c
        return "no TLS: it did not answer with S"
    return os.strerror(number).lower() if number in errno.errorcode else f"error {number}"


def as_result(error: OSError) -> ProbeFailed | ProbeImpossible:
    # An SSLError has a number of its own in errno.
    is_ours = error.errno in LOCAL_FAILURES and not isinstance(error, ssl.SSLError)
    return ProbeImpossible(_reason(error)) if is_ours else ProbeFailed(_reason(error))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if error.errno:
        return error_text(error.errno)
    # As of asyncio, for one that closes in the middle of a handshake.
    known = "connection reset by peer" if isinstance(error, ConnectionResetError) else ""
    return str(error) or known or type(error).__name__


def _socket(address: Address) -> socket.socket:
    if address.path:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return sock


def _target(address: Address) -> str | tuple[str, int]:
    return address.path or (address.host, address.port)


def _begin(sock: socket.socket, address: Address) -> bool:
    """True: connected at once, as on this host. Raises OSError."""
    error = sock.connect_ex(_target(address))
    if error == errno.EADDRNOTAVAIL and is_missing_loopback(address):
        error = errno.ENETUNREACH
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    if error == 0:
        return True
    _raise_pending(sock)
    try:
        sock.getpeername()
    except OSError:
        _raise_pending(sock)
        return False
    return True


def _raise_pending(sock: socket.socket) -> None:
    """Raises the OSError that the socket has to tell, if there is one."""
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error)) from None


def has_accepted(error: OSError) -> bool:
    """Whether that connect was reset only after it had succeeded, and it depends on who is faster
    whether that is seen: a reset in answer to a SYN is ECONNREFUSED (Linux: tcp_reset())."""
    return error.errno in (errno.ECONNRESET, errno.EPIPE)


def connect_at_once(address: Address) -> bool:
    """A connect that can be decided at once: True, it is healthy; False, it takes longer. Raises
    ProbeFailed and ProbeImpossible, and nothing else. Most checks are of this kind, and need no
    task."""
    try:
        with _socket(address) as sock:
            return _begin(sock, address)
    except OSError as error:
        if has_accepted(error):
            return True
        raise as_result(error) from None
    except Exception as error:
        log.exception("a check of %s failed by an internal error", address)
        raise ProbeFailed(f"internal error in the check: {error!r:.100}") from error


async def connected(address: Address) -> socket.socket:
    sock = _socket(address)
    try:
        if not _begin(sock, address):
            await asyncio.get_running_loop().sock_connect(sock, _target(address))
    except BaseException:
        sock.close()
        raise
    return sock
