"""Which build runs: a hash of its files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tcpmux.build import DIGITS, PACKAGE, UNKNOWN, build, stamp


def test_the_same_files_elsewhere_are_the_same_build_and_any_other_byte_is_another(
    tmp_path: Path,
) -> None:
    package = tmp_path / "tcpmux"
    (package / "shm").mkdir(parents=True)
    (package / "a.py").write_text("1")
    (package / "shm" / "b.so").write_bytes(b"\0")
    before = stamp(package)
    assert len(before) == DIGITS
    other = tmp_path / "elsewhere"
    shutil.copytree(package, other)
    os.utime(other / "a.py", (1, 1))
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "a.pyc").write_text("made by who imports it")
    assert stamp(other) == before
    (other / "a.py").write_text("2")
    assert stamp(other) != before
    (other / "a.py").rename(other / "c.py")
    (other / "c.py").write_text("1")
    assert stamp(other) != before


def test_it_is_found_out_once() -> None:
    """Another may be installed in its place later."""
    assert build() == stamp(PACKAGE)
    assert build() is build()


def test_files_that_can_t_be_read_make_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuses)
    assert stamp(PACKAGE) == UNKNOWN
