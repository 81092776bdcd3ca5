"""From the shared memory to lines: entries that workers have written, and open connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tcpmux.config.log_format import KEYS
from tcpmux.logger.lines import Clock, Line, closed_by
from tcpmux.logger.others import Others
from tcpmux.logger.refusals import refusal
from tcpmux.shm._connections import connections
from tcpmux.shm._declared import MAX_SLOTS
from tcpmux.shm._readings import (
    read_log,
    release_log,
    tell_refusals,
    untold_refusals,
    unwritten_log,
)
from tcpmux.shm.counters import FLAGS
from tcpmux.shm.known import UNREADABLE, Known
from tcpmux.shm.view import View

if TYPE_CHECKING:
    from tcpmux.shm._live import Live
    from tcpmux.shm._readings import LogEntry

MAX_AT_ONCE = 1024  # entries of one worker
MORE_EVERY = 10.0  # s between two lines of refused clients that have no line of their own


def _address(view: View, peer: str, slot: int) -> str | None:
    """Of an endpoint: as configured if it is a UNIX socket."""
    if peer and not peer.startswith("unix:"):
        return peer
    return view.table.label(slot) if slot < MAX_SLOTS else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that are due. release(n): the first n are done with, and their places free."""

    lines: list[Line]
    release: Callable[[int], None]


class Source:
    """Gives the lines that are due. The regions must be mapped writable; nobody else takes.
    dropped: how many entries had found no room when dropped() first counts."""

    def __init__(self, view: View, dropped: int) -> None:
        self._view = view
        self.counted_dropped = dropped  # by dropped(), or before this process
        self._others = Others(view)
        self._next_more = time.monotonic() + MORE_EVERY

    def batches(self) -> Iterator[Batch]:
        """What each worker has written down and nobody has taken, in its order."""
        for worker, live in enumerate(self._view.lives):
            entries = read_log(live, MAX_AT_ONCE)
            if entries:
                clock = Clock.now()
                lines = [self._line(worker, entry, clock) for entry in entries]
                yield Batch(lines, partial(release_log, live))
        if time.monotonic() >= self._next_more:
            self._next_more = time.monotonic() + MORE_EVERY
            yield from self._more()

    def end_interval(self) -> None:
        """What comes at intervals is due now."""
        self._next_more = 0.0

    def _more(self) -> Iterator[Batch]:
        """Refused clients that have no line of their own: a line for each worker and refusal."""
        now, clock = time.monotonic(), Clock.now()
        for worker, live in enumerate(self._view.lives):
            for kind, count in untold_refusals(live):
                line: Line = {
                    **dict.fromkeys(KEYS),
                    "event": "more",
                    **_times(clock, now, 0.0),
                    **_refused(kind),
                    "worker": worker,
                    "count": count,
                }
                yield Batch([line], partial(_tell, live, kind, count))

    def unwritten(self) -> int:
        """How many lines are due."""
        return sum(unwritten_log(live) for live in self._view.lives)

    def dropped(self) -> int:
        """Entries that found no room since the last call."""
        total = sum(live.log_dropped for live in self._view.lives)
        new, self.counted_dropped = max(0, total - self.counted_dropped), total
        return new

    def open_connections(self) -> Iterator[Line]:
        """A line for each, as it is now."""
        clock = Clock.now()
        now = time.monotonic()
        for row in connections(self._view.lives)[1]:
            number, route, destination, endpoint, client, peer, _, _, age, _ = row[:10]
            known = row[17]
            direct = "" if known is UNREADABLE else known.peer or client
            yield {
                "event": "alive",
                **_times(clock, now - age, age),
                **_traffic(*row[10:12], ""),
                **self._places(route, destination, endpoint, client, peer),
                **_known(direct, known),
                **_origin(*row[12:17], row[20]),
                **self._rule(row[18]),
                **self._alternatives(route, destination, *row[12:14], row[18]),
                **_identity(int(number.partition("-")[0]), number, row[19]),
                **_refused(0),
            }

    def _line(self, worker: int, entry: LogEntry, clock: Clock) -> Line:
        event, route, destination, endpoint, client, peer = entry[:6]
        client_local, endpoint_local, accepted, at, bytes_in, bytes_out, closed = entry[6:13]
        picked, generation, attempts, connect, first_byte, number, refused = entry[13:20]
        direct, rule, known, unique, rehomed = entry[20:]
        return {
            "event": event,
            **_times(clock, accepted, at - accepted),
            **_traffic(bytes_in, bytes_out, closed),
            **self._places(
                route, destination, endpoint, client, peer, client_local, endpoint_local
            ),
            **_known(direct, known),
            **_origin(generation, picked, attempts, connect, first_byte, rehomed),
            **self._rule(rule),
            **self._alternatives(route, destination, generation, picked, rule),
            **_identity(worker, number, unique),
            **_refused(refused),
        }

    def _rule(self, slot: int) -> Line:
        """The rule that it has met."""
        return {"rule": self._view.table.label(slot) if slot < MAX_SLOTS else None}

    def _alternatives(
        self, route: int, destination: int, generation: int, picked: str, rule: int
    ) -> Line:
        """Of its pick. route, destination, rule: counter slots."""
        has_none = picked == "only"
        found = self._others.text(route, destination, generation, rule) if has_none else None
        return {"others": found}

    def _places(
        self,
        route: int,
        destination: int,
        endpoint: int,
        client: str,
        peer: str,
        client_local: str = "",
        endpoint_local: str = "",
    ) -> Line:
        """From where to where. route, destination, endpoint: counter slots."""
        label = self._view.table.label
        route_name = label(route) or None
        destination_name = label(destination) if destination < MAX_SLOTS else None
        return {
            "downstream_remote_address": client or None,
            "downstream_local_address": client_local or None,
            "upstream_host": _address(self._view, peer, endpoint),
            "upstream_cluster": destination_name and f"{route_name}/{destination_name}",
            "upstream_local_address": endpoint_local or None,
            "route": route_name,
            "destination": destination_name,
        }


