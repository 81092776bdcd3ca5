"""A build from source where something is missing: it ends at once, and says what to install."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import patient

ROOT = Path(__file__).parents[2]
TOOLCHAIN = ROOT / "csrc/toolchain.py"
COMPILER = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The functions of csrc/toolchain.py, by name, with the compiler that works here."""
    monkeypatch.setenv("CC", COMPILER)
    return runpy.run_path(str(TOOLCHAIN)).__getitem__


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a source distribution has that is read before anything is compiled."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    (folder / "tcpmux").mkdir()
    shutil.copy(ROOT / "tcpmux/__init__.py", folder / "tcpmux")
    return folder


def test_nothing_is_missing_here(toolchain: Callable[[str], Any]) -> None:
    assert toolchain("missing")() == ""
    toolchain("require")()


def test_pip_fails_at_once_with_one_line(sources: Path, tmp_path: Path) -> None:
    """Without a compiler in PATH: before anything is downloaded, as there is no network either."""
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", f"--target={tmp_path}/to", "."],
        cwd=sources,
        env={
            "PATH": str(tmp_path / "bin"),
            "HOME": str(tmp_path),
            "PIP_NO_INDEX": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode != 0
    ours = re.findall(r"^.*tcpmux can't be built.*$", done.stdout + done.stderr, re.MULTILINE)
    assert len(ours) == 1, done.stderr
    assert "there is no C compiler" in ours[0]
    assert "install" in ours[0]
    assert "Traceback" not in done.stderr
    assert not list(sources.glob("build*"))
    assert not list((sources / "csrc").glob("*.o"))


@pytest.mark.parametrize(
    ("hook", "offered"),
    [("wheel", False), ("editable", False), ("sdist", True)],
)
def test_what_a_build_needs_is_told_only_if_it_can_succeed(
    hook: str, offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source distribution is made without a compiler."""
    monkeypatch.setenv("CC", "no-such-cc")
    monkeypatch.syspath_prepend(str(TOOLCHAIN.parent))
    backend = runpy.run_path(str(TOOLCHAIN.parent / "build_backend.py"))
    hook_of = backend[f"get_requires_for_build_{hook}"]
    if offered:
        assert hook_of() == backend["REQUIRES"]
    else:
        with pytest.raises(SystemExit, match=r"there is no C compiler \(no-such-cc\)"):
            hook_of()


def test_headers_that_are_missing_are_named(
    toolchain: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python without its -dev package; a compiler without the C library's."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert toolchain("missing")() == f"Python's headers are missing ({tmp_path}/Python.h)"
    (tmp_path / "Python.h").write_text("#include <no_such_header.h>\n")
    assert re.search(r"compiles nothing \(.*no_such_header\.h: .*\)$", toolchain("missing")())


def test_a_compiler_that_fails_is_not_blamed_on_the_sources(
    toolchain: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not run at all, one that says nothing, and one that is for other machines."""
    program = tmp_path / "cc"
    monkeypatch.setenv("CC", str(program))
    program.write_text("not a program")
    program.chmod(0o755)
    assert "does not run" in toolchain("missing")()
    program.write_text("#!/bin/sh\nexit 3\n")
    assert "compiles nothing (it says nothing)" in toolchain("missing")()
    program.write_text("#!/bin/sh\necho 'a.c:1: error: bad option' >&2; exit 1\n")
    assert "error: bad option" in toolchain("missing")()


@pytest.mark.parametrize(
    ("installer", "says"), [("apt-get", "apt install gcc"), ("dnf", "dnf"), ("", "a C compiler")]
)
def test_the_line_is_for_this_distribution(
    installer: str,
    says: str,
    toolchain: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if installer:
        (tmp_path / installer).write_text("#!/bin/sh\n")
        (tmp_path / installer).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(SystemExit) as ended:
        toolchain("require")()
    (line,) = str(ended.value).splitlines()
    assert says in line


def test_other_systems_are_refused(
    toolchain: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="runs on Linux only, not on darwin"):
        toolchain("require")()
