"""Modules that are in the file of another one are found there, and nowhere else."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest

from tcpmux import shm, worker
from tcpmux.one_file import modules_in_one_file

PYX = [
    (f"{package.__name__}.{path.stem}", first)
    for package, first in ((shm, "_region"), (worker, "_loop"))
    for path in sorted(Path(package.__path__[0]).glob("_*.pyx"))
]


@pytest.mark.parametrize(("name", "first"), PYX, ids=[name for name, _ in PYX])
def test_every_module_of_a_package_is_in_one_file(name: str, first: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).name.partition(".")[0] == first


def test_a_file_of_an_earlier_build_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be of another layout."""
    first, second = (tmp_path / f"{name}{EXTENSION_SUFFIXES[0]}" for name in ("_first", "_second"))
    first.touch()
    second.touch()
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "path", [str(tmp_path.parent), *sys.path])
    modules_in_one_file(tmp_path.name, [str(tmp_path)], "_first", "_second")
    for name in ("_first", "_second"):
        spec = find_spec(f"{tmp_path.name}.{name}")
        assert spec is not None
        assert spec.origin == str(first)


def test_a_file_that_is_not_there_is_an_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a host where nothing was built; the message names the module."""
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "path", [str(tmp_path.parent), *sys.path])
    modules_in_one_file(tmp_path.name, [str(tmp_path)], "_first", "_second")
    with pytest.raises(ModuleNotFoundError, match="_second"):
        __import__(f"{tmp_path.name}._second")
