"""Rollouts as the API and the metrics show them. Runs in control."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tcpmux.control.metric_families import Family, label
from tcpmux.rollout.machine import PAUSED, RUNNING, Reading, Rollout
from tcpmux.rollout.plan import share_name
from tcpmux.rollout.saved import OF_AN_END

if TYPE_CHECKING:
    from tcpmux.rollout.judgement import Counts

STEP = Family(
    "tcpmux_rollout_step", "gauge", "Step that a rollout is in, from 1; only while there is one."
)
SHARE = Family(
    "tcpmux_rollout_share", "gauge", "Share of the new version in that step, 0..1."
)  # fmt: skip
IS_PAUSED = Family("tcpmux_rollout_paused", "gauge", "1 while a rollout is paused.")
P = Family(
    "tcpmux_rollout_p_value",
    "gauge",
    "How probable a measure is at least so bad for the new version if both are equal.",
)
ENDED = Family(
    "tcpmux_rollouts_ended_total",
    "counter",
    "Rollouts that have ended, by how: promoted, rolled_back or aborted.",
)


HOOK_FAILURES = Family(
    "tcpmux_rollout_hook_failures_total",
    "counter",
    "Failures of hooks of rollouts: gate, events, exec or prometheus.",
)


def _version(name: str, counts: Counts) -> dict[str, Any]:
    return {
        "name": name,
        "connections": counts.opened,
        "connects": counts.connects,
        "connect_failures": counts.failures,
        "resets": counts.resets,
    }


def brief(rollout: Rollout) -> dict[str, Any]:
    """How far one is that is under way."""
    return {
        "to": rollout.plan.to,
        "state": rollout.state,
        "reason": rollout.reason,
        "step": rollout.step + 1,
        "steps": [share_name(share) for share in rollout.plan.shares],
    }


def shown(rollout: Rollout, reading: Reading) -> dict[str, Any]:
    """One that is under way."""
    new, old = rollout.window(reading)
    last, names = rollout.last, rollout.names
    return {
        **brief(rollout),
        "share": rollout.share,
        "began_at": rollout.began,
        "step_seconds": max(0.0, time.monotonic() - rollout.window_at),
        "waits": rollout.waits if rollout.state == RUNNING else "",
        "verdict": last.kind if last else "",
        "findings": [
            {"measure": each.measure, "p": each.p, "text": each.text}
            for each in (last.findings if last else ())
        ],
        "versions": [_version(names.new, new), _version(names.old, old)],
        "verdicts": rollout.verdicts,
        "by": rollout.by,
    }


def ended(rollout: Rollout, end: str, text: str, now: float, by: str) -> dict[str, Any]:
    """One that is over, for the history."""
    return {
        "route": rollout.route,
        "to": rollout.plan.to,
        "began": rollout.began,
        "ended": now,
        "end": end,
        "text": text,
        "by": by,
        "verdicts": rollout.verdicts[-OF_AN_END:],
    }


def parts(
    runs: Collection[Rollout],
    ends: Mapping[tuple[str, str], int],
    hook_failures: Mapping[tuple[str, str], int],
    *,
    open_metrics: bool,
) -> Iterator[str]:
    """The text of the metrics."""
    yield STEP.head(open_metrics=open_metrics)
    for run in runs:
        yield f"{STEP.name}{{{_labels(run)}}} {run.step + 1}\n"
    yield SHARE.head(open_metrics=open_metrics)
    for run in runs:
        yield f"{SHARE.name}{{{_labels(run)}}} {run.share:g}\n"
    yield IS_PAUSED.head(open_metrics=open_metrics)
    for run in runs:
        yield f"{IS_PAUSED.name}{{{_labels(run)}}} {int(run.state == PAUSED)}\n"
    yield P.head(open_metrics=open_metrics)
    for run in runs:
        for each in run.last.findings if run.last else ():
            yield f'{P.name}{{{_labels(run)},measure="{each.measure}"}} {each.p:g}\n'
    yield ENDED.head(open_metrics=open_metrics)
    for (name, end), count in ends.items():
        labels = f'route="{label(name)}",end="{end.replace(" ", "_")}"'
        yield f"{ENDED.name}{{{labels}}} {count}\n"
    yield HOOK_FAILURES.head(open_metrics=open_metrics)
    for (name, hook), count in hook_failures.items():
        yield f'{HOOK_FAILURES.name}{{route="{label(name)}",hook="{hook}"}} {count}\n'


def _labels(run: Rollout) -> str:
    return f'route="{label(run.route)}",destination="{label(run.plan.to)}"'
