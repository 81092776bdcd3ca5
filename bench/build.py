"""Compiles a load generator when its sources are newer. Runs in the bench process, and in
that of tests.stress, which has a generator of its own. And programs that call the worker's code.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "loadgen"
PROGRAM = HERE / "build" / "loadgen"
CSRC = HERE.parent / "csrc"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")


# As setup.py compiles csrc/.
WORKER_FLAGS = (
    "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g1", "-Wall", "-Wextra", "-Werror", f"-I{HERE}",
    *(["-mcx16"] if platform.machine() == "x86_64" else []),
)  # fmt: skip


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


def build_with_worker(name: str, sources: Iterable[Path], csrc: Path = CSRC) -> Path:
    """The program of bench/NAME, compiled together with these sources of csrc/. Raises
    CalledProcessError."""
    program = HERE / "build" / name
    program.parent.mkdir(exist_ok=True)
    files = [str(path) for path in (HERE / name / "main.c", *sources)]
    command = ["gcc", *WORKER_FLAGS, f"-I{csrc}", *files, "-o", str(program)]
    subprocess.run(command, check=True, timeout=240)
    return program
