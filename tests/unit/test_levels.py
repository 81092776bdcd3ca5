"""How serious a line of the log is, and that what another process says of it is bounded."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from tcpmux.config import Rule
from tcpmux.levels import NOWHERE, Line, Where, level_from, level_of, where_from
from tcpmux.master.change import Places
from tcpmux.master.consequences import consequences
from tcpmux.shm.image import (
    DOWN,
    DRAINING,
    FALLBACK,
    HEALTHY,
    HOLD,
    REFUSE,
    REJECT,
    Image,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.serving import with_conditions, with_state, with_turns_and_weights
from tests.unit.watching import destination, endpoint, route

FIRST, SECOND = ("r", "v1", "127.0.0.1:1"), ("r", "v2", "127.0.0.1:2")
BOTH = (FIRST, SECOND)


def two(**rules: Any) -> RouteRow:
    weight = rules.pop("weight", 1)
    v1 = destination(1, "v1", weight, endpoint(2, "127.0.0.1:1"))
    return route(v1, destination(4, "v2", 1, endpoint(3, "127.0.0.1:2")), **rules)


def told(row: RouteRow, *down: tuple[str, str, str]) -> list[tuple[int, str]]:
    """What follows when these go down, and that all is information when they are back."""
    before = Image((row,), ())
    after = with_conditions(before, dict.fromkeys(down, (DOWN, 100)))
    back = with_conditions(after, dict.fromkeys(down, (HEALTHY, 100)))
    assert {line.level for line in consequences(after, back)} == {logging.INFO}
    return [(line.level, str(line)) for line in consequences(before, after)]


@pytest.mark.parametrize(
    ("rules", "level", "share"),
    [
        ({}, logging.WARNING, "the others get its share"),
        ({"weight": 0}, logging.WARNING, "it had no share"),
        ({"on_unavailable": REJECT}, logging.ERROR, "its share is reset"),
        (
            {"on_unavailable": FALLBACK, "fallback": 1},
            logging.WARNING,
            "its fallback gets its share",
        ),
    ],
)
def test_a_destination_that_is_out_is_an_error_only_if_clients_lose_by_it(
    rules: dict[str, Any], level: int, share: str
) -> None:
    assert told(two(**rules), FIRST) == [(level, f"r/v1: no endpoint is healthy: {share}")]


@pytest.mark.parametrize(
    ("rules", "end"),
    [
        ({}, "reset"),
        ({"on_all_unavailable": HOLD}, "held"),
        ({"on_all_unavailable": REFUSE}, "refused"),
        ({"on_unavailable": FALLBACK, "fallback": 1}, "reset"),
    ],
)
def test_a_route_that_nobody_serves_is_an_error(rules: dict[str, Any], end: str) -> None:
    """And nobody is said to get a share that nobody gets."""
    lines = told(two(**rules), *BOTH)
    text = "r: no destination with weight has a healthy endpoint: new connections are "
    assert lines[-1] == (logging.ERROR, f"{text}{end}; `tcpmux endpoint` says why")
    for _, line in lines[:-1]:
        assert "get" not in line


def test_who_could_serve_a_route_without_weight_is_named_with_the_command() -> None:
    """A drained one could not."""
    idle = [
        destination(5 + 2 * n, f"v{n}", 0, endpoint(6 + 2 * n, f"127.0.0.1:{n}")) for n in (3, 4)
    ]
    row = two()
    row = replace(row, destinations=(*row.destinations, *idle))
    drained = with_state(Image((row,), ()), ("r", "v3"), DRAINING).routes[0]
    *others, (level, text) = told(drained, *BOTH)
    assert level == logging.ERROR
    assert text.startswith("r: no destination with weight has a healthy endpoint: new connections")
    assert text.endswith("; v4 is healthy and has weight 0: `tcpmux weight r v4=100 v1=0 v2=0`")
    share = "no endpoint is healthy: no destination with weight is left to take its share"
    assert others == [(logging.WARNING, f"r/{name}: {share}") for name in ("v1", "v2")]
    both = told(row, *BOTH)[-1][1]
    assert both.endswith(
        "; v3, v4 are healthy and have weight 0: `tcpmux weight r v3=100 v1=0 v2=0`"
    )


def test_a_rule_that_nobody_serves_is_an_error_of_its_own() -> None:
    """Said once, and not when nobody serves the route, which says more."""
    rule = RuleRow(Rule(name="testers"), 0, 9, 1, (1, 0), (1, 0), ())
    row = with_turns_and_weights(replace(two(), pick_rules=(rule,)))
    text = "r: rule testers: no destination with weight has a healthy endpoint: its connections are"
    error = (logging.ERROR, f"{text} reset; `tcpmux endpoint` says why")
    assert told(row, FIRST)[1:] == [error]
    assert error not in told(row, SECOND)
    assert error not in told(row, *BOTH)
    one = with_conditions(Image((row,), ()), {FIRST: (DOWN, 100)})
    both = with_conditions(one, {SECOND: (DOWN, 100)})
    assert error not in [(line.level, str(line)) for line in consequences(one, both)]
    assert error in [(line.level, str(line)) for line in consequences(both, one)]
    again = [str(line) for line in consequences(one, Image((row,), ()))]
    assert "r: rule testers: takes connections again" in again


def test_panic_is_a_warning() -> None:
    rows = [endpoint(2 + n, f"127.0.0.1:{n}") for n in (1, 2, 3)]
    row = route(destination(1, "v1", 1, *rows, panic_percent=50))
    ((level, text),) = told(row, ("r", "v1", "127.0.0.1:1"), ("r", "v1", "127.0.0.1:2"))
    assert level == logging.WARNING
    assert text == "r/v1: only 1 of 3 endpoints are healthy, panic_threshold is 50%: all are used"


def test_what_another_process_takes_for_a_level_is_bounded() -> None:
    assert level_from(logging.WARNING) == logging.WARNING
    for value in (None, "INFO", 20.0, True, 10**30, -1, 50, [20]):
        assert level_from(value) == logging.ERROR
    assert level_of("plain") == logging.INFO
    assert level_of(Line(logging.ERROR, "worse")) == logging.ERROR


def test_what_another_process_takes_for_a_place_is_bounded() -> None:
    assert where_from(["r", "v1", "127.0.0.1:1"]) == Where("r", "v1", "127.0.0.1:1")
    for value in (None, "abc", [], ["r"], ["r"] * 4, {"r": 1}):
        assert where_from(value) == NOWHERE
    assert where_from([1, None, ["x"]]) == ("1", "None", "['x']")


def test_a_line_about_a_route_begins_with_its_name() -> None:
    places = Places(Image((route(destination(1, "v1", 1)),), ()))
    assert places.of("r: v1 1->2, generation 3") == Where("r")
    assert places.of("r/v1: no address") == Where("r", "v1")
    assert places.of("r/v9: gone") == Where("r")
    for line in ("ready: 2 workers", "r", "other/v1: x", "workers 1->2"):
        assert places.of(line) == NOWHERE
