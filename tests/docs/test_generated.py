"""The pages of the reference that are made by tests/docs/generate.py are up to date.

TCPMUX_WRITE_DOCS=1 python -m pytest tests/docs/test_generated.py (or `make generated`) writes them.
"""

from __future__ import annotations

import os
import re

import pytest

from tcpmux.shm.counters import ROWS
from tests.docs.generate import PAGES, configuration
from tests.docs.pages import DOCS, ROOT
from tests.unit.reference import nodes_of


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    path, text = DOCS / name, PAGES[name]()
    if os.environ.get("TCPMUX_WRITE_DOCS"):
        path.write_text(text)
    assert path.read_text() == text, "make generated"


def test_every_key_has_a_heading_or_an_example() -> None:
    text = configuration()
    for path in nodes_of((ROOT / "configs/reference.yaml").read_text()):
        if isinstance(path[-1], str):
            assert re.search(rf"\b{path[-1]}\b", text), path


def test_every_row_says_what_it_counts() -> None:
    assert all(row.help and not row.help.endswith(".") for row in ROWS)
    assert all(row.unit for row in ROWS if row.kind != "pick")
    names = [(row.kind, row.name) for row in ROWS]
    assert len(set(names)) == len(names)
