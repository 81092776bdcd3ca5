"""What a running instance consists of, on its way from one master to the next.

Runs in the master, in two cases:

- the old master was killed: its workers wait at the takeover socket, each with all the shared
  memory, the listening sockets and the admin socket; claim() asks them.
- an upgrade: the old master becomes the new one by exec, in the same process, and hands
  everything through it; save() and load().

Two builds of tcpmux fit together if they have the same LAYOUT. If they don't, the new master
gets the sockets only, and the old workers serve the connections that they have to the end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from tcpmux.errors import TcpmuxError
from tcpmux.shm._shm import LAYOUT, Commons, Live, Table
from tcpmux.worker.process import BUSY, CLAIM, MESSAGE, OFFER

log = logging.getLogger("tcpmux.master")

VARIABLE = "TCPMUX_ESTATE"  # in the environment of a master that another one became
SUFFIX = ".takeover"  # of the admin socket's path
NO_LISTENER = 0xFFFFFFFF  # TM_NONE
MOST_FDS = 128  # TM_MESSAGE_FDS
REGIONS = 4  # descriptors of an offer before those of the workers' regions
LOCK_TIME = 3.0  # s
LOOK_AGAIN = 0.5  # s: is the one that is asked still there?
ANSWER_TIME = 10.0  # s for all workers: a guardian ends a hanging one in half of that


class Occupied(TcpmuxError):
    """Another master has, or is about to take, what this one was started for."""


class NoAnswer(TcpmuxError):
    """The worker that was asked has died, or takes too long."""


class Incomplete(TcpmuxError):
    """What a worker handed over has not arrived whole; it is as before."""


@dataclass(slots=True)
class Estate:
    """Descriptors are open in this process. listeners: (id, shard, descriptor, shared).
    workers: id -> (pid of the guardian, pid of the worker, descriptor of the line to it)."""

    table: int
    commons: int
    takeover: int
    admin: int
    lives: list[int]
    listeners: list[tuple[int, int, int, bool]] = field(default_factory=list)
    workers: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    layout: str = LAYOUT
    lock: int = -1
    admin_path: str = ""
    addresses: dict[int, str] = field(default_factory=dict)  # of listeners, by id
    events: list[dict[str, Any]] = field(default_factory=list)  # of events.py

    @property
    def _single(self) -> tuple[int, ...]:
        return self.table, self.commons, self.takeover, self.admin, self.lock

    @property
    def descriptors(self) -> list[int]:
        return [
            *(fd for fd in self._single if fd >= 0),
            *self.lives,
            *(fd for _, _, fd, _ in self.listeners),
            *(fd for _, _, fd in self.workers.values()),
        ]

    # --- through exec -----------------------------------------------------------------------

    def save(self) -> int:
        """A memfd with all of this, to be named in VARIABLE; has every descriptor inherited."""
        fd = os.memfd_create("tcpmux-estate", 0)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(asdict(self)).encode())
        for number in self.descriptors:
            os.set_inheritable(number, True)
        return fd

    @classmethod
    def load(cls, fd: int) -> Estate:
        """What save() has written; the descriptors are not inherited any further."""
        text = os.pread(fd, os.fstat(fd).st_size, 0)
        os.close(fd)
        fields = json.loads(text)
        fields["listeners"] = [(i, shard, n, shared) for i, shard, n, shared in fields["listeners"]]
        fields["workers"] = {int(i): tuple(of) for i, of in fields["workers"].items()}
        fields["addresses"] = {int(i): text for i, text in fields["addresses"].items()}
        estate = cls(**fields)
        for number in estate.descriptors:
            os.set_inheritable(number, False)
        return estate


def attach(estate: Estate) -> tuple[Table, Commons, list[Live]] | None:
    """The regions, to go on with; None if they are of another layout than this build's."""
    if estate.layout != LAYOUT:
        return None
    try:
        table = Table.attach(estate.table, writable=True)
        commons = Commons.attach(estate.commons, writable=True)
        return table, commons, [Live.attach(fd, writable=True) for fd in estate.lives]
    except ValueError:
        return None


