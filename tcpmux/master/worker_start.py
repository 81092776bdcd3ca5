"""Starts guardians, each of which starts its worker. Runs in the master."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

from tcpmux.master.held import Held
from tcpmux.master.limits import WorkerLimits
from tcpmux.master.line import Worker
from tcpmux.master.listeners import Listeners
from tcpmux.privileges import User
from tcpmux.processes import identify_senders
from tcpmux.shm._commons import Commons
from tcpmux.shm._table import Table
from tcpmux.worker.process import (
    BLOCKED,
    FIRST_DELAY,
    MAX_DELAY,
    Inheritance,
    ListeningSocket,
    serve,
)

log = logging.getLogger("tcpmux.master")


class WorkerStarter:
    """cpus: to pin workers to, by id. listening: the takeover and the admin socket, which each
    worker keeps for a master to come. user: as whom they run."""

    def __init__(
        self,
        regions: tuple[Table, Commons],
        limits: WorkerLimits,
        cpus: Sequence[int],
        listening: tuple[int, int],
        user: User,
    ) -> None:
        self._table, self._commons = regions
        self._limits = limits
        self.cpus = cpus
        self._listening = listening
        self._user = user

    def start(
        self, worker: Worker, workers: Sequence[Worker], listeners: Listeners, *, pinned: bool
    ) -> None:
        """workers: all that there can be. One that can't be started is started later."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        identify_senders(ours)  # before anything is sent
        inheritance = Inheritance(
            worker.id,
            self._table.reader_fd,
            self._commons.fd,
            tuple(w.live.fd if w is worker else w.live.reader_fd for w in workers),
            theirs.fileno(),
            tuple(
                ListeningSocket(listener.id, shard, sock.fileno(), listener.shared)
                for listener in listeners.by_address.values()
                for shard, sock in enumerate(listener.sockets)
            ),
            self._limits.pipes,
            self.cpus[worker.id] if pinned else None,
            *self._listening,
            user=self._user.text,
            owner=os.geteuid(),
        )
        gc.freeze()  # keeps the child's collector away from pages shared with us
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            pid = os.fork()
            if pid == 0:
                # The worker maps what it needs again: the table and other workers' read-only.
                for region in (self._table, self._commons, *(w.live for w in workers)):
                    region.unmap()
                serve(inheritance)
        except OSError as error:
            ours.close()
            log.error("can't start worker %d: %s", worker.id, error)  # noqa: TRY400
            start_later(worker)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
            theirs.close()
        worker.begin(ours, Held.child(pid), None)


def start_later(worker: Worker) -> None:
    """After a delay, which grows each time."""
    worker.start_at = time.monotonic() + worker.delay
    worker.delay = min(MAX_DELAY, worker.delay * 2 or FIRST_DELAY)
