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
from tcpmux.master.held import Held, is_called, is_own_child
from tcpmux.master.places import user_name
from tcpmux.privileges import User, oneself
from tcpmux.processes import (
    CREDENTIALS,
    Sender,
    Truncated,
    close_all,
    identify_senders,
    is_alive,
    receive,
)
from tcpmux.shm._shm import LAYOUT, MAX_LISTENERS, MAX_SHARDS, Commons, Live, Table
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
    workers: id -> (pid of the guardian, pid of the worker, descriptor of the line to it); pid 0 =
    not known. pidfds: id -> of the guardian, of the worker; -1 = none."""

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
    pidfds: dict[int, tuple[int, int]] = field(default_factory=dict)
    user: str = ""  # of privileges.User; "" = the master's

    @property
    def runs_as(self) -> User:
        """As whom all processes but the master run."""
        return User.parse(self.user) if self.user else oneself()

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
            *(fd for pair in self.pidfds.values() for fd in pair if fd >= 0),
        ]

    def held(self, number: int) -> tuple[Held | None, Held | None]:
        """The guardian and the worker `number`, which own their pidfds from here on."""
        guardian, worker, _ = self.workers[number]
        if number not in self.pidfds:
            # Of a build that knew numbers only: its guardians are our children.
            return (Held.child(guardian) if is_own_child(guardian) else None), None
        pidfds = self.pidfds.pop(number)
        return (
            Held(guardian, pidfds[0]) if guardian else None,
            Held(worker, pidfds[1]) if worker else None,
        )

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
        fields["pidfds"] = {int(i): tuple(of) for i, of in fields.get("pidfds", {}).items()}
        fields["addresses"] = {int(i): text for i, text in fields["addresses"].items()}
        estate = cls(**fields)
        for number in estate.descriptors:
            os.set_inheritable(number, False)
        return estate


def attach(estate: Estate) -> tuple[Table, Commons, list[Live]] | None:
    """The regions, to go on with; None if they are of another layout than this build's. Raises
    Occupied if they can't be written."""
    if estate.layout != LAYOUT:
        return None
    try:
        table = Table.attach(estate.table, writable=True)
        commons = Commons.attach(estate.commons, writable=True)
        return (
            table,
            commons,
            [
                Live.attach(fd, writable=True, worker=number)
                for number, fd in enumerate(estate.lives)
            ],
        )
    except ValueError:
        return None
    except OSError as error:
        raise Occupied(
            f"can't take over the memory of the instance that is there: {error.strerror}: start "
            "as the user that it was started as"
        ) from None


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
    sender: Sender | None  # to be closed


def _ask(line: socket.socket, place: int, deadline: float) -> _Answer:
    """Sends a claim and waits for the answer. Raises NoAnswer if none comes before `deadline`."""
    line.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        with suppress(BrokenPipeError):  # a master answers at once, and hangs up
            line.send(MESSAGE.pack(CLAIM, 0, 0, 0, place))
        while True:
            try:
                data, fds, sender = receive(line, MESSAGE.size, MOST_FDS)
            except ConnectionResetError:  # told before what was sent ahead of it
                data, fds, sender = receive(line, MESSAGE.size, MOST_FDS)
            if len(data) != MESSAGE.size:
                close_all(fds)
                _forget(sender)
                raise NoAnswer
            kind, listener, first, shared, value = MESSAGE.unpack(data)
            if kind in (OFFER, BUSY):
                return _Answer(kind, listener, first, shared, value, fds, sender)
            close_all(fds)  # what a worker had to tell meanwhile is in its region as well
            _forget(sender)
    except Truncated:
        raise Incomplete(
            "can't take over the instance: RLIMIT_NOFILE is "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}, too low for its "
            "descriptors: raise it (ulimit -n, LimitNOFILE=); its workers go on meanwhile"
        ) from None
    except (OSError, ValueError):
        raise NoAnswer from None


def _forget(sender: Sender | None) -> None:
    if sender is not None:
        sender.close()


