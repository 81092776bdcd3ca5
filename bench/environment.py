"""What a result depends on besides the code: machine, kernel, versions, CPUs in use.

Runs in the bench process.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers import PEERS, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_cpus(wanted: tuple[int, int] | None) -> tuple[int | None, int | None]:
    """The CPU of load and backend, and that of the proxy; (None, None) on a single CPU.

    Raises ValueError if `wanted` names a CPU that this process may not use.
    """
    usable = sorted(os.sched_getaffinity(0))
    if wanted is not None:
        if not set(wanted) <= set(usable):
            raise ValueError(f"usable are {', '.join(map(str, usable))}")
        return wanted
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def raise_file_limit() -> int:
    """Let the programs that are started open as many files as they may; gives that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe(peers: Sequence[str]) -> dict[str, Any]:
    """Commit, kernel, CPU model and versions, for the JSON file."""
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "modified": _git("status", "--porcelain") != "",
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "usable_cpus": sorted(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: PEERS[name].version() for name in peers},
    }


def _git(*arguments: str) -> str | None:
    """The output of a git command, or None outside a repository with commits."""
    try:
        finished = subprocess.run(
            ["git", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
