"""Suggestions for unknown names, for error messages. Used everywhere."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that it is most like. cutoff: 1 = the same, 0 = anything."""
    from difflib import get_close_matches  # takes time to load, and few make mistakes

    return next(iter(get_close_matches(str(name), list(known), 1, cutoff)), None)


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`did you mean v1?`, or "" if it is like none."""
    near = nearest(name, known, cutoff)
    return f"did you mean {near}?" if near else ""
