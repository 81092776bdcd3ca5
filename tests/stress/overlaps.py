"""Events that come before the last one is over, as they do when something goes wrong. Only
tcpmux has a counterpart for what they overlap.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from random import Random

from tcpmux.shm._declared import PRESENT
from tests.stress.events import Acted
from tests.stress.targets import (
    Target,
    Tcpmux,
    Unsupported,
    incarnation,
    is_dying,
    is_stopped,
    send_signal,
)
from tests.support import wait_for

UPGRADE_TIME = 1.0  # s, about: from the signal to the last worker replaced


def _ours(target: Target) -> Tcpmux:
    if not isinstance(target, Tcpmux):
        raise Unsupported
    return target


def _kill_worker(target: Tcpmux, chance: Random) -> None:
    pids = target.workers()
    if pids:
        send_signal([chance.choice(pids)], signal.SIGKILL)


def _pause(chance: Random, longest: float) -> None:
    time.sleep(chance.uniform(0, longest))


def _settle(target: Tcpmux) -> None:
    send_signal(target.workers(), signal.SIGCONT)
    wait_for(partial(_no_upgrade, target), "the end of any upgrade")
    wait_for(partial(_has_four, target), "four workers at work")


def _has_four(target: Tcpmux) -> bool:
    """Asks for them each time: a signal of before may be taken after an order of the API."""
    target.want(4)
    return target.whole()


def _no_upgrade(target: Tcpmux) -> bool:
    status = target.status()
    return status is not None and status["upgrade"]["state"] != "running"


def handover_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers while one of them hands its connections to the others."""
    ours = _ours(target)
    acted = Acted()
    for _ in range(times):
        send_signal([ours.pid], signal.SIGTTOU)
        for _ in range(3):
            _pause(chance, 0.004)
            _kill_worker(ours, chance)
        _pause(chance, 0.02)
        send_signal([ours.pid], signal.SIGTTIN)
        _pause(chance, 0.1)
        acted.times += 1
    _settle(ours)
    return acted


def upgrade_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers, and now and then another number of them, during an upgrade."""
    ours = _ours(target)
    acted = Acted()
    for _ in range(times):
        send_signal([ours.pid], signal.SIGUSR2)
        for _ in range(10):
            _pause(chance, UPGRADE_TIME / 5)
            if chance.random() < 0.7:
                _kill_worker(ours, chance)
            else:
                send_signal([ours.pid], chance.choice([signal.SIGTTIN, signal.SIGTTOU]))
        wait_for(partial(_upgrade_is_over, ours), "the end of the upgrade")
        acted.times += 1
    _settle(ours)
    return acted


def _upgrade_is_over(target: Tcpmux) -> bool:
    status = target.status()
    if status is not None and status["upgrade"]["state"] == "failed":
        raise AssertionError(f"upgrade failed: {status['upgrade']['error']}")
    return status is not None and status["upgrade"]["state"] == "idle"


def upgrade_master_kill(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to the master at any point of an upgrade, and a new one."""
    ours = _ours(target)
    acted = Acted()
    for _ in range(times):
        send_signal([ours.pid], signal.SIGUSR2)
        _pause(chance, UPGRADE_TIME)
        _replace_master(ours)
        acted.times += 1
        _pause(chance, 0.3)
    _settle(ours)
    return acted


def mixed(target: Target, times: int, chance: Random) -> Acted:
    """All of it in random order, mostly before the last one is over."""
    ours = _ours(target)
    acts: list[tuple[int, Callable[[], None]]] = [
        (8, lambda: _kill_worker(ours, chance)),
        (2, lambda: _kill_guardian(ours, chance)),
        (2, lambda: send_signal(ours.workers()[:2], signal.SIGSTOP)),
        (2, lambda: send_signal(ours.workers(), signal.SIGCONT)),
        (3, lambda: send_signal([ours.pid], signal.SIGTTOU)),
        (3, lambda: send_signal([ours.pid], signal.SIGTTIN)),
        (3, lambda: ours.reload(chance.randint(1, 9))),
        (2, lambda: send_signal([ours.pid], signal.SIGUSR2)),
        (1, lambda: _replace_master(ours)),
    ]
    acted = Acted()
    for _ in range(times):
        (act,) = chance.choices([act for _, act in acts], [weight for weight, _ in acts])
        act()
        acted.times += 1
        time.sleep(chance.choice([0.0, chance.uniform(0, 0.01), chance.uniform(0.01, 0.3)]))
    _settle(ours)
    return acted


def _replace_master(target: Tcpmux) -> None:
    target.kill_master()
    target.start()


def _kill_guardian(target: Tcpmux, chance: Random) -> None:
    """Its worker makes another, which has to be there before the worker may be killed; so it
    has to be one that can: a stopped worker makes nothing, nor does one that is being killed."""
    live = chance.choice([live for live in target.regions() if live.guardian_pid])
    old, worker = incarnation(live.guardian_pid), incarnation(live.pid)
    if old is None or worker is None or live.presence != PRESENT:
        return
    if is_stopped(worker.pid) or is_dying(worker.pid):
        return
    send_signal([old.pid], signal.SIGKILL)
    wait_for(lambda: live.guardian_pid != old.pid, "a new guardian")
