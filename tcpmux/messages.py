"""What master and control say to each other, in frames (tcpmux/frames.py): used by both.

    ask      {"id": 3, "verb": "reload", ...}      control asks
    answer   {"id": 3, "ok": true, "result": {...}}
             {"id": 3, "ok": false, "kind": "refused", "error": "one line"}
    push     {"push": "names", ...}                the master tells, unasked

No size kills a message: what is too large for a frame becomes a refusal to whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tcpmux.frames import FrameError, packed

# master/requests.py says what each does; "ready": requests may come.
Verb = Literal[
    "ready",
    "reload",
    "diff",
    "addresses",
    "set_weights",
    "set_mirror",
    "undo",
    "saved_weights",
    "set_states",
    "conditions",
    "checks",
    "set_workers",
    "kill",
    "converge",
    "rehome",
    "convergence_says",
    "start_convergence",
    "end_convergence",
    "fleet_now",
    "fleet_check",
    "fleet",
    "fleet_weights",
    "fleet_place",
    "fleet_says",
    "rollout_plan",
    "rollout_says",
    "events",
    "fault",
    "log_level",
    "upgrade",
    "stop",
]
# "event" and "checks": there is something new to be asked for; "log": refresh() of
# tcpmux/logs.py.
PushKind = Literal["event", "checks", "log", "names", "reload"]
# "unforced": refused for what would come of it, and done if forced.
RefusalKind = Literal["invalid", "not_found", "bad_file", "refused", "unforced"]

MAX_ERROR = 1 << 20  # characters of a reason


def result(number: int, value: Mapping[str, Any]) -> bytes:
    """The frame of an answer."""
    try:
        return packed({"id": number, "ok": True, "result": value})
    except FrameError as error:
        return refusal(number, "refused", f"it was done, but the answer can't be sent: {error}")


def refusal(number: int, kind: str, error: str) -> bytes:
    """The frame of one. kind: a RefusalKind."""
    if len(error) > MAX_ERROR:
        error = f"{error[:MAX_ERROR]}... (and {len(error) - MAX_ERROR} characters more)"
    return packed({"id": number, "ok": False, "kind": kind, "error": error})


def answer(number: int, outcome: Mapping[str, Any]) -> bytes:
    """The frame of an outcome that has ok and result, or ok, kind and error."""
    if outcome["ok"]:
        return result(number, outcome["result"])
    return refusal(number, outcome["kind"], outcome["error"])
