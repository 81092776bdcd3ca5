"""The listening sockets: the master opens them, keeps them and alone closes them for good.

For each TCP address there is a fixed number of SO_REUSEPORT sockets, the shards. Closing
one of those resets every connection that waits in its queue, so none is closed while its
address is configured, whatever becomes of the workers.

SO_REUSEPORT would let another tcpmux of the same user in beside us, or us beside it, each with a
part of the connections. So nobody else may listen on an address or on one that it overlaps.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from tcpmux import sock_diag
from tcpmux.config import Address
from tcpmux.errors import printable
from tcpmux.master.port_guard import (
    ANY_V4,
    ANY_V6,
    ListenError,
    overlap,
    refuse_others,
    v6_only,
    who_has,
)
from tcpmux.master.supervisor import Inherited
from tcpmux.peer import peer_of
from tcpmux.shm._declared import MAX_LISTENERS, MAX_SHARDS

log = logging.getLogger("tcpmux.master")

BACKLOG = 65535  # the kernel lowers it to net.core.somaxconn


class Origin(Enum):
    """Where a listener's sockets are from."""

    BOUND = "bound here"
    STORED = "bound by us in an earlier incarnation, kept by the service manager"
    UNIT = "opened by the service manager, which keeps them, and a UNIX socket's file"


@dataclass(slots=True)
class Listener:
    """One address and its sockets. shared: one socket, polled by every worker (UNIX)."""

    id: int
    address: Address
    sockets: list[socket.socket]
    shared: bool
    inode: tuple[int, int] | None = None  # (device, inode) of a UNIX socket's file
    origin: Origin = Origin.BOUND

    def close(self, *, keep_file: bool = False) -> None:
        for sock in self.sockets:
            sock.close()
        if self.inode is not None and not keep_file and self.origin is not Origin.UNIT:
            unlink_socket(self.address.path, self.inode)

    def discard(self) -> None:
        """Closes what came to nothing. What was inherited is there for another start."""
        self.close(keep_file=self.origin is not Origin.BOUND)


def _listener_of(connected: socket.socket) -> str:
    """Who listens where a UNIX socket is connected, as `nginx (pid 12)`."""
    with suppress(OSError):
        pid, _ = peer_of(connected)
        if pid > 0:
            return f"{printable(sock_diag.name_of(pid))} (pid {pid})"
    return "another process"


def unlink_socket(path: str, inode: tuple[int, int]) -> None:
    """Removes a UNIX socket's file if it still is the one with this (device, inode)."""
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == inode:
            os.unlink(path)


