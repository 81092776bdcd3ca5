"""The condition of a route, a destination or an endpoint: the same words and colours everywhere.

    healthy    takes connections
    degraded   takes connections, but something is wrong
    down       takes none, or those that it gets fail
    drained    an operator has it get no new connections; open ones continue
    disabled   the same, with no intention to have it back soon

condition_rules.py says when it is which. Imported by control, and by every command that shows one.
"""

from __future__ import annotations

from typing import NamedTuple

HEALTHY, DEGRADED, DOWN, DRAINED, DISABLED = CONDITIONS = (
    "healthy",
    "degraded",
    "down",
    "drained",
    "disabled",
)
COLORS = {
    HEALTHY: "green",
    DEGRADED: "yellow",
    DOWN: "red",
    DRAINED: "blue",
    DISABLED: "bright_black",
}
# Which to look at first.
BY_URGENCY = (DOWN, DEGRADED, DRAINED, DISABLED, HEALTHY)


class Condition(NamedTuple):
    """reason: one line; "" = healthy, with nothing to add. since: Unix time, s; None = unknown."""

    word: str
    reason: str = ""
    since: float | None = None

    def as_json(self) -> dict[str, str | float | None]:
        """As the status has it, beside other keys."""
        return {
            "condition": self.word,
            "condition_reason": self.reason,
            "condition_since": self.since,
        }

    @property
    def is_usable(self) -> bool:
        """Whether it can take connections."""
        return self.word in (HEALTHY, DEGRADED)
