"""What is done to a proxy under load, one thing at a time (overlaps.py: several at once). Each
event acts a number of times on a target.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.stress.targets import Target, Tcpmux, incarnation, left_of, send_signal
from tests.support import patient, wait_for

STOP_TIME = (0.3, 0.7)  # s; idle queues hide what is lost with them
CALM_TIME = 3.0  # s
RELOAD_LIMIT = patient(5)
PROBES = 60  # connections to a proxy with a stopped worker, one after the other
ENOUGH = 5  # of them without an answer
KILLED_AFTER = 8.0  # s; a guardian's patience is 5


@dataclass(slots=True)
class Acted:
    """What an event did: times it acted, connections it made itself, figures of its own."""

    times: int = 0
    connections: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def _full_queues(target: Target, chance: Random) -> Iterator[None]:
    """Stops the workers for a while, so that connections wait in their queues; the block
    runs before they go on."""
    pids = target.workers()
    send_signal(pids, signal.SIGSTOP)
    try:
        time.sleep(chance.uniform(*STOP_TIME))
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


def calm(target: Target, times: int, chance: Random) -> Acted:
    """Nothing: what the delays are without any event."""
    del target, chance
    time.sleep(CALM_TIME)
    return Acted(times)


def worker_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to a worker; now and then to the next incarnation at its very beginning."""
    acted = Acted()
    for _ in range(times):
        if not _kill_one(target, chance, acted):
            break
        time.sleep(chance.choice([chance.uniform(0, 0.005), *[chance.uniform(0.01, 0.08)] * 3]))
    return acted


def queued_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to a worker while all of them are stopped and their queues fill."""
    acted = Acted()
    for _ in range(times):
        with _full_queues(target, chance):
            if not _kill_one(target, chance, acted):
                break
        time.sleep(chance.uniform(0.01, 0.08))
    return acted


def _kill_one(target: Target, chance: Random, acted: Acted) -> bool:
    """False: the proxy has ended."""
    with suppress(AssertionError):
        pids = wait_for(target.workers, "a worker", patient(1))
        send_signal([chance.choice(pids)], signal.SIGKILL)
        acted.times += 1
        return True
    acted.notes.append("has ended with its worker")
    return False


def worker_count(target: Target, times: int, chance: Random) -> Acted:
    """Four workers, one, and four again, with full queues as they become fewer."""
    acted = Acted()
    for _ in range(times):
        with _full_queues(target, chance):
            target.set_workers(1)
        time.sleep(chance.uniform(0.5, 1.0))
        target.set_workers(4)
        time.sleep(chance.uniform(0.5, 1.0))
        acted.times += 1
    return acted


def master_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to the master, sometimes with a worker, and a new one."""
    acted = Acted()
    slowest = 0.0
    for number in range(times):
        before = target.incarnations()
        together = target.workers()[:1] if number % 2 else []
        target.kill_master()
        send_signal(together, signal.SIGKILL)
        began = time.monotonic()
        target.start()
        slowest = max(slowest, time.monotonic() - began)
        acted.times += 1
        time.sleep(chance.uniform(0.2, 0.5))
    below = target.incarnations()
    strays = {old for old in before - below if incarnation(old.pid) == old}
    acted.notes.append(
        f"supervised again after at most {slowest:.2f} s"
        if not strays
        else f"{len(strays)} processes without a master"
    )
    return acted


def upgrade(target: Target, times: int, chance: Random) -> Acted:
    """Another build in place of the running one; nothing of the old one may stay."""
    acted = Acted()
    slowest = 0.0
    left = set()
    for number in range(times):
        before = target.incarnations()
        began = time.monotonic()
        target.upgrade()
        left = left_of(before)
        slowest = max(slowest, time.monotonic() - began)
        if left and isinstance(target, Tcpmux):
            names = [Path(f"/proc/{old.pid}/cmdline").read_text().strip("\0") for old in left]
            raise AssertionError(f"old processes live after upgrade {number + 1}: {names}")
        acted.times += 1
        time.sleep(chance.uniform(0.0, 0.1))
    acted.notes.append(
        f"{len(left)} old processes stay with their connections"
        if left
        else f"all of it new after {slowest:.2f} s"
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
        return acted
    regions = [live for live in target.regions() if live.guardian_pid]
    delays = []
    due = time.monotonic()
    for number in range(times):
        before = min(live.generation_seen for live in regions)
        began = time.monotonic()
        target.reload(2 + number % 7)
        while min(live.generation_seen for live in regions) == before:
            if time.monotonic() - began > RELOAD_LIMIT:
                raise AssertionError(f"reload {number} is not in force after {RELOAD_LIMIT:g} s")
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
    """SIGSTOP to a worker, for ever: connections that come to its queue are served, and those
    that it has go on when its guardian has lost patience."""
    acted = Acted()
    slowest = 0.0
    unanswered = 0
    for _ in range(times):
        stopped = incarnation(chance.choice(target.workers()))
        assert stopped is not None
        send_signal([stopped.pid], signal.SIGSTOP)
        for _ in range(PROBES):
            began = time.monotonic()
            unanswered += not _answered(target.port)
            acted.connections += 1
            slowest = max(slowest, time.monotonic() - began)
            if unanswered == ENOUGH:
                break
        if left_of({stopped}, KILLED_AFTER):
            send_signal([stopped.pid], signal.SIGCONT)
            acted.notes.append("nobody ends the stopped one")
        acted.times += 1
    acted.notes.append(
        f"slowest of {acted.connections} probes {slowest * 1000:.0f} ms"
        + (f", {unanswered} without an answer in 3 s" if unanswered else "")
    )
    if unanswered and isinstance(target, Tcpmux):
        raise AssertionError(acted.notes[-1])
    return acted


def _answered(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), patient(3)) as probe:
        probe.sendall(b"hello")
        return probe.recv(5) != b""
    return False
