"""What is known of one endpoint, and how the share of one that is back grows. Runs in control."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tcpmux.config import Address, Passive
from tcpmux.config.checks import Watch
from tcpmux.shm.image import DOWN, EJECTED, FULL_RAMP, WELL, EndpointRow

MOST_RAMP_STEP = 10  # percent
NO_WATCH = Watch(None, Passive(errors=0), 0.0, 10)
Key = tuple[str, str, str | None]  # route, destination, endpoint


@dataclass(slots=True, eq=False)
class Ramp:
    """The way to a full share. began: monotonic, as if it had been at the floor then."""

    began: float
    percent: int


@dataclass(slots=True, eq=False)
class Endpoint:
    """What is known of one. Times are monotonic unless they say otherwise."""

    key: Key
    slot: int
    address: Address
    health: int
    ramp: Ramp | None = None
    row: EndpointRow | None = None
    ramp_step: int = MOST_RAMP_STEP  # percent
    watch: Watch = NO_WATCH
    # checks
    is_down: bool = False
    streak: int = 0  # results in a row that speak against is_down
    due: float = 0.0
    is_checking: bool = False
    checked: int = 0
    # what connections meet with
    failures_before: int = 0  # of those in a row, that count no more
    ejected_until: float = 0.0  # it stays ejected until a look at it has succeeded
    ejections: int = 0
    calm_since: float = 0.0
    on_trial: bool = (
        False  # back from an ejection, and no connect has succeeded: one failure ends it
    )
    is_looked_at: bool = False  # for an ejection, by a check of our own
    look_again: float = 0.0  # not before, if it is suspected
    # for people
    failed_check: str = ""  # what the last one that failed met with
    ejected_for: str = ""
    spared: str = ""  # what it would be ejected for, and why it is not
    suspected: str = ""  # of what
    since: float = field(default_factory=time.time)  # Unix time

    @property
    def reason(self) -> str:
        check = self.watch.check
        if self.is_down:
            return f"{check.kind} check: {self.failed_check}" if check else self.failed_check
        if self.ejected_until:
            return self.ejected_for
        if self.streak and check:
            return f"{self.streak} of {check.fall} checks failed: {self.failed_check}"
        return self.spared or self.suspected

    def now_is(self) -> int:
        if self.is_down:
            return DOWN
        return EJECTED if self.ejected_until else WELL


def ramp_at(elapsed: float, watch: Watch, step: int) -> int:
    """Percent of its share after so many seconds; never less than the floor."""
    if elapsed >= watch.warmup:
        return FULL_RAMP
    percent = watch.warmup_floor + (FULL_RAMP - watch.warmup_floor) * elapsed / watch.warmup
    return max(watch.warmup_floor, int(percent) // step * step)


def ramp_step(endpoints: int) -> int:
    """Percent. Turns are whole numbers: with finer steps a large destination's list of them would
    be too long (tcpmux.config.turns: MOST_TURNS)."""
    return min(max(1, -(-endpoints // 10)), MOST_RAMP_STEP)


def going_on(percent: int, watch: Watch, now: float) -> Ramp:
    """From a share that another control process has told of."""
    span = max(1, FULL_RAMP - watch.warmup_floor)
    done = max(0, percent - watch.warmup_floor) / span
    return Ramp(now - done * watch.warmup, percent)
