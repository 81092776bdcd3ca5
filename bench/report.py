"""Turns measurements into a table and a JSON file. Runs in the bench process."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.scenarios import Measurement, Scenario

SUBJECT = "tcpmux"
NO_PROXY = "direct"
FORMAT = 3
DISTURBED = 0.05  # clock ticks alone make for some percent


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float | None]) -> Spread | None:
        """The spread of the values that exist, or None without any."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return Spread(statistics.median(known), min(known), max(known))


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one scenario on one peer."""

    scenario: str
    peer: str
    rounds: int
    cost: Spread | None
    cost_unit: str
    worker_cost: Spread | None
    machine_cost: Spread | None
    rate: Spread | None
    rate_unit: str
    p50_us: Spread | None
    p99_us: Spread | None
    best: str | None
    ratio: Spread | None
    machine_ratio: Spread | None
    goal: str | None
    goal_met: bool | None
    errors: int
    first_error: str | None
    unsettled: int
    foreign: Spread | None


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """One summary for each scenario and peer, in the order of the measurements."""
    found = []
    for name in dict.fromkeys(one.scenario for one in measurements):
        mine = [one for one in measurements if one.scenario == name]
        best = best_peer(SCENARIOS[name], mine)
        reference = {one.round: one for one in mine if one.peer == best}
        for peer in dict.fromkeys(one.peer for one in mine):
            rounds = [one for one in mine if one.peer == peer]
            found.append(_summary(SCENARIOS[name], peer, rounds, best, reference))
    return found


def judged(scenario: Scenario, one: Measurement) -> float | None:
    """What is compared: the cost, or the median latency."""
    if scenario.goal is not None and scenario.goal.of_p50:
        return one.outcome.p50_us
    return one.cost


def best_peer(scenario: Scenario, measurements: Sequence[Measurement]) -> str | None:
    """The other proxy with the lowest median; None if there is none."""
    medians = {}
    for peer in dict.fromkeys(one.peer for one in measurements):
        if peer in (SUBJECT, NO_PROXY):
            continue
        spread = Spread.of([judged(scenario, one) for one in measurements if one.peer == peer])
        if spread is not None:
            medians[peer] = spread.median
    return min(medians, key=lambda peer: medians[peer]) if medians else None


def _summary(
    scenario: Scenario,
    peer: str,
    rounds: list[Measurement],
    best: str | None,
    reference: dict[int, Measurement],
) -> Summary:
    cost = Spread.of([one.cost for one in rounds])
    # Round by round: what disturbs the machine for some seconds disturbs neighbours alike.
    pairs = [(one, reference[one.round]) for one in rounds if one.round in reference]
    ratio = Spread.of([_ratio(judged(scenario, a), judged(scenario, b)) for a, b in pairs])
    machine = Spread.of([_ratio(a.machine_cost, b.machine_cost) for a, b in pairs])
    goal, met = _judge(scenario, peer, cost, ratio)
    return Summary(
        scenario=scenario.name,
        peer=peer,
        rounds=len(rounds),
        cost=cost,
        cost_unit=scenario.cost_unit,
        worker_cost=Spread.of([one.worker_cost for one in rounds]),
        machine_cost=Spread.of([one.machine_cost for one in rounds]),
        rate=Spread.of([one.rate for one in rounds]),
        rate_unit=scenario.rate_unit,
        p50_us=Spread.of([one.outcome.p50_us for one in rounds]),
        p99_us=Spread.of([one.outcome.p99_us for one in rounds]),
        best=best,
        ratio=ratio,
        machine_ratio=machine,
        goal=goal,
        goal_met=met,
        errors=sum(one.outcome.errors for one in rounds),
        first_error=next((one.outcome.first_error for one in rounds if one.outcome.errors), None),
        unsettled=sum(not one.settled for one in rounds),
        foreign=Spread.of([one.foreign for one in rounds]),
    )


def _ratio(cost: float | None, reference: float | None) -> float | None:
    return cost / reference if cost is not None and reference else None


def _judge(
    scenario: Scenario, peer: str, cost: Spread | None, ratio: Spread | None
) -> tuple[str | None, bool | None]:
    """The goal in words and whether it is met; nothing for other peers than tcpmux."""
    goal = scenario.goal
    if peer != SUBJECT or goal is None:
        return None, None
    what = "p50 " if goal.of_p50 else ""
    unit = "of the best" if goal.of_best else scenario.cost_unit
    reached = ratio if goal.of_best else cost
    text = f"{what}<= {goal.most:g} {unit}"
    return text, None if reached is None else reached.median <= goal.most


def overview(summaries: Sequence[Summary]) -> Table:
    """A line for each scenario: tcpmux against the best of the others."""
    drawn = Table(title="tcpmux against the best of the others", title_justify="left")
    for name in ("scenario", "tcpmux", "best", "its cost", "ratio", "whole machine", "goal"):
        drawn.add_column(name, justify="left" if name in ("scenario", "best", "goal") else "right")
    by_key = {(one.scenario, one.peer): one for one in summaries}
    for one in summaries:
        if one.peer != SUBJECT:
            continue
        best = by_key.get((one.scenario, one.best or ""))
        drawn.add_row(
            one.scenario,
            f"{_number(_shown(one))} {_unit(one)}",
            one.best or "-",
            _number(_shown(best)) if best else "-",
            _number(one.ratio),
            _number(one.machine_ratio),
            _goal(one),
        )
    return drawn


def _by_p50(one: Summary) -> bool:
    goal = SCENARIOS[one.scenario].goal
    return goal is not None and goal.of_p50


def _shown(one: Summary) -> Spread | None:
    return one.p50_us if _by_p50(one) else one.cost


def _unit(one: Summary) -> str:
    return "us (p50)" if _by_p50(one) else one.cost_unit


def table(scenario: Scenario, summaries: Sequence[Summary]) -> Table:
    """The summaries of one scenario as a terminal table."""
    first = next(one for one in summaries if one.scenario == scenario.name)
    cost = "memory" if scenario.name == "idle" else "CPU"
    drawn = Table(
        title=f"{scenario.name}: {cost} in {scenario.cost_unit}, rate in {scenario.rate_unit}, "
        f"medians of {first.rounds}",
        title_justify="left",
    )
    drawn.add_column("peer")
    for name in (
        cost,
        "lowest..highest",
        "worker",
        "rate",
        "p50 us",
        "p99 us",
        "machine",
        f"to {first.best or 'the best'}",
        "lowest..highest",
        "goal",
        "errors",
    ):
        drawn.add_column(name, justify="right")
    for one in summaries:
        if one.scenario == scenario.name:
            drawn.add_row(
                one.peer,
                _number(one.cost),
                _range(one.cost),
                _number(one.worker_cost),
                _number(one.rate),
                _number(one.p50_us),
                _number(one.p99_us),
                _number(one.machine_cost),
                _number(one.ratio),
                _range(one.ratio),
                _goal(one),
                _errors(one),
            )
    return drawn


def _digits(value: float) -> str:
    """Three significant digits, which is as much as the spread lets mean anything."""
    for least, decimals in ((100.0, 0), (10.0, 1), (1.0, 2)):
        if abs(value) >= least:
            return f"{value:.{decimals}f}"
    return f"{value:.3f}"


def _number(spread: Spread | None) -> str:
    return "-" if spread is None else _digits(spread.median)


def _range(spread: Spread | None) -> str:
    return "-" if spread is None else f"{_digits(spread.lowest)}..{_digits(spread.highest)}"


def _goal(one: Summary) -> Text:
    if one.goal is None:
        return Text("")
    if one.goal_met is None:
        return Text(f"{one.goal}: unknown")
    return Text(
        f"{one.goal}: {'met' if one.goal_met else 'missed'}",
        style="green" if one.goal_met else "red",
    )


def _errors(one: Summary) -> Text:
    if one.errors == 0:
        return Text("0")
    return Text(f"{one.errors} ({one.first_error})", style="red")


def remarks(summary: Summary) -> list[str]:
    """What makes the numbers of `summary` doubtful, one sentence each."""
    found = []
    if summary.unsettled:
        found.append(
            f"{summary.peer} kept using CPU while nothing was asked of it, in "
            f"{summary.unsettled} of {summary.rounds} rounds"
        )
    if summary.foreign is not None and summary.foreign.highest > DISTURBED:
        found.append(
            f"other programs had up to {summary.foreign.highest:.0%} of {summary.peer}'s CPU"
        )
    return found


def write_json(
    path: Path,
    about: dict[str, Any],
    measurements: Sequence[Measurement],
    summaries: Sequence[Summary],
) -> None:
    """Everything about this run, so that it can be compared with another one."""
    content = {
        "format": FORMAT,
        **about,
        "summaries": [asdict(one) for one in summaries],
        "measurements": [asdict(one) for one in measurements],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
