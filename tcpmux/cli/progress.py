"""How far a rollout is, and what a mirror has seen: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpmux.errors import printable

if TYPE_CHECKING:
    from tcpmux.control.schema import MirrorStatus, RolloutBrief


def mirror_headline(state: MirrorStatus) -> str:
    """`10% mirrored to v2: 40 shadows, 3 of them open, 97.3% of those compared agreed`."""
    how = f"{state['percent']:g}% mirrored to {printable(state['to'])}"
    if not state["percent"]:
        how = f"mirroring to {printable(state['to'])} is off"
    text = f"{how}: {state['mirrored_total']} shadows, {state['active']} of them open"
    agreement = state["agreement"]
    if agreement is None:
        return f"{text}, none compared so far"
    return f"{text}, {agreement:.1%} of those compared agreed"


def how_far(rollout: RolloutBrief) -> str:
    """`running: step 1 of 3, 20% to v2`."""
    step, steps = rollout["step"], rollout["steps"]
    at = f"step {step}" if step else "before step 1"
    (share,) = steps[max(step, 1) - 1 :][:1] or ["?"]  # answers are not trusted
    what = f"{printable(share)} to {printable(rollout['to'])}"
    return f"{printable(rollout['state'])}: {at} of {len(steps)}, {what}"