def lock(table_fd: int) -> int:
    """Makes this process the master of the instance; returns the descriptor that says so.

    Every process has the table by the same open file; the lock is on one of the master's own,
    which it takes along when it becomes another build. A child that was looking over an
    upgrade may outlive its master by a moment, so the lock is waited for. Raises Occupied.
    """
    fd = os.open(f"/proc/self/fd/{table_fd}", os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_TIME
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(fd)
            raise Occupied("another tcpmux is taking over the same instance") from None
        return fd


# --- from the workers -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    kind: int
    listener: int
    first: int
    shared: int
    value: int
    fds: list[int]


def _ask(line: socket.socket, place: int, deadline: float) -> _Answer:
    """Sends a claim and waits for the answer. Raises NoAnswer if none comes before `deadline`."""
    line.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        with suppress(BrokenPipeError):  # a master answers at once, and hangs up
            line.send(MESSAGE.pack(CLAIM, 0, 0, 0, place))
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(line, MESSAGE.size, MOST_FDS)
            except ConnectionResetError:  # told before what was sent ahead of it
                data, fds, flags, _ = socket.recv_fds(line, MESSAGE.size, MOST_FDS)
            if flags & socket.MSG_CTRUNC:
                _close(fds)
                raise Incomplete(
                    "can't take over the instance: RLIMIT_NOFILE is "
                    f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}, too low for its "
                    "descriptors: raise it (ulimit -n, LimitNOFILE=); its workers go on meanwhile"
                )
            if len(data) != MESSAGE.size:
                _close(fds)
                raise NoAnswer
            kind, listener, first, shared, value = MESSAGE.unpack(data)
            answer = _Answer(kind, listener, first, shared, value, list(fds))
            if answer.kind in (OFFER, BUSY):
                return answer
            _close(fds)  # what a worker had to tell meanwhile is in its region as well
    except OSError:
        raise NoAnswer from None


def _connect(path: str) -> socket.socket | None:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        line.settimeout(ANSWER_TIME)
        line.connect(path)
    except OSError as error:
        line.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return line


def claim(admin_path: str) -> Estate | None:
    """Takes over the instance whose master has died; None if there is none.

    A worker may die while it is asked: then its next life or another one is. Raises Occupied
    if the master lives, or if none of the workers answers.
    """
    path = admin_path + SUFFIX
    deadline = time.monotonic() + ANSWER_TIME
    while True:
        first = _connect(path)
        if first is None:  # there was none, or its last process has ended meanwhile
            return None
        try:
            return _claim_from(first, path, admin_path, deadline)
        except NoAnswer:
            first.close()
        if time.monotonic() >= deadline:
            raise Occupied(f"an instance of tcpmux is there ({path}), and nobody in it answers")


def _claim_from(first: socket.socket, path: str, admin_path: str, deadline: float) -> Estate:
    answer = _ask(first, 0, deadline)
    if answer.kind == BUSY:
        first.close()
        raise Occupied(
            f"another tcpmux (pid {answer.value}) runs with this admin socket: stop it with "
            "`tcpmux stop`, have it read its files again with `tcpmux reload`, or set another "
            "admin.socket"
        )
    if len(answer.fds) <= REGIONS:
        _close(answer.fds)
        raise NoAnswer
    table, commons, takeover, admin, *lives = answer.fds
    estate = Estate(table, commons, takeover, admin, lives, admin_path=admin_path)
    try:
        _take_listeners(first, deadline, estate.listeners)
        estate.lock = lock(table)
    except TcpmuxError:
        _close(estate.descriptors)
        raise
    estate.workers[answer.first] = (0, answer.shared, first.detach())
    regions = attach(estate)
    if regions is None:  # nor can be read how many there are
        _claim_others(path, estate, lambda: len(estate.workers) < len(lives), time.monotonic() + 1)
        return estate
    _claim_others(path, estate, lambda: bool(_missing(regions[2], estate)), deadline)
    missing = _missing(regions[2], estate)
    if missing:
        _close(estate.descriptors)
        names = ", ".join(f"worker {live.worker} (pid {live.pid})" for live in missing)
        raise Occupied(f"{names} of the instance to be taken over does not answer: try again")
    for live in regions[2]:
        if live.worker in estate.workers:
            _, pid, line = estate.workers[live.worker]
            estate.workers[live.worker] = (live.guardian_pid, pid, line)
    return estate


def _missing(lives: Iterable[Live], estate: Estate) -> list[Live]:
    """Workers that are there and have not answered."""
    return [
        live
        for live in lives
        if live.worker not in estate.workers and (_lives(live.guardian_pid) or _lives(live.pid))
    ]


def _lives(pid: int) -> bool:
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _claim_others(path: str, estate: Estate, wanting: Callable[[], bool], deadline: float) -> None:
    """Asks while there is somebody to ask: each connection reaches one of those left."""
    while wanting() and time.monotonic() < deadline:
        line = _connect(path)
        if line is None:
            return
        try:
            answer = _ask(line, 0, min(deadline, time.monotonic() + LOOK_AGAIN))
        except NoAnswer:  # its next life, or another one, answers the next time
            line.close()
            continue
        if answer.kind != OFFER:
            line.close()
            return
        _close(answer.fds)
        estate.workers[answer.first] = (0, answer.shared, line.detach())


def _take_listeners(
    line: socket.socket, deadline: float, found: list[tuple[int, int, int, bool]]
) -> None:
    """Adds each listening socket that the worker has to `found`."""
    place = 1
    while place:
        answer = _ask(line, place, deadline)
        if answer.listener != NO_LISTENER and len(answer.fds) == 1:
            found.append((answer.listener, answer.first, answer.fds[0], bool(answer.shared)))
        elif answer.listener != NO_LISTENER or answer.fds:
            _close(answer.fds)
            raise NoAnswer
        place = answer.value


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
