"""How every change is applied, whether caused by a signal, the API, DNS or health.

    plan      the change says what is to be in force (change.py)
    prepare   all that can fail: programs, sockets, the image, workers that don't answer
    commit    nothing can fail: listeners that go away, one new generation, listeners that come
    report    log and events

So a change takes place as a whole, or everything is as it was. Runs in the master.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tcpmux.config import Address, Config
from tcpmux.config.loops import LeftOut, Loop, left_out
from tcpmux.errors import TcpmuxError, one_line
from tcpmux.levels import Line, where_of
from tcpmux.master.answers import Refusal
from tcpmux.master.buffer_sizes import buffer_sizes
from tcpmux.master.change import Change, Done, InForce, Places
from tcpmux.master.consequences import without_addresses
from tcpmux.master.convergence import now_ms
from tcpmux.master.fleet_place import FleetPlace
from tcpmux.master.listeners import Listener, Listeners
from tcpmux.master.reload import Resume, Start, busy_poll
from tcpmux.master.supervisor import Supervisor, stored_name
from tcpmux.master.weights import previous_weights
from tcpmux.master.workers import Workers, WorkersBusy
from tcpmux.shm._commons import Commons
from tcpmux.shm._image import publish_image, read_image
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.convergence import set_off
from tcpmux.shm.diff import describe_changes
from tcpmux.shm.image import Image, with_addresses
from tcpmux.shm.slots import Names, slots_given
from tcpmux.shm.sticky import check_room

log = logging.getLogger("tcpmux.master")

ANSWER_SECONDS = 5.0  # for the generation in force; a worker needs microseconds
QUEUE_SECONDS = 1.0  # to serve the queue of a listener that goes away
MAX_CHANGES = 100  # in an answer; the log has all


class Prepared(Protocol):
    """What a part of the instance has found to be possible."""

    def changes(self) -> list[str]:
        """What is different from then on and is not in the configuration, a line each."""
        ...

    def commit(self) -> None: ...

    def logged(self) -> None:
        """The log has the lines of the change."""

    def cancel(self) -> None: ...


class Part(Protocol):
    """A part of the instance that follows the configuration besides."""

    def prepare(self, config: Config) -> Prepared:
        """Raises TcpmuxError if it can't, with everything as it was."""
        ...


@dataclass(slots=True)
class _Plan:
    """All that commit() needs. in_force: when this was made."""

    after: InForce
    names: Names
    loops: LeftOut
    opened: Sequence[Listener]
    closing: Sequence[Listener]
    generation: int
    parts: list[Prepared]


