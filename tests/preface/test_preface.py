"""The recipe of CONTRIBUTING.md for a stage before the pick: one file, and one row. It is added to
a copy of the tree, which is built, and outlives what connections outlive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import patient
from tests.unit.test_recipes import edit, edited

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
ROWS = "csrc/conn/prefaces.def"
STAGE = "csrc/conn/four_bytes.c"
CYTHONIZED = "build/cython/tcpmux"
SECONDS = patient(300)
# setup.py as it is, for the one file that what is in csrc/conn/ goes into.
BUILD = """
import os, sys, runpy, setuptools, Cython.Build
whole, translate = setuptools.setup, Cython.Build.cythonize
def chosen(extensions):
    return [one for one in extensions if one.name.startswith("tcpmux.worker.")]
setuptools.setup = lambda ext_modules, **how: whole(ext_modules=chosen(ext_modules), **how)
Cython.Build.cythonize = lambda extensions, **how: [
    *translate(chosen(extensions), **{**how, "annotate": False}),
    *(one for one in extensions if one not in chosen(extensions))]
sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.fixture
def tree() -> Iterator[Path]:
    """Not below a directory of pytest's: the user that workers become has to be able to read it."""
    tree = Path(tempfile.mkdtemp(prefix="tcpmux-"))
    tree.chmod(0o755)
    for name in ("tcpmux", "csrc", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "_loop.*.so")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    # What Cython made, with its times: of a source that has not changed it is made once.
    if (ROOT / CYTHONIZED).exists():
        shutil.copytree(ROOT / CYTHONIZED, tree / CYTHONIZED)
    yield tree
    shutil.rmtree(tree)


def run(tree: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree, env={**os.environ, "TCPMUX_BUILD": "debug", "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"{' '.join(arguments)}\n{done.stdout}", pytrace=False)


@pytest.mark.timeout(2 * SECONDS)
def test_a_stage_is_one_file_and_one_row(tree: Path) -> None:
    assert edited(tree) == []
    edit(tree, [(ROWS, "#undef TM_PREFACE", "TM_PREFACE(FOUR_BYTES, tm_four_bytes)\n")])
    shutil.copy(HERE / "four_bytes.c", tree / STAGE)
    assert edited(tree) == [ROWS]  # besides the file that is new
    run(tree, "-c", BUILD)
    assert [*(tree / "tcpmux/worker").glob("_loop.*.so")] != []
    run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/preface/scenarios.py")
