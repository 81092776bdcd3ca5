"""Numbers as people read them, and what a change prints."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from tcpmux.cli.output import (
    columns,
    console,
    human_bytes,
    human_seconds,
    percent,
    print_applied,
    say,
    say_all,
    say_json,
    say_painted,
    table,
)
from tcpmux.cli.text import cut, fitted, fitted_end, width
from tcpmux.errors import listed, plural
from tcpmux.log_formats import FULL, MAX_LINE, LogFormatter


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (59.9, "59s"),
        (65, "1m 05s"),
        (3600, "1h 00m"),
        (90_000, "1d 01h"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (80, 100, "80%"),
        (1, 3, "33.3%"),
        (0, 5, "0%"),
        (5, 5, "100%"),
        (0, 0, "-"),
        (1, 1_000_000, "0.1%"),
        (999_999, 1_000_000, "99.9%"),
    ],
)
def test_percent(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_of_many_only_some_are_listed() -> None:
    names = ["a", "b", "c"]
    assert [listed(names[:n], 2) for n in range(4)] == ["", "a", "a, b", "a, b and 1 more"]


def test_plural() -> None:
    assert [plural(n, "route") for n in (0, 1, 2)] == ["0 routes", "1 route", "2 routes"]


def test_a_worker_that_lags_and_warnings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_applied(
        {
            "generation": 7,
            "changes": [],
            "warnings": ["r/v2: no address for shop.test:80: the others get its share"],
            "workers": [
                {"id": 0, "pid": 10, "generation": 7},
                {"id": 1, "pid": 11, "generation": 6},
                {"id": 2, "pid": 0, "generation": 6},
            ],
        },
        "nothing changed",
    )
    assert capsys.readouterr().out.splitlines() == [
        "nothing changed",
        "warning: r/v2: no address for shop.test:80: the others get its share",
        "generation 7 in 1 of 3 workers",
        "not yet in worker 1 (pid 11, generation 6)",
        "not yet in worker 2 (not running)",
    ]


# What a title, a name, a reason or a path of somebody else may have in it: a terminal's title, a
# screen cleared, a line forged, writing turned round, a blank that is none, an 8-bit CSI.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nforged\u202eevil\u200b\x9b31m\x7f\u2028"


def acting(text: str) -> list[str]:
    """What in it does something to a terminal, or to a line."""
    return [c for c in text.replace("\n", "") if not c.isprintable()]


def test_a_line_stays_a_line_and_does_nothing_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(HOSTILE)
    say(HOSTILE, err=True)
    say_all([HOSTILE, "second"])
    shown, errors = capsys.readouterr()
    assert (shown.count("\n"), errors.count("\n")) == (3, 1)
    assert acting(shown + errors) == []
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e" in shown


def test_json_has_it_as_it_is_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"name": HOSTILE})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert "\x1b" not in shown
    assert json.loads(shown) == {"name": HOSTILE}


def test_tables_escape_what_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    made = table(HOSTILE, HOSTILE, "n")
    made.add_row(HOSTILE, HOSTILE)
    out = console()
    out.print(made)
    out.print(HOSTILE, soft_wrap=True)
    assert acting(capsys.readouterr().out) == []


def test_columns_stay_columns_whatever_is_in_them() -> None:
    rows = [("NAME", "N"), (HOSTILE, "1"), ("名前", "22"), ("e\u0301", "333"), ("plain", "4")]
    lines = list(columns(rows, (1,)))
    assert acting("".join(lines)) == []
    assert len({width(line) for line in lines}) == 1
    assert lines[2].startswith("名前  ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ab", "ab  "),
        ("abcdef", "abcd"),
        ("a名前", "a名 "),
        ("\x1b[2J", "\\x1b"),
        ("e\u0301e\u0301", "e\u0301e\u0301  "),
    ],
)
def test_a_text_fits_into_its_columns(text: str, shown: str) -> None:
    assert fitted(text, 4) == shown
    assert width(fitted(text, 4)) == 4
    assert cut(text, 0) == ""


def test_a_name_is_cut_at_its_beginning_if_its_end_tells_more() -> None:
    assert fitted_end("route/v1", 5) == "…e/v1"
    assert fitted_end("v1", 5) == "v1   "
    assert width(fitted_end("名前名前/名前", 6)) == 6


def test_the_log_keeps_lines_apart_bounds_them_and_indents_tracebacks() -> None:
    formatter = LogFormatter(FULL)

    def logged(text: str, **extra: Any) -> str:
        record = logging.LogRecord("t", logging.INFO, "f", 1, "%s", (text,), extra.pop("exc", None))
        vars(record).update(extra)
        return formatter.format(record)

    assert acting(logged(HOSTILE, by=HOSTILE)) == []
    assert "\n" not in logged(HOSTILE, by=HOSTILE)
    assert len(logged("x" * 10**6)) < MAX_LINE + 50
    error = ValueError("2026-01-01 00:00:00,000 tcpmux INFO forged\n" + HOSTILE + "x" * 10**6)
    lines = logged("m", exc=(ValueError, error, None)).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("    ") for line in lines[1:])
    assert acting("".join(lines)) == []
    assert max(map(len, lines)) < MAX_LINE + 50


@pytest.mark.parametrize("in_a_table", [False, True])
def test_a_terminal_of_another_character_set_shows_what_it_can(
    monkeypatch: pytest.MonkeyPatch, *, in_a_table: bool
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    text = "caf\xe9 \u2026"
    if in_a_table:
        console().print(text)
    else:
        say_painted([text])
    sys.stdout.flush()
    assert raw.getvalue() == b"caf\xe9 ?\n"
