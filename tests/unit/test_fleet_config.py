"""`fleet` in a file, and the documents of a fleet beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tcpmux.config import ConfigError
from tcpmux.config.document import Text
from tcpmux.config.fleet import MAX_ALL, Etcd, Fleet, FleetState
from tcpmux.config.loader import load_texts
from tcpmux.config.native import to_text
from tcpmux.control.fleet.begin import fleet_from
from tcpmux.halves import Halves, NotWhole
from tcpmux.master.fleet import fitting, reweighted

ENDPOINT = "http://10.0.0.1:2379"
ROUTES = """\
routes:
- name: shop
  listen: 127.0.0.1:8080
  destinations:
  - {name: v1, weight: 100, endpoints: [127.0.0.1:1]}
  - {name: v2, weight: 0, endpoints: [127.0.0.1:2]}
"""


def fleet(**etcd: Any) -> str:
    whole = {"endpoints": [ENDPOINT], **etcd}
    return f"fleet: {json.dumps({'name': 'prod', 'etcd': whole})}\n"


def problems(*texts: str, **documents: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*texts, **documents)
    return str(caught.value)


def load(*texts: str, **documents: str) -> Any:
    files = [Text(f"{at}.yaml", text, {}) for at, text in enumerate(texts)]
    return load_texts(files, (), FleetState("/tcpmux/prod/", documents))


def test_a_file_of_a_fleet_needs_no_routes() -> None:
    config = load(fleet())
    assert config.fleet == Fleet("prod", Etcd((ENDPOINT,)))
    assert config.routes == ()
    assert config.fleet.keys == "/tcpmux/prod/"
    assert config.fleet.host_name == os.uname().nodename


@pytest.mark.parametrize(
    ("etcd", "why"),
    [
        ({"endpoints": []}, "fleet.etcd.endpoints"),
        ({"endpoints": [ENDPOINT] * 2}, "expected each endpoint once"),
        ({"endpoints": ["10.0.0.1:2379"]}, "expected http(s)://HOST:PORT"),
        ({"endpoints": ["http://10.0.0.1"]}, "expected http(s)://HOST:PORT"),
        ({"endpoints": ["http://u:p@10.0.0.1:1"]}, "expected http(s)://HOST:PORT"),
        ({"endpoints": ["http://10.0.0.1:99999"]}, "expected http(s)://HOST:PORT"),
        ({"endpoints": ["http://[::1:1"]}, "expected http(s)://HOST:PORT"),
        ({"endpoints": [5]}, "expected http(s)://HOST:PORT"),
        ({"certificate": "/c"}, "certificate and key belong together"),
        ({"user": "u"}, "user and password_file belong together"),
        ({"ca": "/c"}, "ca and certificate are for https"),
        ({"user": "u", "password_file": "/p"}, "a password would go in the clear"),
        ({"prefix": "tcpmux"}, "expected a prefix of keys"),
        ({"prefix": "/a//b"}, "expected a prefix of keys"),
        ({"password_file": "p"}, "expected an absolute path"),
    ],
)
def test_what_can_not_be_is_refused(etcd: dict[str, Any], why: str) -> None:
    assert why in problems(fleet(**etcd))


def test_it_is_written_as_it_was_read() -> None:
    """And handed to control as it is."""
    files = {key: f"/etc/{key}" for key in ("ca", "certificate", "key", "password_file")}
    text = fleet(endpoints=["https://[::1]:1", "https://etcd.example:2"], user="u", **files)
    config = load(text.replace('"prod"', '"prod", "host": "a1"'))
    assert load_texts([Text("again", to_text(config), {})]).fleet == config.fleet
    assert fleet_from(json.dumps(asdict(config.fleet))) == config.fleet


def test_documents_are_read_only_of_the_fleet_that_is_named() -> None:
    assert [route.name for route in load(fleet(), shop=ROUTES).routes] == ["shop"]
    assert load(fleet(), shop=ROUTES).fleet_routes == {"shop"}
    assert load(fleet(prefix="/other"), shop=ROUTES).routes == ()
    assert load(ROUTES, shop="nonsense: [").fleet_routes == frozenset()


def test_what_is_of_a_host_can_not_be_in_a_document() -> None:
    found = problems(fleet(), x="user: root\nfleet: 5\n", y=f"workers: 3\n{ROUTES}")
    assert "/tcpmux/prod/routes/x:" in found
    assert "/tcpmux/prod/routes/y:1:1: workers: workers can't be in a document" in found
    hooks = ROUTES + "  rollout: {to: v2, hooks: {exec: /bin/true}}\n"
    assert "hooks can't be in a document of the fleet" in problems(fleet(), shop=hooks)
    load(fleet(), shop=ROUTES + "  rollout: {to: v2}\n")


def test_both_places_are_named_where_two_have_the_same() -> None:
    found = problems(fleet(), ROUTES, shop=ROUTES)
    assert (
        "/tcpmux/prod/routes/shop:2:9: routes[0].name: a route named shop is already at " in found
    )
    assert "1.yaml:2:9" in found


def test_weights_of_the_fleet_are_taken_as_far_as_they_fit() -> None:
    config = load(fleet(), shop=ROUTES)
    for weights, wanted in (
        ({"v1": 1, "v2": 3}, {"shop": {"v1": 1, "v2": 3}}),
        ({"v1": 100, "v2": 0}, {}),
        ({"v2": 5, "v9": 5}, {"shop": {"v2": 5}}),
        ({"v1": 0, "v9": 5}, {}),  # nobody would be left
    ):
        assert fitting(FleetState("", {}, {"shop": weights, "gone": {"v1": 1}}), config) == wanted
    assert reweighted(config, config) == []
    other = load(fleet(), shop=ROUTES.replace("weight: 100", "weight: 1"))
    assert reweighted(config, other) == ["shop"]


@pytest.mark.parametrize(
    "value",
    [
        None, 5, {}, [], {"keys": 5, "documents": {}, "weights": {}, "epoch": 0},
        {"keys": "", "documents": {"a b": ""}, "weights": {}, "epoch": 0},
        {"keys": "", "documents": {"a": 5}, "weights": {}, "epoch": 0},
        {"keys": "", "documents": {}, "weights": {"r": {}}, "epoch": 0},
        {"keys": "", "documents": {}, "weights": {"r": {"v1": -1}}, "epoch": 0},
        {"keys": "", "documents": {}, "weights": {"r": {"v1": 1 << 40}}, "epoch": 0},
        {"keys": "", "documents": {}, "weights": {}, "epoch": True},
        {"keys": "", "documents": {}, "weights": {}, "epoch": 1 << 60},
        {"keys": "", "documents": {str(n): "" for n in range(1001)}, "weights": {}, "epoch": 0},
        {"keys": "", "documents": dict.fromkeys("ab", "x" * MAX_ALL), "weights": {}, "epoch": 0},
    ],
)  # fmt: skip
def test_a_state_out_of_bounds_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match=r"it|document"):
        FleetState.from_json(value)


def test_a_file_of_halves_is_whole_after_any_cut(tmp_path: Path) -> None:
    """A write that ends anywhere leaves what was there, or what was written."""
    kind = Halves(b"test\n", 200)
    path = tmp_path / "state"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert kind.read(fd) is None
        kind.write(fd, b"first")
        before = path.read_bytes()
        kind.write(fd, b"second")
        after = path.read_bytes()
        for size in range(len(before), len(after)):
            path.write_bytes(after[:size])
            assert kind.read(fd) == b"first"
        for at in range(len(before)):
            path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
            with pytest.raises(NotWhole):
                kind.read(fd)
        with pytest.raises(ValueError, match="more than"):
            kind.write(fd, b"x" * 200)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            kind.write(fd, b"x")
    finally:
        os.close(fd)
