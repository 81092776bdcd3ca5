"""Reloads: when they run, and who requested them. Runs in the master."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tcpmux.config import Config, HostName
from tcpmux.errors import TcpmuxError, one_line, printable
from tcpmux.master.change import Done
from tcpmux.master.changes import Changes, refusals_in_log
from tcpmux.master.duty import Duty
from tcpmux.master.names import LOOKUP_TIME, PROGRAM_TIME
from tcpmux.master.reload import Reload, Sources, unknown_names
from tcpmux.master.supervisor import Supervisor
from tcpmux.shm._table import Table

log = logging.getLogger("tcpmux.master")

SIGNAL = "SIGHUP"


class Reloads(Duty):
    """push: tells control something; False = there is nobody to tell. notify_ready: to the service
    manager, after each attempt."""

    rests_while_stopping = True

    def __init__(
        self,
        sources: Sources,
        changes: Changes,
        table: Table,
        supervisor: Supervisor,
        push: Callable[[Mapping[str, Any]], bool],
        notify_ready: Callable[[], None],
    ) -> None:
        self._sources = sources
        self._changes = changes
        self._table = table
        self._supervisor = supervisor
        self._push = push
        self._notify_ready = notify_ready
        self._at_the_latest: float | None = None  # monotonic; control is looking new names up

    def by_signal(self) -> None:
        """If there are names that nobody has looked up, control does that first, and then asks
        for the reload; without control it is done as it is."""
        with suppress(TcpmuxError), refusals_in_log(Reload.kind, SIGNAL), self._attempt():
            config = self._sources.read()
            if unknown_names(config, self._changes.in_force) and self._push({"push": "reload"}):
                self._at_the_latest = time.monotonic() + LOOKUP_TIME + PROGRAM_TIME
                return
            self._changes.apply(self._reload(config, SIGNAL))

    def asked(self, by: str, *, look_up: bool) -> Done | tuple[Config, list[HostName]]:
        """look_up: names that nobody has looked up come back instead, and nothing is done. Raises
        TcpmuxError."""
        with refusals_in_log(Reload.kind, by), self._attempt():
            config = self._sources.read()
            unknown = unknown_names(config, self._changes.in_force) if look_up else []
            if unknown:
                return config, unknown
            return self._changes.apply(self._reload(config, by))

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

    def _reload(self, config: Config, by: str) -> Reload:
        return Reload(config=config, most_workers=self._table.shard_count, by=by)

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
