"""A setting of a route or a destination is one row of tcpmux/config/settings.py: all else follows.

TCPMUX_WRITE_DOCS=1 python -m pytest -n 0 tests/unit/test_settings.py     (or `make docs`) writes
what is in git and follows from the rows: configs/reference.yaml, as far as a key or a range is
missing there, and tcpmux/config/routes.schema.json.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.config.keys import parser
from tcpmux.config.schema import json_schema
from tcpmux.config.settings import (
    BALANCES,
    ON_ALL_UNAVAILABLE,
    ON_FULL,
    ON_UNAVAILABLE,
    DestinationPolicy,
    Kind,
    RoutePolicy,
    rules_of,
)
from tcpmux.config.written import text_of
from tcpmux.shm._shm import field_rows
from tests.unit.reference import (
    EXAMPLES,
    HAS_RANGE,
    Entry,
    all_entries,
    completed,
    leaves,
    nodes_of,
    with_ranges,
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
        REFERENCE.write_text(with_ranges(completed(REFERENCE.read_text())))
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


@pytest.mark.parametrize("table", [RoutePolicy, DestinationPolicy])
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
    names = {rule.name for table in (RoutePolicy, DestinationPolicy) for rule in rules_of(table)}
    asked = {
        name
        for path in (ROOT / "tcpmux").rglob("*.py")
        for name in re.findall(r"\b(?:route|row|after|now)\.rules\.(\w+)\b(?!\()", path.read_text())
    }
    assert {"max_connections", "on_unavailable", "panic_percent"} <= asked <= names


# --- what is made of them -----------------------------------------------------------------------


def test_the_tables_for_c_are_not_edited_by_hand() -> None:
    made = runpy.run_path(str(ROOT / "csrc/tables.py"))["made"]()
    assert made.keys() == {"rules.def", "balances.def"}
    for name, text in made.items():
        assert (ROOT / "csrc" / name).read_text() == text, f"{name}: edit settings.py, and build"


def test_the_schema_is_written() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), "make docs"


def test_the_reference_has_every_key_with_its_range() -> None:
    text = REFERENCE.read_text()
    assert completed(text) == text, "make docs adds what is missing"
    assert with_ranges(text) == text, "make docs writes the ranges"


@AN_ENTRY
def test_the_reference_has_the_default(entry: Entry) -> None:
    value = yaml.safe_load(REFERENCE.read_text())
    for step in entry.path:
        value = value[step]
    found = parser(entry.row)(value) if entry.row.kind is not Kind.RATE else value
    if entry.row.kind not in EXAMPLES:
        assert found == entry.default


# --- the recipe: a number that a destination may set --------------------------------------------

ROW = """
    patience: float = seconds(
        "How long it is waited for patiently; 0s = not at all.", 0.0, high=60.0, rule="patience_ms"
    )
"""
ROW_OF_A_SECTION = '    share: int = percent("Of retries.", 7, rule="retry_share")\n'
# The line that reads it.
READER = """
#include "route_table.h"
uint64_t patience(const struct tm_destination *of) { return of->rules.patience_ms; }
uint64_t share(const struct tm_route *of) { return of->rules.retry_share; }
"""
SEEN = """
import json, sys
from pathlib import Path
from tcpmux.config import load
from tcpmux.config.native import to_text
from tcpmux.config.schema import json_schema
from tcpmux.config.settings import DestinationPolicy, RoutePolicy
from tcpmux.shm.rules import destination_rules, route_rules, rule_changes
from tests.unit.reference import completed

def loaded(text):
    Path("r.yaml").write_text(text)
    return load(["r.yaml"])

head = "routes: [{name: r, listen: '127.0.0.1:1', %s destinations: [{name: v, endpoints: []%s}]}]"
old, new = loaded(head % ("", "")), loaded(head % ("retry: {share: 9%},", ", patience: 5s"))
shared = loaded("defaults: {patience: 7s}\\n" + head % ("", ""))
try:
    loaded(head % ("", ", patience: 61s"))
