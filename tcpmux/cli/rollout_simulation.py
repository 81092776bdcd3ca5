"""`tcpmux rollout simulate`: how long rollouts would take, and how they would end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from tcpmux.cli.output import human_seconds, say
from tcpmux.errors import UsageError, plural, printable
from tcpmux.rollout.judgement import Histograms
from tcpmux.rollout.machine import Do
from tcpmux.rollout.plan import EARLY, Plan, plan_from, steps_text
from tcpmux.rollout.simulation import Model, Outcome, simulated

if TYPE_CHECKING:
    from tcpmux.config import Config, Route

RATE, RUNS = 200.0, 100
SEED = 1  # the same question has the same answer
_LATENCY = tuple(round(bound * 1e6) for bound in EARLY)
HISTOGRAMS = Histograms(_LATENCY, _LATENCY)
ENDS = {
    Do.PROMOTE: "promoted",
    Do.ROLL_BACK: "rolled back",
    Do.PAUSE: "paused",
    Do.NOTHING: "not ended within 30 days",
}


def simulate(name: str | None, values: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Raises TcpmuxError."""
    from tcpmux.config import load

    if not given["config"]:
        raise UsageError("no file given: name one with -c")
    route = _route(load(given["config"]), name)
    try:
        plan = plan_from(values, route.rollout or Plan(to=""))
    except ValueError as error:
        raise UsageError(str(error)) from None
    skipped = ", without the shadow before them" if plan.shadow else ""
    plan = replace(plan, shadow=0.0)  # copies of what is drawn would show nothing
    names = [destination.name for destination in route.destinations]
    if plan.to not in names:
        raise UsageError(
            f"{route.name} has no destination {plan.to!r}: there are {', '.join(names)}"
            if plan.to
            else f"the file has no `rollout` for {route.name}: say which version, with --to"
        )
    factor = given["latency"] or 1.0
    old = Model()
    new = Model(failures=given["failure"] or 0.0, median=old.median * factor)
    rate, runs = given["rate"] or RATE, given["runs"] or RUNS
    random = Random(SEED)
    say(
        f"{printable(route.name)}: {plural(runs, 'rollout')} to {printable(plan.to)} by "
        f"{steps_text(plan.steps)}{skipped}, at {rate:g} connections/s"
    )
    found = [simulated(plan, new, old, rate, HISTOGRAMS, random) for _ in range(runs)]
    for line in _lines(found, is_worse=new != old):
        say(line)
    return 0


def _route(config: Config, name: str | None) -> Route:
    routes = {route.name: route for route in config.routes}
    if name is None and len(routes) == 1:
        (name,) = routes
    if name is None or name not in routes:
        raise UsageError(f"name one of its routes: {', '.join(routes)}")
    return routes[name]


def _lines(found: Sequence[Outcome], *, is_worse: bool) -> list[str]:
    lines = []
    for end, count in Counter(each.end for each in found).most_common():
        those = [each for each in found if each.end is end]
        took = sorted(each.seconds for each in those)
        had = sorted(each.connections for each in those)
        lines.append(
            f"  {ENDS[end]}: {count} of {len(found)}, after {_spread(took)} and "
            f"{_middle(had)} connections of it (at most {had[-1]})"
        )
    wrong = sum(each.end is (Do.PROMOTE if is_worse else Do.ROLL_BACK) for each in found)
    what = "promoted though it is worse" if is_worse else "rolled back though it is as good"
    lines.append(f"  {what}: {wrong} of {len(found)}")
    example = next((each.text for each in found if each.end is Do.ROLL_BACK), "")
    return [*lines, f"  such as: {example}"] if example else lines


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]


def _spread(values: Sequence[float]) -> str:
    middle, most = _middle(values), values[-1]
    return f"{human_seconds(middle)} (at most {human_seconds(most)})"
