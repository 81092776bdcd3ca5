"""`tcpmux events`: since when, and how they are shown."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import click.testing
import pytest

from tcpmux.cli import events, output
from tcpmux.cli.app import cli
from tcpmux.cli.events import parse_since
from tests.unit.calling import tcpmux

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 28, 13, 0, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def _two_hours_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "EET-2")
        time.tzset()
        yield
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.usefixtures("_two_hours_east")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "2026-11-28T12:50:00+02:00"),
        ("1h30m", "2026-11-28T11:30:00+02:00"),
        ("12:30", "2026-11-28T12:30:00+02:00"),
        ("9:05:07", "2026-11-28T09:05:07+02:00"),
        ("13:00", "2026-11-28T13:00:00+02:00"),
        ("13:01", "2026-11-27T13:01:00+02:00"),  # it has not been that today
        ("2026-11-28T12:30", "2026-11-28T12:30:00+02:00"),
        ("2026-11-28 12:30:15", "2026-11-28T12:30:15+02:00"),
        ("2026-11-27", "2026-11-27T00:00:00+02:00"),
        ("2026-11-28T12:30Z", "2026-11-28T12:30:00+00:00"),
        ("2026-11-28T12:30:00-05:00", "2026-11-28T12:30:00-05:00"),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, expected: str) -> None:
    found = parse_since(text, NOW)
    assert isinstance(found, float)
    assert found == at(expected)


@pytest.mark.parametrize("text", ["0", "17", "1000000000000000"])
def test_the_number_of_an_event_is_a_number_still(text: str) -> None:
    found = parse_since(text, NOW)
    assert isinstance(found, int)
    assert found == int(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1000000000000001", "9" * 5000, "25:00", "12:60", "12:30:99", "2026-13-01",
     "2026-11-28T", "0000-01-01", "10 m", "m", "yesterday", "\u0663", "12:3\u0660", "1e3", "9d\n"],
)  # fmt: skip
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    result = tcpmux("events", "--since", text, "--admin", "/nowhere")
    assert result.exit_code == 2
    assert "expected a time such as 10m, 12:30 or 2026-11-28T12:30" in result.stderr
    assert result.stderr.count("\n") == 1


EVENTS: list[dict[str, Any]] = [
    {"seq": seq, "time": 1000.0 + seq, "kind": kind, "text": text, "by": by, **level}
    for seq, (kind, text, by, level) in enumerate(
        [
            ("start", "v", "", {"level": "info"}),
            ("weights", "r: v1 1->2", "root", {"level": "error"}),
            ("odd", "\x1b[2J\nx", "\x1b", {"level": "\x1b"}),
        ]
    )
]


class FakeInstance:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        self.asked.append(since)
        return [event for event in EVENTS if event["seq"] > since or not since]


def shown(monkeypatch: pytest.MonkeyPatch, *arguments: str, **how: Any) -> tuple[str, list[int]]:
    instance = FakeInstance()
    monkeypatch.setattr(events, "client", lambda *_arguments, **_more: instance)
    result = click.testing.CliRunner().invoke(cli, ["events", *arguments], **how)
    assert result.exit_code == 0, result.output
    return result.stdout, instance.asked


def test_events_since_a_number_are_asked_for_and_those_since_a_time_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, asked = shown(monkeypatch, "--since", "1")
    assert (found.count("\n"), asked) == (1, [1])
    since = datetime.fromtimestamp(1001.0).astimezone().isoformat()
    found, asked = shown(monkeypatch, "--since", since)
    assert (found.count("\n"), asked) == (2, [0])
    found, _ = shown(monkeypatch, "--since", "1h")
    assert found == ""


def test_levels_have_colors_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kind may be harmless or not. What is in order has none, nor has a level that is not
    known, and nothing in an event acts on the terminal."""
    plain, _ = shown(monkeypatch)
    assert "\x1b" not in plain
    monkeypatch.setattr(output, "has_color", lambda: True)
    colored, _ = shown(monkeypatch, color=True)
    assert "\x1b[31mweights  \x1b[0m r: v1 1->2 [root]\n" in colored
    assert "odd       \\x1b[2J\\nx [\\x1b]\n" in colored
    assert colored.count("\x1b") == 2
    monkeypatch.setitem(EVENTS[1], "level", "warning")
    assert "\x1b[33mweights " in shown(monkeypatch, color=True)[0]
    monkeypatch.delitem(EVENTS[1], "level")  # a running instance of a build before this one
    assert "\x1b" not in shown(monkeypatch, color=True)[0]
