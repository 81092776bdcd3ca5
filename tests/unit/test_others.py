"""The access log says why a connection had no choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tcpmux.logger import others
from tcpmux.logger.others import MAX_SHOWN, Others, why_out
from tcpmux.shm.image import (
    DISABLED,
    DOWN,
    DRAINING,
    DestinationRow,
    EndpointRow,
    Image,
    RouteRow,
)
from tcpmux.shm.serving import with_turns_and_weights

ROUTE = 1


def destination(slot: int, weight: int = 1, **more: int) -> DestinationRow:
    endpoints = (EndpointRow(f"192.0.2.{slot}:1", 100 + slot, 1),)
    return replace(DestinationRow(f"v{slot}", weight, weight, 0, 0, slot, 1, endpoints), **more)  # type: ignore[arg-type]


def with_endpoint(slot: int, **more: int) -> DestinationRow:
    row = destination(slot)
    return replace(row, endpoints=(replace(row.endpoints[0], **more),))  # type: ignore[arg-type]


def route(*rows: DestinationRow) -> RouteRow:
    return with_turns_and_weights(RouteRow("r", 0, ROUTE, 1, rows))


class Table:
    """In place of the memory: what is in force, and how often somebody has looked."""

    def __init__(self, *rows: DestinationRow) -> None:
        self.looks = 0
        self.generation = 0
        self.put(*rows)

    def put(self, *rows: DestinationRow) -> None:
        self.generation += 1
        self.routes = (route(*rows),) if rows else ()

    def image(self) -> tuple[int, Image]:
        self.looks += 1
        return self.generation, Image(self.routes, ())


@pytest.fixture(autouse=True)
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "READ_EVERY", 0.0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (destination(9, 0), "weight 0"),
        (destination(9, state=DRAINING), "drained"),
        (destination(9, 0, state=DISABLED), "disabled"),
        (with_endpoint(9, health=DOWN), "down"),
        (with_endpoint(9, state=DRAINING), "drained"),
        (with_endpoint(9, state=DISABLED, health=DOWN), "disabled"),
        (replace(destination(9), endpoints=()), "no endpoints"),
        (replace(destination(9), endpoints=(), unresolved=1), "no address"),
        (destination(9), "takes connections"),
    ],
)
def test_why_a_destination_is_out(row: DestinationRow, why: str) -> None:
    assert why_out(route(destination(1), row).destinations[1]) == why


def test_what_was_is_remembered_and_what_was_not_asked_for_is_said_as_it_is_now() -> None:
    table = Table(destination(1), with_endpoint(2, health=DOWN), destination(3, 0))
    answers = Others(table)
    assert answers.text(ROUTE, 1, 1) == "v2: down, v3: weight 0"
    table.put(destination(1), destination(2, state=DRAINING))
    table.put(destination(1), destination(2))
    assert answers.text(ROUTE, 1, 3) == "v2: takes connections"
    assert answers.text(ROUTE, 1, 1) == "v2: down, v3: weight 0"
    assert answers.text(ROUTE, 1, 2) == "v2: takes connections (in generation 3)"
    assert answers.text(77, 1, 3) is None  # that route is gone
    table.put(destination(1))
    assert answers.text(ROUTE, 1, 4) is None


def test_many_are_counted_and_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "MAX_KNOWN", 2)
    rows = [destination(n + 2, 0) for n in range(MAX_SHOWN + 3)]
    table = Table(destination(1), *rows)
    answers = Others(table)
    for slot in range(50, 60):
        text = answers.text(ROUTE, slot, 1)
        assert text is not None
        assert text.endswith(", 4 more")
    assert len(answers._known) == 2


def test_the_table_is_not_looked_at_for_each_line_of_what_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But at once for what is newer than its copy."""
    monkeypatch.setattr(others, "READ_EVERY", 3600.0)
    table = Table(destination(1), destination(2, 0))
    answers = Others(table)
    assert answers.text(ROUTE, 1, 1) == "v2: weight 0"
    for slot in range(1000):
        answers.text(ROUTE, slot, 0)
    assert table.looks == 1
    table.put(destination(1), destination(2, state=DRAINING))
    assert answers.text(ROUTE, 1, 2) == "v2: drained"
