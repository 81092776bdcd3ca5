"""Takes over an instance whose master was killed. Runs in the master, before its loop.

Its workers wait at the takeover socket, each with all the shared memory, the listening sockets and
the admin socket.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from tcpmux.errors import TcpmuxError
from tcpmux.master.handoff import Handoff, Occupied, attach, lock
from tcpmux.master.held import Held
from tcpmux.master.path_safety import user_name
from tcpmux.peer import peer_of
from tcpmux.privileges import User
from tcpmux.processes import (
    Sender,
    Truncated,
    close_all,
    identify_senders,
    is_alive,
    is_called,
    receive,
)
from tcpmux.shm._declared import MAX_LISTENERS, MAX_SHARDS
from tcpmux.shm._live import Live
from tcpmux.worker.messages import BUSY, CLAIM, MESSAGE, OFFER

SUFFIX = ".takeover"  # of the admin socket's path
NO_LISTENER = 0xFFFFFFFF  # TM_NONE
MAX_FDS = 128  # TM_MESSAGE_FDS
REGIONS = 4  # descriptors of an offer before those of the workers' regions
RETRY_SECONDS = 0.5  # then the next worker is asked
ANSWER_SECONDS = 10.0  # for all workers: a guardian ends a hanging one in half of that


class NoAnswer(TcpmuxError):
    """The worker that was asked has died, or takes too long."""


class Incomplete(TcpmuxError):
    """What a worker handed over has not arrived whole; it is as before."""


@dataclass(frozen=True, slots=True)
class _Answer:
    kind: int
    listener: int
    first: int
    shared: int
    value: int
    fds: list[int]
    sender: Sender | None  # to be closed


def _ask(line: socket.socket, position: int, deadline: float) -> _Answer:
    """Sends a claim and waits for the answer. Raises NoAnswer if none comes before `deadline`."""
    line.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        with suppress(BrokenPipeError):  # a master answers at once, and hangs up
            line.send(MESSAGE.pack(CLAIM, 0, 0, 0, position))
        while True:
            try:
                data, fds, sender = receive(line, MESSAGE.size, MAX_FDS)
            except ConnectionResetError:  # told before what was sent ahead of it
                data, fds, sender = receive(line, MESSAGE.size, MAX_FDS)
            if len(data) != MESSAGE.size:
                close_all(fds)
                _close_sender(sender)
                raise NoAnswer
            kind, listener, first, shared, value = MESSAGE.unpack(data)
            if kind in (OFFER, BUSY):
                return _Answer(kind, listener, first, shared, value, fds, sender)
            close_all(fds)  # what a worker had to tell meanwhile is in its region as well
            _close_sender(sender)
    except Truncated:
        raise Incomplete(
            "can't take over the instance: RLIMIT_NOFILE is "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}, too low for its "
            "descriptors: raise it (ulimit -n, LimitNOFILE=); its workers go on meanwhile"
        ) from None
    except (OSError, ValueError):
        raise NoAnswer from None


def _close_sender(sender: Sender | None) -> None:
    if sender is not None:
        sender.close()


def _connect(path: str) -> socket.socket | None:
    """The line to whoever answers there. Raises Occupied if the socket was not made by a master
    of ours: who listens on it would get what belongs to us, and say who is to be signalled."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        identify_senders(line)
        line.settimeout(ANSWER_SECONDS)
        line.connect(path)
        _, uid = peer_of(line)  # the master, which called listen()
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
                else "set another admin.socket, or stop what listens there"
            )
        ) from None
    return line


def claim(admin_path: str) -> Handoff | None:
    """Takes over the instance whose master has died; None if there is none.

    A worker may die while it is asked: then its next incarnation or another one is. Raises Occupied
    if the master lives, or if none of the workers answers.
    """
    path = admin_path + SUFFIX
    deadline = time.monotonic() + ANSWER_SECONDS
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
                f"an instance of tcpmux is running ({path}), but none of its processes answers"
            )


