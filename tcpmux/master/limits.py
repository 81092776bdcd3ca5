"""How many connections, pipes and processes this machine allows. Runs in the master."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass

from tcpmux.errors import TcpmuxError
from tcpmux.master.cpu_quota import cpu_quota
from tcpmux.shm._declared import MAX_SHARDS

# Descriptors a worker needs besides connections and listeners: standard streams, epoll, its
# channel, signals, and room for listeners that a reload adds.
RESERVED = 64
FEW_DESCRIPTORS = 4096
MAX_CONNECTIONS = 1_000_000  # a worker; beyond, address space is spent for nothing


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    connections: int
    pipes: int


def raise_nofile() -> int:
    """Raises RLIMIT_NOFILE to its hard limit, as proxies do; returns the limit in force."""
    # Of processes as well: those of an unprivileged user are counted, root's are not.
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return MAX_CONNECTIONS * 4 if hard == resource.RLIM_INFINITY else hard


def shard_count(workers: int, cpus: int, nofile: int) -> int:
    """Listening sockets of each TCP address, which is also the most workers there can be.

    Fixed for the life of the instance, so there are some to spare for more workers later,
    unless descriptors are few.
    """
    least = max(workers, cpus)
    return min(MAX_SHARDS, least if nofile < FEW_DESCRIPTORS else max(least, 2 * cpus, 8))


def worker_limits(nofile: int, listening_sockets: int) -> WorkerLimits:
    """What one worker may hold under RLIMIT_NOFILE = nofile.

    Two descriptors a connection, and a pipe (two more) for every fourth: HAProxy's rule for
    maxpipes, and enough, as a half needs a pipe only while it splices or waits. Raises
    TcpmuxError if that leaves no connection.
    """
    free = nofile - RESERVED - 2 * listening_sockets
    connections = min(free * 2 // 5, MAX_CONNECTIONS)
    if connections < 1:
        raise TcpmuxError(
            f"RLIMIT_NOFILE is {nofile}, too low for {listening_sockets} listening sockets: "
            f"raise it (ulimit -n, LimitNOFILE=) to at least "
            f"{RESERVED + 2 * listening_sockets + 100}"
        )
    return WorkerLimits(connections, max(1, connections // 4))


@dataclass(frozen=True, slots=True)
class Cpus:
    """numbers: the CPUs that this process may run on. quota: how many of them it may use at a time;
    infinite if nothing limits that."""

    numbers: tuple[int, ...]
    quota: float = math.inf

    @property
    def is_limited(self) -> bool:
        return self.quota < len(self.numbers)

    @property
    def workers(self) -> int:
        """As many as can be busy, the last one in part."""
        return max(1, min(len(self.numbers), math.ceil(min(self.quota, MAX_SHARDS))))

    @property
    def to_pin(self) -> tuple[int, ...]:
        """Each for one worker. Under a quota none: others that have one would take the same."""
        return () if self.is_limited else self.numbers


def usable_cpus() -> Cpus:
    return Cpus(tuple(sorted(os.sched_getaffinity(0))), cpu_quota())
