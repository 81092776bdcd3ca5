"""What is done to a proxy under load. Each event acts a number of times on a target."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tests.stress.targets import Target, Tcpmux, is_alive

STOP_TIME = (0.3, 0.7)  # s; idle queues hide what is lost with them
PROBES = 60  # connections to a proxy with a stopped worker, one after the other
ENOUGH = 5  # of them without an answer


@dataclass(slots=True)
class Acted:
    """What an event did: times it acted, and figures of its own in words."""

    times: int = 0
    notes: list[str] = field(default_factory=list)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _with_full_queues(target: Target, chance: Random, act: Callable[[], None]) -> None:
    """Stops the workers for a while, so that connections wait in their queues, and acts."""
    pids = target.workers()
    _signal(pids, signal.SIGSTOP)
    time.sleep(chance.uniform(*STOP_TIME))
    try:
        act()
    finally:
        _signal(pids, signal.SIGCONT)


def worker_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to a worker."""
    return _kill_workers(target, times, chance, full_queues=False)


def queued_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to a worker while all of them are stopped and their queues fill."""
    return _kill_workers(target, times, chance, full_queues=True)


def _kill_workers(target: Target, times: int, chance: Random, *, full_queues: bool) -> Acted:
    acted = Acted()
    for _ in range(times):
        pids = target.workers()
        if not pids:
            acted.notes.append("no worker left")
            break
        kill = partial(_signal, [chance.choice(pids)], signal.SIGKILL)
        if full_queues:
            _with_full_queues(target, chance, kill)
        else:
            kill()
        acted.times += 1
        time.sleep(chance.uniform(0.01, 0.08))
    return acted


def worker_count(target: Target, times: int, chance: Random) -> Acted:
    """Four workers, one, and four again, with full queues as they become fewer."""
    acted = Acted()
    for _ in range(times):
        _with_full_queues(target, chance, lambda: target.set_workers(1))
        time.sleep(chance.uniform(0.5, 1.0))
        target.set_workers(4)
        time.sleep(chance.uniform(0.5, 1.0))
        acted.times += 1
    return acted


def master_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to the master, and a new one."""
    acted = Acted()
    slowest = 0.0
    for _ in range(times):
        began = time.monotonic()
        target.restart_master()
        slowest = max(slowest, time.monotonic() - began)
        acted.times += 1
        time.sleep(chance.uniform(0.2, 0.5))
    acted.notes.append(f"supervised again after at most {slowest:.2f} s")
    return acted


def upgrade(target: Target, times: int, chance: Random) -> Acted:
    """Another build in place of the running one."""
    acted = Acted()
    slowest = 0.0
    left: set[int] = set()
    for _ in range(times):
        old = target.workers()
        began = time.monotonic()
        target.upgrade()
        slowest = max(slowest, time.monotonic() - began)
        left = {pid for pid in [*left, *old] if is_alive(pid)}
        acted.times += 1
        time.sleep(chance.uniform(0.0, 0.1))
    acted.notes.append(
        f"{len(left)} old processes stay with their connections"
        if left
        else f"no old process after at most {slowest:.2f} s"
    )
    return acted


def reload(target: Target, times: int, chance: Random) -> Acted:
    """Another weight, a hundred times a second."""
    del chance
    acted = Acted()
    if not isinstance(target, Tcpmux):
        for number in range(times):
            target.reload(number)
            acted.times += 1
            time.sleep(0.2)
        return acted
    lives = target.regions()
    delays = []
    due = time.monotonic()
    for number in range(times):
        before = min(live.generation_seen for live in lives)
        began = time.monotonic()
        target.reload(2 + number % 7)
        while min(live.generation_seen for live in lives) == before:
            if time.monotonic() - began > 5:
                raise AssertionError(f"reload {number} is not in force after 5 s: seed as printed")
            time.sleep(0.0002)
        delays.append(time.monotonic() - began)
        acted.times += 1
        due += 0.01
        time.sleep(max(0.0, due - time.monotonic()))
    delays.sort()
    acted.notes.append(
        f"in every worker after {delays[len(delays) // 2] * 1000:.1f} ms (median), "
        f"{delays[int(len(delays) * 0.99)] * 1000:.1f} (p99), {delays[-1] * 1000:.1f} (slowest)"
    )
    return acted


def worker_stop(target: Target, times: int, chance: Random) -> Acted:
    """SIGSTOP to a worker, for ever: connections that come to its queue are served."""
    acted = Acted()
    slowest = 0.0
    unanswered = 0
    for _ in range(times):
        stopped = chance.choice(target.workers())
        _signal([stopped], signal.SIGSTOP)
        for _ in range(PROBES):
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", target.port), 3) as probe:
                    probe.sendall(b"hello")
                    probe.recv(5)
            except OSError:
                unanswered += 1
            slowest = max(slowest, time.monotonic() - began)
            if unanswered == ENOUGH:
                break
        time.sleep(3)  # past the guardian's patience
        _signal([stopped], signal.SIGCONT)  # for who has none
        acted.times += 1
    acted.notes.append(
        f"slowest of {PROBES * times} probes {slowest * 1000:.0f} ms"
        + (f", {unanswered} without an answer in 3 s" if unanswered else "")
    )
    return acted


@dataclass(frozen=True, slots=True)
class Event:
    """full, quick, peers: how often it acts in which case."""

    act: Callable[[Target, int, Random], Acted]
    full: int
    quick: int
    peers: int


EVENTS = {
    "worker-kill": Event(worker_kill, 1000, 40, 20),
    "queued-kill": Event(queued_kill, 50, 3, 5),
    "worker-count": Event(worker_count, 10, 1, 3),
    "master-kill": Event(master_kill, 10, 1, 1),
    "upgrade": Event(upgrade, 100, 2, 1),
    "reload": Event(reload, 1000, 100, 5),
    "worker-stop": Event(worker_stop, 2, 0, 1),
}