except Exception as error:
    refused = str(error)
destination = new.routes[0].destinations[0]
rules = destination_rules(destination)
defs = json_schema()["$defs"]
json.dump({
    "schema": [defs[name]["properties"]["patience"]["description"]
               for name in ("DefaultsModel", "RouteModel", "DestinationModel")],
    "config": [destination.policy.patience, shared.routes[0].destinations[0].policy.patience],
    "refused": refused,
    "text": to_text(new),
    "image": [rules.patience_ms, route_rules(new.routes[0]).retry_share],
    "order": list(type(rules).__dataclass_fields__),
    "diff": [*rule_changes(route_rules(old.routes[0]), route_rules(new.routes[0])),
             *rule_changes(destination_rules(old.routes[0].destinations[0]), rules)],
    "reference": completed(Path(sys.argv[1]).read_text(), RoutePolicy, DestinationPolicy),
}, sys.stdout)
"""


def with_rows(settings: str) -> str:
    """settings.py with the two rows of the example."""
    half_open = settings.index("    half_open_timeout: float")
    settings = settings[:half_open] + ROW.lstrip("\n") + settings[half_open:]
    across = settings.index("    across: bool = flag(")
    return settings[:across] + ROW_OF_A_SECTION + settings[across:]


def test_a_number_of_a_destination_is_one_row_and_the_line_that_reads_it(tmp_path: Path) -> None:
    """In a copy of the tree: nothing but settings.py is edited, and a line of C reads it."""
    for name in ("tcpmux", "csrc"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    settings = tmp_path / "tcpmux/config/settings.py"
    settings.write_text(with_rows(settings.read_text()))
    found = seen(tmp_path)
    assert found["schema"] == ["How long it is waited for patiently; 0s = not at all."] * 3
    assert found["config"] == [5.0, 7.0]
    assert "routes[0].destinations[0].patience: expected 0s..1m, got 61s" in found["refused"]
    assert "        patience: 5s\n" in found["text"]
    assert "    retry: {share: 9%}\n" in found["text"]
    assert found["image"] == [5000, 9]
    assert found["diff"] == ["retry.share 7%->9%", "patience 0s->5s"]
    reference = yaml.safe_load(found["reference"])
    assert reference["defaults"]["patience"] == "0s"
    assert reference["routes"][0]["retry"]["share"] == "7%"
    assert "# How long it is waited for patiently; 0s = not at all." in found["reference"]
    assert len(nodes_of(found["reference"])) == len(nodes_of(REFERENCE.read_text())) + 2
    subprocess.run([sys.executable, "csrc/tables.py"], cwd=tmp_path, check=True, timeout=60)
    names = re.findall(
        r"^TM_DESTINATION_RULE\((\w+)", (tmp_path / "csrc/rules.def").read_text(), re.MULTILINE
    )
    assert names == found["order"]
    (tmp_path / "reader.c").write_text(READER)
    compiler = [
        *shlex.split(os.environ.get("CC", "cc")),
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Werror",
        "-Icsrc",
    ]
    subprocess.run(
        [*compiler, "-c", "-o", "reader.o", "reader.c"], cwd=tmp_path, check=True, timeout=100
    )
    assert edited(tmp_path) == ["tcpmux/config/settings.py"]


def seen(tree: Path) -> Any:
    """What the package in that tree makes of the example."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{ROOT}"}
    said = subprocess.run(
        [sys.executable, "-c", SEEN, str(REFERENCE)],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def edited(tree: Path) -> list[str]:
    """The files in git that are not as they are here."""
    made = {"csrc/rules.def", "csrc/balances.def"}
    here = (path for name in ("tcpmux", "csrc") for path in (ROOT / name).rglob("*"))
    return sorted(
        str(name)
        for path in here
        if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts
        for name in (path.relative_to(ROOT),)
        if str(name) not in made and path.read_bytes() != (tree / name).read_bytes()
    )
