"""How commands show conditions and problems: the word, its color, the reason and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpmux.cli.output import Styled, human_seconds, painted, percent, wrapped
from tcpmux.cli.text import width
from tcpmux.control.condition import BY_URGENCY, COLORS, Condition
from tcpmux.errors import TcpmuxError, clock, plural, printable
from tcpmux.nearest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from tcpmux.control.client import Problem, RouteStatus, RuleStatus

UNKNOWN = "-"  # a build before this one tells none
SEVERITIES = {"error": "red", "warning": "yellow"}


def condition_of(thing: Mapping[str, Any]) -> Condition:
    """Of a route, destination, endpoint or name of the status."""
    return Condition(
        thing.get("condition", UNKNOWN),
        thing.get("condition_reason", ""),
        thing.get("condition_since"),
    )


def word(condition: Condition) -> str:
    """In its color."""
    return Styled(condition.word, COLORS.get(condition.word, ""))


def urgency(condition: Condition) -> int:
    """To sort by: what is worst first."""
    known = condition.word in BY_URGENCY
    return BY_URGENCY.index(condition.word) if known else len(BY_URGENCY)


def lasting(condition: Condition, now: float, room: int | None = None) -> str:
    """`down since 19:04:07 (3m 05s)` or, if that is more than room columns, `down for 3m 05s`.
    now: Unix time, s."""
    since = condition.since
    if since is None:
        return condition.word
    text = f"{condition.word} since {since_text(since, now)}"
    if room is None or width(text) <= room:
        return text
    return f"{condition.word} for {human_seconds(now - since)}"


def since_text(since: float, now: float) -> str:
    """`19:04:07 (3m 05s)`, with the date if that is another day. Both Unix time, s."""
    return f"{clock(since, now)} ({human_seconds(now - since)})"


def split(of: RouteStatus | RuleStatus) -> str:
    """`v1 80%, v2 20%`: of new connections, of a route or of those that meet one of its rules."""
    shares = [(d["name"], d["effective_weight"]) for d in of["destinations"]]
    whole = sum(weight for _, weight in shares)
    return ", ".join(f"{name} {percent(weight, whole)}" for name, weight in shares)


def place_of(problem: Problem) -> str:
    """What it is about, as other commands take it."""
    parts = [problem["route"], problem["destination"], problem["endpoint"]]
    return "/".join(part for part in parts if part is not None) or "tcpmux"


def routes_named(routes: Sequence[RouteStatus], names: Sequence[str]) -> list[RouteStatus]:
    """Those of these names, in that order; without names all. Raises TcpmuxError."""
    by_name = {route["name"]: route for route in routes}
    for name in names:
        if name.removesuffix("/") not in by_name:
            hint = did_you_mean(name, list(by_name)) or "`tcpmux routes` lists them"
            raise TcpmuxError(f"no route named {name!r}: {hint}")
    wanted = dict.fromkeys(name.removesuffix("/") for name in names)
    return [by_name[name] for name in wanted] if names else list(routes)


def problem_lines(
    problems: Sequence[Problem], total: int, most_shown: int, now: float, most: int | None
) -> Iterator[str]:
    """Those that are wrong now, the worst first. most: columns of the screen, None = no limit."""
    yield painted(plural(total, "problem"), Styled("", "bold"))
    for problem in problems[:most_shown]:
        at = Condition(problem["condition"], "", problem["since"])
        color = SEVERITIES.get(problem["severity"], "")
        severity = painted(problem["severity"], Styled("", color))
        place = printable(place_of(problem))
        room = None if most is None else most - width(f"  {problem['severity']}  {place}  ")
        head = f"{severity}  {place}  {painted(lasting(at, now, room), word(at))}"
        if most is None:
            yield f"  {head}: {printable(problem['text'])}"
        else:
            yield f"  {head}"
            yield from wrapped(problem["text"], "    ", most)
        yield from wrapped(f"-> {problem['action']}", "    ", most)
    if total > most_shown:
        yield f"  and {total - most_shown} more"
