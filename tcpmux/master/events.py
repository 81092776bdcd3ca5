"""The events of the instance, kept for later requests. Runs in the master."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from tcpmux.errors import printable
from tcpmux.levels import NOWHERE

MAX_EVENTS = 1000  # kept
MAX_AT_ONCE = 200  # in an answer, so that none takes long
MAX_TEXT = 500  # characters
LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"))


@dataclass(frozen=True, slots=True)
class Event:
    """kind: start, stop, reload, refused, weights, mirror, state, workers, worker, control, log,
    upgrade, kill, names, health, log_level, rollout, denied or, for any other warning, warning.
    time: Unix time, s. by: who asked for it, "" = nobody. level: as in the log, info, warning or
    error. route: that it is about, "" = none, or several."""

    seq: int
    time: float
    kind: str
    text: str
    by: str
    level: str = "info"
    route: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


FIELDS = frozenset(field.name for field in fields(Event))


class Events:
    """The last MAX_EVENTS of them. on_event is called with each new one."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.on_event: Callable[[Event], object] = lambda _: None

    def note(
        self, kind: str, text: str, by: str = "", level: int = logging.INFO, route: str = ""
    ) -> None:
        """Writes down one line of text."""
        number = self._events[-1].seq + 1 if self._events else 1
        text = printable(" ".join(text.split()))[:MAX_TEXT]
        word = next((word for least, word in LEVELS if level >= least), "info")
        event = Event(number, round(time.time(), 3), kind, text, by, word, route)
        self._events.append(event)
        self.on_event(event)

    def after(self, seq: int) -> list[Event]:
        """Those later than number `seq`, the oldest first; MAX_AT_ONCE at most."""
        return [event for event in self._events if event.seq > seq][:MAX_AT_ONCE]

    def saved(self) -> list[dict[str, Any]]:
        """For the master after this one."""
        return [event.as_json() for event in self._events]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Of a master of any build: what this one does not know of an event is left out, and an
        event without what this one has to know as well."""
        for found in saved:
            with suppress(TypeError):
                self._events.append(Event(**{k: v for k, v in found.items() if k in FIELDS}))


class EventHandler(logging.Handler):
    """Notes what is logged: each warning, and each record with an `event`, which is its kind, and
    maybe a `by`, and a `where` with its route."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        kind = getattr(record, "event", "warning" if record.levelno >= logging.WARNING else "")
        if kind:
            by = getattr(record, "by", "")
            where = getattr(record, "where", NOWHERE)
            self._events.note(kind, record.getMessage(), by, record.levelno, where.route)
