"""What is asked of a fleet, as far as the row of the operation does not say it. Runs in control."""

from __future__ import annotations

from typing import Any

from tcpmux.control.master_link import MasterRefused
from tcpmux.control.request_values import is_text

_KEYS = {"route", "weights", "force", "why", "epoch"}


def weights_asked(body: dict[str, Any]) -> dict[str, Any]:
    """The weights themselves are the master's to look at. Raises MasterRefused."""
    unknown = sorted(body.keys() - _KEYS)
    if unknown:
        raise MasterRefused("invalid", f"unknown key {unknown[0]}")
    route, weights, epoch = body.get("route"), body.get("weights"), body.get("epoch")
    for key, is_so in (
        ("route: expected a string", is_text(route)),
        ("weights: expected an object", isinstance(weights, dict)),
        ("why: expected a string", is_text(body.get("why", ""))),
        ("force: expected true or false", isinstance(body.get("force", False), bool)),
        ("epoch: expected a whole number", epoch is None or (type(epoch) is int and epoch >= 0)),
    ):
        if not is_so:
            raise MasterRefused("invalid", key)
    return {"force": False, **body}
