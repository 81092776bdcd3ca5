"""The steps of one rollout. advance() says what is to be done next, by a clock and the counters;
who carries it out calls entered(), paused() and ended() when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from tcpmux.errors import plural
from tcpmux.rollout.judgement import NO_COUNTS, Counts, Histograms, Judge, Names, Verdict
from tcpmux.rollout.plan import Plan, percent_text, share_name, weights_at

UNAVAILABLE_TIME = 5.0  # s without an endpoint in service, and it is rolled back
MAX_VERDICTS = 64
RUNNING, PAUSED = "running", "paused"
STEPPING, ROLLED_BACK, ABORTED, PROMOTED = "step", "rolled back", "aborted", "promoted"
PENDING = ("", STEPPING, ROLLED_BACK, ABORTED, PROMOTED)


class Do(Enum):
    """What is to be done."""

    NOTHING = "nothing"
    STEP = "step"  # the weights of step `step`
    PROMOTE = "promoted"  # it is over: the last step has been passed
    ROLL_BACK = "rolled back"
    PAUSE = "paused"


class Action(NamedTuple):
    do: Do
    text: str = ""
    step: int = 0


class Reading(NamedTuple):
    """now: monotonic s. new, old: since the start of the instance. serves: whether each has an
    endpoint in service."""

    now: float
    new: Counts
    old: Counts
    new_serves: bool = True
    old_serves: bool = True


@dataclass
class Rollout:
    """began: Unix time, s. before: the weights until then. weights: those that the rollout has set,
    or is about to (pending: for what of PENDING, and next_step). step: index in the plan; -1 = none
    yet. windows: how many there have been. window_at: monotonic s. base_new, base_old: readings at
    the window's beginning. frozen: what the others did in the window before one in which they get
    nothing; if that is too little, since the start of the instance."""

    route: str
    plan: Plan
    began: float
    before: dict[str, int]
    weights: dict[str, int]
    state: str = RUNNING
    reason: str = ""
    step: int = -1
    pending: str = ""
    next_step: int = 0
    windows: int = 0
    window_at: float = 0.0
    base_new: Counts = NO_COUNTS
    base_old: Counts = NO_COUNTS
    frozen: Counts = NO_COUNTS
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    by: str = ""
    # Of this process alone:
    judge: Judge | None = None
    last: Verdict | None = None
    waits: str = ""
    away_since: float | None = None

    @property
    def names(self) -> Names:
        others = self.others
        return Names(self.plan.to, others[0] if len(others) == 1 else "the others")

    @property
    def others(self) -> list[str]:
        """Those that it is compared with."""
        return [name for name, weight in self.before.items() if weight and name != self.plan.to]

    @property
    def share(self) -> float:
        """Of the present step."""
        return self.plan.shares[self.step] if self.step >= 0 else 0.0

    @property
    def bake(self) -> float:
        """How long the present step lasts at least, in s."""
        return self.plan.shadow if self.is_shadow(self.step) else self.plan.bake

    @property
    def is_last(self) -> bool:
        return self.step >= len(self.plan.shares) - 1

    def is_shadow(self, step: int) -> bool:
        """In which the new version gets copies alone."""
        return step == 0 and self.plan.shadow > 0

    def adopt(self, weights: Mapping[str, int]) -> None:
        """The route has these destinations now, which may be others than when it began. Raises
        ValueError."""
        before = {name: self.before.get(name, weight) for name, weight in weights.items()}
        for share in self.plan.shares:
            weights_at(share, self.plan.to, before)
        self.before = before

    def weights_of(self, step: int) -> dict[str, int]:
        if self.is_shadow(step):
            return self.back()
        return weights_at(self.plan.shares[step], self.plan.to, self.before)

    def back(self) -> dict[str, int]:
        """As before, but nothing for the new version."""
        return {**self.before, self.plan.to: 0}

    def window(self, reading: Reading) -> tuple[Counts, Counts]:
        """What (the new version, the others) did in the window."""
        new, old = reading.new - self.base_new, reading.old - self.base_old
        return new, self.frozen if self.share >= 1 else old

    # --- what has been done -----------------------------------------------------------------

    def begun(self, reading: Reading) -> None:
        """It waits for its first step."""
        self.state, self.reason = RUNNING, ""
        self.window_at = reading.now
        self.base_new, self.base_old = reading.new, reading.old

    def entered(self, step: int, reading: Reading) -> None:
        """The weights of a step are in force."""
        if 0 < self.share < 1 and self.windows:
            found = reading.old - self.base_old
            if found.tried >= min(self.plan.min_connections, self.frozen.tried):
                self.frozen = found
        if self.frozen.tried < self.plan.min_connections:
            self.frozen = reading.old  # steps were skipped: what they have done at all
        self.step, self.pending = step, ""
        self.open_window(reading)

    def open_window(self, reading: Reading) -> None:
        self.state, self.reason = RUNNING, ""
        self.windows += 1
        self.window_at = reading.now
        self.base_new, self.base_old = reading.new, reading.old
        self.judge = self.last = self.away_since = None
        self.waits = ""

    def paused(self, reason: str) -> None:
        self.state, self.reason = PAUSED, reason

    def note(self, time: float, text: str) -> None:
        """What people are told of it, the last of them."""
        self.verdicts.append({"time": time, "step": self.step, "text": text})
        del self.verdicts[:-MAX_VERDICTS]


def advance(rollout: Rollout, reading: Reading, histograms: Histograms) -> Action:
    """What is to be done now."""
    if rollout.state != RUNNING:
        return Action(Do.NOTHING)
    if rollout.step < 0:
        return _enter(rollout, 0)
    new, old = rollout.window(reading)
    if not (new.is_whole and old.is_whole):
        rollout.open_window(reading)  # what was counted has begun anew
        return Action(Do.NOTHING)
    if rollout.judge is None:
        is_same = rollout.share < 1
        rollout.judge = Judge(
            rollout.plan.limits, rollout.names, histograms, rollout.windows, is_same
        )
    found = rollout.judge.look(new, old)
    if rollout.is_shadow(rollout.step):
        found = found._replace(text=f"{found.text}; {_answers_text(new)}")
    rollout.last = found
    return _by_verdict(rollout, reading, found) or _go_on(rollout, reading, new, old, found)


def _by_verdict(rollout: Rollout, reading: Reading, found: Verdict) -> Action | None:
    """None: it goes on."""
    if found.kind == "worse":
        return Action(Do.ROLL_BACK, found.text)
    if found.kind == "sick" and rollout.share < 1:
        return Action(Do.PAUSE, found.text)
    if why := _away(rollout, reading):
        do = Do.ROLL_BACK if reading.old_serves else Do.PAUSE
        return Action(do, f"{why}; {found.text}")
    return None


def _away(rollout: Rollout, reading: Reading) -> str:
    """Why it can't go on without the endpoints of the new version; "" = it can."""
    if reading.new_serves:
        rollout.away_since = None
        return ""
    if rollout.away_since is None:
        rollout.away_since = reading.now
    if reading.now - rollout.away_since < UNAVAILABLE_TIME:
        return ""
    to = rollout.plan.to
    text = f"no endpoint of {to} has been in service for {UNAVAILABLE_TIME:g} s"
    return text if reading.old_serves else f"{text}, and none of {rollout.names.old} is either"


