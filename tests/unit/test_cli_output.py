"""Numbers as people read them, and what a change prints."""

from __future__ import annotations

import pytest

from tcpmux.cli.output import human_bytes, human_seconds, percent, plural, print_applied


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


def test_plural() -> None:
    assert [plural(n, "route") for n in (0, 1, 2)] == ["0 routes", "1 route", "2 routes"]


def test_a_worker_that_lags_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_applied(
        {
            "generation": 7,
            "changes": [],
            "workers": [
                {"id": 0, "pid": 10, "generation": 7},
                {"id": 1, "pid": 11, "generation": 6},
                {"id": 2, "pid": 0, "generation": 6},
            ],
        },
        "nothing has changed",
    )
    assert capsys.readouterr().out.splitlines() == [
        "nothing has changed",
        "generation 7 in 1 of 3 workers",
        "not yet in worker 1 (pid 11, generation 6)",
        "not yet in worker 2 (not running)",
    ]
