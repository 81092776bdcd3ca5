"""The manual page and the completion scripts in configs/: made of the commands, and complete."""

from __future__ import annotations

import re
import runpy
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from tcpmux.cli.app import cli
from tcpmux.cli.commands import COMMANDS, named
from tcpmux.master.signals import HANDLED
from tests.support import patient

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "configs/packaging/tcpmux.1"
MAKER: dict[str, Any] = runpy.run_path(str(ROOT / "configs/packaging/man_page.py"))
COMPLETIONS: dict[str, Any] = runpy.run_path(str(ROOT / "configs/packaging/completions.py"))


def plain(roff: str) -> str:
    """Text of the page without its markup."""
    return re.sub(r"\\f[BR]|\\&", "", roff).replace(r"\-", "-").replace(r"\e", "\\")


def test_the_page_is_of_these_commands() -> None:
    """`make generated` writes it anew."""
    assert PAGE.read_text() == MAKER["page"]()


def test_every_command_and_option_is_in_it() -> None:
    text = plain(PAGE.read_text())
    root = click.Context(cli, info_name="tcpmux", **cli.context_settings)
    for row in COMMANDS:
        section = text.split(f"\n.SS {row.name}\n")[1].split("\n.S")[0]
        assert section.startswith(f"tcpmux {row.name}")
        command = named(row.name)
        for param in command.get_params(click.Context(command, info_name=row.name, parent=root)):
            hidden = getattr(param, "hidden", False) or "--help" in param.opts
            if isinstance(param, click.Option) and not hidden:
                assert param.opts[-1] in section, f"{row.name} {param.opts}"


def test_every_signal_of_the_master_is_in_it() -> None:
    """CHLD is between it and its children."""
    named_there = {f"SIG{name}" for row in MAKER["SIGNALS"] for name in row.split(", ")}
    assert named_there == {number.name for number in HANDLED} - {signal.SIGCHLD.name}


def test_every_variable_that_a_command_reads_is_in_it() -> None:
    found = {
        name
        for row in COMMANDS
        for param in named(row.name).params
        for name in re.findall(r"\$(\w+)", getattr(param, "help", None) or "")
    }
    assert {"TCPMUX_ADMIN", "TCPMUX_URL", "TCPMUX_TOKEN_FILE"} <= found
    assert found <= MAKER["ENVIRONMENT"].keys()


def test_every_exit_status_of_a_command_is_in_it() -> None:
    """Those that a help text or the code of a command names."""
    text = " ".join(path.read_text() for path in (ROOT / "tcpmux/cli").glob("*.py"))
    said = set(re.findall(r"\b(?:return|exit_code =|exits? with|exit code) (\d+)\b", text))
    assert {"0", "1", "2", "3"} >= said
    assert MAKER["EXIT_STATUS"].keys() == {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (".starts with a dot", r"\&.starts with a dot"),
        ("'quoted", r"\&'quoted"),
        (r"C:\n", r"C:\en"),
        ("--wait", r"\-\-wait"),
        ("see `tcpmux check -c FILE`", r"see \fBtcpmux check \-c FILE\fR"),
    ],
)
def test_nothing_in_a_help_text_is_taken_for_markup(line: str, expected: str) -> None:
    assert MAKER["text"](line) == expected


@pytest.mark.skipif(shutil.which("man") is None, reason="man (package man-db) is not installed")
def test_it_renders_without_a_warning() -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(PAGE)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MANWIDTH": "100"},
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    words = re.sub(r"\x1b\[\d*m|.\x08", "", done.stdout)
    for heading in (
        "NAME",
        "SYNOPSIS",
        "COMMANDS",
        "SIGNALS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
    ):
        assert f"\n{heading}\n" in words


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_another_formatter_finds_nothing_wrong() -> None:
    """But for the date, which the page leaves out: it would change with every build."""
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(PAGE)],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if "missing date" not in line] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_those_that_the_command_prints(shell: str) -> None:
    """`make generated` writes them anew."""
    name = COMPLETIONS["NAMES"][shell]
    installed = (ROOT / "configs/completion" / name).read_text()
    assert installed.strip() == COMPLETIONS["script"](shell).strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_of_bash_is_one() -> None:
    path = ROOT / "configs/completion" / COMPLETIONS["NAMES"]["bash"]
    shown = subprocess.run(
        ["bash", "--norc", "-ec", f"source {path}; complete -p tcpmux"],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "_tcpmux_completion" in shown.stdout
