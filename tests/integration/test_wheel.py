"""The wheel: what is in it, and that it works where it is installed.

It is made of the modules that are built here, as `make wheel` does it; test_hardening.py compiles.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from tests.support import patient

ROOT = Path(__file__).parents[2]
MAKER: dict[str, Any] = runpy.run_path(str(ROOT / "configs/packaging/wheel.py"))
TAKEN = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
# Below the prefix that it is installed to.
SHARED = (
    "man/man1/tcpmux.1",
    "bash-completion/completions/tcpmux",
    "zsh/site-functions/_tcpmux",
    "fish/vendor_completions.d/tcpmux.fish",
    "tcpmux/minimal.yaml",
    "tcpmux/reference.yaml",
    "tcpmux/kubernetes/tcpmux.yaml",
    "tcpmux/monitoring/grafana-dashboard.json",
    "tcpmux/monitoring/prometheus-alerts.yaml",
    "tcpmux/systemd/tcpmux.service",
    "tcpmux/systemd/tcpmux.socket",
)


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=patient(100), check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"{command}: exit status {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a copy of the tree, without the modules."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in TAKEN:
        shutil.copy(ROOT / name, source)
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "configs", "tcpmux"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    run(
        sys.executable, "-c", "import build_backend; build_backend.build_wheel('..')",
        cwd=source, PYTHONPATH="csrc", TCPMUX_MODULES=str(ROOT),
    )  # fmt: skip
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def prefix(wheel: Path) -> Path:
    """Where it is installed, without what it depends on: that is in this environment."""
    target = wheel.parent / "prefix"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--no-compile", "--ignore-installed", "--prefix", str(target), str(wheel)),
        cwd=wheel.parent,
    )
    return target


def packages(prefix: Path) -> str:
    (found,) = prefix.glob("l*/python*/site-packages")
    return str(found)


def test_it_has_every_module_of_the_package_and_no_source(wheel: Path) -> None:
    """No .pyx and no C; data and Python as in the tree."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tcpmux").rglob("*")
        if path.suffix in {".py", ".pyi", ".js", ".css", ".html", ".json", ".yaml", ".typed"}
        or path.name == "py.typed"
    }
    ours = {name for name in names if name.startswith("tcpmux/")}
    assert tree <= ours
    suffix = EXTENSION_SUFFIXES[0]
    assert sum(name.endswith(suffix) for name in ours) == len(extension_files())
    assert not [name for name in ours if name.endswith((".pyx", ".pxd", ".c", ".h", ".pyc"))]


def extension_files() -> list[str]:
    """The extension modules, as setup.py lists them."""
    found = re.findall(r"^    \($|^    \(\[", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert found
    return found


def test_it_brings_what_is_not_python(wheel: Path, prefix: Path) -> None:
    """The same files as in configs/."""
    for name in SHARED:
        assert (prefix / "share" / name).is_file(), name
    for name in ("reference.yaml", "tcpmux.service"):
        (installed,) = prefix.rglob(f"share/**/{name}")
        assert installed.read_text() == (ROOT / "configs" / name).read_text()
    found = {
        str(p.relative_to(prefix / "share")) for p in prefix.rglob("share/**/*") if p.is_file()
    }
    assert found == set(SHARED)


def test_its_modules_are_stripped(wheel: Path) -> None:
    """No debug information, nor names that nobody links to; a module of this tree has both."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        for name in modules:
            stripped = archive.read(name)
            assert b".debug_info" not in stripped
            assert b".symtab" not in stripped
            assert len(stripped) < (ROOT / name).stat().st_size


def test_it_runs_where_it_is_installed(prefix: Path) -> None:
    """The command, and each extension module."""
    where = packages(prefix)
    command = str(prefix / "bin/tcpmux")
    assert run(command, "--version", cwd=prefix, PYTHONPATH=where).startswith("tcpmux ")
    probe = "import tcpmux.master._watch, tcpmux._privileges, tcpmux.shm._readings as r, "
    probe += "tcpmux.worker._loop as l; print(r.__file__, l.__file__)"
    for file in run(sys.executable, "-c", probe, cwd=prefix, PYTHONPATH=where).split():
        assert file.startswith(where)
    reference = prefix / "share/tcpmux/minimal.yaml"
    run(command, "check", "-c", str(reference), cwd=prefix, PYTHONPATH=where)


@pytest.mark.skipif(shutil.which("man") is None, reason="man (package man-db) is not installed")
def test_man_finds_the_page_by_the_command(prefix: Path) -> None:
    """An environment that is active is enough: man looks beside each directory of PATH."""
    path = f"{prefix / 'bin'}:/usr/bin:/bin"
    found = run("man", "--where", "tcpmux", cwd=prefix, PATH=path, MANPATH="")
    assert found.strip() == str(prefix / "share/man/man1/tcpmux.1")


def test_modules_of_other_sources_are_not_taken(tmp_path: Path) -> None:
    """`make wheel` compiles the commit where what modules are made of differs from it in this tree:
    in a file, by one more, or by one fewer. What it generates and what is Python does not count."""
    same = MAKER["have_same_sources"]
    trees = [tmp_path / "tree", tmp_path / "commit"]
    for tree in trees:
        for name in ("setup.py", "csrc/pump.c", "csrc/conn/relay.c", "tcpmux/worker/_loop.pyx"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text("same\n")
    here = trees[0]
    (here / "csrc/rules.def").write_text("made\n")
    (here / "tcpmux/more.py").write_text("\n")
    assert same(*trees)
    for name in ("csrc/conn/relay.c", "tcpmux/worker/_loop.pyx", "setup.py"):
        (here / name).write_text("diff\n")
        assert not same(*trees)
        (here / name).write_text("same\n")
    (here / "csrc/new.h").write_text("\n")
    assert not same(*trees)
    (here / "csrc/new.h").unlink()
    (here / "csrc/pump.c").unlink()
    assert not same(*trees)