def bind_unix(
    path: str, mode: int | None, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[socket.socket, tuple[int, int]]:
    """Binds a UNIX socket; returns it with the (device, inode) of its file.

    A socket file on which nobody listens is left over from a crash and is replaced. mode:
    permissions of the file from its first moment, None = as the umask says. Raises OSError;
    EADDRINUSE if somebody answers there or the path is no socket.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "the path exists and is not a socket")
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            # EAGAIN: a full queue, so somebody is there.
            if probe.connect_ex(path) in (0, errno.EAGAIN):
                raise OSError(errno.EADDRINUSE, f"{_listener_of(probe)} listens on it")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        # The bits a new socket file gets are those of the descriptor less the umask; fchmod
        # before bind narrows them without touching the process's umask (unix(7)).
        if mode is not None:
            os.fchmod(sock.fileno(), mode)
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        found = os.stat(path)
    except BaseException:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def _tcp_socket(address: Address, *, reuse_port: bool, v6_only: bool) -> socket.socket:
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT or address.host != ANY_V6 or v6_only:
            raise
        # Every address, on a host without IPv6.
        address = Address(ANY_V4, address.port, "")
        sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
        # Accepted sockets inherit it, which saves the relay a system call for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(slots=True)
class Listeners:
    """All of them. shards: sockets for each TCP address, fixed for the instance's life."""

    shards: int
    by_address: dict[Address, Listener] = field(default_factory=dict)
    inherited: dict[Address, list[Inherited]] = field(default_factory=dict)  # not used yet

    def __len__(self) -> int:
        return sum(len(listener.sockets) for listener in self.by_address.values())

    def open_missing(self, addresses: Iterable[Address]) -> list[Listener]:
        """Binds the addresses that are not open yet; not part of the set before add().

        All or none: raises ListenError and leaves nothing bound if one can't be had.
        """
        wanted = list(addresses)
        missing = [address for address in wanted if address not in self.by_address]
        to_bind = [one for one in missing if not one.path and one not in self.inherited]
        taken = {listener.id for listener in self.by_address.values()}
        free_ids = (number for number in range(MAX_LISTENERS) if number not in taken)
        ours = self._inodes()
        opened: list[Listener] = []
        try:
            self._open_all([one for one in missing if one not in to_bind], free_ids, wanted, opened)
            own = [*self.by_address, *self.inherited, *(one.address for one in opened)]
            for address in to_bind:
                _check_free(address, wanted, own)
            refuse_others(to_bind, wanted, ours)
            self._open_all(to_bind, free_ids, wanted, opened)
            # Once more: another one may have done the same at the same time.
            ours |= {inode for listener in opened for inode in _inodes(listener.sockets)}
            refuse_others(to_bind, wanted, ours)
        except BaseException:
            for listener in opened:
                listener.discard()
            raise
        return opened

    def _open_all(
        self,
        addresses: Iterable[Address],
        free_ids: Iterator[int],
        wanted: list[Address],
        opened: list[Listener],
    ) -> None:
        for address in addresses:
            number = next(free_ids, None)
            if number is None:
                raise ListenError(f"more than {MAX_LISTENERS} listen addresses")
            opened.append(self._open(number, address, wanted))

    def add(self, opened: Iterable[Listener]) -> None:
        for listener in opened:
            self.by_address[listener.address] = listener

    def adopt(
        self, found: Iterable[tuple[int, int, int, bool]], addresses: Mapping[int, Address]
    ) -> None:
        """Takes over what another master has opened. found: (id, shard, descriptor, shared);
        addresses: by id. What has no address any more is closed."""
        by_id: dict[int, list[socket.socket]] = {}
        shared_ids = set()
        for number, _shard, fd, shared in sorted(found):
            by_id.setdefault(number, []).append(socket.socket(fileno=fd))
            if shared:
                shared_ids.add(number)
        for number, sockets in by_id.items():
            address = addresses.get(number)
            if address is None:
                for sock in sockets:
                    sock.close()
                continue
            self.by_address[address] = Listener(
                number,
                address,
                sockets,
                shared=number in shared_ids,
                inode=_inode(address.path) if address.path else None,
            )

    def close(self, closing: Iterable[Listener]) -> None:
        for listener in closing:
            del self.by_address[listener.address]
            listener.close()
            if listener.origin is Origin.UNIT:
                log.warning(
                    "the service manager keeps %s open: clients that connect to it are not "
                    "served until its .socket unit is stopped",
                    listener.address,
                )

    def close_all(self, *, keep_files: bool) -> None:
        """At the end. keep_files: UNIX sockets live on in a store, so their names have to."""
        for listener in self.by_address.values():
            listener.close(keep_file=keep_files)
        self.by_address.clear()

    def ids(self, opened: Iterable[Listener] = ()) -> dict[Address, int]:
        """Ids by address, of these and of `opened` ones."""
        every = [*self.by_address.values(), *opened]
        return {listener.address: listener.id for listener in every}

    def inherit(self, found: Iterable[Inherited]) -> None:
        """Listening sockets that a service manager has opened or kept: used for their
        address, before anything is bound."""
        seen = set()
        for one in found:
            inode = os.fstat(one.socket.fileno()).st_ino
            listener = self.by_address.get(one.address)
            if listener is not None and not one.is_stored:
                listener.origin = Origin.UNIT
            # An instance that is taken over has them already, and what the store keeps of a
            # unit's sockets comes twice, the unit's own first.
            if listener is not None or inode in seen:
                one.socket.close()
            else:
                seen.add(inode)
                self.inherited.setdefault(one.address, []).append(one)

    def drop_inherited(self) -> list[Inherited]:
        """Closes those that no route wants; returns them for their names."""
        unused = [one for found in self.inherited.values() for one in found]
        self.inherited.clear()
        for one in unused:
            one.socket.close()
        return unused

    def _take_inherited(self, number: int, address: Address) -> Listener | None:
        found = self.inherited.pop(address, [])
        inode = _inode(address.path) if address.path else None
        if address.path and inode is None:
            for one in found:  # its name is gone: nobody can come any more
                one.socket.close()
            return None
        for one in found[MAX_SHARDS:]:
            one.socket.close()
        if not found:
            return None
        sockets = [one.socket for one in found[:MAX_SHARDS]]
        origin = Origin.STORED if all(one.is_stored for one in found) else Origin.UNIT
        shared = bool(address.path) or not self._complete(sockets, address)
        return Listener(number, address, sockets, shared, inode, origin)

    def _complete(self, sockets: list[socket.socket], address: Address) -> bool:
        """Binds the shards that are missing. False if that can't be: then every worker has to
        poll those that there are. Only sockets with SO_REUSEPORT take others beside them, and
        only others of the user who bound the first, which a service manager has as root."""
        if not all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets):
            return False
        v6_only = address.family == socket.AF_INET6 and bool(
            sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        )
        with suppress(OSError):
            sockets += _bind_shards(self.shards - len(sockets), address, v6_only=v6_only)
            return True
        return False

    def _open(self, number: int, address: Address, wanted: list[Address]) -> Listener:
        try:
            taken = self._take_inherited(number, address)
            if taken is not None:
                return taken
            if address.family == socket.AF_UNIX:
                sock, inode = bind_unix(address.path, None)
                return Listener(number, address, [sock], shared=True, inode=inode)
            return Listener(number, address, self._open_shards(address, wanted), shared=False)
        except OSError as error:
            raise _listen_error(error, address) from None

    def _inodes(self) -> set[int]:
        """Of all TCP sockets here, and of those that a service manager gave and keeps."""
        every = [sock for listener in self.by_address.values() for sock in listener.sockets]
        every += [one.socket for found in self.inherited.values() for one in found]
        return _inodes(every)

    def _open_shards(self, address: Address, wanted: list[Address]) -> list[socket.socket]:
        return _bind_shards(self.shards, address, v6_only=v6_only(address, wanted))


