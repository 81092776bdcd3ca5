"""The exposition, read by the parsers of Prometheus's own client library."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control.condition import BY_URGENCY
from tcpmux.control.metric_families import seconds
from tcpmux.control.metrics import Metrics
from tcpmux.shm._declared import (
    ABSENT,
    CLOSE_REASONS,
    CONTROL,
    HANGING,
    LOGGER,
    PICK_REASONS,
    PRESENT,
    STOPPED,
    WORKER_COUNTERS,
)
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._readings import DURATION_BOUNDS_US, LATENCY_BOUNDS_US
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names
from tcpmux.shm.view import View
from tests.unit.watching import conditions_of

LISTEN = Address("127.0.0.1", 31400, "")


@pytest.fixture
def view() -> View:
    endpoints = (Address("127.0.0.1", 9001, ""), Address("", 0, '/odd"\\%d%path'))
    destinations = (
        Destination("v1", 80, endpoints),
        Destination("v2", 20, endpoints[:1]),
    )
    route = Route("tcp-echo", (LISTEN,), destinations)
    config = Config(None, None, Admin("/x"), 45.0, (route,))
    names = Names.new(lambda _: True)
    table, live = Table.create(1, 1, os.getpid(), 1_700_000_000), Live.create(0, 16)
    publish_image(table, build_image(config, {}, names, {LISTEN: 0}, 1, {}))
    return View(table.fd, [live.fd])


def families(view: View) -> dict[str, Any]:
    text = Metrics(view, '1.0"x', conditions_of(view)).text()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_istios_names_and_labels_are_there(view: View) -> None:
    found = families(view)
    for name in ("connections_opened", "connections_closed", "sent_bytes", "received_bytes"):
        family = found[f"istio_tcp_{name}"]
        assert family.type == "counter"
        for sample in family.samples:
            assert sample.name == f"istio_tcp_{name}_total"
            assert sample.labels.keys() == {
                "destination_service",
                "destination_version",
                "response_flags",
            }
            assert sample.labels["destination_service"] == "tcp-echo"


def test_every_reason_and_every_counter_is_there(view: View) -> None:
    found = families(view)
    reasons = {s.labels["reason"] for s in found["tcpmux_connections_closed"].samples}
    assert reasons == set(CLOSE_REASONS)
    assert {s.labels["reason"] for s in found["tcpmux_picks"].samples} == set(PICK_REASONS)
    for name in ("destination_weight", "destination_effective_weight"):
        weights = {s.labels["destination"]: s.value for s in found[f"tcpmux_{name}"].samples}
        assert weights == {"v1": 80, "v2": 20}
    for name in WORKER_COUNTERS:
        assert found[f"tcpmux_worker_{name}"].type == "counter"
    assert found["tcpmux_info"].samples[0].labels == {"version": '1.0"x'}


def test_a_program_is_up_while_it_does_its_work() -> None:
    """A log process that is not wanted is left out, one that does not run is not."""
    table, live = Table.create(1, 1, os.getpid(), 1_700_000_000), Live.create(0, 16)
    view = View(table.fd, [live.fd])

    def ups() -> dict[str, float]:
        found = families(view)["tcpmux_program_up"].samples
        return {sample.labels["program"]: sample.value for sample in found}

    table.set_program(CONTROL, os.getpid(), PRESENT, 3, 2)
    assert ups() == {"control": 1}
    starts, hangs = (
        families(view)[f"tcpmux_program_{name}"].samples for name in ("starts", "hangs")
    )
    assert (starts[0].value, hangs[0].value) == (3, 2)
    for presence in (STOPPED, HANGING):
        table.set_program(LOGGER, os.getpid(), presence, 1, 1)
        assert ups() == {"control": 1, "log": 0}
    table.set_program(LOGGER, 0, PRESENT, 1, 1)
    assert ups() == {"control": 1, "log": 0}
    table.set_program(LOGGER, 0, ABSENT, 1, 1)
    assert ups() == {"control": 1}


def test_labels_are_escaped(view: View) -> None:
    endpoints = families(view)["tcpmux_endpoint_connections_active"].samples
    assert {s.labels["endpoint"] for s in endpoints} == {"127.0.0.1:9001", 'unix:/odd"\\%d%path'}


def test_it_is_open_metrics_too(view: View) -> None:
    text = Metrics(view, "1.0", conditions_of(view)).text(open_metrics=True)
    parsed = open_metrics_families(text)  # type: ignore[no-untyped-call]
    found = {family.name: family for family in parsed}
    assert text.endswith("# EOF\n")
    assert found["tcpmux_connections_closed"].type == "counter"
    assert found.keys() == families(view).keys()


def test_bounds_are_exact_seconds() -> None:
    for us in (*LATENCY_BOUNDS_US, *DURATION_BOUNDS_US):
        assert round(float(seconds(us)) * 1e6) == us
        assert "e" not in seconds(us)
        assert not seconds(us).endswith(".")


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "prometheus-alerts.yaml"])
def test_what_watches_us_uses_metrics_that_there_are(view: View, name: str) -> None:
    text = (Path(__file__).parents[2] / "configs/monitoring" / name).read_text()
    exposed = Metrics(view, "1", conditions_of(view)).text()
    own = r"\b(?:tcpmux|istio_tcp)_[a-z_]+"
    known = set(re.findall(rf"^# TYPE ({own})", exposed, re.MULTILINE))
    used = {found.removesuffix("_bucket") for found in re.findall(own, text)}
    assert len(used) > 8
    assert used <= known


def test_the_dashboard_shows_each_state_by_its_word() -> None:
    """The number that the expression makes of a state is shown as that state's word, and the worst
    state of several instances has the greatest number. Every expression is closed."""
    text = (Path(__file__).parents[2] / "configs/monitoring/grafana-dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    for expression in (target["expr"] for panel in panels for target in panel["targets"]):
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
    (states,) = (panel for panel in panels if panel["type"] == "state-timeline")
    found = re.findall(
        r'(\d) \* tcpmux_route_state\{route=~"\$route", state="(\w+)"\}',
        states["targets"][0]["expr"],
    )
    (mapping,) = states["fieldConfig"]["defaults"]["mappings"]
    assert dict(found) == {number: each["text"] for number, each in mapping["options"].items()}
    assert tuple(word for _, word in sorted(found, reverse=True)) == BY_URGENCY
