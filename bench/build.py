"""Compiles a load generator when its sources are newer. Runs in the bench process, and in
that of tests.stress, which has a generator of its own.
"""

from __future__ import annotations

import os
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
    """The path of bench's load generator. Raises BuildError."""
    return build(SOURCES, PROGRAM)


def build(sources_directory: Path, program: Path) -> Path:
    """`program`, compiled from all C files of a directory if one of them is newer.

    Raises BuildError with the compiler's words.
    """
    inputs = sorted(sources_directory.glob("*.[ch]"))
    newest = max(path.stat().st_mtime for path in inputs)
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    if shutil.which("gcc") is None:
        raise BuildError("gcc is not installed")
    program.parent.mkdir(exist_ok=True)
    # Compiled aside and renamed: an interrupted build must not look like a finished one. Under a
    # name of this process's own, as another may build the same at the same time.
    unfinished = program.with_suffix(f".{os.getpid()}")
    sources = [str(path) for path in inputs if path.suffix == ".c"]
    compiler = subprocess.run(
        ["gcc", *FLAGS, *sources, "-o", str(unfinished)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if compiler.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise BuildError(compiler.stderr.strip())
    unfinished.rename(program)
    return program