def _go_on(rollout: Rollout, reading: Reading, new: Counts, old: Counts, found: Verdict) -> Action:
    age = reading.now - rollout.window_at
    rollout.waits = _waits(rollout, age, new, old, found)
    if rollout.waits:
        return _wait(rollout, age)
    if rollout.is_last:
        return Action(Do.PROMOTE, found.text)
    return _enter(rollout, rollout.step + 1)


def _wait(rollout: Rollout, age: float) -> Action:
    """But not for ever."""
    plan = rollout.plan
    if age < max(plan.max_wait, rollout.bake):
        return Action(Do.NOTHING)
    text = f"{rollout.waits}, and max_wait is over"
    return Action(Do.ROLL_BACK if plan.then == "rollback" else Do.PAUSE, text)


def held(rollout: Rollout, reading: Reading, why: str) -> Action:
    """In the place of a step, or of the end, that something else does not allow yet."""
    rollout.waits = f"waiting for {why}"
    return _wait(rollout, reading.now - rollout.window_at)


def _waits(rollout: Rollout, age: float, new: Counts, old: Counts, found: Verdict) -> str:
    """What for; "" = for nothing any more."""
    plan = rollout.plan
    had = [(plan.to, new)]
    if rollout.share < 1 or not old.tried:
        had.append((rollout.names.old, old))
    for name, its in had:
        tried = its.tried
        if rollout.share >= 1 and its is old:
            return f"nothing to compare with: {name} had no connection before"
        if tried < plan.min_connections:
            text = f"waiting for {plural(plan.min_connections, 'connection')} of {name}"
            text = f"{text}: {tried} so far{_time_left(tried, plan.min_connections, age)}"
            if rollout.is_shadow(rollout.step):
                return f"{text}; {_answers_text(new)}"
            return f"{text}{_unreached(its, rollout.route)}"
    if age < rollout.bake:
        return f"baking for {rollout.bake - age:.0f} s more"
    if found.kind == "doubtful":
        return f"in doubt: {found.text}"
    return "" if found.kind == "good" else found.text


