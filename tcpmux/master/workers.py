"""The set of workers: started, spoken to, replaced when they die. Runs in the master."""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tcpmux.errors import TcpmuxError
from tcpmux.master.limits import WorkerLimits
from tcpmux.master.listeners import Listener, Listeners
from tcpmux.shm._shm import MAX_SHARDS, Live, Table, Tickets
from tcpmux.worker.process import BLOCKED, Inheritance, ListeningSocket, serve

log = logging.getLogger("tcpmux.master")

# csrc/channel.h: struct tm_message and enum tm_message_type
MESSAGE = struct.Struct("=IIIIQ")
ADD, REMOVE, WAKE, DRAIN, SEEN, REMOVED = range(1, 7)

# A worker that lived this long and died is started again at once; one that dies young waits
# twice as long each time. Seconds.
GROWN_UP = 10.0
FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0


class WorkersBusy(TcpmuxError):
    """A worker has not answered in time; nothing was changed."""


@dataclass(slots=True)
class Worker:
    id: int
    live: Live
    cpu: int | None
    pid: int = 0  # 0 = not running
    channel: socket.socket | None = None
    outbox: deque[tuple[bytes, list[int]]] = field(default_factory=deque)
    removed: set[int] = field(default_factory=set)  # listeners it has told to have closed
    started: float = 0.0  # monotonic, s
    delay: float = 0.0  # s, before the next start
    start_at: float = 0.0  # monotonic, s; when not running


