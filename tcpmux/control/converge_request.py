"""What a request to converge says, in the numbers of the route table. Runs in control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tcpmux.config.converge import (
    CONVERGE_METHOD,
    CONVERGE_ORDER,
    CONVERGE_PROTOCOL,
    CONVERGE_THEN,
    Converge,
    rate_of,
    why_not_rehome,
)
from tcpmux.config.duration import format_duration
from tcpmux.config.preread import PREREAD_STARTTLS
from tcpmux.config.rows import milliseconds, rows_of
from tcpmux.control.master_link import MasterRefused
from tcpmux.shm.convergence import REHOME, by_rules
from tcpmux.shm.image import Convergence, RouteRow

_ROWS = rows_of(Converge)


def settings_asked(values: Mapping[str, Any]) -> dict[str, int]:
    """Those that are given, by the names of Convergence. Raises MasterRefused."""
    found: dict[str, int] = {}
    for name, value in values.items():
        if name == "rate":
            try:
                found["rate"], found["rate_percent"] = rate_of(value)
            except ValueError as error:
                raise MasterRefused("invalid", f"rate: {error}") from None
        elif name == "order":
            found[name] = [*CONVERGE_ORDER].index(value)
        elif name == "then":
            found[name] = [*CONVERGE_THEN].index(value)
        elif name == "method":
            found[name] = [*CONVERGE_METHOD].index(value)
        elif name == "tolerance":
            found[name] = value
        else:
            found[f"{name}_ms"] = _milliseconds(name, value)
    return found


def _milliseconds(name: str, seconds: float) -> int:
    row = _ROWS[name]
    if not row.low <= seconds <= row.high:
        low, high = format_duration(row.low), format_duration(row.high)
        raise MasterRefused("invalid", f"{name}: expected {low}..{high}, got {seconds:g} s")
    return milliseconds(seconds)


def convergence_of(route: RouteRow, settings: Mapping[str, int], began_ms: int) -> Convergence:
    """With the route's settings, but for these. Raises MasterRefused for what can't be."""
    found = replace(by_rules(route.rules, began_ms), by_key=0, **settings)
    if found.method == REHOME:
        protocol = [*CONVERGE_PROTOCOL][route.rules.converge_protocol]
        by_file = route.rules.converge_method == REHOME
        why = why_not_rehome(protocol, bool(found.goodbye), by_file=by_file)
        if [*PREREAD_STARTTLS][route.rules.preread_starttls] != "none":
            why = "another endpoint does not know the TLS session of a client: use method close"
        if why:
            raise MasterRefused("invalid", f"{route.name}: {why}")
    return found
