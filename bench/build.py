"""Compiles the load generator into bench/build. Runs in the bench process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "loadgen"
PROGRAM = HERE / "build" / "loadgen"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")


class BuildError(Exception):
    """The load generator could not be compiled."""


def build_loadgen() -> Path:
    """The path of an up-to-date load generator; compiles it if a source is newer.

    Raises BuildError with the compiler's words.
    """
    inputs = sorted(SOURCES.glob("*.[ch]"))
    newest = max(path.stat().st_mtime for path in inputs)
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= newest:
        return PROGRAM
    if shutil.which("gcc") is None:
        raise BuildError("gcc is not installed")
    PROGRAM.parent.mkdir(exist_ok=True)
    # Compiled aside and renamed: an interrupted build must not look like a finished one.
    unfinished = PROGRAM.with_suffix(".new")
    sources = [str(path) for path in inputs if path.suffix == ".c"]
    compiler = subprocess.run(
        ["gcc", *FLAGS, *sources, "-o", str(unfinished)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if compiler.returncode != 0:
        raise BuildError(compiler.stderr.strip())
    unfinished.rename(PROGRAM)
    return PROGRAM
