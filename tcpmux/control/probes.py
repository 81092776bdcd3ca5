"""A single health check of one endpoint. Runs in control.

Each probe is what a client of that kind says first, and no more: nothing is changed, nobody logs
in. A failure is a ProbeFailed whose text says what was met with. Nobody trusts an endpoint: of its
answer so much is looked at, and whatever else it brings about is a failure as well.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tcpmux.config.patterns import compiled
from tcpmux.control.connecting import (
    ProbeFailed,
    ProbeImpossible,
    as_result,
    connected,
    has_accepted,
)
from tcpmux.control.timeouts import within
from tcpmux.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tcpmux.config import Address, Check

log = logging.getLogger("tcpmux.control")

MAX_ANSWER = 64 * 1024  # bytes looked at
MAX_LINE = 4096  # bytes of a line that is waited for
# A match that takes longer (s) is followed by a pause of so many times that.
LONG_MATCH, PAUSE = 0.005, 9.0
# A timeout is waited for in so many parts; one that took too long (s) does not count, as the loop
# was busy with something else. It is given up after so many times the timeout in any case.
PARTS, LATE, MAX_EXTENSION = 4, 0.03, 10.0
CANCEL_TIME = 1.0  # s for a probe to end when it is cancelled
OPEN_TIME, MAX_OPEN_SHARE = 0.25, 0.8  # s; of the time that is left
RESETS = "it resets a connection before anything is sent on it"
SHOWN = 60  # characters of an answer in a message
# PostgreSQL, "Message Formats": SSLRequest. The server answers with S or N before any log in.
POSTGRES_HELLO = struct.pack("!ii", 8, 80877103)
# By version: it comes from tcpmux itself, and names no client.
PROXY_HEADERS = {1: b"PROXY UNKNOWN\r\n", 2: b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}
MYSQL_PROTOCOL, MYSQL_ERROR = 10, 0xFF  # first byte of the server's first packet


def shown(answer: bytes) -> str:
    text = repr(answer[:SHOWN])[1:]
    return text + ("..." if len(answer) > SHOWN else "")


async def probe(address: Address, check: Check) -> None:
    """Raises ProbeFailed and ProbeImpossible, and nothing else."""
    if check.port and not address.path:
        address = replace(address, port=check.port)
    await _reported(_PROBES[check.kind](address, check), address, check)


async def stays_open(address: Address, check: Check, early_close: float = 0.0) -> None:
    """A connect, after which nothing is said for a moment: whether it stays open. Of the check only
    the timeout counts. early_close: a close so soon (s) is a failure, too. Raises as probe()."""
    await _reported(_stays_open(address, check, early_close), address, check)


async def _reported(work: Coroutine[Any, Any, None], address: Address, check: Check) -> None:
    try:
        await _within_timeout(work, check.timeout)
    except (ProbeFailed, ProbeImpossible):
        raise
    except asyncio.TimeoutError:
        raise ProbeFailed(f"no answer within {check.timeout:g} s") from None
    except OSError as error:
        raise as_result(error) from None
    except asyncio.IncompleteReadError as error:
        got = f" after {shown(error.partial)}" if error.partial else " without an answer"
        raise ProbeFailed(f"closed{got}") from None
    except ValueError as error:  # a name that can't be one in TLS, for instance
        raise ProbeFailed(printable(str(error))) from None
    except Exception as error:
        log.exception("a check of %s at %s failed by an internal error", check.kind, address)
        raise ProbeFailed(f"internal error in the check: {error!r:.100}") from error


async def _within_timeout(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Raises TimeoutError once `seconds` of listening have been in vain: a time in which the loop
    was busy elsewhere, and heard nobody, does not count."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    give_up = loop.time() + MAX_EXTENSION * seconds
    part = seconds / PARTS
    heard = 0
    try:
        while heard < PARTS and loop.time() < give_up:
            began = loop.time()
            done, _ = await asyncio.wait({task}, timeout=part)
            if task.cancelled():
                raise ProbeFailed("the check was cancelled")
            if done:
                return task.result()
            heard += loop.time() - began < part + LATE
        raise asyncio.TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_TIME)


async def _tcp(address: Address, _check: Check) -> None:
    try:
        (await connected(address)).close()
    except OSError as error:
        if not has_accepted(error):
            raise


async def _stays_open(address: Address, check: Check, early_close: float) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        sock = await connected(address)
    except OSError as error:
        if has_accepted(error):
            raise ProbeFailed(RESETS) from None
        raise
    with sock:
        took = loop.time() - began
        # Its reset may need as long as its handshake did.
        seconds = min(
            max(OPEN_TIME + 2 * took, early_close), MAX_OPEN_SHARE * (check.timeout - took)
        )
        try:
            async with within(max(0.0, seconds)):
                data = await loop.sock_recv(sock, 1)
        except asyncio.TimeoutError:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.EAGAIN):
                return
            raise ProbeFailed(RESETS) from None
        except ConnectionResetError:
            raise ProbeFailed(RESETS) from None
        if not data and loop.time() - began <= early_close:
            raise ProbeFailed("it closes a connection before anything is sent on it")


class _Conversation:
    """A connection to say something over, closed at the end."""

    def __init__(self, address: Address, check: Check, *, tls: bool = False) -> None:
        self._address = address
        self._tls = tls
        self._host = check.host
        self._header = PROXY_HEADERS.get(check.proxy, b"")

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = await connected(self._address)
        try:
            if self._header:
                await asyncio.get_running_loop().sock_sendall(sock, self._header)
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


@lru_cache
def _tls_context(*, verify: bool) -> ssl.SSLContext:
    """Made once for each setting: to read the certificates that are trusted takes longer than a
    check."""
    context = ssl.create_default_context()
    if not verify:  # whether it talks TLS at all
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _tls(address: Address, check: Check) -> None:
    async with _Conversation(address, check, tls=True):
        pass


async def _send(address: Address, check: Check) -> None:
    async with _Conversation(address, check) as (reader, writer):
        writer.write(check.send)
        if not check.expect:
            await writer.drain()
            return
        matches = _matcher(check)
        answer = b""
        while len(answer) < MAX_ANSWER:
            part = await reader.read(MAX_ANSWER - len(answer))
            answer += part
            began = time.perf_counter()
            if matches(answer):
                return
            if not part:
                break
            took = time.perf_counter() - began
            if took > LONG_MATCH:  # what comes meanwhile is matched at once
                await asyncio.sleep(took * PAUSE)
        raise ProbeFailed(f"answered {shown(answer)}" if answer else "closed without an answer")


def _matcher(check: Check) -> Callable[[bytes], bool]:
    if not check.is_pattern:
        return lambda answer: check.expect in answer
    try:
        pattern = compiled(check.expect)
    except ValueError as error:
        raise ProbeFailed(f"expect_regex can't be used: {error}") from None
    return lambda answer: pattern.search(answer) is not None


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The first line with its end, or as much of it as has come."""
    line = b""
    while b"\n" not in line and len(line) < MAX_LINE:
        part = await reader.read(MAX_LINE - len(line))
        if not part:
            break
        line += part
    return line[: line.find(b"\n") + 1 or len(line)]


