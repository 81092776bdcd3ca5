"""What a rollout is to do: the keys of `rollout` in a file, and the options of the command."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

from tcpmux.rollout.hooks import NO_HOOKS, Hooks
from tcpmux.rollout.hooks import as_json as hooks_as_json
from tcpmux.rollout.judgement import DEFAULT_LIMITS, Limits

THENS = ("pause", "rollback")
EXISTING = ("keep", "converge", "reset")
MAX_STEPS = 50
MAX_WEIGHT = 1_000_000
DAY = 86400.0
EARLY = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
         2.5, 5.0, 10.0)  # fmt: skip
CONFIDENCES = (1e-12, 0.01)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")
_FACTOR = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)x")
SHADOW = "shadow"
NO_SHADOW = "shadow is the first step alone, and has a time: shadow: 5m"


@dataclass(frozen=True, slots=True)
class Plan:
    """to: the destination. steps: its shares, 0..1, each more than the one before. bake, max_wait:
    s of each step; min_connections of the new version in it. then: what follows max_wait.
    existing: what a rollback does with connections that the new version has. shadow: s before all
    steps in which it gets copies of connections and nothing else; 0 = none. hooks: of the file
    alone, and not in as_json()."""

    to: str
    steps: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5, 1.0)
    bake: float = 120.0
    min_connections: int = 30
    max_wait: float = 3600.0
    then: str = "pause"
    limits: Limits = DEFAULT_LIMITS
    existing: str = "keep"
    shadow: float = 0.0
    hooks: Hooks = NO_HOOKS

    @property
    def shares(self) -> tuple[float, ...]:
        """Of all steps, the shadow among them: 0."""
        return (0.0, *self.steps) if self.shadow else self.steps


def percent(text: object) -> float:
    """0..1 of `5%`. Raises ValueError."""
    found = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or float(found[1]) > 100:
        raise ValueError(f"expected a percentage such as 5% or 0.1%, got {str(text)[:60]!r}")
    return float(found[1]) / 100


def factor(text: object) -> float:
    """Of `1.5x`. Raises ValueError."""
    found = _FACTOR.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 1.0 < float(found[1]) <= 1000:
        raise ValueError(f"expected a factor over 1x, such as 1.5x, got {str(text)[:60]!r}")
    return float(found[1])


def factors(text: object) -> tuple[float, float]:
    """Of `0.5x..2x`. Raises ValueError."""
    parts = text.split("..") if isinstance(text, str) else []
    found = [_FACTOR.fullmatch(part) for part in parts]
    if len(found) == 2 and found[0] and found[1]:
        low, high = float(found[0][1]), float(found[1][1])
        if 0 < low < 1 < high <= 1000:
            return low, high
    raise ValueError(
        f"expected two factors with 1x between them, such as 0.5x..2x, got {str(text)[:60]!r}"
    )


def confidence(value: object) -> float:
    """Raises ValueError."""
    low, high = CONFIDENCES
    try:
        found = float(value) if isinstance(value, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not low <= found <= high:
        raise ValueError(f"expected {low:g}..{high:g}, got {str(value)[:60]!r}")
    return found


def early_within(seconds: float) -> float:
    """Raises ValueError."""
    if seconds not in EARLY:
        known = ", ".join(f"{each:g}s" for each in EARLY if each >= 0.1)
        raise ValueError(f"expected a bound of the histogram: {known}; got {seconds:g}s")
    return seconds


def steps(values: Sequence[object]) -> tuple[float, ...]:
    """Of [1%, 50%, 100%]. Raises ValueError."""
    found: list[float] = []
    if not 1 <= len(values) <= MAX_STEPS:
        raise ValueError(f"expected 1..{MAX_STEPS} steps such as 1%, 10%, 100%")
    for value in values:
        names = list(value) if isinstance(value, Mapping) else [str(value).partition(":")[0]]
        if SHADOW in [str(name).strip() for name in names]:
            raise ValueError(NO_SHADOW)
        found.append(percent(value.strip() if isinstance(value, str) else value))
    if any(later <= one for one, later in zip([0.0, *found], found, strict=False)):
        raise ValueError("expected steps that grow, each more than 0%")
    if found[0] >= 1:
        raise ValueError("the first step has to be below 100%: there is nothing to compare with")
    return tuple(found)


def percent_text(share: float) -> str:
    return f"{round(share * 100, 3):g}%"


def share_name(share: float) -> str:
    """Of a step."""
    return percent_text(share) if share else SHADOW


def steps_text(shares: Sequence[float]) -> str:
    return ", ".join(map(share_name, shares))


def weights_at(share: float, to: str, before: Mapping[str, int]) -> dict[str, int]:
    """The least whole weights by which `to` has that share, and the others what is left in the
    proportions that they had. Raises ValueError."""
    others = {name: weight for name, weight in before.items() if name != to}
    every = sum(others.values())
    part = round(share * 100_000)
    found = {name: weight * (100_000 - part) for name, weight in others.items()}
    found[to] = (every or 1) * part
    divisor = reduce(math.gcd, found.values())
    made = {name: found[name] // divisor for name in before}
    if max(made.values()) > MAX_WEIGHT:
        raise ValueError(
            f"a share of {percent_text(share)} beside weights such as {max(others.values())} needs "
            f"numbers above {MAX_WEIGHT}: give the others smaller weights first"
        )
    return made


# --- as JSON: in requests, to the master, in the state file -------------------------------------


def _share(value: Any) -> float | None:
    """Raises ValueError."""
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ValueError(f"expected a share 0..1, got {str(value)[:60]!r}")
    return float(value)


_PLAIN = [each.name for each in fields(Plan) if each.name not in ("limits", "hooks")]


def as_json(plan: Plan) -> dict[str, Any]:
    limits = plan.limits
    return {
        **{name: getattr(plan, name) for name in _PLAIN},
        "steps": list(plan.steps),
        "judge": {
            **{each.name: getattr(limits, each.name) for each in fields(Limits)},
            "duration_p50": list(limits.duration_p50) if limits.duration_p50 else None,
        },
    }


def in_file_as_json(plan: Plan | None) -> dict[str, Any]:
    """What the file says of a route's rollout: plan (None: nothing) and hooks."""
    hooks = hooks_as_json(plan.hooks if plan else NO_HOOKS)
    return {"plan": as_json(plan) if plan else None, "hooks": hooks}


