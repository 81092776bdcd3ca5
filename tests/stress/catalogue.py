"""All events, and how often each acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.stress import converging, events, mirroring, overlaps, prefaces, rollouts
from tests.stress.events import Acted
from tests.stress.load import Load
from tests.stress.targets import Target


@dataclass(frozen=True, slots=True)
class Event:
    """full, quick, peers: how often it acts in which case. load: what goes on meanwhile."""

    act: Callable[[Target, int, Random], Acted]
    full: int
    quick: int
    peers: int
    load: Load = field(default_factory=Load)


EVENTS = {
    "calm": Event(events.calm, 1, 1, 1),
    "worker-kill": Event(events.worker_kill, 1000, 40, 20),
    # It has clients of its own.
    "prefaces": Event(prefaces.prefaces, 1000, 40, 1, Load(bulk=2, small=10, rate=20)),
    # They have clients of their own as well.
    "converge": Event(converging.converge, 1000, 40, 1, Load(bulk=2, small=10, rate=20)),
    "rehome": Event(converging.rehome, 1000, 40, 1, Load(bulk=2, small=10, rate=20)),
    "rollout": Event(rollouts.rollouts, 100, 6, 1, Load(bulk=2, small=10, rate=20)),
    "mirror": Event(mirroring.mirror, 1000, 40, 1, Load(bulk=2, small=10, rate=20)),
    "queued-kill": Event(events.queued_kill, 50, 3, 5),
    "worker-count": Event(events.worker_count, 10, 1, 3),
    "master-kill": Event(events.master_kill, 10, 2, 1),
    "upgrade": Event(events.upgrade, 100, 2, 1),
    "reload": Event(events.reload, 1000, 100, 5),
    "worker-stop": Event(events.worker_stop, 2, 1, 1),
    "handover-kill": Event(overlaps.handover_kill, 100, 15, 1),
    "upgrade-kill": Event(overlaps.upgrade_kill, 10, 2, 1),
    "upgrade-master-kill": Event(overlaps.upgrade_master_kill, 10, 3, 1),
    "mixed": Event(overlaps.mixed, 200, 25, 1),
}
