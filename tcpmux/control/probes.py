"""One look at one endpoint: whether it is well. Runs in control.

Each probe is what a client of that kind says first, and no more: nothing is changed, nobody logs
in. A failure is a ProbeFailed whose text says what was met with.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tcpmux.config import Address, Check

MOST_ANSWER = 64 * 1024  # bytes looked at
SHOWN = 60  # characters of an answer in a message
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close sends RST, and leaves no TIME_WAIT
# PostgreSQL, "Message Formats": SSLRequest. The server answers with S or N before any log in.
POSTGRES_HELLO = struct.pack("!ii", 8, 80877103)
MYSQL_PROTOCOL, MYSQL_ERROR = 10, 0xFF  # first byte of the server's first packet


class ProbeFailed(Exception):
    """The endpoint is not well. Its text says why, in a few words."""


class ProbeImpossible(Exception):
    """This host could not do it: out of descriptors, ports or memory. It says nothing of the
    endpoint."""


# As csrc/sock.c: tm_sock_local_failure().
LOCAL = frozenset(
    {
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
    }
)


def shown(answer: bytes) -> str:
    text = repr(answer[:SHOWN])[1:]
    return text + ("..." if len(answer) > SHOWN else "")


def _failed(error: OSError) -> ProbeFailed | ProbeImpossible:
    # An SSLError has a number of its own in errno.
    is_ours = error.errno in LOCAL and not isinstance(error, ssl.SSLError)
    return ProbeImpossible(_reason(error)) if is_ours else ProbeFailed(_reason(error))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return os.strerror(error.errno).lower() if error.errno else str(error)


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
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    if error == 0:
        return True
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def knock(address: Address) -> bool:
    """A connect that can be decided at once: True, it is well; False, it takes longer. Raises
    ProbeFailed and ProbeImpossible. Most checks are of this kind, and need no task."""
    try:
        with _socket(address) as sock:
            return _begin(sock, address)
    except OSError as error:
        raise _failed(error) from None


async def probe(address: Address, check: Check) -> None:
    """Raises ProbeFailed and ProbeImpossible."""
    if check.port and not address.path:
        address = replace(address, port=check.port)
    try:
        await asyncio.wait_for(_PROBES[check.kind](address, check), check.timeout)
    except asyncio.TimeoutError:
        raise ProbeFailed(f"no answer within {check.timeout:g} s") from None
    except OSError as error:
        raise _failed(error) from None
    except asyncio.IncompleteReadError as error:
        got = f" after {shown(error.partial)}" if error.partial else " without an answer"
        raise ProbeFailed(f"closed{got}") from None


async def _connected(address: Address) -> socket.socket:
    sock = _socket(address)
    try:
        if not _begin(sock, address):
            await asyncio.get_running_loop().sock_connect(sock, _target(address))
    except BaseException:
        sock.close()
        raise
    return sock


async def _tcp(address: Address, _check: Check) -> None:
    (await _connected(address)).close()


class _Talk:
    """A connection to say something over, closed at the end."""

    def __init__(self, address: Address, check: Check, *, tls: bool = False) -> None:
        self._address = address
        self._tls = tls
        self._host = check.host

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = await _connected(self._address)
        try:
            if self._tls:
                reader, writer = await asyncio.open_connection(
                    sock=sock,
                    ssl=_tls_context(verify=bool(self._host)),
                    server_hostname=self._host or "",
                )
            else:
                reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        self._writer = writer
        return reader, writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


def _tls_context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:  # whether it talks TLS at all
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _tls(address: Address, check: Check) -> None:
    async with _Talk(address, check, tls=True):
        pass


async def _send(address: Address, check: Check) -> None:
    async with _Talk(address, check) as (reader, writer):
        writer.write(check.send)
        if not check.expect:
            await writer.drain()
            return
        answer = b""
        while len(answer) < MOST_ANSWER:
            part = await reader.read(MOST_ANSWER - len(answer))
            answer += part
            found = re.search(check.expect, answer) if check.is_pattern else check.expect in answer
            if found:
                return
            if not part:
                break
        raise ProbeFailed(f"answered {shown(answer)}" if answer else "closed without an answer")


async def _http(address: Address, check: Check) -> None:
    host = check.host or (address.host or "localhost")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    request = (
        f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tcpmux\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    async with _Talk(address, check, tls=check.tls) as (reader, writer):
        writer.write(request.encode())
        line = await reader.readline()
    found = re.match(rb"HTTP/1\.[01] ([1-5]\d\d)( |\r?\n)", line)
    if found is None:
        raise ProbeFailed(f"answered {shown(line)}" if line else "closed without an answer")
    first, last = check.status
    if not first <= int(found[1]) <= last:
        raise ProbeFailed(f"answered {shown(line.strip())}")


async def _redis(address: Address, check: Check) -> None:
    async with _Talk(address, check) as (reader, writer):
        writer.write(b"PING\r\n")
        line = await reader.readline()
    # One that wants a password is at work.
    if not line.startswith((b"+PONG", b"-NOAUTH")):
        raise ProbeFailed(f"answered {shown(line)}" if line else "closed without an answer")


async def _postgres(address: Address, check: Check) -> None:
    async with _Talk(address, check) as (reader, writer):
        writer.write(POSTGRES_HELLO)
        answer = await reader.readexactly(1)
    if answer not in (b"S", b"N"):
        raise ProbeFailed(f"answered {shown(answer)}")


async def _mysql(address: Address, check: Check) -> None:
    async with _Talk(address, check) as (reader, _):
        head = await reader.readexactly(5)
        if head[4] == MYSQL_ERROR:
            size = int.from_bytes(head[:3], "little")
            message = await reader.readexactly(min(max(size - 1, 0), SHOWN * 4))
            raise ProbeFailed(f"answered {shown(message[2:])}")
    if head[4] != MYSQL_PROTOCOL:
        raise ProbeFailed(f"answered {shown(head)}")


_PROBES: dict[str, Callable[[Address, Check], Awaitable[None]]] = {
    "tcp": _tcp,
    "send": _send,
    "tls": _tls,
    "http": _http,
    "redis": _redis,
    "postgres": _postgres,
    "mysql": _mysql,
}
