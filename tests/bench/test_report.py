"""What the benchmark says of its measurements: medians, the best peer, ratios, goals, charts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from bench import charts
from bench.behaviour import quantiles
from bench.load import Outcome
from bench.report import best_peer, summarize, write_json
from bench.scenarios import SCENARIOS, Measurement


def measured(
    peer: str, number: int, cost: float | None, scenario: str = "roundtrip"
) -> Measurement:
    p50 = (cost or 1.0) * 10
    return Measurement(
        scenario=scenario,
        peer=peer,
        round=number,
        cost=cost,
        worker_cost=cost,
        machine_cost=None if cost is None else cost * 2,
        processes=1,
        foreign=0.0,
        rate=1.0,
        outcome=Outcome(
            units=1,
            seconds=1.0,
            bytes=1,
            errors=0,
            first_error=None,
            p50_us=p50,
            p99_us=p50 * 2,
            max_us=p50 * 3,
            curve_us=[[0, p50 / 2], [0.5, p50], [1, p50 * 3]],
        ),
        settled=True,
    )


def rounds(scenario: str = "roundtrip", **costs: list[float | None]) -> list[Measurement]:
    return [
        measured(peer.replace("_", "-"), number, cost, scenario)
        for peer, mine in costs.items()
        for number, cost in enumerate(mine, 1)
    ]


def test_the_best_peer_has_the_lowest_median_and_is_neither_tcpmux_nor_no_proxy() -> None:
    scenario = SCENARIOS["roundtrip"]
    all_of_them = rounds(
        direct=[None] * 3, tcpmux=[1.0] * 3, nginx=[5.0, 5.0, 1.0], envoy=[4.0, 4.0, 99.0]
    )
    assert best_peer(scenario, all_of_them) == "envoy"
    assert best_peer(scenario, rounds(tcpmux=[1.0])) is None


def test_ratios_are_formed_within_a_round() -> None:
    found = summarize(rounds(tcpmux=[1.0, 4.0, 2.0], nginx=[2.0, 8.0, 2.0], envoy=[9.0, 9.0, 9.0]))
    mine = next(one for one in found if one.peer == "tcpmux")
    assert mine.best == "nginx"
    assert mine.ratio is not None
    assert (mine.ratio.lowest, mine.ratio.median, mine.ratio.highest) == (0.5, 0.5, 1.0)
    assert mine.goal_met is True


def test_a_goal_is_missed_where_the_ratio_is_above_it() -> None:
    found = summarize(rounds(tcpmux=[0.95], nginx=[1.0]))
    assert [one.goal_met for one in found] == [False, None]


def test_a_goal_in_absolute_terms_needs_no_peer() -> None:
    (met,) = summarize(rounds("idle", tcpmux=[300.0, 340.0, 400.0]))
    (missed,) = summarize(rounds("idle", tcpmux=[300.0, 360.0, 400.0]))
    assert (met.goal_met, missed.goal_met) == (True, False)


def test_a_goal_of_latency_compares_latencies() -> None:
    parts = rounds("latency", tcpmux=[9.0], nginx=[10.0])
    (mine, _) = summarize(parts)
    assert mine.ratio is not None
    assert mine.ratio.median == pytest.approx(0.9)
    assert mine.goal is not None
    assert mine.goal.startswith("p50")


def test_quantiles_by_nearest_rank() -> None:
    assert quantiles([float(n) for n in range(1, 201)]) == {"p50": 100.5, "p99": 198.0, "max": 200}
    assert quantiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}


def test_relative_costs_and_curves() -> None:
    summaries = [asdict(one) for one in summarize(rounds(tcpmux=[2.0], nginx=[3.0]))]
    assert charts.relative_costs(summaries) == {"roundtrip": {"tcpmux": 1.0, "nginx": 1.5}}
    assert charts.median_curve([[[0.5, 1.0]], [[0.5, 3.0]], [[0.5, 9.0]]]) == [(0.5, 3.0)]


def test_charts_are_drawn_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (make bench-peers)")
    measurements = rounds("open", tcpmux=[2.0, 2.0], nginx=[3.0, 3.0])
    about = {"commit": "0" * 40, "cpu_model": "a CPU", "kernel": "6.1"}
    file = tmp_path / "run.json"
    write_json(file, about, measurements, summarize(measurements))
    assert charts.main([str(file)]) == 0
    for name in ("ratios", "latency"):
        assert (tmp_path / f"run-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (make bench-peers)")
    file = tmp_path / "x.json"
    file.write_text("{}")
    assert charts.main([str(file)]) == 1
    assert f"{file}: not a result of the benchmark" in capsys.readouterr().err
