"""The health state of one endpoint. Runs in control."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tcpmux.config import Address, Passive
from tcpmux.config.checks import Watch
from tcpmux.shm.image import DOWN, EJECTED, HEALTHY, EndpointRow

NO_WATCH = Watch(None, Passive(errors=0), 0.0, 10)
Key = tuple[str, str, str]  # route, destination, address


@dataclass(frozen=True, slots=True)
class SlowStart:
    """The way to a full share. began: monotonic, as if it had been at the floor then."""

    began: float


@dataclass(slots=True, eq=False)
class Endpoint:
    """What is known of one. Times are monotonic unless they say otherwise."""

    key: Key
    slot: int
    address: Address
    health: int
    slow_start: SlowStart | None = None
    row: EndpointRow | None = None
    share_step: int = 10  # percent
    watch: Watch = NO_WATCH
    is_gone: bool = False  # from the route table: nothing follows from it any more
    # checks
    is_down: bool = False
    streak: int = 0  # results in a row that speak against is_down
    due: float = 0.0
    is_checking: bool = False
    checked: int = 0
    # what connections meet with
    failures_before: int = 0  # of those in a row, that count no more
    ejected_until: float = 0.0  # it stays ejected until an examination has succeeded
    ejections: int = 0
    calm_since: float = 0.0
    on_trial: bool = (
        False  # back from an ejection, and no connect has succeeded: one failure ends it
    )
    is_examined: bool = False  # for an ejection, by a check of our own
    examine_again: float = 0.0  # not before, if it is suspected
    # for people
    answered: int = 0  # failures in a row after which it was found to answer
    look_again: float = 0.0  # not before, if connects have failed
    failed_check: str = ""  # what the last one that failed met with
    ejected_for: str = ""
    spared: str = ""  # what it would be ejected for, and why it is not
    spared_said: tuple[str, float] = ("", 0.0)  # in the log, and when
    spared_until: float = 0.0  # then it is judged again, or with another route table
    suspected: str = ""  # of what
    unanswered: str = ""  # how it ends connections, if all of them end without a byte
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

    def facts(self) -> tuple[object, ...]:
        """What its condition follows from (condition_rules.py)."""
        return (
            self.watch,
            self.is_down,
            self.ejected_until,
            self.ejections,
            self.on_trial,
            self.answered,
            self.streak,
            self.failed_check,
            self.ejected_for,
            self.spared,
            self.suspected,
            self.unanswered,
        )

    def now_is(self) -> int:
        if self.is_down:
            return DOWN
        return EJECTED if self.ejected_until else HEALTHY
