"""Steps of Argo Rollouts and of Flagger become those of a route's `rollout`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config import Text
from tcpmux.convert.resources import convert_own
from tests.convert.resources import HARMLESS, class_of, loaded, refusal, resource, to

HERE = Path(__file__).parent / "files" / "resources"


def pair(stable: str = "web-stable", canary: str = "web-canary") -> tuple[dict[str, Any], ...]:
    """A route with two versions."""
    route = [to(stable, weight=100), to(canary, weight=0)]
    servers = [{"port": {"number": 5432, "name": "a", "protocol": "TCP"}, "hosts": ["*"]}]
    spec = {"hosts": ["*"], "gateways": ["g"], "tcp": [{"route": route}]}
    return resource("Gateway", "g", {"servers": servers}), resource("VirtualService", "web", spec)


def argo(*steps: dict[str, Any], name: str = "zzz", **canary: Any) -> dict[str, Any]:
    named = {"stableService": "web-stable", "canaryService": "web-canary"} | canary
    spec = {"strategy": {"canary": {**named, "steps": list(steps)}}}
    return resource("Rollout", name, spec) | {"apiVersion": "argoproj.io/v1alpha1"}


def flagger(name: str = "web", **analysis: Any) -> dict[str, Any]:
    spec = {"targetRef": {"kind": "Deployment", "name": name}, "analysis": analysis}
    return resource("Canary", name, spec) | {"apiVersion": "flagger.app/v1beta1"}


def plan(*resources: dict[str, Any]) -> Any:
    (route,) = loaded(*resources).routes
    return route.rollout


def warnings(*resources: dict[str, Any]) -> list[str]:
    return [warning.message for warning in loaded(*resources).warnings]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("argo", {"to": "cache-canary", "steps": ["5%", "20%", "50%", "100%"], "bake": "10m"}),
        ("flagger", {"to": "db-canary", "steps": ["10%", "20%", "30%", "100%"], "bake": "1m"}),
    ],
)
def test_a_file_is_converted_with_its_steps(name: str, expected: dict[str, Any]) -> None:
    file = HERE / f"{name}.yaml"
    found = convert_own([Text(file.name, file.read_text(), {})])
    (route,) = yaml.safe_load(found.text)["routes"]
    assert {key: route["rollout"][key] for key in expected} == expected


def test_subsets_are_found_as_services_are() -> None:
    rule = {"host": "web", "subsets": [{"name": name} for name in ("old", "new")]}
    gateway, virtual = pair()
    route = [
        {"destination": {"host": "web", "subset": name}, "weight": weight}
        for name, weight in (("old", 100), ("new", 0))
    ]
    virtual["spec"]["tcp"][0]["route"] = route
    subsets = {"name": "web", "canarySubsetName": "new", "stableSubsetName": "old"}
    rollout = argo({"setWeight": 5}, trafficRouting={"istio": {"destinationRule": subsets}})
    given = ("web/old=127.0.0.1:1", "web/new=127.0.0.1:2")
    others = (gateway, virtual, resource("DestinationRule", "web", rule), rollout)
    (made,) = loaded(*others, given=given).routes
    assert made.rollout is not None
    assert made.rollout.to == "new"


@pytest.mark.parametrize(
    ("steps", "shares", "bake"),
    [
        ([{"setWeight": 1}], (0.01, 1.0), 0),
        ([{"setWeight": 1}, {"pause": {"duration": "30"}}, {"setWeight": 100}], (0.01, 1.0), 30),
        ([{"setWeight": 9}, {"setWeight": 9}, {"pause": {"duration": "1h"}}], (0.09, 1.0), 3600),
    ],
)
def test_steps_of_argo(steps: list[dict[str, Any]], shares: tuple[float, ...], bake: float) -> None:
    found = plan(*pair(), argo(*steps))
    assert (found.to, found.steps, found.bake) == ("web-canary", shares, bake)


@pytest.mark.parametrize(
    ("analysis", "shares"),
    [
        ({"stepWeights": [1, 2, 40], "interval": "30s"}, (0.01, 0.02, 0.4, 1.0)),
        ({"stepWeight": 40, "maxWeight": 70, "interval": "30s"}, (0.4, 1.0)),
        ({"stepWeight": 50, "interval": "30s"}, (0.5, 1.0)),
    ],
)
def test_steps_of_flagger(analysis: dict[str, Any], shares: tuple[float, ...]) -> None:
    found = plan(*pair("web-primary", "web-canary"), flagger(**analysis))
    assert (found.to, found.steps, found.bake) == ("web-canary", shares, 30.0)


@pytest.mark.parametrize(
    "steps", [[], [{"setWeight": 0}], [{"setWeight": 100}], [{"setWeight": 50}, {"setWeight": 20}]]
)
def test_steps_that_do_not_grow_are_refused(steps: list[dict[str, Any]]) -> None:
    assert "strategy.canary.steps: expected steps that grow" in refusal(*pair(), argo(*steps))


def test_who_runs_the_files_is_told_what_is_otherwise() -> None:
    steps: list[dict[str, Any]]
    steps = [{"setWeight": 1}, {"pause": {}}, {"setWeight": 5}, {"pause": {"duration": 5}}]
    told = warnings(*pair(), argo(*steps, {"pause": {"duration": 9}}))
    for part in (
        "does not wait for a person",
        "lasts at least 9s",
        "does not start it: use `tcpmux ro",
    ):
        assert any(part in one for one in told), part


def test_one_that_no_route_is_about_is_named() -> None:
    told = warnings(*pair(), argo({"setWeight": 1}, canaryService="elsewhere"))
    assert told == ["no route for TCP has destinations web-stable and elsewhere: it is ignored"]
    of_another = argo({"setWeight": 1})
    of_another["metadata"]["namespace"] = "another"
    assert plan(*pair(), of_another) is None


def test_two_of_one_route_are_not_mixed() -> None:
    two = [argo({"setWeight": share}, name=name) for share, name in ((1, "a"), (2, "b"))]
    assert plan(*pair(), *two).steps == (0.01, 1.0)
    assert any("has another rollout already" in one for one in warnings(*pair(), *two))


def test_what_else_delivers_is_classed() -> None:
    blue = argo()
    blue["spec"] = {"strategy": {"blueGreen": {"activeService": "web"}}}
    assert class_of("zzz", *pair(), blue) == HARMLESS
    assert warnings(*pair(), blue) == ["it has no steps by weight: it is ignored"]
    experiment = argo({"setWeight": 1}, {"experiment": {}})
    assert "tcpmux runs no experiments" in warnings(*pair(), experiment)
    templates = resource("AnalysisTemplate", "zzz", {}) | {"apiVersion": "argoproj.io/v1alpha1"}
    assert class_of("zzz", *pair(), templates) == HARMLESS
