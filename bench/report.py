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

REFERENCE = "nginx"
SUBJECT = "tcpmux"
FORMAT = 1
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
    rate: Spread | None
    rate_unit: str
    p50_us: Spread | None
    p99_us: Spread | None
    ratio: Spread | None
    goal: str | None
    goal_met: bool | None
    errors: int
    first_error: str | None
    unsettled: int
    foreign: Spread | None


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """One summary for each scenario and peer, in the order of the measurements."""
    keys = dict.fromkeys((one.scenario, one.peer) for one in measurements)
    return [
        _summary(
            SCENARIOS[scenario],
            peer,
            [one for one in measurements if (one.scenario, one.peer) == (scenario, peer)],
            {
                one.round: one.cost
                for one in measurements
                if (one.scenario, one.peer) == (scenario, REFERENCE)
            },
        )
        for scenario, peer in keys
    ]


def _summary(
    scenario: Scenario, peer: str, rounds: list[Measurement], reference: dict[int, float | None]
) -> Summary:
    cost = Spread.of([one.cost for one in rounds])
    # Round by round: what disturbs the machine for some seconds disturbs neighbours alike.
    ratio = Spread.of([_ratio(one.cost, reference.get(one.round)) for one in rounds])
    goal, met = _judge(scenario, peer, cost, ratio)
    return Summary(
        scenario=scenario.name,
        peer=peer,
        rounds=len(rounds),
        cost=cost,
        cost_unit=scenario.cost_unit,
        worker_cost=Spread.of([one.worker_cost for one in rounds]),
        rate=Spread.of([one.rate for one in rounds]),
        rate_unit=scenario.rate_unit,
        p50_us=Spread.of([one.outcome.p50_us for one in rounds]),
        p99_us=Spread.of([one.outcome.p99_us for one in rounds]),
        ratio=ratio,
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
    text = (
        f"<= {goal.most:g} x {REFERENCE}"
        if goal.of_nginx
        else f"<= {goal.most:g} {scenario.cost_unit}"
    )
    reached = ratio if goal.of_nginx else cost
    return text, None if reached is None else reached.median <= goal.most


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
        f"to {REFERENCE}",
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
