"""What is wrong with a host's part in its fleet, as the status has it. Runs in control."""

from __future__ import annotations

from typing import Any


def fleet_problems(
    name: str, text: str, away_since: float | None, *, lasts: bool
) -> list[dict[str, Any]]:
    """name: of the fleet. text: what is wrong; "" = nothing. away_since: Unix time, s, if etcd is
    away. lasts: until an operator acts on what is in etcd."""
    if not text:
        return []
    if away_since is not None:
        acts = "see that the members of fleet.etcd.endpoints can be reached, and let this host in"
    elif lasts:
        acts = "see `tcpmux fleet status`; the last good configuration stays in force"
    else:
        acts = "give each host a name of its own: fleet.host"
    return [
        {
            "severity": "error" if lasts else "warning",
            "route": None,
            "destination": None,
            "endpoint": None,
            "condition": "degraded",
            "text": f"fleet {name}: {text}",
            "since": away_since,
            "action": acts,
        }
    ]
