"""errors.md: what a typo in each place of reference.yaml is answered with.

TCPMUX_WRITE_DOCS=1 python -m pytest tests/unit/test_error_page.py (or `make docs`) writes it anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmux.config import ConfigError, load

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("errors.md")
REFERENCE = ROOT / "configs/reference.yaml"
HEAD = """# What a mistake is answered with

A typo in each place of [reference.yaml](../../configs/reference.yaml), and what `tcpmux check` says
of it, as do a start, a reload and the API. This page is made by `tests/unit/test_error_page.py`.

| line | written | said |
|---|---|---|
"""


def typos() -> Iterator[tuple[int, str, str]]:
    """(line, the line as it is written wrongly, the whole text): first keys, then values."""
    lines = REFERENCE.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        found = re.match(r"^([ -]*)([a-z_]+)(:.*?)(?:  # .*)?$", line)
        if found is None or line.lstrip().startswith("#"):
            continue
        indent, key, rest = found.groups()
        wrong = [indent + key[1] + key[0] + key[2:] + rest]
        value = rest[1:].strip()
        if value:
            wrong.append(f"{indent}{key}: [{{}}]")
            wrong.append(f"{indent}{key}: -5")
        for text in wrong:
            changed = [*lines[: number - 1], text, *lines[number:]]
            yield number, text, "\n".join(changed) + "\n"


def page() -> str:
    rows = []
    for number, written, text in typos():
        Path("reference.yaml").write_text(text)
        try:
            load(["reference.yaml"])
        except ConfigError as error:
            said = "<br>".join(str(problem).replace("|", "\\|") for problem in error.problems)
            rows.append(f"| {number} | `{written.strip()}` | {said} |")
        else:
            raise AssertionError(f"nothing is wrong with line {number}: {written}")
    return HEAD + "\n".join(rows) + "\n"


def test_the_page_of_errors_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = page()
    if os.environ.get("TCPMUX_WRITE_DOCS"):
        PAGE.write_text(found)
    assert found == PAGE.read_text(), "write it anew, as the head of this file says"
