"""A counter is one row of csrc/counters.def, from which readers and metrics follow."""

from __future__ import annotations

import os
import re
from array import array
from typing import Any

import pytest

from tcpmux.control.metrics import Metrics
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import SLOT_COUNTERS, WORKER_COUNTERS
from tcpmux.shm._live import Live
from tcpmux.shm._readings import Counters
from tcpmux.shm._table import Table
from tcpmux.shm.counters import ROWS
from tcpmux.shm.view import View
from tests.unit.watching import conditions_of


@pytest.mark.parametrize("open_metrics", [False, True])
def test_every_metric_is_exposed(open_metrics: bool) -> None:
    table, live = Table.create(1, 1, os.getpid(), 1), Live.create(0, 1)
    view = View(table.fd, [live.fd], commons_fd=Commons.create().fd)
    exposed = Metrics(view, "1", conditions_of(view)).text(open_metrics=open_metrics)
    for row in ROWS:
        name = row.metric.removesuffix("_total") if open_metrics else row.metric
        assert not name or re.search(rf"^# TYPE {name} ", exposed, re.MULTILINE), row


def test_rows_of_c_and_names_of_python_are_in_the_same_order() -> None:
    assert tuple(row.name for row in ROWS if row.kind == "slot") == SLOT_COUNTERS
    assert tuple(Live.create(0, 1).counters()) == WORKER_COUNTERS


@pytest.mark.parametrize(
    "slots", [array("Q", [1, 2]), array("i", [1]), array("B", b"none"), [1, 2], None]
)
def test_slots_are_in_an_array_of_type_i_or_refused(slots: Any) -> None:
    """C reads it as 32-bit numbers, whatever it is."""
    commons, counters = Commons.create(), Counters([Live.create(0, 1)])
    assert list(commons.all_failures(array("I"))) == list(counters.connects(array("I"))) == []
    for read in (commons.all_failures, commons.failing, counters.connects):
        with pytest.raises((TypeError, ValueError)):
            read(slots)
    for seen in (array("I", [0, 0]), array("Q", [0])):
        with pytest.raises((AssertionError, ValueError)):
            commons.moved(array("I", [1]), seen)
