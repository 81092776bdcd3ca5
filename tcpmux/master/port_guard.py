"""Makes sure that no other process listens on our addresses. Runs in the master.

SO_REUSEPORT would let another tcpmux of the same user in beside us, or us beside it, each with a
part of the connections and neither with a word. A bind without it tells, but for an address that
one of our own overlaps; so the kernel's list of listening sockets is asked as well.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

from tcpmux import sock_diag
from tcpmux.config import Address
from tcpmux.errors import TcpmuxError, printable

ANY_V4, ANY_V6 = "0.0.0.0", "::"  # noqa: S104
MAPPED = "::ffff:"  # IPv4 as IPv6
MAX_KNOWN = 8  # sockets; each takes a look at all processes

_known: dict[int, str] = {}  # by inode, who holds a socket


class ListenError(TcpmuxError):
    """An address can't be listened on; the text says which and why."""


def v6_only(address: Address, wanted: Iterable[Address]) -> bool:
    """[::] takes IPv4 too, unless that is asked for by itself."""
    return address.host != ANY_V6 or Address(ANY_V4, address.port, "") in wanted


def overlap(one: Address, other: Address) -> bool:
    """Whether a connection may be for either, as far as the addresses say."""
    if one.path or other.path or one.port != other.port:
        return False
    hosts = {one.host, other.host}
    return len(hosts) == 1 or ANY_V6 in hosts or (ANY_V4 in hosts and one.family == other.family)


def refuse_others(addresses: Iterable[Address], wanted: list[Address], ours: set[int]) -> None:
    """Raises ListenError if a socket whose inode is not in `ours` listens where one of `addresses`
    is to be. What the kernel does not list is not found."""
    by_port: dict[int, list[Address]] = {}
    for address in addresses:
        by_port.setdefault(address.port, []).append(address)
    try:
        found = [sock for sock in sock_diag.listening() if sock.port in by_port] if by_port else []
    except OSError:
        return
    for sock in found:
        for address in [] if sock.inode in ours else by_port[sock.port]:
            if _takes_from(sock, address, v6_only=v6_only(address, wanted)):
                raise ListenError(
                    f"can't listen on {address}: Address already in use ({_held(sock)})"
                )


def who_has(address: Address) -> str:
    """A clause on who listens where `address` is to be."""
    try:
        for sock in sock_diag.listening():
            if _takes_from(sock, address, v6_only=False):
                return _held(sock)
    except OSError:
        pass
    return f"another process has it: {_how_to_see(address.port)}"


def _how_to_see(port: int) -> str:
    return f"`sudo ss -Hltnp sport = :{port}` shows which"


def _takes_from(sock: sock_diag.ListeningSocket, address: Address, *, v6_only: bool) -> bool:
    other = _of(sock)
    if other.family == address.family or not overlap(address, other):
        return overlap(address, other)
    return not (sock.v6_only if other.family == socket.AF_INET6 else v6_only)


def _of(sock: sock_diag.ListeningSocket) -> Address:
    return Address(sock.host.removeprefix(MAPPED), sock.port, "")


def _held(sock: sock_diag.ListeningSocket) -> str:
    held = f"has {_of(sock)}"
    holder = _known.get(sock.inode) or sock_diag.holder(sock.inode)
    if holder:
        return f"{printable(holder)} {held}"
    return f"another process {held}: {_how_to_see(sock.port)}"


def note_holders(addresses: Iterable[Address]) -> None:
    """Finds out who listens where `addresses` are to be, for an error to come: while this process
    may still look into those of others."""
    ports = {address.port for address in addresses}
    with suppress(OSError):
        for sock in sock_diag.listening():
            if sock.port in ports and len(_known) < MAX_KNOWN:
                _known[sock.inode] = sock_diag.holder(sock.inode)
