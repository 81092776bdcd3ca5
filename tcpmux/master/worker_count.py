"""Changes of the number of workers. Runs in the master."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tcpmux.config import Config
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, InForce
from tcpmux.master.limits import usable_cpus
from tcpmux.shm._declared import MAX_SHARDS


def wanted_workers(config: Config, most: int) -> int:
    """How many workers the configuration asks for. auto: one per usable CPU, or as many as a CPU
    quota keeps busy."""
    return min(config.workers or usable_cpus().workers, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWorkers(Change):
    """most: as many as an address has listening sockets."""

    kind = "workers"

    count: object
    most: int

    def plan(self, now: InForce) -> InForce:
        count, most = self.count, self.most
        if type(count) is not int or not 1 <= count <= most:
            raise Refusal(
                "refused" if type(count) is int and most < count <= MAX_SHARDS else "invalid",
                f"workers: 1 to {most}, got {count!r} (each address was opened with {most} "
                "listening sockets; more need a restart with `workers` in the file)",
            )
        return replace(now, workers=count)
