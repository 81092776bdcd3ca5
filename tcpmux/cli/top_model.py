"""What `tcpmux top` shows, from what the stream tells: the figures of each destination and rule."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tcpmux.cli.conditions import condition_of, urgency
from tcpmux.control.condition import Condition
from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.client import Problem
    from tcpmux.control.schema import ConvergenceStatus

HISTORY = 60  # s
WINDOW = 10  # s over which the split is measured
DESTINATION_SORTS = ("condition", "conn/s", "active", "bytes/s", "errors", "name")
RULE = Condition("rule")  # what is shown for that of one
TOTAL, ACTIVE, IN, OUT, FAILURES, ERRORS = range(6)  # columns of a sample


@dataclass(slots=True)
class Figures:
    """Of one destination, or of a rule, of which only connections are counted. Rates per second."""

    route: str
    name: str
    weight: int
    asked: float | None  # of its route's connections
    condition: Condition
    measured: tuple[int, int]  # new connections of it and of its route, in the window
    connections: float
    active: int
    bytes: float
    errors: float
    trend: list[float]
    is_rule: bool


@dataclass(slots=True)
class Model:
    """What the stream has told: the table, and the samples of the last minute."""

    table: dict[str, Any] = field(default_factory=dict)
    conditions: dict[tuple[str, str], Condition] = field(default_factory=dict)  # of destinations
    problems: list[Problem] = field(default_factory=list)
    problems_total: int = 0
    samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY + 1))

    def take(self, kind: str, data: Any) -> None:
        """An update of the stream. Raises TcpmuxError."""
        if kind == "table":
            before = self._names()
            self.table = data
            if self._names() != before:
                self.samples.clear()  # rows are identified by their index
            self.conditions = {}
            self._take_conditions(data)
        elif kind == "conditions":
            self.problems, self.problems_total = data["problems"], data["problems_total"]
            self._take_conditions(data)
        elif kind == "sample" and self.table:
            sizes = [len(route["destinations"]) for route in self.table["routes"]]
            if any(len(cell) <= ERRORS for route in data["routes"] for cell in route):
                raise TcpmuxError("not tcpmux, or of another build: a sample lacks columns")
            if [len(route) for route in data["routes"]] == sizes:
                self._take_sample(data)

    @property
    def convergences(self) -> dict[str, ConvergenceStatus]:
        """Of routes that converge, by name. An older instance reports none."""
        return self.samples[-1].get("convergences", {}) if self.samples else {}

    def _take_conditions(self, data: dict[str, Any]) -> None:
        for route in data["routes"]:
            for destination in route["destinations"]:
                own = condition_of(destination)
                self.conditions[route["name"], destination["name"]] = own

    def _take_sample(self, data: dict[str, Any]) -> None:
        """The rules of a route come after its destinations, in columns like theirs."""
        counts = data.get("rule_counts")
        if counts is not None:  # an older build tells none
            sizes = [len(route.get("rules", ())) for route in self.table["routes"]]
            if [len(route) for route in counts] != sizes:
                return
            if any(len(pair) != 2 for route in counts for pair in route):
                raise TcpmuxError("not tcpmux, or of another build: a sample lacks columns")
            rules = [[[total, active, 0, 0, 0, 0] for active, total in route] for route in counts]
            both = zip(data["routes"], rules, strict=True)
            data["routes"] = [[*of, *more] for of, more in both]
        if self.samples and _sizes(self.samples[-1]) != _sizes(data):
            self.samples.clear()
        self.samples.append(data)

    def _condition(self, r: int, d: int) -> Condition:
        route = self.table["routes"][r]
        if d >= len(route["destinations"]):
            return RULE
        return self.conditions[route["name"], route["destinations"][d]["name"]]

    def _names(self) -> list[tuple[str, list[str], list[str]]]:
        return [
            (
                route["name"],
                [row["name"] for row in route["destinations"]],
                [rule["name"] for rule in route.get("rules", ())],  # an older build has none
            )
            for route in self.table.get("routes", ())
        ]

    def row_count(self) -> int:
        """Of all destinations and rules."""
        return sum(map(len, self.samples[-1]["routes"])) if self.samples else 0

    def rows(self, sort: str, most: int, *, reverse: bool) -> list[Figures]:
        """The first `most` by `sort`; what costs more is done for those alone."""
        if not self.samples:
            return []
        now = self.samples[-1]["routes"]
        last = self.samples[-2]["routes"] if len(self.samples) > 1 else now
        at: dict[str, Any] = {
            "condition": lambda r, d: -urgency(self._condition(r, d)),
            "conn/s": lambda r, d: now[r][d][TOTAL] - last[r][d][TOTAL],
            "active": lambda r, d: now[r][d][ACTIVE],
            "bytes/s": lambda r, d: sum(now[r][d][IN : OUT + 1]) - sum(last[r][d][IN : OUT + 1]),
            "errors": lambda r, d: now[r][d][ERRORS] - last[r][d][ERRORS],
        }
        cells = [(r, d) for r, route in enumerate(now) for d in range(len(route))]
        if sort in at:
            cells.sort(key=lambda cell: at[sort](*cell), reverse=not reverse)
        elif reverse:
            cells.reverse()
        return [self._figures(r, d) for r, d in cells[:most]]

    def _figures(self, r: int, d: int) -> Figures:
        route = self.table["routes"][r]
        count = len(route["destinations"])
        is_rule = d >= count
        row = route["rules"][d - count] if is_rule else route["destinations"][d]
        whole = sum(other["effective_weight"] for other in route["destinations"])
        samples = list(self.samples)
        now, last = samples[-1], samples[-2] if len(samples) > 1 else samples[-1]
        first = samples[max(0, len(samples) - 1 - WINDOW)]
        seconds = max(now["time"] - last["time"], 1e-3) if last is not now else 1.0

        def grown(column: int) -> float:
            return float(now["routes"][r][d][column] - last["routes"][r][d][column])

        both = zip(now["routes"][r], first["routes"][r], strict=True)
        news = [one[TOTAL] - before[TOTAL] for one, before in both]
        totals = [sample["routes"][r][d][TOTAL] for sample in samples]
        return Figures(
            route["name"],
            row["name"],
            0 if is_rule else row["weight"],
            row["effective_weight"] / whole if whole and not is_rule else None,
            self._condition(r, d),
            (news[d], sum(news[:count])),
            grown(TOTAL) / seconds,
            now["routes"][r][d][ACTIVE],
            (grown(IN) + grown(OUT)) / seconds,
            grown(ERRORS) / seconds,
            [float(after - before) for before, after in pairwise(totals)],
            is_rule,
        )


def _sizes(sample: dict[str, Any]) -> list[int]:
    return [len(route) for route in sample["routes"]]
