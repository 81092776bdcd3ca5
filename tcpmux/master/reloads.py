"""Reloads: when they run, and who requested them. Runs in the master."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from tcpmux.config import Config, ConfigError, HostName, Problem, load_texts, read_texts
from tcpmux.config.fleet import FleetState
from tcpmux.errors import TcpmuxError, one_line, printable
from tcpmux.master.change import Done, Weights
from tcpmux.master.changes import Changes, refusals_in_log
from tcpmux.master.duty import Duty
from tcpmux.master.fleet import FleetWeights, HostFleet, fitting, reweighted
from tcpmux.master.names import LOOKUP_TIME, PROGRAM_TIME
from tcpmux.master.reload import Reload, Sources, unknown_names
from tcpmux.master.supervisor import Supervisor
from tcpmux.master.weights import splits
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

SIGNAL = "SIGHUP"
MAX_LOST = 20  # names of routes that are told


class Reloads(Duty):
    """push: tells control something; False = there is nobody to tell. notify_ready: to the service
    manager, after each attempt."""

    rests_while_stopping = True

    def __init__(
        self,
        sources: Sources,
        fleet: HostFleet,
        changes: Changes,
        table: Table,
        supervisor: Supervisor,
        push: Callable[[Mapping[str, Any]], bool],
        notify_ready: Callable[[], None],
    ) -> None:
        self._sources = sources
        self._fleet = fleet
        self._changes = changes
        self._table = table
        self._supervisor = supervisor
        self._push = push
        self._notify_ready = notify_ready
        self._at_the_latest: float | None = None  # monotonic; control is looking new names up

    def _read(self) -> Config:
        """Raises TcpmuxError."""
        config, now = self._sources.read(self._fleet.state), self._changes.in_force.config
        if config.fleet and now.fleet and config.fleet.keys != now.fleet.keys and now.fleet_routes:
            raise TcpmuxError(
                f"another fleet, {config.fleet.keys} instead of {now.fleet.keys}: its routes would "
                "be gone until etcd answers: reload without `fleet` in the file before, or start "
                "tcpmux anew"
            )
        if self._fleet.waits and config.fleet is not None:
            raise TcpmuxError(
                "routes of the fleet are in force that only etcd knows: they would be dropped; "
                "reload when etcd answers, or without `fleet` in the file"
            )
        return config

    def by_signal(self) -> None:
        """If there are names that nobody has looked up, control does that first, and then asks
        for the reload; without control it is done as it is."""
        with suppress(TcpmuxError), refusals_in_log(Reload.kind, SIGNAL), self._attempt():
            config = self._read()
            if unknown_names(config, self._changes.in_force) and self._push({"push": "reload"}):
                self._at_the_latest = time.monotonic() + LOOKUP_TIME + PROGRAM_TIME
                return
            self._changes.apply(self._reload(config, SIGNAL))

    def asked(self, by: str, *, look_up: bool) -> Done | tuple[Config, list[HostName]]:
        """look_up: names that nobody has looked up come back instead, and nothing is done. Raises
        TcpmuxError."""
        with refusals_in_log(Reload.kind, by), self._attempt():
            config = self._read()
            unknown = unknown_names(config, self._changes.in_force) if look_up else []
            if unknown:
                return config, unknown
            return self._changes.apply(self._reload(config, by))

    def of_fleet(
        self, wanted: FleetState, by: str, *, look_up: bool, again: Collection[str] = ()
    ) -> Done | tuple[Config, list[HostName]]:
        """As asked(), with what the fleet says now; no more than its weights, if its documents are
        those in force. again: whose weights are to be in force, whatever has been set here. Raises
        TcpmuxError, and then all is as it was."""
        had = self._fleet.state
        if wanted.documents == had.documents:
            changed: dict[str, Mapping[str, int] | None] = {
                path: wanted.weights.get(path)
                for path in {**had.weights, **wanted.weights}
                if wanted.weights.get(path) != had.weights.get(path) or path in again
            }
            now = self._changes.in_force
            done = Done(now, now, [], self._table.generation, [])
            if changed:
                done = self._changes.ask(FleetWeights(weights=changed, by=by))
        else:
            with self._attempt():
                config = self._sources.read(wanted)
                unknown = unknown_names(config, self._changes.in_force) if look_up else []
                if unknown:
                    return config, unknown
                reload = self._reload(config, by, wanted)
                weights = self._with_own(reload.weights, config, wanted, again)
                done = self._changes.apply(replace(reload, weights=weights))
            self._changes.log_late_workers()
        self._fleet.state, self._fleet.waits = wanted, False
        return done

    def _with_own(
        self, weights: Weights, config: Config, wanted: FleetState, again: Collection[str]
    ) -> Weights:
        """Those of the fleet, except where it sets none now: there, what is in force stays, also
        if it was set on this host alone."""
        now, had = self._changes.in_force, self._fleet.state
        if self._fleet.waits:
            return weights  # nobody knows what the fleet had set
        paths = {split.path for split in splits(now.image)}
        set_now = {*again, *reweighted(now.config, config)}
        set_now |= {p for p in paths if wanted.weights.get(p) != had.weights.get(p)}
        new = {path: each for path, each in weights.items() if path in set_now or path not in paths}
        return {**new, **{p: each for p, each in now.weights.items() if p not in set_now}}

    def preview_of_fleet(self, wanted: FleetState) -> Callable[[], dict[str, Any]]:
        """What it would change, to be worked out by somebody who can open no file. Raises
        TcpmuxError."""
        problems: list[Problem] = []
        texts = list(read_texts(self._sources.each, problems))
        if problems:
            raise ConfigError(problems)
        now = self._changes.in_force.config

        def work() -> dict[str, Any]:
            config = load_texts(texts, self._sources.endpoints, wanted)
            lost = sorted(now.fleet_routes - config.fleet_routes)
            return {
                "changes": self._changes.preview(self._reload(config, "", wanted)),
                "lost": lost[:MAX_LOST],
                "lost_count": len(lost),
                "had_count": len(now.fleet_routes),
                "reweighted": reweighted(now, config),
            }

        return work

    def due(self) -> float | None:
        return self._at_the_latest

    def do(self, now: float) -> None:
        if self._at_the_latest is None or now < self._at_the_latest:
            return
        log.warning(
            "control does not resolve host names: reloading without addresses for the new ones "
            "until it does"
        )
        with suppress(TcpmuxError):
            self.asked(SIGNAL, look_up=False)

    def preview(self, config: Config) -> list[str]:
        """What a reload with this would change, a line each. Raises TcpmuxError."""
        return self._changes.preview(self._reload(config, ""))

    def _reload(self, config: Config, by: str, fleet: FleetState | None = None) -> Reload:
        weights = fitting(self._fleet.state if fleet is None else fleet, config)
        most = self._table.shard_count
        return Reload(config=config, most_workers=most, weights=weights, by=by)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Tells the service manager, and counts."""
        self._at_the_latest = None
        self._supervisor.reloading()
        before = self._changes.in_force.config
        try:
            yield
        except BaseException as error:
            done, refused = self._table.reloads
            self._table.reloads = done, refused + 1
            why = one_line(error) if isinstance(error, TcpmuxError) else repr(error)
            self._table.last_reload = int(time.time()), printable(why) or "refused"
            raise
        else:
            if self._changes.in_force.config is not before:
                done, refused = self._table.reloads
                self._table.reloads = done + 1, refused
                self._table.last_reload = int(time.time()), ""
        finally:
            self._notify_ready()  # refused or not: it serves
