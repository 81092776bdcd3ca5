"""The units in configs/, as systemd itself reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmux.config import load
from tests.support import patient

CONFIGS = Path(__file__).parents[2] / "configs"
ANALYZE = shutil.which("systemd-analyze")
NOTIFY_RELOAD_SINCE = 253  # its NEWS


def settings(name: str) -> dict[str, str]:
    lines = (CONFIGS / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def seconds(text: str) -> float:
    """Of the two units of time that the files use."""
    number, unit = re.fullmatch(r"(\d+)(ms|)", text).groups()  # type: ignore[union-attr]
    return int(number) / (1000 if unit else 1)


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze (package systemd) is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """With a program that exists, and without the one type that an older systemd lacks."""
    assert ANALYZE is not None
    told = subprocess.run([ANALYZE, "--version"], capture_output=True, text=True, check=True)
    version = re.match(r"systemd (\d+)", told.stdout)
    assert version, told.stdout
    for path in CONFIGS.glob("tcpmux.*"):
        text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", path.read_text())
        if int(version[1]) < NOTIFY_RELOAD_SINCE:
            text = text.replace("Type=notify-reload", "Type=notify")
        (tmp_path / path.name).write_text(text)
    units = sorted(map(str, tmp_path.iterdir()))
    assert len(units) == 2
    result = subprocess.run(
        [ANALYZE, "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    # It also tells of other units of this machine.
    assert not [line for line in result.stderr.splitlines() if "tcpmux" in line]
    assert result.returncode == 0, result.stderr


def test_a_drain_has_the_time_it_takes() -> None:
    """More than the default drain_timeout, so that systemd does not kill in the middle."""
    drain_timeout = load([str(CONFIGS / "minimal.yaml")]).drain_timeout
    assert seconds(settings("tcpmux.service")["TimeoutStopSec"]) > drain_timeout


def test_a_mistake_in_the_file_is_not_tried_again() -> None:
    """The exit code of one is the one that the unit names."""
    told = subprocess.run(
        [sys.executable, "-m", "tcpmux", "-c", "/nowhere/routes.yaml"],
        capture_output=True,
        check=False,
        timeout=patient(60),
    )
    assert str(told.returncode) == settings("tcpmux.service")["RestartPreventExitStatus"]