def _number(value: Any, name: str, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"{name}: expected {low:g}..{high:g}, got {str(value)[:60]!r}")
    return float(value)


def _word(value: Any, name: str, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name}: expected one of {', '.join(words)}, got {str(value)[:60]!r}")
    return value


def limits_from(values: Mapping[str, Any], base: Limits) -> Limits:
    """base, but for these. Raises ValueError."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("connect_failures", "resets", "early_close", "first_error"):
            made[name] = _share(value)
        elif name == "early_within":
            made[name] = early_within(_number(value, name, 0, DAY))
        elif name == "first_byte_p95":
            made[name] = None if value is None else _number(value, name, 1.001, 1000)
        elif name == "duration_p50":
            made[name] = None if value is None else _between(value)
        elif name == "confidence":
            made[name] = confidence(value)
        else:
            raise ValueError(f"unknown: {name[:60]!r}")
    return replace(base, **made)


def _between(value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("duration_p50: expected two factors")
    low, high = (_number(each, "duration_p50", 0.001, 1000) for each in value)
    if not low < 1 < high:
        raise ValueError("duration_p50: expected two factors with 1 between them")
    return low, high


def _to(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("to: expected the name of a destination")
    return value


def _steps(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("steps: expected a list")
    return steps(
        [each if isinstance(each, str) else percent_text(_number(each, "steps", 0, 1))
         for each in value]
    )  # fmt: skip


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("judge: expected a mapping")
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {
    "to": _to,
    "steps": _steps,
    "bake": lambda value: _number(value, "bake", 0, 30 * DAY),
    "max_wait": lambda value: _number(value, "max_wait", 0, 30 * DAY),
    "min_connections": lambda value: int(_number(value, "min_connections", 1, 10_000_000)),
    "then": lambda value: _word(value, "then", THENS),
    "existing": lambda value: _word(value, "existing", EXISTING),
    "shadow": lambda value: _number(value, "shadow", 0, 30 * DAY),
}


def plan_from(values: Mapping[str, Any], base: Plan) -> Plan:
    """base, but for these, by the names of as_json(). Nothing is trusted. Raises ValueError."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name == "judge":
            made["limits"] = limits_from(_mapping(value), base.limits)
        elif name in _READ:
            made[name] = _READ[name](value)
        elif name == "hooks":
            raise ValueError("hooks are those of the file: nobody else can have any")
        else:
            raise ValueError(f"unknown: {name[:60]!r}")
    return replace(base, **made)
