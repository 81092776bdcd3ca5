"""What `top` draws, and how commands take the names of destinations and endpoints."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tcpmux.cli.text import width
from tcpmux.cli.top import View, sparkline
from tcpmux.cli.top_model import Model


def table(routes: int, weights: tuple[int, ...] = (80, 20)) -> dict[str, Any]:
    return {
        "state": "running",
        "generation": 3,
        "started_at": 0,
        "routes": [
            {
                "name": f"route-{i}",
                "destinations": [
                    {"name": f"v{d}", "weight": w, "effective_weight": w, "condition": "healthy"}
                    for d, w in enumerate(weights, 1)
                ],
            }
            for i in range(routes)
        ],
    }


def sample(second: int, routes: int, per_second: tuple[int, ...] = (8, 2)) -> dict[str, Any]:
    return {
        "time": 1000.0 + second,
        "workers": [{"generation": 3, "connections": 7}],
        "routes": [
            [[n * second * (i + 1), n, 0, 1024 * second, 0, 0] for n in per_second]
            for i in range(routes)
        ],
    }


def filled(routes: int) -> Model:
    model = Model()
    model.take("table", table(routes))
    for second in range(15):
        model.take("sample", sample(second, routes))
    return model


def test_the_split_seen_is_that_of_the_last_seconds() -> None:
    first, second = filled(1).rows("name", 10, reverse=False)
    assert (first.asked, first.measured) == (0.8, (80, 100))
    assert (second.asked, second.measured) == (0.2, (20, 100))
    assert (first.connections, first.bytes, first.active) == (8.0, 1024.0, 8)


def test_the_busiest_come_first_and_no_more_than_fit() -> None:
    rows = filled(50).rows("conn/s", 3, reverse=False)
    assert [(row.route, row.name) for row in rows] == [
        ("route-49", "v1"),
        ("route-48", "v1"),
        ("route-47", "v1"),
    ]


def with_rules(counts: bool = True) -> Model:
    """Of two routes, the first with two rules: half of its connections meet one of them."""
    of = table(2)
    of["routes"][0]["rules"] = [{"name": "testers"}, {"name": "banned"}]
    model = Model()
    model.take("table", of)
    for second in range(15):
        more = {"rule_counts": [[[3, 5 * second], [0, 0]], []]} if counts else {}
        model.take("sample", {**sample(second, 2), **more})
    return model


def test_rules_come_after_the_destinations_of_their_route() -> None:
    model = with_rules()
    rows = model.rows("name", 10, reverse=False)
    names = [f"{row.route[6:]}/{row.name}" for row in rows]
    assert names == ["0/v1", "0/v2", "0/testers", "0/banned", "1/v1", "1/v2"]
    testers = rows[2]
    assert (testers.connections, testers.active, testers.asked) == (5.0, 3, None)
    assert rows[0].measured == (80, 100)  # of the connections of destinations alone
    busiest = model.rows("conn/s", 3, reverse=False)
    assert [row.name for row in busiest] == ["v1", "v1", "testers"]
    assert [row.is_rule for row in model.rows("condition", 10, reverse=False)][-2:] == [True, True]


def test_rules_are_drawn_with_what_is_counted_of_them() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, color_system=None)
    console.print(View(with_rules(), sort=5).draw(120, 40), soft_wrap=True)
    (line,) = (line for line in out.getvalue().splitlines() if "route-0/testers" in line)
    assert line.split()[:9] == ["route-0/testers", "rule", "-", "-", "5", "3", "-", "-", "-"]


def test_an_instance_that_does_not_tell_of_rules_has_none_shown() -> None:
    model = with_rules(counts=False)
    assert len(model.rows("name", 10, reverse=False)) == 4
    model.take("sample", {**sample(16, 2), "rule_counts": [[[0, 0], [0, 0]], []]})
    assert len(model.rows("name", 10, reverse=False)) == 6
    model.take("sample", {**sample(17, 2), "rule_counts": [[[0, 0]], []]})  # of other rules
    assert len(model.rows("name", 10, reverse=False)) == 6


def test_a_sample_of_other_routes_is_not_taken() -> None:
    model = filled(2)
    model.take("sample", sample(16, 3))
    assert len(model.samples) == 15
    model.take("table", table(3))
    assert not model.samples


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (120, 50), (200, 24)])
@pytest.mark.parametrize("routes", [0, 1, 1000])
def test_it_fits_the_terminal(width: int, height: int, routes: int) -> None:
    view = View(filled(routes))
    wrong = {"severity": "error", "route": "r" * 90, "destination": None, "endpoint": None}
    told = {"problems": [wrong | {"text": "x" * 90}] * 200, "problems_total": 900, "routes": []}
    view.model.take("conditions", told)
    going = {"state": "paused", "reason": "y" * 90, "surplus": [], "closed": 1, "reset": 0}
    of_all = {f"route-{i}": going for i in range(routes)}
    view.model.take("sample", {**sample(15, routes), "convergences": of_all})
    view.connections = [
        {
            "client": "[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
            "peer": "[2001:db8::1]:65535",
            "route": "a-route-with-a-name-that-is-long",
            "destination": "v1",
            "age": 1e6,
            "idle": 1e6,
            "bytes_in": 1 << 50,
            "bytes_out": 1 << 50,
        }  # type: ignore[typeddict-item]
    ] * 200
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(view.draw(width, height), soft_wrap=True)
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if routes:
        assert any("80%" in line for line in lines)


def test_what_is_wrong_is_on_top_and_its_rows_come_first() -> None:
    """With the same words and colors as everywhere; after a change of routes and later, too."""
    view = View(filled(30))
    down = {"name": "v2", "condition": "down", "condition_reason": "x", "condition_since": 5.0}
    wrong = {"severity": "error", "route": "route-7", "destination": "v2", "endpoint": None}
    told = {
        "problems": [wrong | {"text": "connection refused, 17 in a row"}],
        "problems_total": 4,
        "routes": [{"name": "route-7", "destinations": [down]}],
    }
    view.model.take("conditions", told)
    console = Console(width=60, height=24, force_terminal=True, color_system="standard")

    def drawn() -> list[str]:
        with console.capture() as capture:
            console.print(view.draw(60, 24), soft_wrap=True)
        return capture.get().splitlines()

    lines = drawn()
    assert "error: route-7/v2: connection refused, 17 in a row" in lines[1]
    assert "and 3 problems more" in lines[2]
    assert lines[4].startswith("route-7/v2")
    assert "\x1b[31mdown" in lines[4]
    assert lines[5].startswith("route-0/v1")
    view.model.take("conditions", {**told, "problems": [], "problems_total": 0, "routes": []})
    assert drawn()[2].startswith("route-7/v2")
    healthy = {**down, "condition": "healthy"}
    told["routes"] = [{"name": "route-7", "destinations": [healthy]}]
    view.model.take("conditions", {**told, "problems": [], "problems_total": 0})
    assert drawn()[2].startswith("route-0/v1")


def test_a_route_that_converges_says_so_below_its_destinations() -> None:
    """Why it is paused first, for narrow terminals; others, and older instances, say nothing."""
    view = View(filled(2))
    state = {
        "state": "converging",
        "reason": "",
        "surplus": [{"name": "v1", "connections": 20}],
        "closed": 11,
        "reset": 1,
    }

    def drawn(**convergences: Any) -> list[str]:
        view.model.take("sample", {**sample(15, 2), "convergences": convergences})
        console = Console(width=60, color_system=None)
        with console.capture() as capture:
            console.print(view.draw(60, 24), soft_wrap=True)
        return [line.rstrip() for line in capture.get().splitlines()]

    lines = drawn(**{"route-0": state})
    assert lines[4] == "  converging: too many at v1 20; 12 closed"
    assert lines[3].startswith("route-0/v2")
    assert lines[6].startswith("route-1/v2")
    assert not any("too many" in line for line in lines[:4] + lines[5:])
    paused = {**state, "state": "paused", "reason": "v2 can take no connections", "surplus": []}
    lines = drawn(**{"route-0": state, "route-1": paused})
    assert lines[7] == "  paused (v2 can take no connections): counting; 12 closed"
    assert not any("too many" in line for line in drawn())


def test_keys() -> None:
    view = View(Model())
    assert view.key("s")
    assert view.key("c")
    assert view.key("r")
    assert view.key(" ")
    assert (view.sort, view.connection_sort, view.reverse, view.paused) == (1, 1, True, True)
    assert not view.key("q")


def test_sparklines_are_between_nothing_and_the_greatest() -> None:
    assert sparkline([0, 1, 4, 8], 6) == "   ▁▄█"
    assert sparkline([0, 0], 4) == "    "
    assert sparkline([1, 2, 3], 2) == "▅█"


def test_whatever_the_names_are_the_screen_stays_as_wide_as_it_is() -> None:
    hostile = "\x1b[2J\u202e名前" * 10
    model = Model()
    made = table(1)
    made["routes"][0]["name"] = hostile
    model.take("table", made)
    for second in range(3):
        model.take("sample", sample(second, 1))
    row: Any = {"client": hostile, "route": hostile, "destination": hostile, "age": 1.0}
    row |= {"idle": 1.0, "bytes_in": 1, "bytes_out": 1}
    view = View(model, connections=[row], connections_total=1, trouble=hostile)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(view.draw(80, 24), soft_wrap=True)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert [c for c in drawn if not c.isprintable() and c != "\n"] == []
    assert max(width(line) for line in drawn.splitlines()) <= 80
