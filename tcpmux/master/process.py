"""The master: one loop, one thread. It starts, watches and replaces the others.

    wait for a signal, a packet from control, a worker's message or a due time
    take signals one by one; reap; restart what is due; end what is over

No work is done in a signal handler, nothing here touches traffic, and whatever happens to
a worker or to control, the listening sockets and the shared memory stay as they are.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from tcpmux.config import load
from tcpmux.errors import TcpmuxError
from tcpmux.master.control import ControlProcess, Refusal
from tcpmux.master.limits import raise_nofile, usable_cpus, worker_limits
from tcpmux.master.listeners import ListenError, Listeners, bind_unix, unlink_socket
from tcpmux.master.reload import QUEUE_TIME, Routing
from tcpmux.master.signals import SignalQueue
from tcpmux.master.workers import Workers, WorkersBusy
from tcpmux.shm._shm import MAX_SHARDS, Table, Tickets
from tcpmux.shm.routes import Names

log = logging.getLogger("tcpmux.master")

KILL_TIME = 2.0  # s between SIGQUIT and SIGKILL for a worker that has to end
DRAINING_STATE = 2  # csrc/route_table.h: enum tm_state
REPORT_EVERY = 5.0  # s, while draining
FAULT_PAUSE = 0.5  # s, so that a fault that repeats does not fill a CPU and the log


class Master:
    """One running instance. run() returns its exit code."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [str(Path(path).absolute()) for path in paths]
        config = load(paths)
        cpus = usable_cpus()
        count = config.workers or min(len(cpus), MAX_SHARDS)
        nofile = raise_nofile()
        shards = min(MAX_SHARDS, max(count, len(cpus)))
        addresses = sum(len(route.listen) for route in config.routes)
        limits = worker_limits(nofile, addresses * shards)
        self._table = Table.create(count, shards, os.getpid(), int(time.time()))
        self._tickets = Tickets.create()
        self._workers = Workers(count, self._table, self._tickets, limits, cpus)
        self._listeners = Listeners(shards)
        self._admin_path = config.admin.socket
        self._admin, self._admin_inode = _bind_admin(self._admin_path)
        self._routing = Routing(
            config,
            self._table,
            self._workers,
            self._listeners,
            Names.new(self._workers.slot_is_idle),
        )
        self._control = ControlProcess(*self._control_arguments())
        self._drain_deadline: float | None = None  # monotonic; set = draining
        self._kill_deadline: float | None = None  # monotonic; set = ending at once
        self._next_report = 0.0
        self._limits = limits

    def _control_arguments(self) -> tuple[list[str], list[int]]:
        fds = {
            "--admin-fd": [self._admin.fileno()],
            "--table-fd": [self._table.fd],
            "--tickets-fd": [self._tickets.fd],
            "--live-fd": self._workers.live_fds,
        }
        arguments = ["--admin-path", self._admin_path]
        for option, numbers in fds.items():
            for number in numbers:
                arguments += [option, str(number)]
        for path in self._paths:
            arguments += ["--config", path]
        return arguments, [number for numbers in fds.values() for number in numbers]

    @property
    def _draining(self) -> bool:
        return self._drain_deadline is not None

    # --- life -------------------------------------------------------------------------------

    def run(self) -> int:
        """Serves until told to stop. Raises TcpmuxError if it can't begin."""
        setproctitle(f"tcpmux: master {' '.join(Path(path).name for path in self._paths)}")
        signals = SignalQueue()
        try:
            self._routing.start()
            self._workers.start_due(self._listeners, time.monotonic())
            self._routing.await_workers()
            self._control.start_due(time.monotonic())
            self._announce()
            self._loop(signals)
        finally:
            self._end()
            signals.close()
        log.info("stopped")
        return 0

    def _announce(self) -> None:
        for route in self._routing.config.routes:
            shares = ", ".join(f"{d.name} {d.weight}" for d in route.destinations)
            log.info(
                "%s: listening on %s, %s", route.name, ", ".join(map(str, route.listen)), shares
            )
        log.info(
            "ready: %d workers, generation %d, at most %d connections each, admin %s",
            len(self._workers),
            self._table.generation,
            self._limits.connections,
            self._admin_path,
        )

    def _loop(self, signals: SignalQueue) -> None:
        while not (self._draining and not self._workers.running):
            try:
                self._turn(signals)
            except Exception:
                # Whatever it is, ending here would end the workers and what they carry.
                log.exception("a fault in the master; traffic goes on")
                time.sleep(FAULT_PAUSE)

    def _turn(self, signals: SignalQueue) -> None:
        with selectors.DefaultSelector() as selector:
            # Few descriptors, and they come and go: registering anew is the simple way.
            selector.register(signals, selectors.EVENT_READ)
            if self._control.link is not None:
                selector.register(self._control.link, selectors.EVENT_READ)
            for worker in self._workers.running:
                if worker.channel is not None:
                    selector.register(
                        worker.channel,
                        selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outbox else 0),
                    )
            selector.select(self._time_left())
        for number in signals.take():
            self._signal(number)
        self._reap()
        self._control.serve(self._request)
        for worker in self._workers.running:
            self._workers.flush(worker)
            self._workers.receive(worker)
        self._due(time.monotonic())

    def _time_left(self) -> float | None:
        due = [self._control.next_start(), self._drain_deadline, self._kill_deadline]
        if self._draining:
            due.append(self._next_report)
        else:
            due.append(self._workers.next_start())
        times = [moment for moment in due if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due(self, now: float) -> None:
        self._control.start_due(now)
        if not self._draining:
            self._workers.start_due(self._listeners, now)
            return
        if self._kill_deadline is not None and now >= self._kill_deadline:
            self._workers.signal_all(signal.SIGKILL)
            self._kill_deadline = None
        elif self._drain_deadline is not None and now >= self._drain_deadline:
            self._stop_now("the drain timeout is over")
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY
            left = sum(worker.live.connections for worker in self._workers.running)
            if left:
                log.info("draining: %d connections left", left)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            (
                self._workers.died(pid, status, wanted=self._draining)
                or self._control.died(pid, status, wanted=False)
            )

    def _end(self) -> None:
        """Leaves nothing behind: no process, no socket, no file."""
        self._workers.signal_all(signal.SIGKILL)
        if self._control.pid:
            os.kill(self._control.pid, signal.SIGTERM)
            if not _wait_for(self._control.pid, KILL_TIME):
                os.kill(self._control.pid, signal.SIGKILL)
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            self._workers.died(pid, status, wanted=True) or self._control.died(
                pid, status, wanted=True
            )
        self._listeners.close(list(self._listeners.by_address.values()))
        self._admin.close()
        unlink_socket(self._admin_path, self._admin_inode)

    # --- signals ----------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._draining:
                self._stop_now(f"a second {number.name}")
            else:
                self._drain(number.name)
        elif number == signal.SIGQUIT:
            self._drain("SIGQUIT", now=True)
        elif number == signal.SIGHUP:
            self._reload_by_signal()
        elif number != signal.SIGCHLD:
            log.warning("%s means nothing to this version of tcpmux", number.name)

    def _reload_by_signal(self) -> None:
        if self._draining:
            log.warning("reload refused: draining")
            return
        try:
            changes = self._routing.reload(self._paths)
        except TcpmuxError as error:
            log.error("reload refused, nothing changed: %s", _one_line(error))  # noqa: TRY400
        else:
            self._log_changes(changes)

    def _log_changes(self, changes: Sequence[str]) -> None:
        generation = self._table.generation
        for change in changes:
            log.info("%s, generation %d", change, generation)
        if not changes:
            log.info("reloaded: nothing changed, generation %d", generation)

    # --- stopping ---------------------------------------------------------------------------

    def _drain(self, why: str, *, now: bool = False) -> None:
        """Serves what is queued, stops listening, and waits for connections to end."""
        if not self._draining:
            timeout = self._routing.config.drain_timeout
            log.info(
                "%s: no new connections; %s",
                why,
                "ending at once" if now else f"waiting up to {timeout:g} s for open ones",
            )
            self._table.set_state(DRAINING_STATE)
            every = list(self._listeners.by_address.values())
            self._workers.remove_listeners(every, QUEUE_TIME)
            self._listeners.close(every)
            self._workers.drain()
            self._drain_deadline = time.monotonic() + timeout
            self._next_report = time.monotonic() + REPORT_EVERY
        if now:
            self._stop_now(why)

    def _stop_now(self, why: str) -> None:
        if self._kill_deadline is None:
            left = sum(worker.live.connections for worker in self._workers.running)
            log.info("%s: resetting %d connections", why, left)
            self._workers.signal_all(signal.SIGQUIT)
            self._kill_deadline = time.monotonic() + KILL_TIME
            self._drain_deadline = float("inf")

    # --- control ----------------------------------------------------------------------------

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carries out what control asks for. Raises TcpmuxError to refuse."""
        verb = request.get("verb")
        if verb == "stop":
            self._drain("stop asked for", now=bool(request.get("now")))
            return {"pid": os.getpid()}
        if self._draining:
            raise Refusal("refused", "tcpmux is draining and takes no changes")
        if verb == "reload":
            changes = self._changed_by_request(lambda: self._routing.reload(self._paths))
        elif verb == "set_weights":
            changes = self._changed_by_request(
                lambda: self._routing.set_weights(request["route"], request["weights"])
            )
        else:
            raise Refusal("invalid", f"unknown verb {verb!r}")
        return self._routing.applied(changes)

    def _changed_by_request(self, change: Callable[[], list[str]]) -> list[str]:
        try:
            changes = change()
        except TcpmuxError as error:
            log.error("refused, nothing changed: %s", _one_line(error))  # noqa: TRY400
            raise
        self._log_changes(changes)
        try:
            self._routing.await_workers()
        except WorkersBusy as error:  # in force even so; the answer says in which workers
            log.warning("%s", error)
        return changes


def _one_line(error: TcpmuxError) -> str:
    first, *more = str(error).splitlines()
    return f"{first} (and {len(more)} more: see `tcpmux check`)" if more else first


def _wait_for(pid: int, timeout: float) -> bool:
    """True if the child ends within `timeout` s; leaves it to be reaped."""
    deadline = time.monotonic() + timeout
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def _bind_admin(path: str) -> tuple[socket.socket, tuple[int, int]]:
    try:
        return bind_unix(path, 0o600)
    except OSError as error:
        raise ListenError(
            f"can't make the admin socket {path}: {error.strerror}: is another tcpmux running "
            "there? Stop it with `tcpmux stop`, or set another admin.socket"
            if error.errno == errno.EADDRINUSE
            else f"can't make the admin socket {path}: {error.strerror}: set another admin.socket"
        ) from None


def run(paths: Sequence[str]) -> int:
    """Runs tcpmux on these configuration files until it is stopped; returns the exit code.

    Raises TcpmuxError if it can't start: ConfigError for a bad file, ListenError for an
    address or the admin socket.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s tcpmux %(levelname)s %(message)s",
    )
    return Master(paths).run()
