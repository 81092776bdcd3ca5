"""What `tcpmux convert` prints for each file in files/.

NAME.out holds a command, and what it prints: its exit code, standard error and standard output.
With TCPMUX_WRITE_DOCS=1 the tests write it anew: write the line with the command yourself, then
read what has come of it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tcpmux.cli.app import cli

FILES = Path(__file__).with_name("files")
WRITES = "TCPMUX_WRITE_DOCS" in os.environ
EXPECTED = sorted(FILES.glob("*/*.out"))


def printed(command: list[str]) -> str:
    result = CliRunner().invoke(cli, command, prog_name="tcpmux")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return f"[exit {result.exit_code}]\n[stderr]\n{result.stderr}[stdout]\n{result.stdout}"


@pytest.mark.parametrize("file", EXPECTED, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_a_file_becomes_what_is_expected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    first, _, expected = file.read_text().partition("\n")
    found = printed(shlex.split(first.removeprefix("$ tcpmux")))
    if WRITES:
        file.write_text(f"{first}\n{found}")
    else:
        assert found == expected


def test_every_file_has_its_result() -> None:
    """A file without one would be read by no test."""
    named = {
        file.parent / word
        for file in EXPECTED
        for word in shlex.split(file.read_text().partition("\n")[0])
    }
    inputs = {path for path in FILES.glob("*/*") if path.is_file() and path.suffix != ".out"}
    assert inputs <= named
