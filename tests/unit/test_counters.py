"""A counter is one row of csrc/counters.def: docs/counters.md is made of it.

TCPMUX_WRITE_DOCS=1 python -m pytest tests/unit/test_counters.py (or `make docs`) writes it anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tcpmux.control.metrics import Metrics
from tcpmux.shm._declared import SLOT_COUNTERS, WORKER_COUNTERS
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.counters import ROWS
from tcpmux.shm.view import View

PAGE = Path(__file__).resolve().parents[2] / "docs/counters.md"
HEAD = """# Counters

Counted since the start of the instance, through reloads, upgrades and deaths of workers. This
page is generated from `csrc/counters.def` by `tests/unit/test_counters.py`. The first column is
the name in `tcpmux status --json`, under `counters`, `closed` and `picked`.
"""
TABLES = {
    "slot": (
        "Per route, destination and endpoint",
        "unit",
        "Counters without a metric are in `istio_tcp_*`, `tcpmux_endpoint_*` and `tcpmux_route_*`.",
    ),
    "close": (
        "Ends of connections, per route, destination and endpoint",
        "flag",
        "Label `reason` of `tcpmux_connections_closed_total`. The flags are those of access logs.",
    ),
    "pick": (
        "Why a destination was picked, per destination",
        "",
        "Label `reason` of `tcpmux_picks_total`.",
    ),
    "time": (
        "Histograms per destination, in microseconds",
        "bounds",
        "The bounds are in `csrc/histogram.h`. Metrics are in seconds.",
    ),
    "worker": ("Per worker", "unit", ""),
}
OWN_METRIC = ("slot", "time", "worker")


def page() -> str:
    text = HEAD
    for kind, (title, unit, said) in TABLES.items():
        columns = ["counter", *([unit] if unit else []), *(["metric"] * (kind in OWN_METRIC)), ""]
        text += f"\n## {title}\n\n" + (f"{said}\n\n" if said else "")
        text += f"| {' | '.join(columns)}|\n|{'---|' * len(columns)}\n"
        for row in ROWS:
            if row.kind == kind:
                metric = f"`{row.metric}`" if row.metric else ""
                cells = [f"`{row.name}`", *([row.unit] if unit else [])]
                cells += [metric] * (kind in OWN_METRIC)
                text += f"| {' | '.join([*cells, row.help])} |\n"
    return text


def test_the_page_of_counters_is_made_of_the_rows() -> None:
    if os.environ.get("TCPMUX_WRITE_DOCS"):
        PAGE.write_text(page())
    assert page() == PAGE.read_text(), "make docs"


def test_every_row_says_what_it_counts() -> None:
    assert {row.kind for row in ROWS} == TABLES.keys()
    assert all(row.help and not row.help.endswith(".") for row in ROWS)
    assert all(row.unit for row in ROWS if row.kind != "pick")
    names = [(row.kind, row.name) for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("open_metrics", [False, True])
def test_every_metric_is_exposed(open_metrics: bool) -> None:
    table, live = Table.create(1, 1, os.getpid(), 1), Live.create(0, 1)
    exposed = Metrics(View(table.fd, [live.fd]), "1").text(open_metrics=open_metrics)
    for row in ROWS:
        name = row.metric.removesuffix("_total") if open_metrics else row.metric
        assert not name or re.search(rf"^# TYPE {name} ", exposed, re.MULTILINE), row


def test_rows_of_c_and_names_of_python_are_in_the_same_order() -> None:
    assert tuple(row.name for row in ROWS if row.kind == "slot") == SLOT_COUNTERS
    assert tuple(Live.create(0, 1).counters()) == WORKER_COUNTERS
