"""What a running instance consists of, on its way from one master to the next.

Runs in the master, in two cases:

- the old master was killed: takeover.py asks its workers for all of it
- an upgrade: the old master becomes the new one by exec, in the same process, and hands
  everything through it; save() and load().

Two builds of tcpmux fit together if they have the same LAYOUT. If they don't, the new master
gets the sockets only, and the old workers serve the connections that they have to the end.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tcpmux.errors import TcpmuxError
from tcpmux.master.held import Held, is_own_child
from tcpmux.privileges import User, oneself
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import LAYOUT
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table

VARIABLE = "TCPMUX_ESTATE"  # in the environment of a master that another one became
LOCK_SECONDS = 3.0


class Occupied(TcpmuxError):
    """Another master has, or is about to take, what this one was started for."""


@dataclass(slots=True)
class Handoff:
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
        fd = os.memfd_create("tcpmux-handoff", 0)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(asdict(self)).encode())
        for number in self.descriptors:
            os.set_inheritable(number, True)
        return fd

    @classmethod
    def load(cls, fd: int) -> Handoff:
        """What save() has written; the descriptors are not inherited any further."""
        text = os.pread(fd, os.fstat(fd).st_size, 0)
        os.close(fd)
        fields = json.loads(text)
        fields["listeners"] = [(i, shard, n, shared) for i, shard, n, shared in fields["listeners"]]
        fields["workers"] = {int(i): tuple(of) for i, of in fields["workers"].items()}
        fields["pidfds"] = {int(i): tuple(of) for i, of in fields.get("pidfds", {}).items()}
        fields["addresses"] = {int(i): text for i, text in fields["addresses"].items()}
        handoff = cls(**fields)
        for number in handoff.descriptors:
            os.set_inheritable(number, False)
        return handoff


def attach(handoff: Handoff) -> tuple[Table, Commons, list[Live]] | None:
    """The regions, to go on with; None if they are of another layout than this build's. Raises
    Occupied if they can't be written."""
    if handoff.layout != LAYOUT:
        return None
    try:
        table = Table.attach(handoff.table, writable=True)
        commons = Commons.attach(handoff.commons, writable=True)
        return (
            table,
            commons,
            [
                Live.attach(fd, writable=True, worker=number)
                for number, fd in enumerate(handoff.lives)
            ],
        )
    except ValueError:
        return None
    except OSError as error:
        raise Occupied(
            f"can't take over the memory of the running instance: {error.strerror}: start as the "
            "user who started it"
        ) from None


def lock(table_fd: int) -> int:
    """Makes this process the master of the instance; returns the descriptor that says so.

    Every process has the table by the same open file; the lock is on one of the master's own,
    which it takes along when it becomes another build. A child that was looking over an
    upgrade may outlive its master by a moment, so the lock is waited for. Raises Occupied.
    """
    fd = os.open(f"/proc/self/fd/{table_fd}", os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_SECONDS
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
