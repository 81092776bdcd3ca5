"""From files of another proxy to the text of a routes.yaml that has been read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tcpmux.config.document import Text
from tcpmux.config.loader import load_texts
from tcpmux.config.model import Admin, Config, Route
from tcpmux.config.native import to_text
from tcpmux.config.problems import ConfigError, Problem
from tcpmux.config.schema import FileModel
from tcpmux.convert.draft import Draft, routes_of
from tcpmux.convert.kinds import Input, reader_of
from tcpmux.convert.report import Effect, Finding, Report

RESULT = "the result"  # its name in messages


@dataclass(frozen=True, slots=True)
class Conversion:
    """text: of the routes.yaml, with the remarks of `--partial` in it; "" if no route came of the
    files. findings: what became of every word."""

    text: str
    findings: tuple[Finding, ...]
    totals: Mapping[str, int]

    @property
    def changes(self) -> list[Finding]:
        """What is not in the result, and changes traffic."""
        return [found for found in self.findings if found.effect is Effect.CHANGES]

    def as_json(self) -> dict[str, Any]:
        return {
            "findings": [found.as_json() for found in self.findings],
            "totals": dict(self.totals),
            "complete": not self.changes,
        }


def convert(kind: str, inputs: Sequence[Input]) -> Conversion:
    """Raises ConfigError for mistakes in the files, and if what came of them is no configuration
    that tcpmux accepts."""
    report = Report()
    result = reader_of(kind)(inputs, report)
    report.complain()
    made = routes_of(result.drafts, report)
    report.complain()
    if not made and not report.changes():
        names = ", ".join(file.name for file in inputs)
        raise ConfigError([Problem(names, 0, 0, "", "found no TCP proxy with a destination")])
    text = ""
    if made:
        config = _config([route for route, _ in made], result.settings)
        text = to_text(config, _remarks(made, report))
        read_back(text, config, made)
    return Conversion(text, tuple(report.findings()), report.totals())


def _config(routes: Sequence[Route], settings: Mapping[str, object]) -> Config:
    default = FileModel()
    config = Config(
        default.workers,
        default.busy_poll,
        Admin(default.admin.socket),
        default.drain_timeout,
        tuple(routes),
    )
    return replace(config, **settings)  # type: ignore[arg-type]


def _remarks(made: Sequence[tuple[Route, Draft]], report: Report) -> dict[str, list[str]]:
    """What is not in the result, by the route that it was for; "" = by none."""
    remarks: dict[str, list[str]] = {}
    for found in report.changes():
        owners = [route.name for route, draft in made if found.section in draft.sections]
        for name in owners or [""]:
            remarks.setdefault(name, []).append(found.remark)
    return remarks


def read_back(text: str, config: Config, made: Sequence[tuple[Route, Draft]] = ()) -> None:
    """Raises ConfigError unless tcpmux reads it as what was meant. made: where its routes come
    from, as far as that is known."""
    try:
        found = load_texts([Text(RESULT, text, {})])
    except ConfigError as error:
        raise ConfigError([_traced(problem, made) for problem in error.problems]) from None
    for route, other in zip(config.routes, found.routes, strict=True):
        if _compared(route) != _compared(other):
            raise AssertionError(f"route {route.name} is read back as {other}, not {route}")
    if replace(found, routes=(), warnings=()) != replace(config, routes=(), warnings=()):
        raise AssertionError(f"read back as {found}, not {config}")


def _compared(route: Route) -> Any:
    """All of it but the order in which endpoints take turns."""
    destinations = [
        (
            replace(destination, endpoints=(), endpoint_policies=()),
            Counter(destination.endpoints),
            dict(destination.endpoint_policies),
        )
        for destination in route.destinations
    ]
    return replace(route, source="", destinations=()), destinations


def _traced(problem: Problem, made: Sequence[tuple[Route, Draft]]) -> Problem:
    """In the file that it comes from."""
    start, _, rest = problem.where.partition("]")
    index = start.removeprefix("routes[")
    if start == problem.where or not index.isdigit() or int(index) >= len(made):
        return problem
    route, draft = made[int(index)]
    where = f"route {route.name}{rest}".strip()
    return Problem(draft.at.file, draft.at.line, 1, where, problem.message)
