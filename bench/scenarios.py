"""What is measured: one scenario on one peer gives one Measurement.

Runs in the bench process. A proxy and a backend are started anew for every measurement,
so no run inherits the memory, the pools or the closing connections of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import LoadError, Outcome
from bench.measure import CpuMeter, private_bytes, settle
from bench.peers import running

if TYPE_CHECKING:
    from bench.load import LoadGenerator
    from bench.peers import Peer, RunningPeer

WARM_CONNECTIONS = 4
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The load generator, and the CPU of the proxies (None: anywhere)."""

    load: LoadGenerator
    proxy_cpu: int | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One scenario on one peer, once. `cost` is None where no proxy runs.

    `machine_cost` is what the whole machine spent: load, backend and kernel included. `foreign`
    is the share of the time in which other programs had the proxy's CPU.
    """

    scenario: str
    peer: str
    round: int
    cost: float | None
    worker_cost: float | None
    machine_cost: float | None
    processes: int
    foreign: float | None
    rate: float
    outcome: Outcome
    settled: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """What tcpmux has to reach: a ratio to the best of the other proxies, or a cost of its own.

    of_p50: of the median latency instead of the cost.
    """

    most: float
    of_best: bool = True
    of_p50: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load and the unit its cost is given in.

    cost = CPU seconds * cost_scale / units (idle: bytes / connections);
    rate = units * rate_scale / seconds. A run without --scenario takes all.
    """

    name: str
    role: str
    arguments: tuple[str, ...]
    cost_unit: str
    cost_scale: float
    rate_unit: str
    rate_scale: float
    goal: Goal | None

    def measure(
        self, peer: Peer, machine: Machine, *, number: int, seconds: float, connections: int
    ) -> Measurement:
        """Round `number` on `peer`, about `seconds` long. Raises LoadError, StartError."""
        with (
            machine.load.backend(self.role) as backend,
            running(peer, backend, machine.proxy_cpu) as target,
        ):
            settled = target.settled
            foreign = machine_cost = None
            if self.name == "idle":
                cost, outcome, settled_again = _idle(machine, target, connections)
                settled = settled and settled_again
                worker_cost, processes = None, len(target.program.pids()) if target.program else 0
            else:
                meter = CpuMeter(target.program, machine.proxy_cpu) if target.program else None
                outcome = machine.load.run(list(self.arguments), target.port, seconds)
                use = meter.read() if meter else None
                processes, cost, worker_cost = 0, None, None
                if use is not None:
                    scale = self._scale(outcome)
                    cost, worker_cost = use.total * scale, use.worker * scale
                    # Ticks fall where timers do: of what is begun by the clock they say nothing.
                    machine_cost = None if "--rate" in self.arguments else use.machine * scale
                    processes, foreign = use.processes, use.foreign
        return Measurement(
            scenario=self.name,
            peer=peer.name,
            round=number,
            cost=cost,
            worker_cost=worker_cost,
            machine_cost=machine_cost,
            processes=processes,
            foreign=foreign,
            rate=outcome.units * self.rate_scale / outcome.seconds,
            outcome=outcome,
            settled=settled,
        )

    def _scale(self, outcome: Outcome) -> float:
        """From CPU seconds to the cost of one unit."""
        if outcome.units == 0:
            raise LoadError(outcome.first_error or "nothing was done")
        return self.cost_scale / outcome.units


def _idle(
    machine: Machine, target: RunningPeer, connections: int
) -> tuple[float | None, Outcome, bool]:
    """User-space bytes per idle connection, and whether the proxy came to rest each time."""
    program = target.program
    settled = True
    # What a proxy takes once, for its first connection, is not a cost per connection.
    with machine.load.hold(WARM_CONNECTIONS, target.port, IDLE_SECONDS) as client:
        client.release()
    if program is not None:
        settled = settle(program)
    before = private_bytes(program.pids()) if program else 0
    with machine.load.hold(connections, target.port, IDLE_SECONDS) as client:
        if client.held == 0:
            raise LoadError(client.release().first_error or "no connection was held")
        if program is not None:
            settled = settle(program) and settled
        after = private_bytes(program.pids()) if program else 0
        cost = (after - before) / client.held if program else None
        return cost, client.release(), settled


def _connect_limit() -> int:
    """Connections of one run: fewer than half of the ports that an outgoing one can take.

    Each leaves a port in TIME_WAIT, and the kernel first tries the ports of one parity:
    beyond half of them a connect spends its time searching, which is not the proxy's cost.
    """
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    low, high = (int(word) for word in text.split())
    return max(1, (high - low + 1) // 2 - 200)


def _stream(name: str, direction: str, piece: int, goal: Goal | None) -> Scenario:
    """Eight connections with at most `piece` bytes under way on each."""
    return Scenario(
        name,
        {"down": "source", "up": "sink", "both": "echo"}[direction],
        (
            "stream",
            "--direction",
            direction,
            "--connections",
            "8",
            "--piece",
            str(piece),
            "--limit",
            str(8 << 30),
        ),
        "s/GB",
        1e9,
        "GB/s",
        1e-9,
        goal,
    )


def _exchange(
    name: str,
    mode: str,
    connections: int,
    message: int,
    goal: Goal | None,
    limit: int = 0,
    more: tuple[str, ...] = (),
) -> Scenario:
    """`mode` is roundtrip (the next one on the same connection) or connect (on a new one)."""
    arguments = [mode, "--connections", str(connections), "--message", str(message), *more]
    if limit:
        arguments += ["--limit", str(limit)]
    unit = "us/round trip" if mode == "roundtrip" else "us/connection"
    return Scenario(name, "echo", tuple(arguments), unit, 1e6, "1000/s", 1e-3, goal)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        # Flat out: queues as long as the kernel lets them grow, tens of MB.
        _stream("flood-down", "down", 16 << 20, Goal(0.45)),
        _stream("flood-up", "up", 16 << 20, Goal(0.45)),
        # Never more than caches hold: nearer to a network's pace.
        _stream("stream-down", "down", 1 << 20, None),
        _stream("stream-up", "up", 1 << 20, None),
        # Every connection both ways at once; a byte counts once a direction.
        _stream("stream-both", "both", 1 << 20, None),
        _exchange("roundtrip", "roundtrip", 32, 64, Goal(0.88)),
        _exchange("roundtrip-256", "roundtrip", 256, 64, Goal(0.88)),
        _exchange("roundtrip-64k", "roundtrip", 32, 64 << 10, Goal(0.75)),
        _exchange("connect", "connect", 16, 64, Goal(0.90), _connect_limit()),
        _exchange("latency", "roundtrip", 1, 64, Goal(0.40, of_p50=True)),
        _exchange("latency-connect", "connect", 1, 64, Goal(0.80, of_p50=True), _connect_limit()),
        # Ended by the client with RST, so that both ends have to be torn down at once.
        _exchange(
            "connect-rst", "connect", 16, 64, None, _connect_limit(), more=("--close", "rst")
        ),
        # Begun by the clock, so that who is late has a queue: what users see of a busy service.
        _exchange("open", "roundtrip", 64, 64, None, more=("--rate", "5000")),
        Scenario(
            "idle",
            "echo",
            (),
            "bytes/connection",
            1.0,
            "1000 opened/s",
            1e-3,
            Goal(350.0, of_best=False),
        ),
    )
}
# What is measured unless asked for: those with a goal, and the latency of an open loop.
STANDARD = [name for name, one in SCENARIOS.items() if one.goal is not None or name == "open"]
