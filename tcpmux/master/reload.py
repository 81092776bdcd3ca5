"""Changing what the instance does: check everything, then commit all or nothing.

Runs in the master. Every check (parse, validate, bind, sizes, workers awake) comes before
the first step that can be seen from outside; after it nothing is left that may fail.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcpmux.config import Address, Config, HostName, load
from tcpmux.config.loops import LeftOut, left_out
from tcpmux.errors import TcpmuxError
from tcpmux.levels import Line
from tcpmux.master.listeners import Listener, Listeners
from tcpmux.master.names import without_addresses
from tcpmux.master.supervisor import Supervisor, stored_name
from tcpmux.master.workers import Workers
from tcpmux.shm._shm import Commons, Table
from tcpmux.shm.image import REFUSE, Image
from tcpmux.shm.routes import (
    Names,
    build_image,
    describe_changes,
    is_unavailable,
    slots_given,
    with_addresses,
)

log = logging.getLogger("tcpmux.master")

WORKER_ANSWER_TIME = 5.0  # s, for the generation in force; a worker needs microseconds
QUEUE_TIME = 1.0  # s, to serve the queue of a listener that goes away
REFUSE_AGAIN = 1.0  # s, after it could not be done
POLL_AUTO = -1  # csrc/waiter.h: TM_POLL_AUTO
DEFAULT_PIPE_PAGES = 16384  # pipe-user-pages-soft, where it can't be told
MOST_CHANGES = 100  # in an answer; the log has all


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the configuration comes from. endpoints: as --endpoint gives them."""

    paths: tuple[str, ...]
    endpoints: tuple[str, ...] = ()


def _load(sources: Sources) -> Config:
    """As load(), and no fault of ours in reading a file may end what serves traffic."""
    try:
        return load(sources.paths, sources.endpoints)
    except TcpmuxError:
        raise
    except Exception as error:
        log.exception("a fault in tcpmux while reading %s", ", ".join(sources.paths))
        raise TcpmuxError(f"a fault in tcpmux while reading the files: {error!r}") from error


def _poll(config: Config) -> int:
    return POLL_AUTO if config.busy_poll is None else config.busy_poll


