"""Rollouts as bytes that outlive every process, in a file of two halves (tcpmux/halves.py).

What is read back is not trusted: it is bounded, and every value is checked as if a stranger had
sent it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from tcpmux.halves import Halves, NotWhole
from tcpmux.rollout.judgement import Counts
from tcpmux.rollout.machine import MAX_VERDICTS, PAUSED, PENDING, RUNNING, Rollout
from tcpmux.rollout.plan import MAX_WEIGHT, Plan, as_json, plan_from

HALF = 512 << 10  # bytes
FILE = Halves(b"tcpmux rollouts 1\n", HALF)
MAX_TEXT = 500  # characters
MAX_NAME = 63
MAX_BUCKETS = 64
HISTORY = 20  # ends of a route that are kept
OF_AN_END = 8  # verdicts that are kept of one that is over
MAX_SAVED = 100  # ends, of all routes
MAX_COUNT = 1 << 64


class Unreadable(ValueError):
    """What is saved makes no sense."""


# --- the file -----------------------------------------------------------------------------------


def read(fd: int) -> dict[str, Any]:
    """What was written last; {} = nothing yet. Raises OSError, Unreadable."""
    try:
        body = FILE.read(fd)
        value = {} if body is None else json.loads(body)
    except NotWhole as error:
        raise Unreadable(str(error)) from None
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("it is not an object")
    return value


def packed(value: Mapping[str, Any]) -> bytes:
    """As write() takes it. Raises ValueError if it is too large."""
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > FILE.room:
        raise ValueError(
            f"{len(body)} bytes are more than the state file can hold: too many are under way"
        )
    return body


# (verdicts of a rollout, ends, verdicts of each) that are kept, if that is not too much.
_KEPT = ((MAX_VERDICTS, MAX_SAVED, OF_AN_END), (8, MAX_SAVED, 0), (2, HISTORY, 0), (1, 0, 0))


def fitted(state: Mapping[str, Any]) -> bytes:
    """As packed(), without the oldest of what people are told, where there is too much of it: a
    rollout goes on without that. Raises ValueError."""
    for verdicts, ends, of_each in _KEPT:
        rollouts = [_shortened(each, verdicts) for each in state["rollouts"]]
        history = [_shortened(each, of_each) for each in _last(state["history"], ends)]
        with suppress(ValueError):
            return packed({**state, "rollouts": rollouts, "history": history})
    return packed({**state, "rollouts": rollouts, "history": history})


def _shortened(value: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {**value, "verdicts": _last(value["verdicts"], most)}


def _last(values: Sequence[Any], most: int) -> Sequence[Any]:
    return values[max(0, len(values) - most) :]


def write(fd: int, body: bytes, last: int | None = None) -> int:
    """As Halves.write()."""
    return FILE.write(fd, body, last)


# --- a rollout ----------------------------------------------------------------------------------


def _counts_as_json(counts: Counts) -> dict[str, Any]:
    return {each.name: getattr(counts, each.name) for each in fields(Counts)}


def rollout_as_json(rollout: Rollout) -> dict[str, Any]:
    return {
        "route": rollout.route,
        "plan": as_json(rollout.plan),
        "began": rollout.began,
        "before": rollout.before,
        "weights": rollout.weights,
        "state": rollout.state,
        "reason": rollout.reason,
        "step": rollout.step,
        "pending": rollout.pending,
        "next_step": rollout.next_step,
        "windows": rollout.windows,
        "window_at": rollout.window_at,
        "base_new": _counts_as_json(rollout.base_new),
        "base_old": _counts_as_json(rollout.base_old),
        "frozen": _counts_as_json(rollout.frozen),
        "verdicts": rollout.verdicts,
        "by": rollout.by,
    }


def rollout_from(value: Any) -> Rollout:
    """Raises Unreadable."""
    try:
        _must(isinstance(value, dict))
        return _rollout(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"a rollout in it makes no sense ({error!r:.200})") from None


def _must(is_so: object) -> None:
    if not is_so:
        raise ValueError("a value of the wrong type, or out of its range")


def _rollout(value: dict[str, Any]) -> Rollout:
    plan = plan_from(value["plan"], Plan(to=""))
    made = Rollout(
        _text(value["route"], MAX_NAME),
        plan,
        _time(value["began"]),
        _weights(value["before"]),
        _weights(value["weights"]),
        state=value["state"],
        reason=_text(value["reason"]),
        step=_whole(value["step"], -1, len(plan.shares) - 1),
        pending=value["pending"],
        next_step=_whole(value["next_step"], 0, len(plan.shares) - 1),
        windows=_whole(value["windows"], 0, 1 << 40),
        window_at=_time(value["window_at"]),
        base_new=_counts(value["base_new"]),
        base_old=_counts(value["base_old"]),
        frozen=_counts(value["frozen"]),
        verdicts=[_verdict(each) for each in value["verdicts"][:MAX_VERDICTS]],
        by=_text(value["by"]),
    )
    _must(made.state in (RUNNING, PAUSED))
    _must(made.pending in PENDING)
    _must(plan.to in made.before)
    _must(made.others)
    _must(set(made.before) == set(made.weights))
    return made


def _text(value: Any, most: int = MAX_TEXT) -> str:
    _must(isinstance(value, str))
    return str(value)[:most]


def _time(value: Any) -> float:
    _must(type(value) in (int, float))
    found = float(value)
    _must(0 <= found < 1e12)
    return found


def _whole(value: Any, low: int, high: int) -> int:
    _must(type(value) is int)
    _must(low <= value <= high)
    return int(value)


def _weights(value: Any) -> dict[str, int]:
    _must(isinstance(value, dict))
    _must(len(value) <= MAX_BUCKETS)
    return {_text(name, MAX_NAME): _whole(n, 0, MAX_WEIGHT) for name, n in value.items()}


def _counts(value: dict[str, Any]) -> Counts:
    made: dict[str, Any] = {}
    for each in fields(Counts):
        found = value[each.name]
        if isinstance(each.default, tuple):
            _must(isinstance(found, list))
            _must(len(found) <= MAX_BUCKETS)
            made[each.name] = tuple(_whole(n, -MAX_COUNT, MAX_COUNT) for n in found)
        else:
            made[each.name] = _whole(found, -MAX_COUNT, MAX_COUNT)
    return Counts(**made)


def _verdict(value: dict[str, Any]) -> dict[str, Any]:
    step = _whole(value["step"], -1, MAX_VERDICTS)
    return {"time": _time(value["time"]), "step": step, "text": _text(value["text"])}


def end_from(value: Any) -> dict[str, Any]:
    """One of the history. Raises Unreadable."""
    try:
        _must(isinstance(value, dict))
        return {
            "route": _text(value["route"], MAX_NAME),
            "to": _text(value["to"], MAX_NAME),
            "began": _time(value["began"]),
            "ended": _time(value["ended"]),
            "end": _text(value["end"]),
            "text": _text(value["text"]),
            "by": _text(value["by"]),
            "verdicts": [_verdict(each) for each in value["verdicts"][:MAX_VERDICTS]],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"an end in its history makes no sense ({error!r:.200})") from None