def _answers_text(shadows: Counts) -> str:
    """What a verdict does not go by."""
    compared = shadows.connects - shadows.resets
    text = f"{shadows.agreed} of {plural(compared, 'answer')} of shadows agreed"
    return f"{text}, {shadows.given_up} late or behind" if shadows.given_up else text


def _unreached(its: Counts, route: str) -> str:
    """Of connections that say nothing; a few are only about to."""
    lost = its.opened - its.tried
    if lost <= its.tried:
        return ""
    return f"; {lost} more have not reached it: see tcpmux status {route}"


def _time_left(opened: int, wanted: int, age: float) -> str:
    if not opened or age < 1:
        return ""
    return f", about {(wanted - opened) * age / opened:.0f} s more at this rate"


def _enter(rollout: Rollout, step: int) -> Action:
    return Action(Do.STEP, step_text(rollout, step), step)


def step_text(rollout: Rollout, step: int) -> str:
    shares = rollout.plan.shares
    return f"{share_name(shares[step])} to {rollout.plan.to} (step {step + 1} of {len(shares)})"


def problem_of(plan: Plan, weights: Mapping[str, int], states: Mapping[str, str]) -> str:
    """Why such a rollout can't begin, by the weights in force and the states of destinations; "" =
    it can."""
    if plan.to not in weights:
        return f"no destination named {plan.to!r}: there are {', '.join(weights)}"
    others = [name for name, weight in weights.items() if weight and name != plan.to]
    if not others and weights[plan.to]:
        return f"{plan.to} has all connections already: there is no version to compare it with"
    if not others:
        return "no other version has weight, which it could be compared with"
    every = sum(weights.values())
    if weights[plan.to] / every > plan.shares[0] + 1e-9:
        return (
            f"{plan.to} has {percent_text(weights[plan.to] / every)} already, and the first step "
            f"is {share_name(plan.shares[0])}: begin with a greater one, or set its weight to 0"
        )
    if states[plan.to] != "ready":
        return f"{plan.to} is {states[plan.to]}: enable it first"
    return _weights_problem(plan, weights)


def _weights_problem(plan: Plan, weights: Mapping[str, int]) -> str:
    try:
        for share in plan.shares:
            weights_at(share, plan.to, weights)
    except ValueError as error:
        return str(error)
    return ""