def _check_free(address: Address, wanted: list[Address], own: Iterable[Address]) -> None:
    """Raises ListenError if somebody else has it, as a bind without SO_REUSEPORT tells. If one of
    our `own` addresses overlaps it, that would fail on ourselves."""
    if any(overlap(address, other) for other in own):
        return
    try:
        _tcp_socket(address, reuse_port=False, v6_only=v6_only(address, wanted)).close()
    except OSError as error:
        raise _listen_error(error, address) from None


def _inodes(sockets: Iterable[socket.socket]) -> set[int]:
    return {os.fstat(sock.fileno()).st_ino for sock in sockets}


def _bind_shards(count: int, address: Address, *, v6_only: bool) -> list[socket.socket]:
    """So many sockets that share an address, listening; all or none. Raises OSError."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_tcp_socket(address, reuse_port=True, v6_only=v6_only))
        # After all are bound: from its listen on, a shard gets its share.
        for sock in sockets:
            sock.listen(BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if any(sock.family != address.family for sock in sockets):
        log.warning("this host has no IPv6: listening on %s as %s", address, ANY_V4)
    return sockets


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen_error(error: OSError, address: Address) -> ListenError:
    return ListenError(
        f"can't listen on {address}: {error.strerror or error}{hint_of(error, address)}"
    )


def hint_of(error: OSError, address: Address) -> str:
    """What to do about an address that can't be had; "" = the error says it."""
    if error.errno == errno.EADDRINUSE:
        return f" ({who_has(address)})" if not address.path else ""
    if error.errno == errno.EAFNOSUPPORT:
        return " (this host has no IPv6)" if address.family == socket.AF_INET6 else ""
    if error.errno == errno.EACCES and 0 < address.port < 1024:
        return " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return " (no interface of this machine has that address)"
    return ""
