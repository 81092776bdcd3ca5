"""The parts of an instance, made new or taken over. Runs in the master, before its loop."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tcpmux.config import Address, Config
from tcpmux.master import handoff as handoffs
from tcpmux.master.handoff import Handoff
from tcpmux.master.limits import raise_nofile, shard_count, usable_cpus, worker_limits
from tcpmux.master.listeners import Listeners, bind_unix
from tcpmux.master.port_guard import ListenError
from tcpmux.master.takeover import SUFFIX
from tcpmux.master.worker_count import wanted_workers
from tcpmux.master.workers import Workers
from tcpmux.privileges import User
from tcpmux.shm._commons import Commons
from tcpmux.shm._image import read_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

NO_FILE = (0, 0)  # (device, inode) of none


@dataclass(slots=True)
class UnixListener:
    """A socket of the instance itself, and the (device, inode) of its file."""

    path: str
    socket: socket.socket
    inode: tuple[int, int]


@dataclass(slots=True)
class Instance:
    table: Table
    commons: Commons
    workers: Workers
    listeners: Listeners
    admin: UnixListener
    takeover: UnixListener
    connections_limit: int  # of one worker
    lock: int  # descriptor
    is_new: bool  # nothing is published or running yet
    leaving: list[int]  # pids of another build's workers, which drain by themselves
    user: User  # as whom its processes run
    events: list[dict[str, Any]] = field(default_factory=list)  # of the master before this one

    def handoff(self) -> Handoff:
        """All of it, for the next master."""
        return Handoff(
            self.table.fd,
            self.commons.fd,
            self.takeover.socket.fileno(),
            self.admin.socket.fileno(),
            self.workers.live_fds,
            [
                (listener.id, shard, sock.fileno(), listener.shared)
                for listener in self.listeners.by_address.values()
                for shard, sock in enumerate(listener.sockets)
            ],
            {
                worker.id: (
                    worker.guardian,
                    worker.held.pid if worker.held is not None else 0,
                    worker.line.socket.fileno(),
                )
                for worker in self.workers.running
                if worker.line.socket is not None
            },
            lock=self.lock,
            user=self.user.text,
            admin_path=self.admin.path,
            addresses={
                listener.id: str(address) for address, listener in self.listeners.by_address.items()
            },
            pidfds={
                worker.id: (worker.pidfd, worker.held.pidfd if worker.held is not None else -1)
                for worker in self.workers.running
                if worker.line.socket is not None
            },
        )


def make(config: Config, user: User) -> Instance:
    """A new instance: nothing is bound yet but its own sockets. user: as whom its processes are to
    run. Raises TcpmuxError."""
    nofile = raise_nofile()
    cpus = usable_cpus()
    shards = shard_count(config.workers or cpus.workers, len(cpus.numbers), nofile)
    count = wanted_workers(config, shards)
    if cpus.is_limited:
        log.info(
            "the CPU quota of this process is %g of %d CPUs: %s",
            cpus.quota,
            len(cpus.numbers),
            f"{count} workers, not pinned" if config.workers else f"workers: auto is {count}",
        )
    addresses = sum(len(route.listen) for route in config.routes)
    limits = worker_limits(nofile, addresses * shards)
    table = Table.create(count, shards, os.getpid(), int(time.time()))
    lock = handoffs.lock(table.fd)
    commons = Commons.create()
    lives = [Live.create(number, limits.connections) for number in range(shards)]
    admin = _bind_admin(config.admin.socket, socket.SOCK_STREAM)
    takeover = _bind_admin(config.admin.socket + SUFFIX, socket.SOCK_SEQPACKET)
    keepsakes = takeover.socket.fileno(), admin.socket.fileno()
    workers = Workers((table, commons), lives, limits, cpus.to_pin, keepsakes, user)
    workers.want(count)
    return Instance(
        table,
        commons,
        workers,
        Listeners(shards),
        admin,
        takeover,
        limits.connections,
        lock,
        True,
        [],
        user,
    )


def resume(config: Config, left: Handoff) -> Instance:
    """The instance that another master has left. Raises TcpmuxError."""
    regions = handoffs.attach(left)
    if regions is None:
        return _succeed(config, left)
    table, commons, lives = regions
    nofile = raise_nofile()
    listeners = Listeners(table.shard_count)
    limits = worker_limits(nofile, len(left.listeners))
    keepsakes = left.takeover, left.admin
    workers = Workers(
        (table, commons), lives, limits, usable_cpus().to_pin, keepsakes, left.runs_as
    )
    workers.want(table.worker_count)
    _, image = read_image(table)
    addresses = {row.id: Address.parse(str(row.address)) for row in image.listeners}
    listeners.adopt(left.listeners, addresses)
    for number, (_, _, line) in left.workers.items():
        workers.adopt(number, socket.socket(fileno=line), *left.held(number))
    path = left.admin_path
    if path != config.admin.socket:
        log.warning(
            "a change of admin.socket takes effect at the next start; until then it stays %s", path
        )
    return Instance(
        table,
        commons,
        workers,
        listeners,
        _taken(path, left.admin),
        _taken(path + SUFFIX, left.takeover),
        lives[0].capacity,
        left.lock,
        False,
        [],
        left.runs_as,
        left.events,
    )


def _succeed(config: Config, left: Handoff) -> Instance:
    """A new instance on the sockets of one whose memory is of another layout.

    Its workers go on with the connections they have, share the queues until these are
    empty, and end with their last connection.
    """
    for fd in (left.table, left.commons, left.lock, *left.lives):
        if fd >= 0:
            os.close(fd)
    admin, takeover = left.admin_path, left.admin_path + SUFFIX
    for fd, path in ((left.admin, admin), (left.takeover, takeover)):
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(path)
    instance = make(config, left.runs_as)
    instance.listeners.adopt(left.listeners, _bound_addresses(left))
    for number, (_, pid, line) in left.workers.items():
        os.close(line)  # without a master, SIGTERM means drain
        for held, is_worker in zip(left.held(number), (False, True), strict=True):
            if held is not None:
                if is_worker:
                    held.signal(signal.SIGTERM)
                held.close()
        if pid:
            instance.leaving.append(pid)
    log.warning(
        "the running workers belong to a build with another memory layout: they keep their "
        "connections until these end (pids %s); new workers accept new connections",
        ", ".join(map(str, instance.leaving)) or "none",
    )
    return instance


def _bound_addresses(left: Handoff) -> dict[int, Address]:
    found = {}
    for number, _, fd, _ in left.listeners:
        with socket.socket(fileno=os.dup(fd)) as sock:
            found[number] = Address.of_socket(sock)
    return found


def _taken(path: str, fd: int) -> UnixListener:
    """One whose file somebody has removed, as cleaners of /tmp do, listens on: an instance does not
    end for the lack of a name."""
    try:
        found = os.lstat(path)
        inode = found.st_dev, found.st_ino
    except OSError as error:
        inode = NO_FILE
        log.error(  # noqa: TRY400
            "the admin socket %s is not reachable any more: %s: commands can't find this "
            "instance until it is restarted; traffic is not affected",
            path,
            error.strerror,
        )
    return UnixListener(path, socket.socket(fileno=fd), inode)


def _bind_admin(path: str, kind: socket.SocketKind) -> UnixListener:
    try:
        return UnixListener(path, *bind_unix(path, 0o600, kind))
    except OSError as error:
        raise ListenError(
            f"can't make the admin socket {path}: {error.strerror}: is another tcpmux running "
            "there? Stop it with `tcpmux stop`, or set another admin.socket"
            if error.errno == errno.EADDRINUSE
            else f"can't make the admin socket {path}: {error.strerror}: set another admin.socket"
        ) from None
