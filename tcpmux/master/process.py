"""The master: one loop, one thread. It starts, watches and replaces the others.

    wait for a signal, a packet from control, a worker's message or a due time
    take signals one by one; reap; restart what is due; end what is over

No work is done in a signal handler, nothing here touches traffic, and whatever happens to
a worker or to control, the listening sockets and the shared memory stay as they are.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from tcpmux.config import Config, HostName, load
from tcpmux.errors import TcpmuxError
from tcpmux.master import estate as estates
from tcpmux.master.balance import Balance
from tcpmux.master.control import ControlProcess, Refusal
from tcpmux.master.instance import Instance, end_control, make, resume, wanted_workers
from tcpmux.master.listeners import unlink_socket
from tcpmux.master.names import LOOKUP_TIME, PROGRAM_TIME, Known, from_request, look_up, to_push
from tcpmux.master.reload import MOST_CHANGES, QUEUE_TIME, Routing, Sources
from tcpmux.master.signals import SignalQueue
from tcpmux.master.supervisor import Supervisor, inherited_sockets
from tcpmux.master.upgrade import REHEARSAL, Upgrade
from tcpmux.master.workers import WorkersBusy
from tcpmux.shm.routes import Names, build_image
from tcpmux.worker._guardian import adopt_orphans
from tcpmux.worker.process import BUSY, MESSAGE

log = logging.getLogger("tcpmux.master")

KILL_TIME = 2.0  # s between SIGQUIT and SIGKILL for a worker that has to end
STOP_MARGIN = 15.0  # s to end in, on top of drain_timeout
RUNNING_STATE, DRAINING_STATE = 1, 2  # csrc/route_table.h: enum tm_state
REPORT_EVERY = 5.0  # s, while draining
FAULT_PAUSE = 0.5  # s, so that a fault that repeats does not fill a CPU and the log


class Master:
    """One running instance. run() returns its exit code."""

    def __init__(
        self,
        sources: Sources,
        config: Config,
        instance: Instance,
        known: Known,
        *,
        upgraded: bool,
    ) -> None:
        paths = tuple(str(Path(path).absolute()) for path in sources.paths)
        self._sources = replace(sources, paths=paths)
        self._instance = instance
        self._table = instance.table
        self._workers = instance.workers
        self._listeners = instance.listeners
        self._upgraded = upgraded
        self._upgrade = Upgrade(self._table, self._workers)
        self._balance = Balance(self._workers)
        self._supervisor = Supervisor.from_environment(os.environ)
        self._routing = Routing(
            config,
            self._table,
            self._workers,
            self._listeners,
            Names.new(self._workers.slot_is_idle),
            self._supervisor,
            addresses=known,
        )
        self._control = ControlProcess(*self._control_arguments())
        self._drain_deadline: float | None = None  # monotonic; set = draining
        self._kill_deadline: float | None = None  # monotonic; set = ending at once
        self._next_report = 0.0
        self._reload_by: float | None = None  # monotonic; control is looking new names up

    def _control_arguments(self) -> tuple[list[str], list[int]]:
        fds = {
            "--admin-fd": [self._instance.admin.socket.fileno()],
            "--table-fd": [self._table.fd],
            "--tickets-fd": [self._instance.tickets.fd],
            "--live-fd": self._workers.live_fds,
        }
        arguments = ["--admin-path", self._instance.admin.path]
        for option, numbers in fds.items():
            for number in numbers:
                arguments += [option, str(number)]
        for path in self._sources.paths:
            arguments += ["--config", path]
        return arguments, [number for numbers in fds.values() for number in numbers]

    @property
    def _draining(self) -> bool:
        return self._drain_deadline is not None

    # --- life -------------------------------------------------------------------------------

    def run(self) -> int:
        """Serves until told to stop. Raises TcpmuxError if it can't begin."""
        setproctitle(f"tcpmux: master {' '.join(Path(path).name for path in self._sources.paths)}")
        adopt_orphans()
        signals = SignalQueue()
        try:
            self._begin()
        except BaseException:
            if self._instance.is_new:
                self._end()
            raise  # else the workers go on, and wait for another master
        try:
            self._loop(signals)
        finally:
            self._end()
            signals.close()
        log.info("stopped")
        return 0

    def _begin(self) -> None:
        instance = self._instance
        if instance.is_new:
            self._routing.start()
        else:
            end_control(self._table.control_pid)
            self._table.master_pid = os.getpid()
            self._table.set_state(RUNNING_STATE)  # whatever the last one was about to do
            self._routing.resume()
            if not self._upgraded:
                self._upgrade.note_interruption()
                self._set_workers(wanted_workers(self._routing.config, self._table.shard_count))
        self._workers.start_due(self._listeners, time.monotonic())
        self._workers.retire_surplus()
        if instance.is_new:
            self._routing.await_workers()
        self._start_control(time.monotonic())
        unused = self._listeners.drop_inherited()
        self._supervisor.disown(unused, {r.name: r.listen for r in self._routing.config.routes})
        self._announce()
        if self._upgraded and not instance.is_new:
            self._upgrade.replace_workers()

    def _start_control(self, now: float) -> None:
        self._control.start_due(now)
        self._table.control_pid = self._control.pid

    def _announce(self) -> None:
        for route in self._routing.config.routes:
            shares = ", ".join(f"{d.name} {d.weight}" for d in route.destinations)
            log.info(
                "%s: listening on %s, %s", route.name, ", ".join(map(str, route.listen)), shares
            )
        log.info(
            "%s: %d workers, generation %d, at most %d connections each, admin %s",
            "ready" if self._instance.is_new else "taken over",
            self._workers.count,
            self._table.generation,
            self._instance.connections_limit,
            self._instance.admin.path,
        )
        self._say_ready()

    def _say_ready(self) -> None:
        self._supervisor.ready(
            f"{len(self._routing.config.routes)} routes, {self._workers.count} workers, "
            f"generation {self._table.generation}"
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
            selector.register(self._instance.takeover.socket, selectors.EVENT_READ)
            if self._control.link is not None:
                selector.register(self._control.link, selectors.EVENT_READ)
            for worker in self._workers.running:
                if worker.pidfd >= 0:
                    selector.register(worker.pidfd, selectors.EVENT_READ)
                if worker.line.socket is not None:
                    selector.register(
                        worker.line.socket,
                        selectors.EVENT_READ | (selectors.EVENT_WRITE * worker.line.waiting),
                    )
            selector.select(self._time_left())
        for worker in self._workers.running:
            worker.line.flush()
            self._workers.receive(worker)
        for number in signals.take():
            self._signal(number)
        self._reap()
        self._workers.look_for_dead(draining=self._draining)
        self._control.serve(self._request, self._push_names)
        self._refuse_takeover()
        self._due(time.monotonic())

    def _time_left(self) -> float | None:
        due = [
            self._control.next_start(),
            self._drain_deadline,
            self._kill_deadline,
            self._upgrade.next_look(),
            self._supervisor.next_look(),
            self._reload_by,
        ]
        if self._draining:
            due.append(self._next_report)
        else:
            due += [self._workers.next_start(), self._balance.next_look()]
        times = [moment for moment in due if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due(self, now: float) -> None:
        self._start_control(now)
        self._upgrade.look(now)
        self._supervisor.look(now)
        self._workers.remind(self._listeners)
        if self._reload_by is not None and now >= self._reload_by:
            log.warning("control does not look host names up: reloading without the new ones")
            self._try(lambda: self._log_changes(self._reload()), "reload")
        if not self._draining:
            self._workers.start_due(self._listeners, now)
            self._balance.look(now)
            return
        if self._kill_deadline is not None and now >= self._kill_deadline:
            self._workers.kill_all()
            self._kill_deadline = None
        elif self._drain_deadline is not None and now >= self._drain_deadline:
            self._stop_now("the drain timeout is over")
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY
            left = sum(worker.live.connections for worker in self._workers.running)
            self._supervisor.status(f"draining, {left} connections left")
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
            if self._workers.died(pid, status, draining=self._draining):
                continue
            if self._control.died(pid, status, wanted=False):
                continue
            if self._upgrade.child_ended(pid, status):
                self._become_next_build()

    def _end(self) -> None:
        """Leaves nothing behind: no process, no socket, no file."""
        self._workers.kill_all()
        self._control.end(KILL_TIME)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        for worker in self._workers.running:
            worker.ended()
        self._listeners.close_all(keep_files=self._supervisor.has_store)
        for own in (self._instance.admin, self._instance.takeover):
            own.socket.close()
            unlink_socket(own.path, own.inode)

    def _refuse_takeover(self) -> None:
        """Somebody started a second tcpmux for this admin socket, or wonders if we live."""
        with suppress(BlockingIOError):
            while True:
                line, _ = self._instance.takeover.socket.accept()
                with line, suppress(OSError):
                    line.send(MESSAGE.pack(BUSY, 0, 0, 0, os.getpid()))

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
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            step = 1 if number == signal.SIGTTIN else -1
            self._try(lambda: self._change_workers(self._workers.count + step), number.name)
        elif number == signal.SIGUSR2:
            self._try(self._begin_upgrade, number.name)
        elif number != signal.SIGCHLD:
            log.warning("%s means nothing to this version of tcpmux", number.name)

    def _try(self, act: Callable[[], object], what: str) -> None:
        if self._draining:
            log.warning("%s refused: draining", what)
            return
        try:
            act()
        except TcpmuxError as error:
            log.error("%s refused, nothing changed: %s", what, _one_line(error))  # noqa: TRY400

    def _reload_by_signal(self) -> None:
        self._try(self._look_up_and_reload, "reload")

    def _look_up_and_reload(self) -> None:
        """If there are names that nobody has looked up, control does that first, and then asks
        for the reload; without control it is done as it is."""
        with self._reloading():
            config = self._routing.read(self._sources)
            if self._routing.unknown_names(config) and self._control.push({"push": "reload"}):
                self._reload_by = time.monotonic() + LOOKUP_TIME + PROGRAM_TIME
                return
            self._log_changes(self._change_to(config))

    def _reload(self) -> list[str]:
        with self._reloading():
            return self._change_to(self._routing.read(self._sources))

    @contextmanager
    def _reloading(self) -> Iterator[None]:
        self._reload_by = None
        self._supervisor.reloading()
        try:
            yield
        finally:
            self._say_ready()  # refused or not: it serves

    def _change_to(self, config: Config) -> list[str]:
        changes = self._routing.reload(config)
        count = wanted_workers(config, self._table.shard_count)
        self._push_names()
        return [*changes, *self._set_workers(count)]

    def _push_names(self) -> None:
        routing = self._routing
        self._control.push(to_push(routing.addresses, routing.config.dns_servers))

    # --- workers and builds -----------------------------------------------------------------

    def _set_workers(self, count: int) -> list[str]:
        """Has `count` workers from now on; returns what changed."""
        before = self._workers.count
        if count == before:
            return []
        self._workers.want(count)
        self._table.worker_count = count
        self._workers.start_due(self._listeners, time.monotonic())
        self._workers.retire_surplus()
        return [f"workers {before}->{count}"]

    def _change_workers(self, count: int) -> list[str]:
        most = self._table.shard_count
        if type(count) is not int or not 1 <= count <= most:
            raise Refusal(
                "invalid",
                f"workers: 1 to {most}, got {count!r} (each address was opened with {most} "
                "listening sockets; more need a restart with `workers` in the file)",
            )
        changes = self._set_workers(count)
        self._log_changes(changes)
        return changes

    def _begin_upgrade(self) -> dict[str, Any]:
        self._upgrade.rehearse(self._instance.estate())
        return {"pid": os.getpid(), "count": self._upgrade.number}

    def _become_next_build(self) -> None:
        """Does not return if all goes well."""
        waiting = [worker.id for worker in self._workers.running if worker.line.waiting]
        if waiting or self._draining:
            self._upgrade.failed("draining" if self._draining else f"worker {waiting} hangs")
            return
        log.info("upgrade %d: the new build takes over", self._upgrade.number)
        self._control.end(KILL_TIME)
        try:
            self._upgrade.become(self._instance.estate())
        except OSError as error:
            self._upgrade.failed(str(error))

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
            self._supervisor.stopping(f"{why}: draining", timeout + STOP_MARGIN)
            self._table.set_state(DRAINING_STATE)
            every = list(self._listeners.by_address.values())
            self._workers.remove_listeners(every, QUEUE_TIME)
            self._listeners.close_all(keep_files=self._supervisor.has_store)
            self._workers.drain()
            self._drain_deadline = time.monotonic() + timeout
            self._next_report = time.monotonic() + REPORT_EVERY
        if now:
            self._stop_now(why)

    def _stop_now(self, why: str) -> None:
        if self._kill_deadline is None:
            left = sum(worker.live.connections for worker in self._workers.running)
            log.info("%s: resetting %d connections", why, left)
            self._workers.signal_workers(signal.SIGQUIT)
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
        if verb == "diff":
            return {"changes": self._difference(request)[:MOST_CHANGES]}
        if verb == "reload":
            return self._reload_by_request(look_up=bool(request.get("look_up")))
        if verb == "addresses":
            changes = self._routing.set_addresses(from_request(request["found"]))
            if changes:
                self._log_changes(changes)
        elif verb == "set_weights":
            changes = self._changed_by_request(
                lambda: self._routing.set_weights(request["route"], request["weights"])
            )
        elif verb == "set_workers":
            changes = self._change_workers(request["count"])
        elif verb == "upgrade":
            return self._begin_upgrade()
        else:
            raise Refusal("invalid", f"unknown verb {verb!r}")
        return self._routing.applied(changes)

    def _difference(self, request: dict[str, Any]) -> list[str]:
        """What a reload of these files would change."""
        sources = Sources(tuple(request["files"]), tuple(request["endpoints"]))
        config = self._routing.read(sources)
        changes = self._routing.difference(config)
        before, count = self._workers.count, wanted_workers(config, self._table.shard_count)
        return changes if count == before else [*changes, f"workers {before}->{count}"]

    def _reload_by_request(self, *, look_up: bool) -> dict[str, Any]:
        """With look_up, names that nobody has looked up come back instead: to be told as
        `addresses` first."""
        unknown: list[HostName] = []

        def reload() -> list[str]:
            with self._reloading():
                config = self._routing.read(self._sources)
                unknown.extend(self._routing.unknown_names(config) if look_up else ())
                return [] if unknown else self._change_to(config)

        changes = self._changed_by_request(reload, quiet=lambda: bool(unknown))
        if unknown:
            servers = self._routing.read(self._sources).dns_servers
            return {"unknown": list(map(str, unknown)), "servers": list(map(str, servers))}
        return self._routing.applied(changes)

    def _changed_by_request(
        self, change: Callable[[], list[str]], quiet: Callable[[], bool] = lambda: False
    ) -> list[str]:
        try:
            changes = change()
        except TcpmuxError as error:
            log.error("refused, nothing changed: %s", _one_line(error))  # noqa: TRY400
            raise
        if quiet():
            return changes
        self._log_changes(changes)
        try:
            self._routing.await_workers()
        except WorkersBusy as error:  # in force even so; the answer says in which workers
            log.warning("%s", error)
        return changes


def _one_line(error: TcpmuxError) -> str:
    first, *more = str(error).splitlines()
    return f"{first} (and {len(more)} more: see `tcpmux check`)" if more else first


def run(paths: Sequence[str], endpoints: Sequence[str] = ()) -> int:
    """Runs tcpmux on these configuration files until it is stopped; returns the exit code.

    Takes over an instance with the same admin socket whose master has died. Raises
    TcpmuxError if it can't start: ConfigError for a bad file, ListenError for an address
    or the admin socket, Occupied if another master is there.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s tcpmux %(levelname)s %(message)s",
    )
    inherited = inherited_sockets(os.environ)
    sources = Sources(tuple(paths), tuple(endpoints))
    config = load(sources.paths, sources.endpoints)
    saved = os.environ.pop(estates.VARIABLE, None)
    rehearsal = os.environ.pop(REHEARSAL, None)
    estate = estates.Estate.load(int(saved)) if saved else estates.claim(config.admin.socket)
    if rehearsal:
        return _rehearse(config, estate)
    for warning in config.warnings:
        log.warning("%s", warning)
    known = look_up(config)
    instance = make(config) if estate is None else resume(config, estate)
    instance.listeners.inherit(inherited)
    return Master(sources, config, instance, known, upgraded=saved is not None).run()


def _rehearse(config: Config, estate: estates.Estate | None) -> int:
    """Looks at what an upgrade would take over, and touches nothing of it."""
    assert estate is not None
    regions = estates.attach(estate)
    if regions is not None:
        table = regions[0]
        generation, image = table.read()
        names = Names.new(lambda _: True)
        names.restore(image, table.numbers_given)
        listeners = dict.fromkeys((a for route in config.routes for a in route.listen), 0)
        build_image(config, {}, names, listeners, generation + 1, {})
    return 0
