"""The master: one loop, one thread. It starts, watches and replaces the others.

    wait for a signal, a request of control, a worker's message or a due time
    do each duty (duty.py), one after the other

No work is done in a signal handler, nothing here touches traffic, and whatever happens to
a worker or to control, the listening sockets and the shared memory stay as they are.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from setproctitle import setproctitle

from tcpmux.config import Config
from tcpmux.errors import TcpmuxError, plural
from tcpmux.master.announcement import routes_shown
from tcpmux.master.aside import Aside
from tcpmux.master.balance import Balance
from tcpmux.master.change import Done, InForce, Known
from tcpmux.master.changes import Changes, refusals_in_log
from tcpmux.master.denied import denied, log_denied
from tcpmux.master.duties import (
    HearWorkers,
    Reap,
    RefuseTakeover,
    RemindWorkers,
    StartWorkers,
    TakeSignals,
)
from tcpmux.master.duty import Duty, earliest
from tcpmux.master.events import Event, EventHandler, Events
from tcpmux.master.fleet import HostFleet, fitting
from tcpmux.master.guardian_watch import GuardianWatch
from tcpmux.master.helper_programs import HelperPrograms
from tcpmux.master.instance import Instance
from tcpmux.master.listeners import unlink_socket
from tcpmux.master.loops import Loops
from tcpmux.master.names import to_push
from tcpmux.master.observed import to_refuse
from tcpmux.master.program import end_other
from tcpmux.master.reload import Sources
from tcpmux.master.reloads import Reloads
from tcpmux.master.requests import Requests
from tcpmux.master.rollouts import RolloutWatch
from tcpmux.master.signals import SignalQueue
from tcpmux.master.stopping import KILL_SECONDS, RUNNING_STATE, Stopping
from tcpmux.master.supervisor import Supervisor
from tcpmux.master.upgrade import Upgrade
from tcpmux.master.upkeep import Upkeep
from tcpmux.master.worker_count import SetWorkers
from tcpmux.shm._declared import PRESENT, PROGRAMS
from tcpmux.shm.image import Image
from tcpmux.worker._guardian import adopt_orphans

log = logging.getLogger("tcpmux.master")

FAULT_PAUSE = 0.5  # s, so that a fault that repeats does not fill a CPU and the log


class Master:
    """One running instance. run() returns its exit code."""

    def __init__(
        self,
        sources: Sources,
        config: Config,
        instance: Instance,
        known: Known,
        fleet: HostFleet,
        *,
        upgraded: bool,
    ) -> None:
        self._sources = sources.absolute()
        self._instance = instance
        self.fleet = fleet
        self._upgraded = upgraded and not instance.is_new
        self.workers = instance.workers
        self._signals: SignalQueue  # from run() on
        self.events = Events()
        self.events.restore(instance.events)
        self.events.on_event = self._tell_of_event
        self._supervisor = Supervisor.from_environment(os.environ)
        self.aside = Aside(instance.user)
        self.upgrade = Upgrade(instance.table, self.workers, self._become_next_build)
        self.helpers = HelperPrograms(
            instance, self._sources, config, fleet, Requests(self).answer, self._control_is_ready
        )
        control = self.helpers.control
        self.rollouts = RolloutWatch(lambda: control.pid > 0 and control.presence == PRESENT)
        self.changes = Changes(
            InForce(
                config,
                Image((), ()),
                self.workers.count,
                known,
                fitting(fleet.state, config),
            ),
            (instance.table, instance.commons),
            self.workers,
            instance.listeners,
            self._supervisor,
            self.helpers,
            self._applied,
        )
        self.reloads = Reloads(
            self._sources,
            fleet,
            self.changes,
            instance.table,
            self._supervisor,
            self.helpers.control.push,
            self._notify_ready,
        )
        self.stopping = Stopping(
            instance.table,
            self.workers,
            instance.listeners,
            self._supervisor,
            lambda: self.changes.in_force.config.drain_timeout,
        )

    def _duties(self, signals: SignalQueue) -> Sequence[Duty]:
        """In the order of a turn of the loop."""
        died = (
            self.workers.died,
            self.helpers.died,
            self.aside.child_ended,
            self.upgrade.child_ended,
        )
        return (
            HearWorkers(self.workers),
            TakeSignals(
                signals,
                {
                    signal.SIGTERM: lambda number: self.stopping.hurry(number.name),
                    signal.SIGINT: lambda number: self.stopping.hurry(number.name),
                    signal.SIGQUIT: lambda _: self.stopping.begin("SIGQUIT", at_once=True),
                    signal.SIGUSR1: lambda _: self.helpers.reopen_log(),
                    signal.SIGHUP: self._act,
                    signal.SIGTTIN: self._act,
                    signal.SIGTTOU: self._act,
                    signal.SIGUSR2: self._act,
                },
            ),
            Loops(self.workers, lambda: self.changes.in_force.image),
            Reap(self.workers, died),
            RefuseTakeover(self._instance.takeover),
            self.helpers,
            GuardianWatch(self.workers),
            self.upgrade,
            self.aside,
            self._supervisor,
            RemindWorkers(self.workers, self._instance.listeners),
            self.reloads,
            StartWorkers(self.workers, self._instance.listeners),
            Balance(self.workers),
            Upkeep(self.changes),
            self.rollouts,
            self.stopping,
        )

    # --- from the start to the end ----------------------------------------------------------

    def run(self) -> int:
        """Serves until told to stop. Raises TcpmuxError if it can't begin."""
        setproctitle(f"tcpmux: master {' '.join(source.title for source in self._sources.each)}")
        adopt_orphans()
        self._signals = signals = SignalQueue()
        events = EventHandler(self.events)
        log.addHandler(events)
        try:
            self._begin()
        except BaseException:
            if self._instance.is_new:
                self._end()
            raise  # else the workers go on, and wait for another master
        try:
            self._loop(self._duties(signals))
        finally:
            self._end()
            signals.close()
            log.removeHandler(events)
        log.info("stopped")
        return 0

    def _begin(self) -> None:
        instance, listeners = self._instance, self._instance.listeners
        if instance.is_new:
            self.helpers.open_http()
            self.changes.start()
        else:
            self._take_over()
        self.workers.start_due(listeners, time.monotonic())
        self.workers.retire_surplus()
        if instance.is_new:
            self.changes.await_workers()
        self.helpers.start_due(time.monotonic())
        routes = self.changes.in_force.config.routes
        unused = listeners.drop_inherited()
        self._supervisor.disown(unused, {route.name: route.listen for route in routes})
        self._announce()
        if self._upgraded:
            self.upgrade.replace_workers()

    def _take_over(self) -> None:
        instance = self._instance
        instance.table.master_pid = os.getpid()  # which those of a master before look at
        for number, name in enumerate(PROGRAMS):
            end_other(instance.table.program(number)[0], name, instance.user.uid)
        instance.table.set_state(RUNNING_STATE)  # whatever the last one was about to do
        try:
            self.helpers.open_http()
        except TcpmuxError as error:  # traffic comes first: the UNIX socket is there
            log.error("%s", error)  # noqa: TRY400
        most = None if self._upgraded else instance.table.shard_count
        config = self.changes.in_force.config
        self.fleet.waits = self.fleet.is_unknown(config)
        self.changes.resume(to_refuse, most, stays=self.fleet.waits)
        if not self._upgraded:
            self.upgrade.note_interruption()
        self.helpers.give_stderr()

    def _announce(self) -> None:
        table, config = self._instance.table, self.changes.in_force.config
        for line in routes_shown(config, self.changes.in_force.image):
            log.log(line.level, "%s", line, extra={"where": line.where})
        for line in self.changes.without_addresses():
            log.log(line.level, "%s", line, extra={"event": "names", "by": ""})
        log.info(
            "%s: %s, generation %d, at most %d connections each, admin socket %s%s",
            "ready" if self._instance.is_new else "taken over",
            plural(self.workers.count, "worker"),
            table.generation,
            self._instance.connections_limit,
            self._instance.admin.path,
            f", page http://{config.admin.http}/" if self.helpers.has_http else "",
            extra={"event": "start"},
        )
        self._notify_ready()

    def _notify_ready(self) -> None:
        self._supervisor.ready(
            f"{plural(len(self.changes.in_force.config.routes), 'route')}, "
            f"{plural(self.workers.count, 'worker')}, "
            f"generation {self._instance.table.generation}"
        )

    def _loop(self, duties: Sequence[Duty]) -> None:
        while not (self.draining and not self.workers.running):
            try:
                self._turn(duties)
            except Exception:
                # Whatever it is, ending here would end the workers and what they carry.
                log.exception("internal error in the master; traffic is not affected")
                time.sleep(FAULT_PAUSE)

    def _turn(self, duties: Sequence[Duty]) -> None:
        with selectors.DefaultSelector() as selector:
            for duty in duties:
                duty.register(selector)
            due = earliest(*(duty.due() for duty in duties if self._is_at_work(duty)))
            selector.select(None if due is None else max(0.0, due - time.monotonic()))
        for duty in duties:
            if self._is_at_work(duty):
                duty.do(time.monotonic())

    def _is_at_work(self, duty: Duty) -> bool:
        return not (self.draining and duty.rests_while_stopping)

    def _end(self) -> None:
        """Leaves nothing behind: no process, no socket, no file."""
        self.workers.kill_all()
        self.aside.end()
        self.upgrade.end()
        self.workers.await_ends(KILL_SECONDS)
        self.helpers.end(KILL_SECONDS, for_good=True)
        # Not those of others: what was started before us in this process, or lost its parent in
        # our container, may run for ever.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for worker in self.workers.running:
            worker.ended()
        self._instance.listeners.close_all(keep_files=self._supervisor.has_store)
        for own in (self._instance.admin, self._instance.takeover):
            own.socket.close()
            unlink_socket(own.path, own.inode)

    # --- changes ----------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        return self.stopping.draining

    def _act(self, number: signal.Signals) -> None:
        """On a signal that asks for a change."""
        is_reload = number == signal.SIGHUP
        if self.draining:
            log.warning("%s refused: draining", "reload" if is_reload else number.name)
        elif is_reload:
            self.reloads.by_signal()
        else:
            with suppress(TcpmuxError), refusals_in_log("", number.name):
                if number == signal.SIGUSR2:
                    self.begin_upgrade()
                else:
                    step = 1 if number == signal.SIGTTIN else -1
                    self.set_workers(self.workers.count + step, number.name)

    def set_workers(self, count: object, by: str) -> Done:
        """Raises Refusal."""
        most = self._instance.table.shard_count
        return self.changes.apply(SetWorkers(count=count, most=most, by=by))

    def denied(self, config: Config) -> list[str]:
        """UNIX sockets of endpoints that the workers may not connect to, a line each."""
        return denied(config, self._instance.user)

    def _applied(self, done: Done) -> None:
        """After each change: what others have to know of it."""
        config = done.after.config
        if config is not done.before.config:
            self._push_names()
            self.helpers.control.push({"push": "checks"})  # control asks for them
            log_denied(config, self._instance.user)

    def _tell_of_event(self, _event: Event) -> None:
        self.helpers.control.push({"push": "event"})  # control asks for it

    def _control_is_ready(self) -> None:
        self._push_names()
        self.helpers.control.push({"push": "checks"})
        self.helpers.control.push({"push": "event"})

    def _push_names(self) -> None:
        now = self.changes.in_force
        self.helpers.control.push(to_push(now.addresses, now.config))

    # --- the next build ---------------------------------------------------------------------

    def begin_upgrade(self) -> None:
        """Raises Refusal; how it goes on is in the table."""
        self.upgrade.rehearse(self._instance.handoff())

    def _become_next_build(self) -> None:
        """Does not return if all goes well."""
        waiting = [worker.id for worker in self.workers.running if worker.line.waiting]
        if waiting or self.draining:
            self.upgrade.failed("draining" if self.draining else f"worker {waiting} hangs")
            return
        log.info("upgrade %d: the new build takes over", self.upgrade.number)
        self.aside.end()
        self.helpers.end(KILL_SECONDS, for_good=False)
        try:
            handoff = replace(self._instance.handoff(), events=self.events.saved())
            self.upgrade.become(handoff, self._signals)
        except OSError as error:
            self.upgrade.failed(str(error))