async def _http(address: Address, check: Check) -> None:
    host = check.host or (address.host or "localhost")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    request = (
        f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tcpmux\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    async with _Conversation(address, check, tls=check.tls) as (reader, writer):
        writer.write(request.encode())
        line = await _line(reader)
    found = re.match(rb"HTTP/1\.[01] ([1-5]\d\d)( .*)?\r?\n", line)
    if found is None:
        raise ProbeFailed(f"answered {shown(line)}" if line else "closed without an answer")
    first, last = check.status
    if not first <= int(found[1]) <= last:
        raise ProbeFailed(f"answered {shown(line.strip())}")


async def _redis(address: Address, check: Check) -> None:
    async with _Conversation(address, check) as (reader, writer):
        writer.write(b"PING\r\n")
        line = await _line(reader)
    # One that wants a password is at work.
    if not line.startswith((b"+PONG", b"-NOAUTH")):
        raise ProbeFailed(f"answered {shown(line)}" if line else "closed without an answer")


async def _postgres(address: Address, check: Check) -> None:
    async with _Conversation(address, check) as (reader, writer):
        writer.write(POSTGRES_HELLO)
        answer = await reader.readexactly(1)
    if answer not in (b"S", b"N"):
        raise ProbeFailed(f"answered {shown(answer)}")


async def _mysql(address: Address, check: Check) -> None:
    async with _Conversation(address, check) as (reader, _):
        head = await reader.readexactly(5)
        if head[4] == MYSQL_ERROR:
            size = int.from_bytes(head[:3], "little")
            message = await reader.readexactly(min(max(size - 1, 0), SHOWN * 4))
            raise ProbeFailed(f"answered {shown(message[2:])}")
    if head[4] != MYSQL_PROTOCOL:
        raise ProbeFailed(f"answered {shown(head)}")


_PROBES: dict[str, Callable[[Address, Check], Coroutine[Any, Any, None]]] = {
    "tcp": _tcp,
    "send": _send,
    "tls": _tls,
    "http": _http,
    "redis": _redis,
    "postgres": _postgres,
    "mysql": _mysql,
}
