"""What `tcpmux rollout` says of itself is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from tcpmux.cli.app import cli
from tcpmux.cli.rollout import rollout
from tcpmux.rollout.plan import Plan

TEXT = re.compile(r"\[default: ([^]]+)\]")
OF_OTHERS = {"rate", "runs", "admin", "url", "token_file"}  # not of the plan


def stated() -> dict[str, Any]:
    """By the name of an option, read as the option reads it."""
    found = {}
    for option in rollout.params:
        text = TEXT.search(str(getattr(option, "help", "")))
        if text is None or option.name in OF_OTHERS:
            continue
        context = click.Context(rollout)
        value = None if text[1] == "off" else option.type_cast_value(context, text[1])
        if option.callback and value is not None:
            value = option.callback(context, option, value)
        found[option.name] = value[0] if isinstance(value, list) else value
    return found


def test_defaults_are_those_of_a_plan() -> None:
    plan, said = Plan("v2"), stated()
    shares, shadow = said.pop("steps")
    assert (tuple(shares), shadow) == (plan.steps, plan.shadow)
    known = {
        name: getattr(plan, name)
        for name in ("bake", "min_connections", "max_wait", "then", "existing")
    }
    for name in ("connect_failures", "resets", "early_close", "early_within", "first_error"):
        known[name] = getattr(plan.limits, name)
    for name in ("first_byte_p95", "duration_p50", "confidence"):
        known[name] = getattr(plan.limits, name)
    assert said == known


def test_simulate_says_what_it_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(
        """
routes:
  - name: r
    listen: 127.0.0.1:8080
    rollout: {to: v2, steps: [shadow: 5m, 50%], bake: 1s, min_connections: 5}
    destinations:
      - {name: v1, endpoints: [127.0.0.1:1]}
      - {name: v2, weight: 0, endpoints: [127.0.0.1:2]}
"""
    )
    done = CliRunner().invoke(cli, ["rollout", "simulate", "-c", str(file), "--runs", "1"])
    assert done.exit_code == 0
    assert "by 50%, without the shadow before them, at 200 connections/s" in done.stdout
    done = CliRunner().invoke(
        cli, ["rollout", "simulate", "-c", str(file), "--runs", "1", "--steps", "50%"]
    )
    assert "by 50%, at 200 connections/s" in done.stdout