def _connect(path: str) -> socket.socket | None:
    """The line to whoever answers there. Raises Occupied if the socket was not made by a master
    of ours: who listens on it would get what belongs to us, and say who is to be signalled."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        identify_senders(line)
        line.settimeout(ANSWER_TIME)
        line.connect(path)
        # Of who called listen(), which a master does: the kernel keeps it (unix(7)).
        raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _, uid, _ = CREDENTIALS.unpack(raw)
        if uid != os.geteuid():
            line.close()
            raise Occupied(
                f"{path} was made by {user_name(uid)}, and only its own user takes an instance "
                "over: set another admin.socket"
            )
    except OSError as error:
        line.close()
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
            return None
        raise Occupied(
            f"can't ask at {path} whether an instance is there: {error.strerror or error}: "
            + (
                "it belongs to another user: set another admin.socket"
                if error.errno in (errno.EACCES, errno.EPERM)
                else "set another admin.socket, or end what listens there"
            )
        ) from None
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
            raise Occupied(
                f"an instance of tcpmux is running ({path}), and none of its processes answers"
            )


def _claim_from(first: socket.socket, path: str, admin_path: str, deadline: float) -> Estate:
    answer = _ask(first, 0, deadline)
    if answer.kind == BUSY:
        first.close()
        pid = answer.sender.pid if answer.sender is not None else answer.value
        close_all(answer.fds)
        _forget(answer.sender)
        raise Occupied(
            f"another tcpmux (pid {pid}) runs with this admin socket: stop it with "
            "`tcpmux stop`, have it read its files again with `tcpmux reload`, or set another "
            "admin.socket"
        )
    if len(answer.fds) <= REGIONS:
        close_all(answer.fds)
        _forget(answer.sender)
        raise NoAnswer
    table, commons, takeover, admin, *lives = answer.fds
    estate = Estate(table, commons, takeover, admin, lives, admin_path=admin_path)
    try:
        _check_sockets(estate)
        _take_listeners(first, deadline, estate.listeners)
        estate.lock = lock(table)
        _enter(estate, answer, first)
    except BaseException:
        close_all(estate.descriptors)
        _forget(answer.sender)
        raise
    regions = attach(estate)
    if regions is None:  # nor can be read how many there are
        _claim_others(path, estate, lambda: len(estate.workers) < len(lives), time.monotonic() + 1)
        return estate
    _claim_others(path, estate, lambda: bool(_missing(regions[2], estate)), deadline)
    missing = _missing(regions[2], estate)
    if missing:
        close_all(estate.descriptors)
        names = ", ".join(f"worker {live.worker} (pid {live.pid})" for live in missing)
        raise Occupied(f"{names} of the instance to be taken over does not answer: try again")
    return estate


def _enter(estate: Estate, answer: _Answer, line: socket.socket) -> None:
    """Writes down the worker that has answered; takes the line. Raises NoAnswer if it can't be
    one of the instance."""
    number, sender = answer.first, answer.sender
    if sender is None or number >= len(estate.lives) or number in estate.workers:
        raise NoAnswer
    own = User(sender.uid, sender.gid)
    # Root made the takeover socket, and nobody gets at it but who was given it: so a root may take
    # over whatever user answers there, and all have to be the same.
    if (own != estate.runs_as) if estate.user else os.geteuid() not in (0, sender.uid):
        raise Occupied(
            f"a worker of the instance to be taken over runs as {own}: stop it first (tcpmux stop)"
        )
    held = Held.sender(sender, sender.uid)
    if held is None:
        raise NoAnswer
    estate.user = own.text
    estate.workers[number] = (0, held.pid, line.detach())
    estate.pidfds[number] = (-1, held.pidfd)


def _check_sockets(estate: Estate) -> None:
    """Raises NoAnswer unless the admin and the takeover socket are those of the path, listening."""
    for fd, path in (
        (estate.admin, estate.admin_path),
        (estate.takeover, estate.admin_path + SUFFIX),
    ):
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                right = sock.getsockname() == path and sock.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                )
        except OSError:
            right = False
        if not right:
            raise NoAnswer


def _missing(lives: Iterable[Live], estate: Estate) -> list[Live]:
    """Workers that are there and have not answered."""
    return [
        live
        for live in lives
        if live.worker not in estate.workers
        and any(
            is_alive(pid) and is_called(pid, name, estate.runs_as.uid) is not False
            for pid, name in ((live.guardian_pid, "guardian"), (live.pid, "worker"))
        )
    ]


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
        close_all(answer.fds)
        if answer.kind != OFFER:
            line.close()
            _forget(answer.sender)
            return
        try:
            _enter(estate, answer, line)
        except NoAnswer:
            line.close()
            _forget(answer.sender)


def _take_listeners(
    line: socket.socket, deadline: float, found: list[tuple[int, int, int, bool]]
) -> None:
    """Adds each listening socket that the worker has to `found`."""
    place = 1
    while place:
        answer = _ask(line, place, deadline)
        _forget(answer.sender)
        if len(found) > MAX_LISTENERS * MAX_SHARDS:
            raise NoAnswer
        if answer.listener != NO_LISTENER and len(answer.fds) == 1:
            found.append((answer.listener, answer.first, answer.fds[0], bool(answer.shared)))
        elif answer.listener != NO_LISTENER or answer.fds:
            close_all(answer.fds)
            raise NoAnswer
        place = answer.value