def describe_exit(status: int) -> str:
    """A wait status in words: `killed by SIGKILL`, `exited with code 1`."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"


class Workers:
    """All workers of the instance.

    Regions are created once and outlive any worker: a new life counts on where the last
    one ended.
    """

    def __init__(
        self, count: int, table: Table, tickets: Tickets, limits: WorkerLimits, cpus: Sequence[int]
    ) -> None:
        self._table = table
        self._tickets = tickets
        self._limits = limits
        # With more workers than CPUs, a fixed place would only stand in the scheduler's way.
        pins: list[int | None] = list(cpus[:count]) if count <= len(cpus) else [None] * count
        self._workers = [
            Worker(number, Live.create(number, limits.connections), pins[number])
            for number in range(count)
        ]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def live_fds(self) -> list[int]:
        return [worker.live.fd for worker in self._workers]

    @property
    def running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.pid]

    def slot_is_idle(self, slot: int) -> bool:
        return all(worker.live.slot_active(slot) == 0 for worker in self._workers)

    # --- starting and reaping ---------------------------------------------------------------

    def start_due(self, listeners: Listeners, now: float) -> None:
        """Starts every worker that is not running and whose delay is over."""
        for worker in self._workers:
            if not worker.pid and now >= worker.start_at:
                self._start(worker, listeners)
        self._place_shards()

    def next_start(self) -> float | None:
        """Monotonic time at which start_due() has something to do; None = nothing to start."""
        return min((w.start_at for w in self._workers if not w.pid), default=None)

    def _start(self, worker: Worker, listeners: Listeners) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        inheritance = Inheritance(
            worker.id,
            self._table.fd,
            self._tickets.fd,
            worker.live.fd,
            theirs.fileno(),
            tuple(
                ListeningSocket(listener.id, shard, sock.fileno(), listener.shared)
                for listener in listeners.by_address.values()
                for shard, sock in enumerate(listener.sockets)
            ),
            self._limits.pipes,
            worker.cpu,
        )
        gc.freeze()  # keeps the child's collector away from pages shared with us
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            pid = os.fork()
            if pid == 0:
                self._table.unmap()  # the worker maps it again, read-only
                serve(inheritance)
        except OSError as error:
            ours.close()
            log.error("can't start worker %d: %s", worker.id, error)  # noqa: TRY400
            self._start_later(worker)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
            theirs.close()
        worker.pid, worker.channel = pid, ours
        worker.started = time.monotonic()

    def died(self, pid: int, status: int, *, wanted: bool) -> bool:
        """Takes note of a child's end; False if it was no worker. wanted: no new one is due."""
        worker = next((w for w in self._workers if w.pid == pid), None)
        if worker is None:
            return False
        lost = worker.live.connections
        if worker.channel is not None:
            worker.channel.close()
        worker.pid, worker.channel = 0, None
        worker.outbox.clear()
        worker.removed.clear()
        if wanted:
            return True
        if time.monotonic() - worker.started >= GROWN_UP:
            worker.delay = 0.0
        log.error(
            "worker %d (pid %d) %s, %d connections lost; a new one starts %s",
            worker.id,
            pid,
            describe_exit(status),
            lost,
            f"in {worker.delay:.1f} s" if worker.delay else "at once",
        )
        self._start_later(worker)
        return True

    @staticmethod
    def _start_later(worker: Worker) -> None:
        worker.start_at = time.monotonic() + worker.delay
        worker.delay = min(LONGEST_DELAY, worker.delay * 2 or FIRST_DELAY)

    def _place_shards(self) -> None:
        """Gives every shard to a running worker: to its own one, else to the next in line."""
        running = {worker.id for worker in self.running}
        if not running:
            return
        changed = False
        count = len(self._workers)
        for shard in range(MAX_SHARDS):
            line = ((shard + step) % count for step in range(count))
            owner = next(number for number in line if number in running)
            if self._table.shard_owner(shard) != owner:
                self._table.set_shard_owner(shard, owner)
                changed = True
        if changed:
            self.wake()

    # --- messages ---------------------------------------------------------------------------

    def _post(
        self,
        worker: Worker,
        kind: int,
        listener: int = 0,
        first: int = 0,
        shared: bool = False,
        fds: Iterable[int] = (),
    ) -> None:
        worker.outbox.append((MESSAGE.pack(kind, listener, first, shared, 0), list(fds)))
        self.flush(worker)

    def flush(self, worker: Worker) -> None:
        """Sends what waits in the outbox, as far as the line takes it."""
        while worker.outbox and worker.channel is not None:
            data, fds = worker.outbox[0]
            try:
                socket.send_fds(worker.channel, [data], fds)
            except BlockingIOError:
                return
            except OSError:  # it is dying; its successor inherits the state of things
                worker.outbox.clear()
                return
            worker.outbox.popleft()

    def receive(self, worker: Worker) -> None:
        """Reads what a worker has to tell."""
        while worker.channel is not None:
            try:
                data = worker.channel.recv(MESSAGE.size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if len(data) != MESSAGE.size:  # it has ended, or is about to
                worker.channel.close()
                worker.channel = None
                return
            kind, listener, _, _, _ = MESSAGE.unpack(data)
            if kind == REMOVED:
                worker.removed.add(listener)

    def wake(self) -> None:
        for worker in self.running:
            self._post(worker, WAKE)

    def drain(self) -> None:
        """Each worker ends with its last connection."""
        for worker in self.running:
            self._post(worker, DRAIN)

    def add_listeners(self, opened: Sequence[Listener]) -> None:
        for worker in self.running:
            for listener in opened:
                self._post(
                    worker,
                    ADD,
                    listener.id,
                    0,
                    listener.shared,
                    [sock.fileno() for sock in listener.sockets],
                )

    def remove_listeners(self, closing: Sequence[Listener], timeout: float) -> None:
        """Has the workers serve the queues of these listeners and let go of them.

        Waits up to `timeout` s. A worker that takes longer (it is full, or hangs) still
        has its own descriptors, and serves the queue when it can.
        """
        ids = {listener.id for listener in closing}
        for worker in self.running:
            worker.removed -= ids
            for number in ids:
                self._post(worker, REMOVE, number)
        self._wait(lambda worker: worker.removed >= ids, timeout)

    def signal_all(self, number: signal.Signals) -> None:
        for worker in self.running:
            os.kill(worker.pid, number)

    # --- generations ------------------------------------------------------------------------

    def await_generation(self, generation: int, timeout: float) -> None:
        """Until every running worker uses `generation`. Raises WorkersBusy after `timeout` s."""
        late = self._wait(lambda worker: worker.live.generation_seen >= generation, timeout)
        if late:
            names = ", ".join(f"{worker.id} (pid {worker.pid})" for worker in late)
            raise WorkersBusy(
                f"worker {names} has not taken up generation {generation} within {timeout:g} s: "
                "it may be stopped or hanging"
            )

    def _wait(self, done: Callable[[Worker], bool], timeout: float) -> list[Worker]:
        """Until `done` holds for all running workers; returns those for which it does not."""
        deadline = time.monotonic() + timeout
        while True:
            late = [w for w in self.running if not done(w) and not _is_dead(w.pid)]
            left = deadline - time.monotonic()
            if not late or left <= 0:
                return late
            with selectors.DefaultSelector() as selector:
                for worker in late:
                    if worker.channel is not None:
                        events = selectors.EVENT_READ | (
                            selectors.EVENT_WRITE if worker.outbox else 0
                        )
                        selector.register(worker.channel, events, worker)
                # A dying worker closes its channel, which wakes us as well.
                ready = [key.data for key, _ in selector.select(min(left, 0.05))]
            for worker in ready:
                self.flush(worker)
                self.receive(worker)


def _is_dead(pid: int) -> bool:
    """True if the child has ended; leaves it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
