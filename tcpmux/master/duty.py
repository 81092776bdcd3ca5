"""What the master's loop is made of. Runs in the master."""

from __future__ import annotations

import selectors


class Duty:
    """One thing that the master sees to. It is done in each turn of the loop, so it looks first
    whether there is anything to do; a turn comes with an event on a descriptor that any duty has
    registered, or when one is due.

    rests_while_stopping: nothing new is begun once the instance stops.
    """

    rests_while_stopping = False

    def register(self, selector: selectors.BaseSelector) -> None:
        """Has the loop wake up for what this duty waits for. Each turn has a selector of its own:
        descriptors are few, and come and go."""

    def due(self) -> float | None:
        """Monotonic time, s, when there is something to do without an event; None = never."""
        return None

    def do(self, now: float) -> None:
        """now: monotonic, s."""
        raise NotImplementedError


def earliest(*times: float | None) -> float | None:
    """The first of these; None = never."""
    return min((moment for moment in times if moment is not None), default=None)
