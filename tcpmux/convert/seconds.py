"""Durations of files in YAML, JSON and TOML, within tcpmux's limits."""

from __future__ import annotations

import math
from fractions import Fraction

from tcpmux.config.duration import format_duration
from tcpmux.convert.tree import Node


def limited(node: Node, found: Fraction, default: float, low: float, high: float) -> float:
    """found, in s, rounded down to milliseconds. What is beyond low..high changes traffic, and the
    default stands for it; so does what is no whole number of milliseconds."""
    if not Fraction(str(low)) <= found <= high:
        limits = f"{format_duration(low)}..{format_duration(high)}"
        node.changes(f"it is outside tcpmux's range, {limits}")
        return default
    if found * 1000 % 1:
        node.changes("tcpmux counts in whole milliseconds")
    return math.floor(found * 1000) / 1000
