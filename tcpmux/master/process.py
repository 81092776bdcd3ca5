"""The master: one loop, one thread. It starts, watches and replaces the others.

    wait for a signal, a request of control, a worker's message or a due time
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

from setproctitle import setproctitle

from tcpmux.config import Config, load
from tcpmux.errors import TcpmuxError, one_line, printable
from tcpmux.levels import level_of
from tcpmux.logs import begin_log
from tcpmux.master import estate as estates
from tcpmux.master.aside import Aside
from tcpmux.master.balance import Balance
from tcpmux.master.control import Refusal
from tcpmux.master.events import Event, EventHandler, Events
from tcpmux.master.guardian_watch import GuardianWatch
from tcpmux.master.instance import Instance, make, resume, wanted_workers
from tcpmux.master.limits import raise_nofile
from tcpmux.master.listeners import unlink_socket
from tcpmux.master.loops import Loops
from tcpmux.master.names import LOOKUP_TIME, PROGRAM_TIME, Known, look_up, to_push
from tcpmux.master.places import check_socket
from tcpmux.master.program import end_other
from tcpmux.master.reload import QUEUE_TIME, Routing, Sources
from tcpmux.master.requests import Requests
from tcpmux.master.signals import SignalQueue
from tcpmux.master.staff import Staff
from tcpmux.master.steering import Steering
from tcpmux.master.supervisor import Supervisor, inherited_sockets
from tcpmux.master.upgrade import REHEARSAL, Upgrade, check_program
from tcpmux.privileges import User, denied_sockets, keep_for_master, resolve, try_out
from tcpmux.shm._shm import MAX_SHARDS, PROGRAMS
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
        self.sources = replace(sources, paths=paths)
        self.instance = instance
        self.table = instance.table
        self.workers = instance.workers
        self._listeners = instance.listeners
        self._upgraded = upgraded
        self.upgrade = Upgrade(self.table, self.workers)
        self.aside = Aside(instance.user)
        self._balance = Balance(self.workers)
        self._loops = Loops(self.workers)
        self._guardians = GuardianWatch(self.workers)
        self.supervisor = Supervisor.from_environment(os.environ)
        self.routing = Routing(
            config,
            self.table,
            instance.commons,
            self.workers,
            self._listeners,
            Names.new(self.workers.slot_is_idle),
            self.supervisor,
            addresses=known,
        )
        self.steering = Steering(self.routing)
        self.events = Events()
        self.events.restore(instance.events)
        self._events_handler = EventHandler(self.events)
        self.staff = Staff(instance, self.sources, config)
        self.events.on_event = self._tell_of_event
        self._requests = Requests(self)
        self._drain_deadline: float | None = None  # monotonic; set = draining
        self._kill_deadline: float | None = None  # monotonic; set = ending at once
        self._next_report = 0.0
        self._reload_by: float | None = None  # monotonic; control is looking new names up

    @property
    def draining(self) -> bool:
        return self._drain_deadline is not None

    # --- life -------------------------------------------------------------------------------

    def run(self) -> int:
        """Serves until told to stop. Raises TcpmuxError if it can't begin."""
        setproctitle(f"tcpmux: master {' '.join(Path(path).name for path in self.sources.paths)}")
        adopt_orphans()
        signals = SignalQueue()
        log.addHandler(self._events_handler)
        try:
            self._begin()
        except BaseException:
            if self.instance.is_new:
                self._end()
            raise  # else the workers go on, and wait for another master
        try:
            self._loop(signals)
        finally:
            self._end()
            signals.close()
            log.removeHandler(self._events_handler)
        log.info("stopped")
        return 0

    def _begin(self) -> None:
        instance = self.instance
        if instance.is_new:
            self.staff.open_http()
            self.routing.start()
        else:
            self.table.master_pid = os.getpid()  # which those of a master before look at
            for number, name in enumerate(PROGRAMS):
                end_other(self.table.program(number)[0], name, self.instance.user.uid)
            self.table.set_state(RUNNING_STATE)  # whatever the last one was about to do
            self._open_http_again()
            self.routing.resume()
            if not self._upgraded:
                self.upgrade.note_interruption()
                self._set_workers(wanted_workers(self.routing.config, self.table.shard_count))
        self.workers.start_due(self._listeners, time.monotonic())
        self.workers.retire_surplus()
        if instance.is_new:
            self.routing.await_workers()
        self.staff.start_due(time.monotonic())
        unused = self._listeners.drop_inherited()
        self.supervisor.disown(unused, {r.name: r.listen for r in self.routing.config.routes})
        self._announce()
        if self._upgraded and not instance.is_new:
            self.upgrade.replace_workers()

    def _open_http_again(self) -> None:
        try:
            self.staff.open_http()
        except TcpmuxError as error:  # traffic comes first: the UNIX socket is there
            log.error("%s", error)  # noqa: TRY400

    def _announce(self) -> None:
        for route in self.routing.config.routes:
            shares = ", ".join(f"{d.name} {d.weight}" for d in route.destinations)
            log.info(
                "%s: listening on %s, %s", route.name, ", ".join(map(str, route.listen)), shares
            )
        for line in self.routing.without_addresses():
            log.log(line.level, "%s", line, extra={"event": "names", "by": ""})
        log.info(
            "%s: %d workers, generation %d, at most %d connections each, admin %s",
            "ready" if self.instance.is_new else "taken over",
            self.workers.count,
            self.table.generation,
            self.instance.connections_limit,
            self.instance.admin.path,
            extra={"event": "start"},
        )
        self._say_ready()

    def _say_ready(self) -> None:
        self.supervisor.ready(
            f"{len(self.routing.config.routes)} routes, {self.workers.count} workers, "
            f"generation {self.table.generation}"
        )

    def _loop(self, signals: SignalQueue) -> None:
        while not (self.draining and not self.workers.running):
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
            selector.register(self.instance.takeover.socket, selectors.EVENT_READ)
            link = self.staff.control.link
            if link is not None and link.socket is not None:
                selector.register(link.socket, link.events)
            for worker in self.workers.running:
                if worker.pidfd >= 0:
                    selector.register(worker.pidfd, selectors.EVENT_READ)
                if worker.line.socket is not None:
                    selector.register(
                        worker.line.socket,
                        selectors.EVENT_READ | (selectors.EVENT_WRITE * worker.line.waiting),
                    )
            self.aside.register(selector)
            selector.select(self._time_left())
        for worker in self.workers.running:
            worker.line.flush()
            self.workers.receive(worker)
        for number in signals.take():
            self._signal(number)
        self._loops.look(self.routing.image)
        self._reap()
        self.workers.look_for_dead(draining=self.draining)
        self.staff.control.serve(self._requests.answer, self._control_is_ready)
        self._refuse_takeover()
        self._due(time.monotonic())

    def _time_left(self) -> float | None:
        due = [
            self.staff.next_start(),
            self.staff.next_watch(),
            self._guardians.next_look(),
            self.staff.control.next_look(),
            self._drain_deadline,
            self._kill_deadline,
            self.upgrade.next_look(),
            self.aside.next_look(),
            self.supervisor.next_look(),
            self._reload_by,
        ]
        if self.draining:
            due.append(self._next_report)
        else:
            due += [
                self.workers.next_start(),
                self._balance.next_look(),
                self.steering.next_look(),
                self.routing.next_look(),
            ]
        times = [moment for moment in due if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due(self, now: float) -> None:
        self.staff.watch(now)
        self.staff.start_due(now)
        self._guardians.look(now)
        self.upgrade.look(now)
        self.aside.look(now)
        self.supervisor.look(now)
        self.workers.remind(self._listeners)
        if self._reload_by is not None and now >= self._reload_by:
            log.warning(
                "control does not look up host names: reloading without the new ones, which have "
                "no address until it does"
            )
            self._try(lambda: self.log_changes(self.reload(), "reload", "SIGHUP"), "reload")
        if not self.draining:
            self.workers.start_due(self._listeners, now)
            self._balance.look(now)
            self._look_at_states(now)
            return
        if self._kill_deadline is not None and now >= self._kill_deadline:
            self.workers.kill_all()
            self._kill_deadline = None
        elif self._drain_deadline is not None and now >= self._drain_deadline:
            self._stop_now("the drain timeout is over")
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY
            left = sum(worker.live.connections for worker in self.workers.running)
            self.supervisor.status(f"draining, {left} connections left")
            if left:
                log.info("draining: %d connections left", left)

    def _look_at_states(self, now: float) -> None:
        """States that are over, and listeners that a route has or has not while it refuses."""
        try:
            changes = self.steering.look()
            if changes:
                self.log_changes(changes, "state", "its time is over")
            self.routing.follow_refusals(now)
        except TcpmuxError as error:  # once more, later
            log.warning("%s", error)
            time.sleep(FAULT_PAUSE)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.workers.died(pid, status, draining=self.draining):
                continue
            if self.staff.died(pid, status) or self.aside.child_ended(pid):
                continue
            if self.upgrade.child_ended(pid, status):
                self._become_next_build()

    def _end(self) -> None:
        """Leaves nothing behind: no process, no socket, no file."""
        self.workers.kill_all()
        self.aside.end()
        self.upgrade.end()
        self.workers.await_ends(KILL_TIME)
        self.staff.end(KILL_TIME, for_good=True)
        # Not those of others: what was started before us in this process, or lost its parent in
        # our container, may run for ever.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for worker in self.workers.running:
            worker.ended()
        self._listeners.close_all(keep_files=self.supervisor.has_store)
        for own in (self.instance.admin, self.instance.takeover):
            own.socket.close()
            unlink_socket(own.path, own.inode)

    def _refuse_takeover(self) -> None:
        """Somebody started a second tcpmux for this admin socket, or wonders if we live."""
        with suppress(BlockingIOError):
            while True:
                line, _ = self.instance.takeover.socket.accept()
                with line, suppress(OSError):
                    line.send(MESSAGE.pack(BUSY, 0, 0, 0, os.getpid()))

    # --- signals ----------------------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.draining:
                self._stop_now(f"a second {number.name}")
            else:
                self.drain(number.name)
        elif number == signal.SIGQUIT:
            self.drain("SIGQUIT", now=True)
        elif number == signal.SIGUSR1:
            self.staff.reopen_log()
        elif number == signal.SIGHUP:
            self._reload_by_signal()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            step = 1 if number == signal.SIGTTIN else -1
            self._try(
                lambda: self.change_workers(self.workers.count + step, number.name), number.name
            )
        elif number == signal.SIGUSR2:
            self._try(self.begin_upgrade, number.name)

    def _try(self, act: Callable[[], object], what: str) -> None:
        if self.draining:
            log.warning("%s refused: draining", what)
            return
        try:
            act()
        except TcpmuxError as error:
            log.error(  # noqa: TRY400
                "%s refused, nothing changed: %s",
                what,
                one_line(error),
                extra={"event": "refused", "by": "a signal"},
            )

    def _reload_by_signal(self) -> None:
        self._try(self._look_up_and_reload, "reload")

    def _look_up_and_reload(self) -> None:
        """If there are names that nobody has looked up, control does that first, and then asks
        for the reload; without control it is done as it is."""
        with self.reloading():
            config = self.routing.read(self.sources)
            if self.routing.unknown_names(config) and self.staff.control.push({"push": "reload"}):
                self._reload_by = time.monotonic() + LOOKUP_TIME + PROGRAM_TIME
                return
            self.log_changes(self.change_to(config), "reload", "SIGHUP")

    def reload(self) -> list[str]:
        with self.reloading():
            return self.change_to(self.routing.read(self.sources))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Around each reload, and each look whether there is to be one: tells the service manager,
        and counts refusals."""
        self._reload_by = None
        self.supervisor.reloading()
        try:
            yield
        except BaseException:
            done, refused = self.table.reloads
            self.table.reloads = done, refused + 1
            raise
        finally:
            self._say_ready()  # refused or not: it serves

    def change_to(self, config: Config) -> list[str]:
        """All or nothing. Raises TcpmuxError."""
        staff_change = self.staff.prepare(config)
        before = self.routing.image
        try:
            changes = self.routing.reload(config)
        except BaseException:
            staff_change.take_back()
            raise
        self.steering.note_weights(before, self.routing.image)
        _say_denied(config, self.instance.user)
        count = wanted_workers(config, self.table.shard_count)
        self._push_names()
        self.staff.control.push({"push": "checks"})  # control asks for them
        self.staff.commit(staff_change)
        done, refused = self.table.reloads
        self.table.reloads = done + 1, refused
        return [*changes, *self._set_workers(count)]

    def _tell_of_event(self, _event: Event) -> None:
        self.staff.control.push({"push": "event"})  # control asks for it

    def _control_is_ready(self) -> None:
        self._push_names()
        self.staff.control.push({"push": "checks"})
        self.staff.push_log_level()
        self.staff.control.push({"push": "event"})

    def _push_names(self) -> None:
        routing = self.routing
        self.staff.control.push(to_push(routing.addresses, routing.config))

    # --- workers and builds -----------------------------------------------------------------

    def _set_workers(self, count: int) -> list[str]:
        """Has `count` workers from now on; returns what changed."""
        before = self.workers.count
        if count == before:
            return []
        self.workers.want(count)
        self.table.worker_count = count
        self.workers.start_due(self._listeners, time.monotonic())
        self.workers.retire_surplus()
        return [f"workers {before}->{count}"]

    def change_workers(self, count: object, by: str) -> list[str]:
        """Raises Refusal."""
        most = self.table.shard_count
        if type(count) is not int or not 1 <= count <= most:
            raise Refusal(
                "refused" if type(count) is int and most < count <= MAX_SHARDS else "invalid",
                f"workers: 1 to {most}, got {count!r} (each address was opened with {most} "
                "listening sockets; more need a restart with `workers` in the file)",
            )
        changes = self._set_workers(count)
        self.log_changes(changes, "workers", by)
        return changes

    def begin_upgrade(self) -> None:
        """Raises Refusal; how it goes on is in the table."""
        self.upgrade.rehearse(self.instance.estate())

    def _become_next_build(self) -> None:
        """Does not return if all goes well."""
        waiting = [worker.id for worker in self.workers.running if worker.line.waiting]
        if waiting or self.draining:
            self.upgrade.failed("draining" if self.draining else f"worker {waiting} hangs")
            return
        log.info("upgrade %d: the new build takes over", self.upgrade.number)
        self.aside.end()
        self.staff.end(KILL_TIME, for_good=False)
        try:
            self.upgrade.become(replace(self.instance.estate(), events=self.events.saved()))
        except OSError as error:
            self.upgrade.failed(str(error))

    def log_changes(self, changes: Sequence[str], kind: str, by: str) -> None:
        """In the log and among the events. by: who asked for it."""
        generation = self.table.generation
        extra = {"event": kind, "by": by}
        for change in changes:
            log.log(level_of(change), "%s, generation %d", change, generation, extra=extra)
        if not changes:
            what = "reloaded: nothing changed" if kind == "reload" else "nothing changed"
            log.info("%s, generation %d", what, generation, extra=extra)

    # --- stopping ---------------------------------------------------------------------------

    def drain(self, why: str, *, now: bool = False, by: str = "") -> None:
        """Serves what is queued, stops listening, and waits for connections to end."""
        if not self.draining:
            timeout = self.routing.config.drain_timeout
            log.info(
                "%s: no new connections; %s",
                why,
                "ending at once" if now else f"waiting up to {timeout:g} s for open ones",
                extra={"event": "stop", "by": by},
            )
            self.supervisor.stopping(f"{why}: draining", timeout + STOP_MARGIN)
            self.table.set_state(DRAINING_STATE)
            every = list(self._listeners.by_address.values())
            self.workers.remove_listeners(every, QUEUE_TIME)
            self._listeners.close_all(keep_files=self.supervisor.has_store)
            self.workers.drain()
            self._drain_deadline = time.monotonic() + timeout
            self._next_report = time.monotonic() + REPORT_EVERY
        if now:
            self._stop_now(why)

    def _stop_now(self, why: str) -> None:
        if self._kill_deadline is None:
            left = sum(worker.live.connections for worker in self.workers.running)
            level = logging.WARNING if left else logging.INFO
            log.log(level, "%s: resetting %d connections", why, left)
            self.workers.quit()
            self._kill_deadline = time.monotonic() + KILL_TIME
            self._drain_deadline = float("inf")


def run(paths: Sequence[str], endpoints: Sequence[str] = ()) -> int:
    """Runs tcpmux on these configuration files until it is stopped; returns the exit code.

    Takes over an instance with the same admin socket whose master has died. Raises
    TcpmuxError if it can't start: ConfigError for a bad file, ListenError for an address
    or the admin socket, Occupied if another master is there.
    """
    begin_log()
    raise_nofile()  # first: an instance that is taken over comes as descriptors
    inherited = inherited_sockets(os.environ)
    sources = Sources(tuple(paths), tuple(endpoints))
    config = load(sources.paths, sources.endpoints)
    user = _give_up_rights(config)
    saved = os.environ.pop(estates.VARIABLE, None)
    if not saved:
        check_socket(config.admin.socket)
    rehearsal = os.environ.pop(REHEARSAL, None)
    estate = estates.Estate.load(int(saved)) if saved else estates.claim(config.admin.socket)
    if rehearsal:
        return _rehearse(config, estate)
    for warning in config.warnings:
        log.warning("%s", warning)
    user = _say_user(user, user if estate is None else estate.runs_as)
    _say_denied(config, user)
    known = look_up(config, user)
    instance = make(config, user) if estate is None else resume(config, estate)
    instance.listeners.inherit(inherited)
    return Master(sources, config, instance, known, upgraded=saved is not None).run()


def _give_up_rights(config: Config) -> User:
    """Returns as whom all other processes are to run. Raises UserError."""
    user = resolve(config.user, config.group)
    try_out(user)
    try:
        keep_for_master(user)
    except OSError as error:
        raise TcpmuxError(
            f"can't give up the rights that are not needed: {error.strerror}"
        ) from None
    return user


def _say_denied(config: Config, user: User) -> None:
    for path in denied_sockets(user, config.unix_endpoints):
        log.error(
            "user %s may not connect to unix:%s: connections to that endpoint fail until it may",
            user.name,
            printable(path),
            extra={"event": "denied"},
        )


def _say_user(wanted: User, user: User) -> User:
    if wanted != user:
        log.warning("user and group change with the next start, not now: they stay %s", user)
    if user.is_root:
        log.warning("all processes run as root, with all its rights (user: root)")
    else:
        log.info("all processes but the master run as %s, without any rights", user)
    return user


def _rehearse(config: Config, estate: estates.Estate | None) -> int:
    """Looks at what an upgrade would take over, and touches nothing of it."""
    assert estate is not None
    check_program(estate.runs_as)
    regions = estates.attach(estate)
    if regions is not None:
        table = regions[0]
        generation, image = table.read()
        names = Names.new(lambda _: True)
        names.restore(image, table.numbers_given)
        listeners = dict.fromkeys((a for route in config.routes for a in route.listen), 0)
        build_image(config, {}, names, listeners, generation + 1, {})
    return 0
