"""What a build from source needs of the machine. The build asks before anything else, so that what
is missing is one line that says what to install, and not a page of a compiler's errors."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PROBE_SECONDS = 60
# What the extension modules include: of Python, of the C library and of the kernel.
PROBE = (
    "#include <Python.h>\n#include <stdio.h>\n#include <linux/tcp.h>\nint probe(void){return 0;}\n"
)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

# By the program that installs packages: the line for it.
INSTALLERS = {
    "apt-get": f"apt install gcc libc6-dev {PYTHON}-dev",
    "dnf": "dnf install gcc python3-devel",
}


def compiler() -> str:
    """The command that compiles: CC, or what this Python was built with."""
    return os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"


def version() -> str:
    """What the compiler calls itself, in one line."""
    command = [*shlex.split(compiler()), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0]


def missing() -> str:
    """What a build lacks here; empty if nothing."""
    command = shlex.split(compiler())
    if not command or shutil.which(command[0]) is None:
        return f"there is no C compiler ({compiler()})"
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        return f"Python's headers are missing ({include}/Python.h)"
    return probe([*command, f"-I{include}"])


def probe(command: list[str]) -> str:
    """What the compiler says of a module that does nothing, in one line; empty if it makes one."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "probe.c"
        source.write_text(PROBE)
        try:
            done = subprocess.run(
                [*command, "-fPIC", "-shared", str(source), "-o", f"{directory}/probe.so"],
                capture_output=True, text=True, errors="replace",
                timeout=PROBE_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]} does not run ({error})"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if "error" in line] or ["it says nothing"]
    return f"{command[0]} compiles nothing ({said[0].removeprefix(f'{source}:')})"


def advice() -> str:
    for program, line in INSTALLERS.items():
        if shutil.which(program):
            return line
    return "install a C compiler, the C library's headers and those of Python"


def require() -> None:
    """Raises SystemExit, with one line, if a build can't succeed."""
    if sys.platform != "linux":
        raise SystemExit(f"tcpmux can't be built: it runs on Linux only, not on {sys.platform}")
    if what := missing():
        raise SystemExit(f"tcpmux can't be built: {what}. Do this first: {advice()}")
