"""How a process of tcpmux starts another program of tcpmux: our own package first, and never
what lies in somebody's directory. Used by master and guardian."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import tcpmux

# The service manager's, for the master: nobody else may speak for the service.
MASTERS_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command line for `python -m module`; to be run in /, where -m finds nothing."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    package = str(Path(tcpmux.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    passed = {name: value for name, value in os.environ.items() if name not in MASTERS_OWN}
    return {**passed, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def start_program(module: str, arguments: Sequence[str]) -> NoReturn:
    """Becomes that program. Raises OSError."""
    os.execve(sys.executable, command(module, arguments), environment())  # noqa: S606
