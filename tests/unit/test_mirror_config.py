"""`mirror`: what the file may say, what it is warned of, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpmux.config import Config, ConfigError, load
from tcpmux.config.mirror import percent_text, share_of
from tcpmux.config.native import to_text
from tcpmux.shm.mirror import Mirroring, with_mirroring
from tcpmux.shm.rules import route_rules


def loaded(tmp_path: Path, mirror: str, more: str = "", second: str = "127.0.0.1:3") -> Config:
    file = tmp_path / "r.yaml"
    file.write_text(
        "routes:\n  - name: r\n    listen: 127.0.0.1:1\n"
        f"    mirror: {mirror}\n{more}"
        "    destinations:\n"
        "      - {name: v1, endpoints: ['127.0.0.1:2']}\n"
        f"      - {{name: v2, weight: 0, endpoints: ['{second}']}}\n"
    )
    return load([file])


def warnings(config: Config) -> list[str]:
    return [f"{found.where}: {found.message}" for found in config.warnings]


@pytest.mark.parametrize(
    ("percent", "share"), [("0", 0), ("10", 1000), ("0.25", 25), ("100", 10_000), ("33.33", 3333)]
)
def test_percentages_are_exact(tmp_path: Path, percent: str, share: int) -> None:
    config = loaded(tmp_path, f"{{to: v2, percent: {percent}}}")
    (route,) = config.routes
    assert route_rules(route).mirror_share == share
    assert route_rules(route).mirror_to == 1
    assert percent_text(share) == percent
    file = tmp_path / "again.yaml"
    file.write_text(to_text(config))
    assert load([file]).routes == config.routes


@pytest.mark.parametrize("percent", ["101", "-1", "0.125", "ten", "true", ".nan", ".inf", "'10'"])
def test_other_percentages_are_refused(tmp_path: Path, percent: str) -> None:
    with pytest.raises(ConfigError, match=r"mirror.percent: expected"):
        loaded(tmp_path, f"{{to: v2, percent: {percent}}}")


def test_nobody_is_mirrored_to_who_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mirror.to: expected one of v1, v2, got v3"):
        loaded(tmp_path, "{to: v3, percent: 10}")


def test_everything_that_can_be_said_is_written_again(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{to: v2, percent: 1, lag: 64KiB, compare: off}")
    (route,) = config.routes
    assert (route.policy.mirror.lag, route.policy.mirror.compare.prefix) == (65536, 0)
    assert "mirror: {to: v2, percent: 1, lag: 64KiB, compare: off}" in to_text(config)


@pytest.mark.parametrize(
    ("more", "second", "text"),
    [
        ("", "127.0.0.1:3", ""),
        ("    preread: {starttls: postgres}\n", "127.0.0.1:3", "preread.starttls is postgres"),
        ("    sticky: sni\n", "127.0.0.1:3", "sticky is by sni"),
        ("    converge: {when: manual, protocol: mysql}\n", "127.0.0.1:3", "a nonce"),
        ("    converge: {when: manual, protocol: redis}\n", "127.0.0.1:3", "written twice"),
        ("", "127.0.0.1:2", "it has 127.0.0.1:2 in common with others"),
    ],
)
def test_where_it_can_not_work_is_told(tmp_path: Path, more: str, second: str, text: str) -> None:
    found = warnings(loaded(tmp_path, "{to: v2, percent: 10}", more, second))
    if text:
        assert any(text in warning for warning in found), found
    else:
        assert found == []


def test_what_is_set_at_run_time_lasts_as_long_as_its_destination(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{to: v2, percent: 10}")
    rules = route_rules(config.routes[0])
    changed = with_mirroring(rules, ["v1", "v2"], Mirroring("v1", 500))
    assert (changed.mirror_to, changed.mirror_share, changed.mirror_at_run_time) == (0, 500, 1)
    assert with_mirroring(rules, ["v2"], Mirroring("v1", 500)) == rules
    assert with_mirroring(rules, ["v1", "v2"], None) == rules
    assert str(Mirroring("v1", 25)) == "0.25% to v1"
    assert str(Mirroring("v1", 0)) == "off"
    assert share_of(0.3) == 30
