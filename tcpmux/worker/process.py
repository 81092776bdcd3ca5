"""A worker and its guardian, from the fork to the end.

The master forks the guardian, and the guardian starts the worker, with one table of
descriptors between the two (clone(2), CLONE_FILES). When the worker dies, in whatever way, its
sockets and pipes stay open here and its records stay in shared memory; the next worker that
the guardian starts goes on with both.

The guardian runs `serve`, the worker what is between `_guardian.spawn` and the end of the
process. Neither keeps anything of the master but the descriptors it was given.

During an upgrade connections wait while the next build imports this: so nothing is imported that
takes long. Dataclasses alone would take half as long as all of it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from setproctitle import setproctitle

from tcpmux.logs import follow, say
from tcpmux.privileges import User, drop, oneself
from tcpmux.programs import GUARDIAN, start_program
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import ABSENT, OVER, REPLACED
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.worker import _guardian, _listeners, _loop
from tcpmux.worker.messages import DIED, RENEWED

# The master's signals. A worker hears of what matters over its channel; a terminal's
# Ctrl-C goes to the whole process group and must not end it.
IGNORED = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
# Blocked in the master around the fork; the loop reads them from a signalfd.
BLOCKED = (signal.SIGTERM, signal.SIGQUIT)

# A death by one of these says something about the worker; by another, about who sent it.
FAULTS = (
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
)

# A worker is started again at once. One that keeps dying young by its own fault waits twice as
# long each time; one that is killed from outside, no longer than it takes to do no harm. Seconds.
STABLE_SECONDS = 10.0
FIRST_DELAY = 0.1
MAX_DELAY = 10.0
AFTER_KILL = 0.005
NO_PROCESS_DELAY = 0.1
# Incarnations in a row that end by their own fault before they have taken up their work: then it
# is what they find in shared memory that ends them, and it begins anew.
MAX_FAILED_STARTS = 3


class ListeningSocket(NamedTuple):
    listener: int  # id in the route table
    shard: int
    fd: int
    shared: bool  # one socket for all workers (UNIX)


class Inheritance(NamedTuple):
    """What the master hands to a worker. Descriptors are numbers in both processes."""

    worker: int
    table: int
    commons: int
    lives: tuple[int, ...]  # of all workers, by id
    channel: int
    sockets: tuple[ListeningSocket, ...]
    pipes: int  # how many it may open
    cpu: int | None  # the one it is pinned to
    takeover: int = -1  # listening socket where a new master asks; -1 = none
    admin: int = -1  # listening socket of control, for a new master; -1 = none
    user: str = ""  # of privileges.User, as whom they run; "" = whoever they are
    owner: int = os.geteuid()  # uid of the masters

    @classmethod
    def from_json(cls, text: str) -> Inheritance:
        fields = json.loads(text)
        fields["lives"] = tuple(fields["lives"])
        fields["sockets"] = tuple(ListeningSocket(**of) for of in fields["sockets"])
        return cls(**fields)

    @property
    def runs_as(self) -> User:
        return User.parse(self.user) if self.user else oneself()

    @property
    def live(self) -> int:
        return self.lives[self.worker]

    @property
    def offered(self) -> list[int]:
        """What a new master gets, in this order."""
        return [self.table, self.commons, self.takeover, self.admin, *self.lives]

    @property
    def kept(self) -> list[int]:
        """Open in guardian and worker from start to end."""
        return [0, 1, 2, *(fd for fd in self.offered if fd >= 0)]


class Restarts:
    """When the next incarnation may begin."""

    def __init__(self) -> None:
        self.delay = 0.0  # s

    def after(self, lived: float, at_fault: bool) -> float:
        """Seconds to wait after an incarnation of `lived` s."""
        if lived >= STABLE_SECONDS:
            self.delay = 0.0
        if not at_fault:
            return AFTER_KILL if lived < AFTER_KILL else 0.0
        wait = self.delay
        self.delay = min(MAX_DELAY, wait * 2 or FIRST_DELAY)
        return wait


def _close_all_but(kept: Iterable[int]) -> None:
    """Closes every other descriptor from 3 on, whoever opened it."""
    start = 3
    for fd in sorted(fd for fd in kept if fd >= 3):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def serve(inheritance: Inheritance) -> NoReturn:
    """Becomes the guardian of a worker that begins anew. Ends with the process: exit code 0
    when the worker has nothing left to do, or 1 after a line on stderr."""
    code = 1
    try:
        drop(inheritance.runs_as)  # before anything that others may have had their hands on
        _close_all_but(
            [*inheritance.kept, inheritance.channel, *(s.fd for s in inheritance.sockets)]
        )
        live = Live.attach(inheritance.live, writable=True, worker=inheritance.worker)
        live.orders = 0
        _loop.adopt(
            live,
            inheritance.channel,
            [(s.listener, s.shard, s.fd, s.shared) for s in inheritance.sockets],
        )
        guard(inheritance, live)
        code = 0
    # Whatever it is, this process must not go on in the master's code.
    except BaseException as error:
        _say(inheritance.worker, repr(error))
    finally:
        # No interpreter shutdown: it would finalize the master's objects.
        os._exit(code)


def guard(inheritance: Inheritance, live: Live, watched: int = 0) -> None:
    """Keeps a worker alive until it has nothing left to do. watched: pid of the one to
    begin with; 0 starts one. Returns in the guardian only."""
    regions = (
        Table.attach(inheritance.table),
        Commons.attach(inheritance.commons, writable=True),
    )
    follow(lambda: regions[0].log_style)
    setproctitle(f"tcpmux: guardian {inheritance.worker}")
    signal.set_wakeup_fd(-1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # splice has no MSG_NOSIGNAL
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    _guardian.begin()
    live.guardian_pid = os.getpid()
    # From here on a collection would only touch pages shared with others.
    gc.disable()
    restarts = Restarts()
    stillborn = 0
    while True:
        live.guardian_pid = os.getpid()
        started = time.monotonic()
        pid = watched or _start_worker(inheritance.worker)
        if pid == 0:
            _work(inheritance, regions, live)
        status, hung, began = _guardian.wait_for_end(live, pid, not watched)
        watched = 0
        live.presence = ABSENT
        live.pid = 0
        at_fault = hung or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in FAULTS)
        live.at_fault = at_fault
        # One that was killed has not ended by itself, whatever its region says.
        ending = live.ending if status == 0 else 0
        if ending == OVER:
            live.guardian_pid = 0
            return
        if ending == REPLACED:
            become_next_build(inheritance)
            continue  # it could not be had; this one goes on
        _guardian.tell_master(live, DIED, status)
        stillborn = stillborn + 1 if at_fault and not began else 0
        if stillborn == MAX_FAILED_STARTS:
            _renew(inheritance.worker, live, regions)
            stillborn = 0
        time.sleep(restarts.after(time.monotonic() - started, at_fault or os.WIFEXITED(status)))


def _renew(worker: int, live: Live, regions: tuple[Table, Commons]) -> None:
    """Has the region begin anew: what is in it has ended one incarnation after the other."""
    table, commons = regions
    lost = live.renew(commons, table.numbers_given[0])
    _say(
        worker,
        f"{MAX_FAILED_STARTS} starts in a row have failed: the worker's shared "
        f"memory is corrupt and is made anew, {lost} connections are lost",
    )
    _guardian.tell_master(live, RENEWED, lost)


def _start_worker(worker: int) -> int:
    """As os.fork(), however long the host has no memory or process id for it: the connections
    wait meanwhile, and would end with the guardian."""
    said = False
    while True:
        try:
            return _guardian.spawn()
        except OSError as error:
            if not said:
                _say(worker, f"{error.args[1]}, trying on: {os.strerror(error.args[0])}")
                said = True
            time.sleep(NO_PROCESS_DELAY)


def _say(worker: int, text: str) -> None:
    """In the log, unless that takes nothing."""
    say(f"guardian {worker}", text)


def become_next_build(inheritance: Inheritance) -> None:
    """Becomes the guardian of the tcpmux that is installed now, with all descriptors.

    Returns if it can't be started. Sockets and pipes of connections are open across exec
    (csrc/sock.c), the rest is made so here.
    """
    live = Live.attach(inheritance.live)
    for fd in [*inheritance.kept, live.channel, *_listeners.listening(live)]:
        with suppress(OSError):  # a number that stands for nothing
            os.set_inheritable(fd, True)
    try:
        os.chdir("/")
        # Listening sockets stand in the region; so many would be too long for a command line.
        text = json.dumps(inheritance._replace(sockets=())._asdict())
        start_program(GUARDIAN, [text], inheritance.runs_as)
    except OSError as error:
        _say(inheritance.worker, f"can't start the new build: {error}")


def _work(inheritance: Inheritance, regions: tuple[Table, Commons], live: Live) -> NoReturn:
    """Becomes the worker."""
    code = 1
    try:
        setproctitle(f"tcpmux: worker {inheritance.worker}")
        if inheritance.cpu is not None:
            os.sched_setaffinity(0, {inheritance.cpu})
        made_by = _loop.run(
            inheritance.worker,
            *regions,
            live,
            inheritance.kept,
            [fd for fd in inheritance.offered if fd >= 0],
            inheritance.takeover,
            inheritance.owner,
            inheritance.pipes,
        )
        if made_by:
            guard(inheritance, live, made_by)
        code = 0
    except BaseException as error:
        say(f"worker {inheritance.worker}", repr(error))
    finally:
        os._exit(code)
