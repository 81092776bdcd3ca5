"""From the fork to the relay loop: what a worker process does before and after it.

Runs in the worker. It starts as a copy of the master and keeps nothing of it but the
descriptors it was given.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from setproctitle import setproctitle

from tcpmux.shm._shm import Live, Table, Tickets
from tcpmux.worker import _relay

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


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    listener: int  # id in the route table
    shard: int
    fd: int
    shared: bool  # one socket for all workers (UNIX)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What the master hands to a worker. Descriptors are numbers in both processes."""

    worker: int
    table: int
    tickets: int
    live: int
    channel: int
    sockets: tuple[ListeningSocket, ...]
    pipes: int  # how many it may open
    cpu: int | None  # the one it is pinned to


def _close_all_but(kept: Iterable[int]) -> None:
    """Closes every other descriptor from 3 on, whoever opened it."""
    start = 3
    for fd in sorted(fd for fd in kept if fd >= 3):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def serve(inheritance: Inheritance) -> NoReturn:
    """Becomes the worker. Ends with the process: exit code 0, or 1 after a line on stderr."""
    code = 1
    try:
        setproctitle(f"tcpmux: worker {inheritance.worker}")
        signal.set_wakeup_fd(-1)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # splice has no MSG_NOSIGNAL
        if inheritance.cpu is not None:
            os.sched_setaffinity(0, {inheritance.cpu})
        regions = (
            Table.attach(inheritance.table),
            Tickets.attach(inheritance.tickets, writable=True),
            Live.attach(inheritance.live, writable=True),
        )
        _close_all_but([inheritance.channel, *(s.fd for s in inheritance.sockets)])
        # No Python code runs again before the end: a collection would only touch shared pages.
        gc.disable()
        _relay.run(
            inheritance.worker,
            *regions,
            inheritance.channel,
            [(s.listener, s.shard, s.fd, s.shared) for s in inheritance.sockets],
            inheritance.pipes,
        )
        code = 0
    # Whatever it is, this process must not go on in the master's code.
    except BaseException as error:
        print(f"tcpmux: worker {inheritance.worker}: {error!r}", file=sys.stderr, flush=True)
    finally:
        # No interpreter shutdown: it would finalize the master's objects.
        os._exit(code)