def _times(clock: Clock, accepted: float, duration: float) -> Line:
    return {"start_time": clock.text(accepted), "duration": round(duration * 1000)}


def _traffic(bytes_in: int, bytes_out: int, closed: str) -> Line:
    """closed: the reason of the end; "" = it has not ended."""
    return {
        "bytes_received": bytes_in,
        "bytes_sent": bytes_out,
        "response_flags": FLAGS.get(closed, "-"),
        "connection_termination_details": closed or None,
        "closed_by": closed_by(closed) if closed else None,
    }


def _known(direct: str, known: Known) -> Line:
    """Of its PROXY header, besides the client, and of its ClientHello. direct: address of the peer
    of its socket."""
    alpn = ",".join(name.replace(",", "\\x2c") for name in known.alpn)
    return {
        "downstream_direct_remote_address": direct or None,
        "proxy_tlvs": known.tlvs or None,
        "requested_server_name": known.sni or None,
        "alpn": alpn or None,
    }


def _origin(
    generation: int, picked: str, attempts: int, connect: float, first_byte: float, rehomed: int
) -> Line:
    """Why and how it came to its endpoint."""
    return {
        "generation": generation,
        "pick_reason": picked or None,
        "attempts": attempts,
        "rehomed": rehomed,
        "connect_ms": round(connect * 1000, 3) if connect else None,
        "first_byte_ms": round(first_byte * 1000, 3) if first_byte else None,
    }


def _identity(worker: int, number: str, unique: str) -> Line:
    """number, unique: ids now and when it was accepted; "" = it was refused then."""
    return {"worker": worker, "connection_id": number or None, "unique_id": unique or None}


def _refused(number: int) -> Line:
    """Instead of what else is said of why it ended. number: of the refusal, 0 = none."""
    why = refusal(number)
    if why is None:
        return {"limit": None, "count": 1}
    return {
        "response_flags": why.flags,
        "connection_termination_details": why.reason,
        "closed_by": "proxy",
        "limit": why.limit,
        "count": 1,
    }


def _tell(live: Live, kind: int, count: int, lines: int) -> None:
    """lines: how many were written of the one that says it."""
    if lines:
        tell_refusals(live, kind, count)
