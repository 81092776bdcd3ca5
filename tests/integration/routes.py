"""Building configurations for tests."""

from __future__ import annotations

from typing import Any


def route(name: str, listen: str | int, **destinations: tuple[int, str]) -> dict[str, Any]:
    """A route; listen: a port of 127.0.0.1 or an address; destinations: name=(weight, endpoint)."""
    return {
        "name": name,
        "listen": f"127.0.0.1:{listen}" if isinstance(listen, int) else listen,
        "destinations": [
            {"name": name, "weight": weight, "endpoints": [endpoint]}
            for name, (weight, endpoint) in destinations.items()
        ],
    }


def routes(*parts: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {**top, "routes": list(parts)}
