"""What a file was converted to, as tests compare it."""

from __future__ import annotations

from tcpmux.config import Route, Text, load_texts
from tcpmux.convert.conversion import Conversion


def only_route(found: Conversion) -> Route:
    """Of a file that is converted whole."""
    assert not found.changes, [str(change) for change in found.changes]
    (made,) = load_texts([Text("r", found.text, {})]).routes
    return made


def rules_of(made: Route) -> list[str]:
    """`CONDITIONS -> WEIGHTS`."""
    return [
        f"{rule} -> " + (" ".join(f"{n}={w}" for n, w in rule.weights) or "reset")
        for rule in made.rules
    ]


def lines(made: Route) -> list[str]:
    """Its rules, and the destinations that have the rest."""
    return [*rules_of(made), " ".join(d.name for d in made.destinations if d.weight)]