def _tcp_memory() -> int:
    """Bytes that TCP's sockets of this host may hold before the kernel saves memory (tcp_mem(7));
    where that can't be told, a sixteenth of all."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        return int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[1]) * page
    except (OSError, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * page // 16


def _pipe_memory() -> int:
    """Bytes of pipes that workers may have together: three quarters of what the kernel lets a user
    have (pipe(7)), as others may be of the same user. 0 = as many as they like."""
    try:
        pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    except (OSError, ValueError):
        pages = DEFAULT_PIPE_PAGES
    return pages * os.sysconf("SC_PAGE_SIZE") * 3 // 4


def _buffer_sizes(config: Config) -> tuple[int, int, int, int, int, int]:
    """As the table has them."""
    sizes = config.buffers
    total = _tcp_memory() // 4 if sizes.total is None else sizes.total
    return sizes.client, sizes.endpoint, sizes.pipe, sizes.per_source, total, _pipe_memory()


def _busy_poll_text(busy_poll: int) -> str:
    return {POLL_AUTO: "auto", 0: "off"}.get(busy_poll, f"{busy_poll} us")


def _access_log_text(config: Config) -> str:
    return config.access_log.path if config.access_log else "off"


def _watch_changes(old: Config, new: Config) -> Iterator[str]:
    """How endpoints are watched is for control alone, and not in the image."""
    before = {(r.name, d.name): d.policy for r in old.routes for d in r.destinations}
    for route in new.routes:
        for destination in route.destinations:
            was, now = before.get((route.name, destination.name)), destination.policy
            if was is None:
                continue
            if was.check != now.check:
                kinds = [policy.check.kind if policy.check else "off" for policy in (was, now)]
                what = "->".join(kinds) if kinds[0] != kinds[1] else "changed"
                yield f"{route.name}: {destination.name} check {what}"
            if was.passive != now.passive:
                yield f"{route.name}: {destination.name} passive changed"


@dataclass(slots=True)
class Routing:
    """The configuration in force, and the way to the next one."""

    config: Config
    table: Table
    commons: Commons
    workers: Workers
    listeners: Listeners
    names: Names
    supervisor: Supervisor
    image: Image = field(default_factory=lambda: Image((), ()))
    weights: dict[str, dict[str, int]] = field(default_factory=dict)  # set at run time
    addresses: dict[HostName, tuple[Address, ...]] = field(default_factory=dict)  # in DNS
    refusing: frozenset[str] = frozenset()  # routes that don't listen for now
    _loops: LeftOut = field(default_factory=dict)  # what names stand for, and is not used
    _refuse_again: float = 0.0  # monotonic; not before
    _unavailable: tuple[Image | None, frozenset[str]] = (None, frozenset())  # in that image

    def start(self) -> None:
        """Binds and publishes for the first time, before there are workers. Raises TcpmuxError."""
        self._store(self.listeners.by_address.values())
        self._apply(self.config, {}, ())

    def resume(self) -> None:
        """Goes on where another master has ended: its listeners are adopted, its table is in
        force. Weights that were set at run time stay, unless the file has changed them."""
        generation, image = self.table.read()
        if generation == 0:
            self.start()
            return
        self._store(self.listeners.by_address.values())
        self.image = with_addresses(image)
        self.refusing = self._to_refuse()
        self.names.restore(self.image, self.table.numbers_given)
        in_file = {
            (route.name, destination.name): destination.weight
            for route in self.config.routes
            for destination in route.destinations
        }
        weights: dict[str, dict[str, int]] = {}
        for route in self.image.routes:
            for row in route.destinations:
                if row.weight != row.file_weight == in_file.get((route.name, row.name)):
                    weights.setdefault(route.name, {})[row.name] = row.weight
        try:
            changes = self._apply(self.config, weights, self._unwanted(self.config))
        except TcpmuxError as error:
            log.error("the file can't be applied, routes stay as they were: %s", error)  # noqa: TRY400
        else:
            for change in changes:
                log.info("%s, generation %d", change, self.table.generation)

    def read(self, sources: Sources) -> Config:
        """The files as they are now. Raises TcpmuxError."""
        return _load(sources)

    def unknown_names(self, config: Config) -> list[HostName]:
        """Those that nobody has looked up yet."""
        return sorted(config.host_names - self.addresses.keys(), key=str)

    def difference(self, config: Config) -> list[str]:
        """What a reload with this would change, a line a route. Raises TcpmuxError."""
        ids = dict.fromkeys(self._wanted(config), 0)
        generation = self.table.generation + 1
        names = self.names.copy()
        loops = left_out(config, self.addresses)
        image = build_image(config, {}, names, ids, generation, self.addresses, self.image, loops)
        return [*describe_changes(self.image, image), *self._other_changes(config)]

    def set_addresses(self, found: Mapping[HostName, tuple[Address, ...]]) -> list[str]:
        """What names mean from now on; returns what that changes. Raises TcpmuxError."""
        before = self.addresses
        self.addresses = {**before, **found}
        try:
            return self._apply(self.config, self.weights, ())
        except BaseException:
            self.addresses = before
            raise

    def _other_changes(self, config: Config) -> list[str]:
        changes = []
        if config.busy_poll != self.config.busy_poll:
            old, new = (_busy_poll_text(_poll(c)) for c in (self.config, config))
            changes.append(f"busy_poll {old}->{new}")
        if config.buffers != self.config.buffers:
            changes.append("buffers changed")
        old_http, new_http = (c.admin.http or "off" for c in (self.config, config))
        if old_http != new_http:
            changes.append(f"admin.http {old_http}->{new_http}")
        if config.access_log != self.config.access_log:
            old, new = (_access_log_text(c) for c in (self.config, config))
            changes.append(f"access_log {old}->{new}" if old != new else "access_log changed")
        return [*changes, *_watch_changes(self.config, config)]

    def reload(self, config: Config) -> list[str]:
        """Applies what the files say now; returns what changed, a line a route.

        Weights set at run time are dropped: the file wins. Raises TcpmuxError with
        everything as it was.
        """
        notes = [
            Line(logging.WARNING, f"{what} changes with the next start, not with a reload")
            for what, old, new in (
                ("admin.socket", self.config.admin.socket, config.admin.socket),
                ("user", self.config.user, config.user),
                ("group", self.config.group, config.group),
            )
            if old != new
        ]
        in_file = {
            (route.name, destination.name): destination.weight
            for route in config.routes
            for destination in route.destinations
        }
        overridden = []
        for route, weights in self.weights.items():
            lost = {n: w for n, w in weights.items() if in_file.get((route, n), w) != w}
            if lost:
                told = ", ".join(f"{name}={weight}" for name, weight in lost.items())
                overridden.append(
                    f"{route}: the file's weights replace the ones set at run time ({told})"
                )
        others = self._other_changes(config)
        changes = [*self._apply(config, {}, self._unwanted(config)), *others]
        in_use = self.config.host_names
        self.addresses = {name: self.addresses.get(name, ()) for name in in_use}
        notes += self.without_addresses()
        for warning in config.warnings:
            log.warning("%s", warning)
        return [*changes, *overridden, *notes]

    def without_addresses(self) -> list[Line]:
        """Of each destination with a name that has no address now: which, and what follows."""
        return list(without_addresses(self.config, self.image, self.addresses))

    def publish(self, image: Image) -> None:
        """Puts an image with the same names in force, if it differs. Raises WorkersBusy with
        everything as it was."""
        if image != self.image:
            self.workers.await_generation(self.table.generation, WORKER_ANSWER_TIME)
            self.table.publish(image)
            self.workers.wake()
        self.image = image

    def applied(self, changes: Sequence[str]) -> dict[str, Any]:
        """What is in force and in which workers, as the API tells it."""
        shown = list(changes[:MOST_CHANGES])
        if len(changes) > len(shown):
            shown.append(f"and {len(changes) - len(shown)} more, which the log has")
        return {
            "generation": self.table.generation,
            "changes": shown,
            "workers": [
                {"id": w.id, "pid": w.live.pid, "generation": w.live.generation_seen}
                for w in self.workers.running
            ],
        }

    def _wanted(self, config: Config) -> list[Address]:
        return [
            address
            for route in config.routes
            if route.name not in self.refusing
            for address in route.listen
        ]

    def _to_refuse(self) -> frozenset[str]:
        if self._unavailable[0] is not self.image:
            names = (
                route.name
                for route in self.image.routes
                if route.rules.on_all_unavailable == REFUSE and is_unavailable(route)
            )
            self._unavailable = self.image, frozenset(names)
        return self._unavailable[1]

    def next_look(self) -> float | None:
        """Monotonic time when follow_refusals() has something to do; None = nothing."""
        return self._refuse_again if self._to_refuse() != self.refusing else None

    def follow_refusals(self, now: float) -> None:
        """Stops listening for routes with on_all_unavailable: refuse that nobody can serve, and
        listens again when somebody can. Raises TcpmuxError, to be tried again later."""
        before, wanted = self.refusing, self._to_refuse()
        if wanted == before or now < self._refuse_again:
            return
        self._refuse_again = now + REFUSE_AGAIN
        self.refusing = wanted
        try:
            changes = self._apply(self.config, self.weights, self._unwanted(self.config))
        except BaseException:
            self.refusing = before
            raise
        self._refuse_again = 0.0
        for change in changes:
            log.info("%s", change, extra={"event": "health", "by": ""})

    def _unwanted(self, config: Config) -> list[Listener]:
        wanted = set(self._wanted(config))
        return [
            listener
            for address, listener in self.listeners.by_address.items()
            if address not in wanted
        ]

    def _apply(
        self, config: Config, weights: dict[str, dict[str, int]], closing: Sequence[Listener]
    ) -> list[str]:
        # Checks: each may raise, and leaves nothing behind if it does.
        in_force = self.table.generation
        addresses = self._wanted(config)
        opened = self.listeners.open_missing(addresses)
        try:
            names = self.names.copy()
            every = self.listeners.ids(opened)
            ids = {address: every[address] for address in addresses}
            loops = left_out(config, self.addresses)
            image = build_image(
                config, weights, names, ids, in_force + 1, self.addresses, self.image, loops
            )
            changes = describe_changes(self.image, image)
            changed = image != self.image
            if changed:
                self.workers.await_generation(in_force, WORKER_ANSWER_TIME)
        except BaseException:
            for listener in opened:
                listener.take_back()
            raise
        # Commit. What waits in the queue of a listener that goes away still has its route.
        if closing:
            self.workers.remove_listeners(closing, QUEUE_TIME)
            self.listeners.close(closing)
            for listener in closing:
                self.supervisor.forget(stored_name(listener.address))
        if changed:
            self.table.numbers_given = names.given
            for slot in slots_given(image, in_force):
                self.commons.forget(slot)
            self.table.publish(image)
        self.listeners.add(opened)
        self.workers.add_listeners(opened)
        self._store(opened)
        self._say_loops(loops)
        self.config, self.weights, self.image, self.names = config, weights, image, names
        self.table.busy_poll = _poll(config)
        self.table.buffers = _buffer_sizes(config)
        if changed:
            self.workers.wake()
        return changes

    def _say_loops(self, loops: LeftOut) -> None:
        """Those that are new: clients would go round in them until every place is taken."""
        new = [loop for key, loop in loops.items() if key not in self._loops]
        for loop in new[:MOST_CHANGES]:
            log.error("%s: %s: %s: left out", loop.leg.route, loop.leg.place, loop)
        if len(new) > MOST_CHANGES:
            log.error(
                "and %d more addresses that lead back to a route: left out", len(new) - MOST_CHANGES
            )
        self._loops = loops

    def _store(self, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            fds = [sock.fileno() for sock in listener.sockets]
            self.supervisor.store(listener.address, fds)

    def await_workers(self) -> None:
        """Until every worker uses what is in force. Raises WorkersBusy; it is in force even so."""
        self.workers.await_generation(self.table.generation, WORKER_ANSWER_TIME)