def _claim_from(first: socket.socket, path: str, admin_path: str, deadline: float) -> Handoff:
    answer = _ask(first, 0, deadline)
    if answer.kind == BUSY:
        first.close()
        pid = answer.sender.pid if answer.sender is not None else answer.value
        close_all(answer.fds)
        _close_sender(answer.sender)
        raise Occupied(
            f"another tcpmux (pid {pid}) runs with this admin socket: stop it with "
            "`tcpmux stop`, have it read its files again with `tcpmux reload`, or set another "
            "admin.socket"
        )
    if len(answer.fds) <= REGIONS:
        close_all(answer.fds)
        _close_sender(answer.sender)
        raise NoAnswer
    table, commons, takeover, admin, *lives = answer.fds
    handoff = Handoff(table, commons, takeover, admin, lives, admin_path=admin_path)
    try:
        _check_sockets(handoff)
        _take_listeners(first, deadline, handoff.listeners)
        handoff.lock = lock(table)
        _enter(handoff, answer, first)
    except BaseException:
        close_all(handoff.descriptors)
        _close_sender(answer.sender)
        raise
    regions = attach(handoff)
    if regions is None:  # nor can be read how many there are
        _claim_others(
            path, handoff, lambda: len(handoff.workers) < len(lives), time.monotonic() + 1
        )
        return handoff
    _claim_others(path, handoff, lambda: bool(_missing(regions[2], handoff)), deadline)
    missing = _missing(regions[2], handoff)
    if missing:
        close_all(handoff.descriptors)
        names = ", ".join(f"worker {live.worker} (pid {live.pid})" for live in missing)
        raise Occupied(f"{names} of the instance to be taken over does not answer: try again")
    return handoff


def _enter(handoff: Handoff, answer: _Answer, line: socket.socket) -> None:
    """Writes down the worker that has answered; takes the line. Raises NoAnswer if it can't be
    one of the instance."""
    number, sender = answer.first, answer.sender
    if sender is None or number >= len(handoff.lives) or number in handoff.workers:
        raise NoAnswer
    own = User(sender.uid, sender.gid)
    # Root made the takeover socket, and nobody gets at it but who was given it: so a root may take
    # over whatever user answers there, and all have to be the same.
    if (own != handoff.runs_as) if handoff.user else os.geteuid() not in (0, sender.uid):
        raise Occupied(
            f"a worker of the instance to be taken over runs as {own}: stop it first (tcpmux stop)"
        )
    held = Held.sender(sender, sender.uid)
    if held is None:
        raise NoAnswer
    handoff.user = own.text
    handoff.workers[number] = (0, held.pid, line.detach())
    handoff.pidfds[number] = (-1, held.pidfd)


def _check_sockets(handoff: Handoff) -> None:
    """Raises NoAnswer unless the admin and the takeover socket are those of the path, listening."""
    for fd, path in (
        (handoff.admin, handoff.admin_path),
        (handoff.takeover, handoff.admin_path + SUFFIX),
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


def _missing(lives: Iterable[Live], handoff: Handoff) -> list[Live]:
    """Workers that are there and have not answered."""
    return [
        live
        for live in lives
        if live.worker not in handoff.workers
        and any(
            is_alive(pid) and is_called(pid, name, handoff.runs_as.uid) is not False
            for pid, name in ((live.guardian_pid, "guardian"), (live.pid, "worker"))
        )
    ]


def _claim_others(
    path: str, handoff: Handoff, wanting: Callable[[], bool], deadline: float
) -> None:
    """Asks while there is somebody to ask: each connection reaches one of those left."""
    while wanting() and time.monotonic() < deadline:
        line = _connect(path)
        if line is None:
            return
        try:
            answer = _ask(line, 0, min(deadline, time.monotonic() + RETRY_SECONDS))
        except NoAnswer:  # its next incarnation, or another one, answers the next time
            line.close()
            continue
        close_all(answer.fds)
        if answer.kind != OFFER:
            line.close()
            _close_sender(answer.sender)
            return
        try:
            _enter(handoff, answer, line)
        except NoAnswer:
            line.close()
            _close_sender(answer.sender)


def _take_listeners(
    line: socket.socket, deadline: float, found: list[tuple[int, int, int, bool]]
) -> None:
    """Adds each listening socket that the worker has to `found`."""
    position = 1
    while position:
        answer = _ask(line, position, deadline)
        _close_sender(answer.sender)
        if len(found) > MAX_LISTENERS * MAX_SHARDS:
            raise NoAnswer
        if answer.listener != NO_LISTENER and len(answer.fds) == 1:
            found.append((answer.listener, answer.first, answer.fds[0], bool(answer.shared)))
        elif answer.listener != NO_LISTENER or answer.fds:
            close_all(answer.fds)
            raise NoAnswer
        position = answer.value
