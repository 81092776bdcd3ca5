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


def settings(name: str) -> dict[str, str]:
    lines = (CONFIGS / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def seconds(text: str) -> float:
    """Of the two units of time that the files use."""
    number, unit = re.fullmatch(r"(\d+)(ms|)", text).groups()  # type: ignore[union-attr]
    return int(number) / (1000 if unit else 1)


needs_analyze = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze (package systemd) is not installed"
)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Copies, with a program that exists."""
    for path in CONFIGS.glob("tcpmux.*"):
        text = re.sub(r"(?m)^(Exec\w+=)\S+", rf"\1{sys.executable}", path.read_text())
        (tmp_path / path.name).write_text(text)
    found = sorted(tmp_path.iterdir())
    assert len(found) == 2
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *arguments], capture_output=True, text=True, check=False, timeout=patient(60)
    )


def test_the_admin_socket_is_where_the_service_may_make_it() -> None:
    """Also if routes.yaml names none: as another user than root tcpmux can't make the default."""
    unit = settings("tcpmux.service")
    name, socket = unit["Environment"].split("=")
    assert name == "TCPMUX_ADMIN"
    assert Path(socket).parent == Path("/run") / unit["RuntimeDirectory"]


@needs_analyze
def test_systemd_understands_every_line(units: list[Path]) -> None:
    """Of whatever release from 252 on, Debian 12's: nothing is in the units that is newer."""
    result = analyze("verify", "--man=no", *map(str, units))
    # It also tells of other units of this machine.
    assert not [line for line in result.stderr.splitlines() if "tcpmux" in line]
    assert result.returncode == 0, result.stderr


@needs_analyze
def test_a_unit_with_a_newer_type_would_be_found(units: list[Path]) -> None:
    """The test above can fail."""
    service = next(path for path in units if path.suffix == ".service")
    service.write_text(service.read_text().replace("Type=notify", "Type=no-such-type"))
    assert "no-such-type" in analyze("verify", "--man=no", str(service)).stderr


@needs_analyze
def test_the_service_is_confined(units: list[Path]) -> None:
    """systemd's own measure, 0 to 10; below 2.5 is "OK" there. It was 1.8 with release 252."""
    service = next(str(path) for path in units if path.suffix == ".service")
    result = analyze("security", "--offline=true", "--threshold=25", "--no-pager", service)
    assert "Overall exposure level" in result.stdout + result.stderr
    assert result.returncode == 0, result.stdout


def test_the_sockets_that_the_code_opens_are_allowed() -> None:
    """One that is not fails quietly where it only asks, as for who listens at an address."""
    used = {
        family
        for path in (CONFIGS.parent / "tcpmux").rglob("*.py")
        for family in re.findall(r"\bsocket\((?:socket\.)?(AF_\w+)", path.read_text())
    }
    assert {"AF_UNIX", "AF_NETLINK"} <= used
    allowed = set(settings("tcpmux.service")["RestrictAddressFamilies"].split())
    assert used <= allowed
    assert {"AF_INET", "AF_INET6"} <= allowed


def test_a_reload_is_waited_for() -> None:
    """`systemctl reload` runs the command that a person would, which fails if the file was refused;
    a signal alone tells nothing."""
    unit = settings("tcpmux.service")
    program, *arguments = unit["ExecReload"].split()
    assert program == unit["ExecStart"].split()[0]
    assert arguments == ["reload"]
    assert unit["Type"] == "notify"


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
