"""A setting of a route, a destination or an endpoint is one row of tcpmux/config/settings.py: all
else follows.

TCPMUX_WRITE_DOCS=1 python -m pytest -n 0 tests/unit/test_settings.py     (or `make docs`) writes
what is in git and follows from the rows: configs/reference.yaml, as far as a key or a range is
missing there, and tcpmux/config/routes.schema.json.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config.keys import parser
from tcpmux.config.rows import Kind, rules_of
from tcpmux.config.schema import json_schema
from tcpmux.config.settings import (
    BALANCES,
    ON_ALL_UNAVAILABLE,
    ON_FULL,
    ON_UNAVAILABLE,
    DestinationPolicy,
    EndpointPolicy,
    RoutePolicy,
)
from tcpmux.config.written import text_of
from tcpmux.shm._declared import field_rows
from tests.support import patient
from tests.unit.reference import (
    EXAMPLES,
    HAS_RANGE,
    Entry,
    all_entries,
    leaves,
    made_of,
)

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "configs/reference.yaml"
SCHEMA = ROOT / "tcpmux/config/routes.schema.json"
LEAVES = [leaf for entry in all_entries() for leaf in leaves(entry)]
AN_ENTRY = pytest.mark.parametrize(
    "entry", LEAVES, ids=lambda entry: ".".join(map(str, entry.path))
)


@pytest.fixture(scope="module", autouse=True)
def written() -> None:
    """Writes what follows from the rows, if that is wanted."""
    if os.environ.get("TCPMUX_WRITE_DOCS"):
        REFERENCE.write_text(made_of(REFERENCE.read_text()))
        SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n")


# --- the rows -----------------------------------------------------------------------------------


@AN_ENTRY
def test_a_default_is_read_back_as_it_is_written(entry: Entry) -> None:
    """So it is in its range, and of the type that is written so."""
    row = entry.row
    assert row.help
    if row.kind in EXAMPLES:
        assert not entry.default  # what nothing said stands for
    else:
        assert parser(row)(yaml_value(text_of(row, entry.default))) == entry.default


@pytest.mark.parametrize(
    "entry",
    [entry for entry in LEAVES if entry.row.kind in HAS_RANGE],
    ids=lambda entry: ".".join(map(str, entry.path)),
)
def test_a_range_ends_where_it_says(entry: Entry) -> None:
    row = entry.row
    low, high = (yaml_value(end) for end in entry.range.split(".."))
    assert parser(row)(low) == max(row.low, row.raised_to)
    assert parser(row)(high) == row.high
    beyond = {Kind.PERCENT: "101%", Kind.BANDWIDTH: "1025GiB/s"}
    with pytest.raises(ValueError, match="expected "):
        parser(row)(beyond.get(row.kind, 2**40))


def yaml_value(text: str) -> Any:
    return yaml.safe_load(text)


@pytest.mark.parametrize("table", [RoutePolicy, DestinationPolicy, EndpointPolicy])
def test_no_two_settings_have_the_same_number(table: type) -> None:
    names = [rule.name for rule in rules_of(table)]
    assert len(set(names)) == len(names)
    assert all(rule.unit for rule in rules_of(table))


def test_words_are_in_the_order_of_c() -> None:
    enums = {name: text for owner, text, name, _, _ in field_rows() if owner == "enum"}
    for name, words in {
        "tm_balance": [word.upper() for word in BALANCES],
        "tm_on_full": [f"FULL_{word.upper()}" for word in ON_FULL],
        "tm_on_unavailable": ["REDISTRIBUTE", "REJECT_SHARE", "FALL_BACK"],
        "tm_on_all_unavailable": ["RESET_ALL", "HOLD", "REFUSE"],
    }.items():
        found = re.findall(r"TM_(\w+)", enums[name])
        assert found == words, name
    assert list(ON_UNAVAILABLE) == ["redistribute", "reject", "fallback"]
    assert list(ON_ALL_UNAVAILABLE) == ["reset", "hold", "refuse"]


def test_numbers_that_python_asks_for_by_name_exist() -> None:
    """Which mypy can't know: they are made of the rows."""
    tables = (RoutePolicy, DestinationPolicy, EndpointPolicy)
    names = {rule.name for table in tables for rule in rules_of(table)}
    asked = {
        name
        for path in (ROOT / "tcpmux").rglob("*.py")
        for name in re.findall(
            r"\b(?:route|row|endpoint|after|now)\.rules\.(\w+)\b(?!\()", path.read_text()
        )
    }
    assert {"max_connections", "on_unavailable", "panic_percent", "priority"} <= asked <= names


# --- what is made of them -----------------------------------------------------------------------


def test_the_tables_for_c_are_not_edited_by_hand() -> None:
    made = runpy.run_path(str(ROOT / "csrc/tables.py"))["made"]()
    assert made.keys() == {"rules.def", "balances.def", "messages.def"}
    for name, text in made.items():
        assert (ROOT / "csrc" / name).read_text() == text, f"{name}: edit settings.py, and build"


def test_the_tables_for_c_are_made_before_anything_is_installed() -> None:
    """A build has nothing but the standard library, and finds this tree however it is started."""
    tables = [sys.executable, "-I", "-S", str(ROOT / "csrc/tables.py")]
    subprocess.run(tables, cwd="/", check=True, timeout=patient(60))


def test_the_schema_is_written() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), "make docs"


def test_the_reference_has_every_key_with_its_range_and_every_algorithm() -> None:
    text = REFERENCE.read_text()
    assert made_of(text) == text, "make docs adds what is missing"


@cache
def reference() -> Any:
    return yaml.safe_load(REFERENCE.read_text())


@AN_ENTRY
def test_the_reference_has_the_default(entry: Entry) -> None:
    value = reference()
    for step in entry.path:
        value = value[step]
    found = parser(entry.row)(value) if entry.row.kind is not Kind.RATE else value
    if entry.row.kind not in EXAMPLES:
        assert found == entry.default
