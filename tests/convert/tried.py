"""docs/migrate/tried.md: what was seen of files that ran in both programs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.convert.looks import Case

PAGE = Path(__file__).resolve().parents[2] / "docs/migrate/tried.md"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
HEAD = "| file | what was tried | result in both |\n|---|---|---|\n"


def rows_in() -> list[tuple[str, str]]:
    """(file, what was looked at), in order."""
    return [(file, what) for file, what, _ in _ROW.findall(PAGE.read_text())]


def write_rows(case: Case, seen: list[str]) -> None:
    """In place of those that the file has, or at the end; the table stays sorted by program."""
    text = PAGE.read_text()
    before, _, rest = text.partition(HEAD)
    table, _, after = rest.partition("\n\n") if not rest.startswith("\n") else ("", "", rest[1:])
    rows = [row for row in table.splitlines() if f"`{case.file}`" not in row]
    rows += [
        f"| `{case.file}` | {look.what} | {found} |"
        for look, found in zip(case.looks, seen, strict=True)
    ]
    rows.sort(key=lambda row: row.split("`")[1])
    PAGE.write_text(before + HEAD + "\n".join(rows) + "\n\n" + after)
