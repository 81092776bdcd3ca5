"""What `status` shows, read from shared memory without asking anybody. Runs in control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tcpmux.processes import is_alive
from tcpmux.shm._declared import (
    ABSENT,
    CLOSE_REASONS,
    CONTROL,
    ORDER_RETIRE,
    PICK_REASONS,
    PRESENT,
    PROGRAMS,
    SLOT_COUNTERS,
    UPGRADE_STATES,
)
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.counters import REJECTED, SlotCounters
from tcpmux.shm.image import (
    ADMIN_STATES,
    BALANCES,
    HEALTHS,
    DestinationRow,
    Image,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.mirror_status import mirror_status
from tcpmux.shm.serving import is_unavailable, rule_serves
from tcpmux.shm.sticky import sticky_by
from tcpmux.shm.view import View


def _counters(counters: SlotCounters) -> dict[str, int]:
    """All that are of no reason, by name."""
    return {name: getattr(counters, name) for name in SLOT_COUNTERS}


def _closed_by_reason(counters: SlotCounters) -> dict[str, int]:
    return dict(zip(CLOSE_REASONS, counters.closed, strict=True))


def is_running(live: Live) -> bool:
    """Whether a worker is there now: its region outlives it."""
    return live.presence != ABSENT and is_alive(live.pid)


def is_any_at_work(lives: Iterable[Live]) -> bool:
    """Whether one of these workers runs, and is neither stopped nor hangs."""
    return any(live.presence == PRESENT and is_running(live) for live in lives)


def worker(live: Live) -> dict[str, Any]:
    """What every view shows of a worker."""
    if live.orders & ORDER_RETIRE:
        state = "retiring"
    else:
        state = "running" if live.presence == PRESENT else "away"  # stopped, hanging or dead
    return {
        "id": live.worker,
        "pid": live.pid if is_running(live) else 0,
        "state": state,
        "generation": live.generation_seen,
        "connections": live.connections,
        "connections_limit": live.capacity,
        "starts": live.starts,
    }


@dataclass(frozen=True, slots=True)
class Program:
    """A program beside the workers, as the master sees it. pid: 0 = it does not run."""

    name: str
    pid: int
    is_at_work: bool
    starts: int
    hangs: int


def programs(table: Table) -> Iterator[Program]:
    """Those that should be running."""
    for number, name in enumerate(PROGRAMS):
        pid, presence, starts, hangs = table.program(number)
        if presence != ABSENT:
            pid = pid if is_alive(pid) else 0
            yield Program(name, pid, presence == PRESENT and pid > 0, starts, hangs)


def is_first_control(table: Table) -> bool:
    """Whether no control process before this one has seen what is counted so far."""
    _, _, starts, _ = table.program(CONTROL)
    return starts <= 1


def _program(program: Program) -> dict[str, Any]:
    return {
        "name": program.name,
        "pid": program.pid,
        "state": "running" if program.is_at_work else "away",
        "starts": program.starts,
        "hangs": program.hangs,
    }


def instance(table: Table, generation: int) -> dict[str, Any]:
    """What every view shows of the instance."""
    return {
        "pid": table.master_pid,
        "state": "draining" if table.draining else "running",
        "generation": generation,
        "started_at": table.started_at,
    }


def listens(image: Image) -> list[list[str]]:
    """The addresses of each route, in their order."""
    found: list[list[str]] = [[] for _ in image.routes]
    for row in image.listeners:
        found[row.route].append(str(row.address))
    return found


def destination(row: DestinationRow) -> dict[str, Any]:
    """What every view shows of a destination: how it is configured."""
    return {
        "name": row.name,
        "weight": row.weight,
        "file_weight": row.file_weight,
        "effective_weight": row.effective_weight,
        "state": ADMIN_STATES[row.state],
        "slow_start_percent": row.slow_start_percent,
        "ramp": row.slow_start_percent,
        "panic": row.panic,
        "unresolved": row.unresolved,
        "balance": BALANCES[row.rules.balance],
        "max_connections": row.rules.max_connections,
    }


def rule(route: RouteRow, row: RuleRow) -> dict[str, Any]:
    """What every view shows of a rule. destinations: those that have weight, or had by the file."""
    weights = zip(
        route.destinations, row.weights, row.file_weights, row.effective_weights, strict=True
    )
    return {
        "name": row.name,
        "conditions": str(row.rule),
        "reject": row.rule.reject,
        "available": row.rule.reject or rule_serves(route, row),
        "destinations": [
            {
                "name": of.name,
                "weight": weight,
                "file_weight": in_file,
                "effective_weight": effective,
            }
            for of, weight, in_file, effective in weights
            if weight or in_file or effective
        ],
    }


def endpoints(row: DestinationRow) -> list[tuple[int, dict[str, Any]]]:
    """(counter slot, what every view shows) of each endpoint, once. turns: how many it takes in a
    round; out of service it takes none."""
    taken = Counter(row.turns)
    return [
        (
            endpoint.slot,
            {
                "address": str(endpoint.address),
                "state": ADMIN_STATES[endpoint.state],
                "health": HEALTHS[endpoint.health],
                "slow_start_percent": endpoint.slow_start_percent,
                "ramp": endpoint.slow_start_percent,
                "state_until": endpoint.until or None,
                "priority": endpoint.rules.priority,
                "max_connections": endpoint.rules.max_connections,
                "turns": taken[index],
            },
        )
        for index, endpoint in enumerate(row.endpoints)
    ]


HealthDetail = Callable[[str, str, str], dict[str, Any]]  # route, destination, address
NameDetail = Callable[[str, str], list[dict[str, Any]]]  # route, destination


def no_detail(_route: str, _destination: str, _address: str) -> dict[str, Any]:
    """Where nobody knows more of an endpoint than the route table."""
    return {}


def with_endpoints(route: str, row: DestinationRow, health: HealthDetail) -> dict[str, Any]:
    """A destination and its endpoints, without counters."""
    return {
        **destination(row),
        "endpoints": [
            {**shown, **health(route, row.name, shown["address"])} for _, shown in endpoints(row)
        ],
    }


class StatusReader:
    """Counters count since the start of the instance, over all lives of all workers; bytes are
    counted while a connection lives."""

    def __init__(
        self,
        view: View,
        health: HealthDetail = no_detail,
        names: NameDetail = lambda _route, _destination: [],
    ) -> None:
        self._view = view
        self._health = health
        self._names = names

    def read(self) -> dict[str, Any]:
        """The status object without version, config and admin, which are not in memory."""
        overview, routes = self.in_parts()
        return {**overview, "routes": list(routes)}

    def in_parts(self) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """read() without the routes, and each of its routes, which are many."""
        table = self._view.table
        generation, image = self._view.image()
        workers = [self._worker(live) for live in self._view.lives if live.guardian_pid]
        overview = {
            **instance(table, generation),
            "upgrade": self._upgrade(),
            "buffers": self._buffers(workers),
            "workers": workers,
            "programs": [_program(program) for program in programs(table)],
        }
        return overview, map(self._route, image.routes, listens(image))

    def _upgrade(self) -> dict[str, Any]:
        count, state, error = self._view.table.upgrade
        return {"count": count, "state": UPGRADE_STATES[state], "error": error}

    def _buffers(self, workers: list[dict[str, Any]]) -> dict[str, int]:
        *_, per_source, total, pipes = self._view.table.buffers
        return {
            "pinned_bytes": self._view.pinned,
            "pinned_bytes_limit": total,
            "pinned_bytes_limit_per_source": per_source,
            "pipe_bytes": sum(worker["pipe_bytes"] for worker in workers),
            "pipe_bytes_limit": pipes,
            "pipe_fallbacks_total": sum(worker["counters"]["pipe_fallbacks"] for worker in workers),
        }

    @staticmethod
    def _worker(live: Live) -> dict[str, Any]:
        return {
            **worker(live),
            "guardian_pid": live.guardian_pid,
            "pipes": live.pipes,
            "pipe_bytes": live.pipe_bytes,
            "counters": live.counters(),
        }

    def _route(self, route: RouteRow, listen: list[str]) -> dict[str, Any]:
        counters = self._view.counters.slot(route.slot)
        closed = _closed_by_reason(counters)
        return {
            "name": route.name,
            "listen": listen,
            "sticky": sticky_by(route.rules) or None,
            "connect_timeout_ms": route.rules.connect_timeout_ms,
            "idle_timeout_ms": route.rules.idle_timeout_ms,
            "connections_active": counters.active,
            "connections_total": counters.opened,
            "max_connections": route.rules.max_connections,
            "available": not is_unavailable(route),
            "connections_denied_total": counters.denied,
            "connections_looped_total": counters.looped,
            "connections_rejected_total": sum(closed[reason] for reason in REJECTED),
            "counters": _counters(counters),
            "closed": closed,
            "mirror": mirror_status(self._view, route, counters),
            "destinations": [self._destination(route.name, row) for row in route.destinations],
            "rules": [self._rule(route, row) for row in route.pick_rules],
        }

    def _rule(self, route: RouteRow, row: RuleRow) -> dict[str, Any]:
        counters = self._view.counters.slot(row.slot)
        return {
            **rule(route, row),
            "connections_active": counters.active,
            "connections_total": counters.opened,
            "closed": _closed_by_reason(counters),
        }

    def _destination(self, route: str, row: DestinationRow) -> dict[str, Any]:
        counters = self._view.counters.slot(row.slot)
        return {
            **destination(row),
            "connect_timeout_ms": row.rules.connect_timeout_ms,
            "idle_timeout_ms": row.rules.idle_timeout_ms,
            "connections_active": counters.active,
            "connections_waiting": self._view.waiting(row.slot),
            "connections_total": counters.opened,
            "connect_failures_total": counters.connect_failures,
            "connect_timeouts_total": counters.connect_timeouts,
            "retries_total": counters.retries,
            "bytes_in_total": counters.bytes_in,
            "bytes_out_total": counters.bytes_out,
            "counters": _counters(counters),
            "closed": _closed_by_reason(counters),
            "picked": dict(zip(PICK_REASONS, counters.picked, strict=True)),
            "names": self._names(route, row.name),
            "endpoints": [
                {
                    **shown,
                    **self._health(route, row.name, shown["address"]),
                    "connections_active": own.active,
                    "connections_total": own.opened,
                    "connect_failures_total": own.connect_failures,
                }
                for slot, shown in endpoints(row)
                for own in (self._view.counters.slot(slot),)
            ],
        }
