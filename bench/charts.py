"""`python -m bench.charts FILE...`: PNG charts of the JSON files of `python -m bench` and of
`python -m bench.behaviour`, beside each file. Exit codes: 0 drawn, 1 a file can't be read, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUBJECT = "tcpmux"
COLOURS = {
    "direct": "0.6",
    "tcpmux": "#0b6e4f",
    "nginx": "#3f88c5",
    "haproxy": "#d00000",
    "haproxy-copy": "#e85d75",
    "envoy": "#f49d37",
    "traefik": "#7a5195",
}


def relative_costs(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """scenario -> peer -> median cost as a multiple of tcpmux's; of the median latency where
    that is what the goal is about. Scenarios without tcpmux are left out."""
    found: dict[str, dict[str, float]] = {}
    for scenario in dict.fromkeys(one["scenario"] for one in summaries):
        mine = {one["peer"]: one for one in summaries if one["scenario"] == scenario}
        subject = mine.get(SUBJECT)
        if subject is None:
            continue
        what = "p50_us" if (subject["goal"] or "").startswith("p50") else "cost"
        medians = {name: one[what]["median"] for name, one in mine.items() if one[what]}
        if medians.get(SUBJECT):
            found[scenario] = {name: value / medians[SUBJECT] for name, value in medians.items()}
    return found


def median_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """(quantile, median of the rounds in us), for curves with the same quantiles."""
    return [
        (points[0][0], statistics.median(latency for _, latency in points))
        for points in zip(*curves, strict=True)
    ]


def draw_ratios(axes: Axes, run: Mapping[str, Any]) -> None:
    """A group of bars for each scenario: how many times tcpmux's cost each proxy has."""
    ratios = relative_costs(run["summaries"])
    peers = [p for p in COLOURS if any(p in one for one in ratios.values()) and p != "direct"]
    height = 0.8 / max(1, len(peers))
    for place, peer in enumerate(peers):
        rows = [(y, one[peer]) for y, one in enumerate(ratios.values()) if peer in one]
        axes.barh(
            [y + (place - (len(peers) - 1) / 2) * height for y, _ in rows],
            [value for _, value in rows],
            height,
            label=peer,
            color=COLOURS[peer],
        )
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set_xlabel("cost, as a multiple of tcpmux's (CPU, memory or median latency)")
    axes.legend()


def draw_latency(axes: Axes, run: Mapping[str, Any], scenario: str = "open") -> None:
    """Latency against quantile for each peer: medians of the rounds."""
    for peer, colour in COLOURS.items():
        curves = [
            one["outcome"]["curve_us"]
            for one in run["measurements"]
            if one["scenario"] == scenario and one["peer"] == peer and one["outcome"]["curve_us"]
        ]
        points = [(1 / (1 - q), us) for q, us in median_curve(curves) if q < 1] if curves else []
        if points:
            axes.plot(*zip(*points, strict=True), label=peer, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 10, 100, 1000, 10000], ["0", "50", "90", "99", "99.9", "99.99"])
    axes.set_xlabel(f"percentile of all exchanges ({scenario})")
    axes.set_ylabel("us")
    axes.legend()


def draw_growth(axes: Axes, behaviour: Mapping[str, Any]) -> None:
    """Cost of a round trip and of a connection against how many of each there are."""
    rows = behaviour["parts"].get("growth", [])
    for what in dict.fromkeys(row["of"] for row in rows):
        for cost, style in (("round trip", "o-"), ("connection", "s--")):
            points = [
                (max(1, row["how many"]), row[cost])
                for row in rows
                if row["of"] == what and row[cost] is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=f"{cost}, by {what}")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("how many")
    axes.set_ylabel("us of CPU")
    axes.legend()


def draw_apply(axes: Axes, behaviour: Mapping[str, Any]) -> None:
    """Time from a change to its effect in every worker against the number of routes."""
    rows = behaviour["parts"].get("apply", [])
    for by in dict.fromkeys(row["by"] for row in rows):
        mine = [row for row in rows if row["by"] == by]
        axes.plot([row["routes"] for row in mine], [row["p50"] for row in mine], "o-", label=by)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("routes")
    axes.set_ylabel("ms until every worker uses it, median")
    axes.legend()


def draw(file: Path) -> list[Path]:
    """The charts of one JSON file; their paths. Raises OSError, ValueError, KeyError."""
    from matplotlib.figure import Figure

    run = json.loads(file.read_text())
    charts: dict[str, Callable[..., None]] = (
        {"growth": draw_growth, "apply": draw_apply}
        if "parts" in run
        else {"ratios": draw_ratios, "latency": draw_latency}
    )
    drawn = []
    for name, function in charts.items():
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(alpha=0.3)
        function(axes, run)
        if not axes.has_data():
            continue
        axes.set_title(f"{run['commit'][:10]}, {run['cpu_model']}, Linux {run['kernel']}")
        path = file.with_name(f"{file.stem}-{name}.png")
        figure.savefig(path, dpi=120)
        drawn.append(path)
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Draws what is asked for; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.charts", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for file in parser.parse_args(arguments).files:
        try:
            for path in draw(file):
                print(path)
        except ImportError:
            print("matplotlib is not installed (make bench-peers)", file=sys.stderr)
            return 1
        except (OSError, ValueError, KeyError) as error:
            print(f"{file}: not a result of the benchmark: {error!r}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
