"""Why live connections that are to leave can't yet, in words: by the fields of Blocked."""

from __future__ import annotations

from collections.abc import Mapping

WORDS = {
    "busy": "busy",
    "unanswered": "waiting for an answer",
    "in_transaction": "in a transaction",
    "subscribed": "subscribed",
    "unknown": "not understood",
    "stateful": "with state that can't go along",
    "turned_away": "not accepted by the other endpoint",
}


def waiting_text(counts: Mapping[str, object]) -> str:
    """`2 busy, 1 in a transaction`, of a status or a plan; "" = none waits."""
    return ", ".join(f"{counts[name]} {word}" for name, word in WORDS.items() if counts[name])