class Changes:
    """What is in force, and the only way to change it. part: which follows the configuration.
    on_applied: called after each change, before it is logged."""

    def __init__(
        self,
        in_force: InForce,
        regions: tuple[Table, Commons],
        workers: Workers,
        listeners: Listeners,
        supervisor: Supervisor,
        part: Part,
        on_applied: Callable[[Done], object] = lambda _: None,
    ) -> None:
        self.in_force = in_force
        self._table, self._commons = regions
        self._workers = workers
        self._listeners = listeners
        self._supervisor = supervisor
        self._part = part
        self._on_applied = on_applied
        self.place = FleetPlace(self._commons)
        self._names = Names.new(workers.slot_is_idle)
        self._loops: LeftOut = {}  # what names stand for, and is not used

    # --- the first one ----------------------------------------------------------------------

    def start(self) -> None:
        """Binds and publishes for the first time, before there are workers. Raises TcpmuxError."""
        self._store(self._listeners.by_address.values())
        self.apply(Start())

    def resume(
        self,
        refusing: Callable[[Image], frozenset[str]],
        most_workers: int | None,
        *,
        stays: bool = False,
    ) -> None:
        """Goes on where another master has ended: its listeners are adopted, its table is in
        force. refusing: the routes that don't listen, by the image. most_workers: as in Resume.
        stays: the configuration is not all that there is, and takes effect with the rest."""
        generation, image = read_image(self._table)
        if generation == 0:
            self.start()
            return
        self._store(self._listeners.by_address.values())
        image = with_addresses(image)
        self.in_force = replace(self.in_force, image=image, refusing=refusing(image))
        self._names.restore(image, self._table.numbers_given)
        if stays:
            log.warning("routes stay as they are until etcd says which there are")
            return
        try:
            self.apply(Resume(most_workers=most_workers))
        except TcpmuxError as error:
            log.error("the file can't be applied, routes stay as they were: %s", error)  # noqa: TRY400

    # --- all of them ------------------------------------------------------------------------

    def apply(self, change: Change) -> Done:
        """Puts a change in force as a whole, and says so in the log. Raises TcpmuxError with
        everything as it was."""
        before = self.in_force
        plan = self._prepare(change, change.plan(before))
        besides = [line for part in plan.parts for line in part.changes()]
        self._commit(plan, before)
        after = plan.after
        if change.can_be_undone:
            weights = previous_weights(before.previous_weights, before.image, after.image)
            after = replace(after, previous_weights=weights)
        self.in_force = after
        changes = [*self._differences(change, before, after), *besides]
        changes += change.notes(before, after)
        changes += self._set_workers(before.workers, after.workers)
        warnings = list(change.warnings(before, after))
        done = Done(before, after, changes, self._table.generation, warnings)
        self._on_applied(done)
        places = Places(after.image)
        for one in change.report(done):
            where = where_of(one.line) if any(where_of(one.line)) else places.of(one.line)
            extra = {"event": one.event, "by": change.by, "where": where}
            log.log(one.line.level, "%s", one.line, extra=extra)
        for part in plan.parts:
            part.logged()
        return done

    def ask(self, change: Change) -> Done:
        """As apply(), for whoever wants to know of a refusal from the log as well, and of workers
        that don't use it yet."""
        with refusals_in_log(change.kind, change.by):
            done = self.apply(change)
        self.log_late_workers()
        return done

    def log_late_workers(self) -> None:
        """Waits until every worker uses what is in force, and says which don't. It is in force
        even so; the answer says in which workers."""
        try:
            self.await_workers()
        except WorkersBusy as error:
            log.warning("%s", error)

    def preview(self, change: Change) -> list[str]:
        """What it would change, a line each. Raises TcpmuxError."""
        before = self.in_force
        wanted = change.plan(before)
        ids = dict.fromkeys(_addresses(wanted), 0)
        image = self._built(wanted, self._names.copy(), ids, self._left_out(wanted))
        changes = self._differences(change, before, replace(wanted, image=image))
        return [*changes, *_workers_changed(before.workers, wanted.workers)][:MAX_CHANGES]

    # --- checks: each may raise, and leaves nothing behind if it does -----------------------

    def _prepare(self, change: Change, wanted: InForce) -> _Plan:
        parts: list[Prepared] = []
        if change.rebuilds and wanted.config is not self.in_force.config:
            parts.append(self._part.prepare(wanted.config))
        opened: list[Listener] = []
        try:
            plan = _Plan(wanted, self._names, self._loops, (), (), self._table.generation, parts)
            if change.rebuilds:
                opened = self._listeners.open_missing(_addresses(wanted))
                plan.opened = opened
                plan.closing = self._unwanted(wanted) if change.closes else ()
                plan.names, plan.loops = self._names.copy(), self._left_out(wanted)
                every = self._listeners.ids(opened)
                ids = {address: every[address] for address in _addresses(wanted)}
                image = self._built(wanted, plan.names, ids, plan.loops)
                plan.after = replace(wanted, image=image)
            elif wanted.image is not self.in_force.image:
                check_room(wanted.image.routes)
            plan.after = self._set_off(change, plan.after)
            if plan.after.image != self.in_force.image:
                self._workers.await_generation(plan.generation, ANSWER_SECONDS)
        except BaseException:
            for listener in opened:
                listener.discard()
            for part in parts:
                part.cancel()
            raise
        return plan

    def _set_off(self, change: Change, after: InForce) -> InForce:
        """Live connections follow the weights where the settings say so."""
        image = set_off(self.in_force.image, after.image, change.cause, now_ms())
        return after if image is after.image else replace(after, image=image)

    def _left_out(self, wanted: InForce) -> LeftOut:
        return left_out(wanted.config, wanted.addresses)

    def _built(
        self, wanted: InForce, names: Names, ids: dict[Address, int], loops: LeftOut
    ) -> Image:
        return build_image(
            wanted.config,
            wanted.weights,
            names,
            ids,
            self._table.generation + 1,
            wanted.addresses,
            self.in_force.image,
            loops,
            wanted.mirrors,
        )

    def _unwanted(self, wanted: InForce) -> list[Listener]:
        addresses = set(_addresses(wanted))
        return [
            listener
            for address, listener in self._listeners.by_address.items()
            if address not in addresses
        ]

    def _differences(self, change: Change, before: InForce, after: InForce) -> list[str]:
        image_changes = describe_changes(before.image, after.image)
        return [*image_changes, *change.differences(before, after)]

    # --- commit: nothing may fail -----------------------------------------------------------

    def _commit(self, plan: _Plan, before: InForce) -> None:
        """What waits in the queue of a listener that goes away still has its route."""
        table, image = self._table, plan.after.image
        if plan.closing:
            self._workers.remove_listeners(plan.closing, QUEUE_SECONDS)
            self._listeners.close(plan.closing)
            for listener in plan.closing:
                self._supervisor.forget(stored_name(listener.address))
        if image != before.image:
            table.numbers_given = plan.names.given
            for slot in slots_given(image, plan.generation):
                self._commons.forget(slot)
            publish_image(table, image)
            self.place.follow(before.image, image, plan.after.config.fleet_routes)
        self._listeners.add(plan.opened)
        self._workers.add_listeners(plan.opened)
        self._store(plan.opened)
        self._log_loops(plan.loops)
        self._names = plan.names
        table.busy_poll = busy_poll(plan.after.config)
        table.buffers = buffer_sizes(plan.after.config)
        if image != before.image:
            self._workers.wake()
        for part in plan.parts:
            part.commit()

    def _set_workers(self, before: int, after: int) -> list[str]:
        if before != after:
            self._workers.want(after)
            self._table.worker_count = after
            self._workers.start_due(self._listeners, time.monotonic())
            self._workers.retire_surplus()
        return _workers_changed(before, after)

    def _log_loops(self, loops: LeftOut) -> None:
        """Those that are new: clients would go round in them until every place is taken."""
        new = [loop for key, loop in loops.items() if key not in self._loops]
        for loop in new[:MAX_CHANGES]:
            log.error("%s", _loop_text(loop))
        if len(new) > MAX_CHANGES:
            log.error(
                "and %d more addresses that lead back to a route, also left out",
                len(new) - MAX_CHANGES,
            )
        self._loops = loops

    def _store(self, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            fds = [sock.fileno() for sock in listener.sockets]
            self._supervisor.store(listener.address, fds)

    # --- what is in force -------------------------------------------------------------------

    def await_workers(self) -> None:
        """Until every worker uses what is in force. Raises WorkersBusy; it is in force even so."""
        self._workers.await_generation(self._table.generation, ANSWER_SECONDS)

    def without_addresses(self) -> list[Line]:
        """Of each destination with a name that has no address now: which, and what follows."""
        now = self.in_force
        return list(without_addresses(now.config, now.image, now.addresses))

    def loops(self) -> list[str]:
        """What names stand for and is left out, as it would lead back, a line each."""
        return [_loop_text(loop) for loop in self._loops.values()]

    def applied(self, changes: Sequence[str], warnings: Sequence[str] = ()) -> dict[str, Any]:
        """What is in force and in which workers, as the API tells it."""
        return {
            "generation": self._table.generation,
            "changes": _first_of(changes),
            "warnings": _first_of(warnings),
            "workers": [
                {"id": w.id, "pid": w.live.pid, "generation": w.live.generation_seen}
                for w in self._workers.running
            ],
        }


@contextmanager
def refusals_in_log(kind: str, by: str) -> Iterator[None]:
    """Around a change, or a look whether there is to be one: a refusal is logged, and goes on."""
    try:
        yield
    except TcpmuxError as error:
        by_signal = by.startswith("SIG")
        # Then what is in force is not what the files say, or nobody hears of it but by the log.
        # Else it is the mistake of somebody who has been told.
        is_mistake = isinstance(error, Refusal) and kind != "reload" and not by_signal
        level = logging.INFO if is_mistake else logging.WARNING
        what = ("reload" if kind == "reload" else by) + " " if by_signal else ""
        extra = {"event": "refused", "by": "a signal" if by_signal else by}
        log.log(level, "%srefused, nothing changed: %s", what, one_line(error), extra=extra)
        raise


def _first_of(lines: Sequence[str]) -> list[str]:
    left = len(lines) - MAX_CHANGES
    more = [f"and {left} more, which the log has"] if left > 0 else []
    return [*lines[:MAX_CHANGES], *more]


def _loop_text(loop: Loop) -> str:
    return f"{loop.leg.route}: {loop.leg.place}: {loop}: left out"


def _addresses(wanted: InForce) -> list[Address]:
    return [
        address
        for route in wanted.config.routes
        if route.name not in wanted.refusing
        for address in route.listen
    ]


def _workers_changed(before: int, after: int) -> list[str]:
    return [] if before == after else [f"workers {before}->{after}"]
