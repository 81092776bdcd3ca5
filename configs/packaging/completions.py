"""Writes the completion scripts of configs/completion/, as `tcpmux completion SHELL` prints them:
`make generated` runs this. Their names are those that the shells look for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[1] / "completion"
NAMES = {"bash": "tcpmux", "zsh": "_tcpmux", "fish": "tcpmux.fish"}


def script(shell: str) -> str:
    command = [sys.executable, "-m", "tcpmux", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for shell, name in NAMES.items():
        (DIRECTORY / name).write_text(script(shell).strip() + "\n")
