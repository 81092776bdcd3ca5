"""What `status` shows, read from shared memory without asking anybody. Runs in control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcpmux.shm._shm import (
    ABSENT,
    CLOSE_REASONS,
    ORDER_RETIRE,
    PRESENT,
    UPGRADE_STATES,
    Live,
    Table,
)
from tcpmux.shm.image import DestinationRow, Image, RouteRow, SlotCounters

# Ends of a connection that never reached an endpoint.
REJECTED = ("connect_failed", "connect_timeout", "no_endpoint", "local_error")


def _closed_by_reason(counters: SlotCounters) -> dict[str, int]:
    return dict(zip(CLOSE_REASONS, counters.closed, strict=True))


class StatusReader:
    """Reads the route table and the workers' regions, given as descriptors of their memfds.

    Counters count since the start of the instance, over all lives of all workers; bytes
    are counted while a connection lives. Raises ValueError for a descriptor that is not
    a region of this build.
    """

    def __init__(self, table_fd: int, live_fds: Sequence[int]) -> None:
        self._table = Table.attach(table_fd)
        self._lives = [Live.attach(fd) for fd in live_fds]

    def _sum(self, slot: int) -> SlotCounters:
        total = self._lives[0].slot(slot)
        for live in self._lives[1:]:
            total += live.slot(slot)
        return total

    def read(self) -> dict[str, Any]:
        """The status object without version, config and admin, which are not in memory."""
        generation, image = self._table.read()
        return {
            "pid": self._table.master_pid,
            "state": "draining" if self._table.draining else "running",
            "generation": generation,
            "started_at": self._table.started_at,
            "upgrade": self._upgrade(),
            "workers": [self._worker(live) for live in self._lives if live.guardian_pid],
            "routes": [self._route(image, index) for index in range(len(image.routes))],
        }

    def _upgrade(self) -> dict[str, Any]:
        count, state, error = self._table.upgrade
        return {"count": count, "state": UPGRADE_STATES[state], "error": error}

    @staticmethod
    def _worker(live: Live) -> dict[str, Any]:
        # Its region outlives a worker: 0 says that there is none at the moment.
        running = live.presence != ABSENT and Path(f"/proc/{live.pid}").exists()
        if live.orders & ORDER_RETIRE:
            state = "retiring"
        else:
            state = "running" if live.presence == PRESENT else "away"
        return {
            "id": live.worker,
            "pid": live.pid if running else 0,
            "guardian_pid": live.guardian_pid,
            "state": state,
            "generation": live.generation_seen,
            "connections": live.connections,
            "connections_limit": live.capacity,
            "starts": live.starts,
            "counters": live.counters(),
        }

    def _route(self, image: Image, index: int) -> dict[str, Any]:
        route: RouteRow = image.routes[index]
        counters = self._sum(route.slot)
        closed = _closed_by_reason(counters)
        return {
            "name": route.name,
            "listen": [str(row.address) for row in image.listeners if row.route == index],
            "connect_timeout_ms": route.connect_timeout_ms,
            "idle_timeout_ms": route.idle_timeout_ms,
            "connections_active": counters.active,
            "connections_total": counters.opened,
            "connections_rejected_total": sum(closed[reason] for reason in REJECTED),
            "closed": closed,
            "destinations": [self._destination(row) for row in route.destinations],
        }

    def _destination(self, row: DestinationRow) -> dict[str, Any]:
        counters = self._sum(row.slot)
        return {
            "name": row.name,
            "weight": row.weight,
            "file_weight": row.file_weight,
            "effective_weight": row.effective_weight,
            "connect_timeout_ms": row.connect_timeout_ms,
            "idle_timeout_ms": row.idle_timeout_ms,
            "connections_active": counters.active,
            "connections_total": counters.opened,
            "connect_failures_total": counters.connect_failures,
            "connect_timeouts_total": counters.connect_timeouts,
            "bytes_in_total": counters.bytes_in,
            "bytes_out_total": counters.bytes_out,
            "closed": _closed_by_reason(counters),
            "endpoints": [
                {
                    "address": str(endpoint.address),
                    "turns": turns,
                    "connections_active": own.active,
                    "connections_total": own.opened,
                    "connect_failures_total": own.connect_failures,
                }
                for endpoint, turns in Counter(row.endpoints).items()
                for own in (self._sum(endpoint.slot),)
            ],
        }
