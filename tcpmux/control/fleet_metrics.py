"""The metrics of an instance that is in a fleet. Runs in control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tcpmux.control.metric_families import Family, label

if TYPE_CHECKING:
    from tcpmux.control.fleet.agent import Agent

FOLLOWS = Family(
    "tcpmux_fleet_follows",
    "gauge",
    "1 while the instance follows what the fleet has in etcd, 0 while etcd does not answer.",
)
HELD = Family(
    "tcpmux_fleet_held_back",
    "gauge",
    "1 while something of the fleet is not in force here: a document that is refused, or what etcd "
    "has lost.",
)
CHANGE = Family(
    "tcpmux_fleet_change", "gauge", "The number of the fleet's last change that is in force here."
)


def parts(agent: Agent | None, *, open_metrics: bool) -> Iterator[str]:
    """Their text; of one in no fleet there is nothing but the heads."""
    for family in (FOLLOWS, HELD, CHANGE):
        yield family.head(open_metrics=open_metrics)
        if agent is not None:
            value = {
                FOLLOWS: int(not agent.away),
                HELD: int(bool(agent.held or agent.refused)),
                CHANGE: agent.epoch,
            }[family]
            yield f'{family.name}{{fleet="{label(agent.fleet.name)}"}} {value}\n'
