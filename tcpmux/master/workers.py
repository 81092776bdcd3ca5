"""The set of workers: started, spoken to, given shards. Runs in the master.

Each worker has a guardian (tcpmux.worker.process), which is what the master starts and watches.
A worker that dies is the guardian's business: the master hears of it, and meanwhile lets the
others poll its shards. So a shard always belongs to a worker that is there and has room.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from tcpmux.errors import TcpmuxError
from tcpmux.master.held import Held
from tcpmux.master.limits import WorkerLimits
from tcpmux.master.line import Line, Worker, describe_exit
from tcpmux.master.listeners import Listener, Listeners
from tcpmux.master.worker_reports import WorkerReports
from tcpmux.master.worker_start import WorkerStarter, start_later
from tcpmux.master.worker_sync import assign_shards, note_lines, repeat_orders, wait_for_all
from tcpmux.privileges import User
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import ORDER_RETIRE, OVER
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.worker.messages import (
    ADD,
    DRAIN,
    GIVE,
    GIVE_ALL,
    GUARD,
    LINE,
    QUIT,
    REMOVE,
    REPLACE,
    RETIRE,
    SYNC,
    WAKE,
)
from tcpmux.worker.process import STABLE_SECONDS

log = logging.getLogger("tcpmux.master")

KILL_SECONDS = 1.0  # s for a worker to take up a generation; then it is killed and recovered


class WorkersBusy(TcpmuxError):
    """A worker has not answered in time; nothing was changed."""


class Workers:
    """All workers of the instance, those that are not wanted at the moment among them.

    Regions exist from the start, for as many workers as there can be, and outlive any worker:
    a new one counts on where the last one ended. keepsakes: descriptors of the takeover and the
    admin socket, which each worker keeps for a master to come. user: as whom they run.
    """

    def __init__(
        self,
        regions: tuple[Table, Commons],
        lives: Sequence[Live],
        limits: WorkerLimits,
        cpus: Sequence[int],
        keepsakes: tuple[int, int],
        user: User,
    ) -> None:
        self._table = regions[0]
        self._starter = WorkerStarter(regions, limits, list(cpus), keepsakes, user)
        self._workers = [Worker(number, live, user.uid) for number, live in enumerate(lives)]
        for worker in self._workers:
            worker.others_serve = partial(self._others_serve, worker)
        self.reports = WorkerReports(self._table, user, self._others_have_room)
        self._draining = False

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    @property
    def live_fds(self) -> list[int]:
        return [worker.live.fd for worker in self._workers]

    @property
    def running(self) -> list[Worker]:
        """Those that live, or whose guardian does."""
        return [worker for worker in self._workers if worker.is_running]

    @property
    def serving(self) -> list[Worker]:
        """Those of them that are to stay. One that retires and is wanted again comes back when it
        has handed over what it had."""
        return [worker for worker in self.running if worker.wanted and not worker.retiring]

    def _others_serve(self, than: Worker) -> bool:
        return any(each.serves for each in self._workers if each is not than)

    def _others_have_room(self, than: Worker) -> bool:
        return any(each.is_present and not each.full for each in self.serving if each is not than)

    def slot_is_idle(self, slot: int) -> bool:
        # Modulo 2^64: one that handed connections over may have closed more than it opened.
        return sum(worker.live.slot_active(slot) for worker in self._workers) % (1 << 64) == 0

    # --- how many ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many there are to be."""
        return sum(worker.wanted for worker in self._workers)

    def want(self, count: int) -> None:
        """Says how many there are to be; start_due() and retire_surplus() act on it."""
        for worker in self._workers:
            worker.wanted = worker.id < count

    def start_due(self, listeners: Listeners, now: float) -> None:
        """Starts every wanted worker that has no guardian and whose delay is over."""
        for worker in self._workers:
            if worker.wanted and not worker.is_running and now >= worker.start_at:
                self._starter.start(worker, self._workers, listeners, pinned=self._pinned)
        self.assign_shards()

    @property
    def _pinned(self) -> bool:
        # With more workers than CPUs, a fixed place would only stand in the scheduler's way.
        return self.count <= len(self._starter.cpus)

    def next_start(self) -> float | None:
        """Monotonic time at which start_due() has something to do; None = nothing to start."""
        waiting = [w.start_at for w in self._workers if w.wanted and not w.is_running]
        return min(waiting, default=None)

    def retire_surplus(self) -> None:
        """Has the workers that are not wanted any more hand over what they have, and end."""
        for worker in self.running:
            if not worker.wanted and not worker.retiring:
                worker.retiring = True
                worker.line.post(RETIRE)
        self.assign_shards()
        for worker in self.running:
            if worker.retiring:
                self._hand_over_all(worker)

    def _hand_over_all(self, leaving: Worker) -> None:
        """Has a retiring worker give its connections to each one that stays."""
        for staying in self.serving:
            if self._connect(leaving, staying) and not leaving.live.gives_to(staying.id):
                leaving.line.post(GIVE, staying.id, value=GIVE_ALL)

    def _connect(self, one: Worker, other: Worker) -> bool:
        """Has a line between two workers. False: not now, remind() comes first."""
        if other.id in one.lines:
            return True
        if not (one.in_order and other.in_order):
            return False
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ends[0], ends[1]:
            for sock, worker, peer in zip(ends, (one, other), (other, one), strict=True):
                sock.setblocking(False)
                fds = [os.dup(sock.fileno())]
                worker.line.post(LINE, peer.id, fds=fds, close=True)
                worker.lines.add(peer.id)
        return True

    def move(self, giver: int, taker: int, number: int) -> None:
        """Has a worker hand `number` of its older connections over to another."""
        if self._connect(self._workers[giver], self._workers[taker]):
            self._workers[giver].line.post(GIVE, taker, value=number)

    def take_growth(self) -> bool:
        """Whether a worker has said since the last call that it has grown."""
        grew = any(worker.grew for worker in self._workers)
        for worker in self._workers:
            worker.grew = False
        return grew

    @property
    def lives(self) -> list[Live]:
        """The regions of all workers there can be."""
        return [worker.live for worker in self._workers]

    def take_loops(self) -> set[int]:
        """Listeners on which workers have met with a loop since the last call."""
        found = {worker.looped for worker in self._workers if worker.looped is not None}
        for worker in self._workers:
            worker.looped = None
        return found

    def adopt(
        self, number: int, channel: socket.socket, guardian: Held | None, process: Held | None
    ) -> None:
        """Takes over a worker that another master started."""
        channel.setblocking(False)
        worker = self._workers[number]
        worker.begin(channel, guardian, process)
        worker.retiring = bool(worker.live.orders & ORDER_RETIRE)

    # --- ends -------------------------------------------------------------------------------

    def died(self, pid: int, status: int | None) -> bool:
        """Takes note of a guardian's end; False if it was none. status: None = not known."""
        worker = next((w for w in self._workers if w.guardian == pid), None)
        if worker is None:
            return False
        worker.receive()
        # Both hold the other end of the line: while it is open, one of them lives.
        if worker.line.socket is None:
            self._ended(worker, status)
        else:
            worker.guardian_ended()
            worker.unguarded = True
            if not self._draining:
                log.warning("guardian %d (pid %d) died; its worker starts another", worker.id, pid)
            self.guard_all()
        return True

    def guard_all(self) -> None:
        """Has every worker that has lost its guardian make another one."""
        for worker in self.running:
            if worker.unguarded:
                worker.unguarded = False
                worker.line.post(GUARD)
                # One that is stopped can't make any, and nobody is left to end its stop.
                _signal(signal.SIGCONT, [worker.held])

    def _ended(self, worker: Worker, status: int | None) -> None:
        retired = worker.retiring and worker.live.ending == OVER
        guardian = worker.guardian
        worker.ended()
        for other in self.running:
            other.lines.discard(worker.id)
        if retired:
            log.info("worker %d has handed over its connections and exited", worker.id)
        if self._draining or retired or not worker.wanted:
            return
        if time.monotonic() - worker.started >= STABLE_SECONDS:
            worker.delay = 0.0
        how = "died" if status is None else describe_exit(status)
        log.error(
            "worker %d and its guardian (pid %d) %s, %d connections lost; a new one starts %s",
            worker.id,
            guardian,
            how,
            worker.live.connections,
            f"in {worker.delay:.1f} s" if worker.delay else "at once",
            extra={"event": "worker"},
        )
        start_later(worker)

    def notice_ends(self) -> None:
        """Notices the end of guardians that are no children of ours, and of workers that had
        none any more."""
        self.guard_all()
        for worker in self.running:
            if worker.held_guardian is not None and worker.held_guardian.has_ended:
                status = None
                with suppress(ChildProcessError):
                    ended = os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOHANG)
                    if ended is not None:
                        status = ended.si_status
                self.died(worker.guardian, status)
            elif worker.pidfd < 0 and worker.line.socket is None:
                self._ended(worker, None)

    # --- shards -----------------------------------------------------------------------------

    def assign_shards(self) -> None:
        """Gives every shard to a worker that is there and has room."""
        if assign_shards(self._table, self.serving, max(self.count, 1)):
            self.wake()

    def receive(self, worker: Worker) -> None:
        """Reads what a worker and its guardian have to tell."""
        if worker.receive():
            self.assign_shards()
        self.reports.report(worker)

    # --- messages to all --------------------------------------------------------------------

    def wake(self) -> None:
        for worker in self.running:
            worker.line.post(WAKE)

    def drain(self) -> None:
        """Each worker ends with its last connection."""
        self._draining = True
        for worker in self.running:
            worker.line.post(DRAIN)

    def replace(self, worker: Worker) -> None:
        """Has the build of tcpmux that is installed now go on as this worker."""
        worker.replaced_from = worker.live.builds
        worker.replace_orders = 1
        worker.line.post(REPLACE)

    def remind(self, listeners: Listeners) -> None:
        """A worker may have died with a message in its hands. Asks each one that may have missed
        something, and tells it what its region shows that it does not know."""
        for worker in self.running:
            if worker.uncertain:
                worker.uncertain = False
                worker.asked += 1
                worker.line.post(SYNC, value=worker.asked)
        answered = [w for w in self.running if not w.in_order and w.answered == w.asked > 0]
        for worker in answered:
            worker.in_order = True
            repeat_orders(worker, listeners, draining=self._draining)
            note_lines(worker, self._workers)
        if answered:
            self.retire_surplus()

    def add_listeners(self, opened: Sequence[Listener]) -> None:
        for worker in self.running:
            for listener in opened:
                fds = [sock.fileno() for sock in listener.sockets]
                worker.line.post(ADD, listener.id, shared=listener.shared, fds=fds)

    def remove_listeners(self, closing: Sequence[Listener], timeout: float) -> None:
        """Has the workers serve the queues of these listeners and let go of them.

        Waits up to `timeout` s. A worker that takes longer (it is full, or hangs) still
        has its own descriptors, and serves the queue when it can.
        """
        ids = {listener.id for listener in closing}
        for worker in self.running:
            worker.removed -= ids
            for number in ids:
                worker.line.post(REMOVE, number)
        wait_for_all(self.running, lambda worker: worker.removed >= ids, timeout)

    def quit(self) -> None:
        """Has each worker reset what is open, and end. One that looks at neither the line nor
        its signals is for kill_all()."""
        for worker in self.running:
            worker.line.post(QUIT)
        _signal(signal.SIGQUIT, [worker.held for worker in self.running])

    def kill_all(self) -> None:
        """Guardians first, so that none starts a worker again."""
        for worker in self.running:
            worker.receive()  # its pid may be on its way
            worker.line.post(QUIT)  # for one whose pid is not
        _signal(signal.SIGKILL, [worker.held_guardian for worker in self.running])
        _signal(signal.SIGKILL, [worker.held for worker in self.running])

    def await_ends(self, timeout: float) -> None:
        """Until every worker that was killed has ended, and its guardian; says which has not
        after `timeout` s."""
        # Both hold the other end of the line.
        left = wait_for_all(self.running, lambda worker: worker.line.socket is None, timeout)
        if left:
            log.error("%s: killed, but still running", _names(left))

    # --- generations ------------------------------------------------------------------------

    def await_generation(self, generation: int, timeout: float) -> None:
        """Until every running worker uses `generation`. Raises WorkersBusy after `timeout` s.

        A worker that does not within KILL_SECONDS is killed: its next incarnation does, and its
        connections go on.
        """
        late = self._late(generation, min(KILL_SECONDS, timeout))
        if late:
            log.warning("killing %s: no answer for %g s", _names(late), KILL_SECONDS)
            _signal(signal.SIGKILL, [worker.held for worker in late])
            late = self._late(generation, timeout - KILL_SECONDS)
        if late:
            raise WorkersBusy(
                f"{_names(late)} has not taken up generation {generation} within {timeout:g} s: "
                "it may be stopped or hanging"
            )

    def _late(self, generation: int, timeout: float) -> list[Worker]:
        def has_seen(worker: Worker) -> bool:
            return generation <= worker.live.generation_seen <= self._table.generation

        late = wait_for_all(self.running, has_seen, timeout)
        self.assign_shards()  # messages may have come in meanwhile
        return late


def _names(workers: Iterable[Worker]) -> str:
    return ", ".join(f"worker {worker.id} (pid {worker.live.pid})" for worker in workers)


def _signal(number: signal.Signals, processes: Iterable[Held | None]) -> None:
    for process in processes:
        if process is not None:
            process.signal(number)


__all__ = ["Line", "Worker", "Workers", "WorkersBusy", "describe_exit"]
