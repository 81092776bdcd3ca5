"""The command line itself: verbs, help, errors, exit codes, and the commands that need no one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tcpmux import __version__
from tcpmux.cli.app import cli
from tcpmux.cli.commands import COMMANDS, named
from tcpmux.cli.output import has_color, screen_width
from tcpmux.control.operation import Command
from tcpmux.errors import TcpmuxError
from tests.support import DEADLINE
from tests.unit.calling import tcpmux

GOOD = """\
routes:
  - name: tcp-echo
    listen: 127.0.0.1:31400
    destinations:
      - {name: v1, weight: 80, endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"]}
      - {name: v2, weight: 20, endpoints: ["127.0.0.1:9003"]}
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths of the instances that would have been started; `bad` in one of them fails."""
    calls: list[list[str]] = []

    def run(paths: list[str], endpoints: list[str], admin: str) -> int:
        calls.append([*paths, *endpoints, *filter(None, [admin])])
        if "bad" in paths:
            raise TcpmuxError("first\nsecond")
        return 0

    master = ModuleType("tcpmux.master")
    master.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tcpmux.master", master)
    return calls


def test_c_alone_runs_an_instance_as_run_does(started: list[list[str]]) -> None:
    assert tcpmux("-c", "a.yaml", "-c", "b.yaml").exit_code == 0
    assert tcpmux("run", "-c", "a.yaml", "--endpoint", "x=127.0.0.1:1").exit_code == 0
    assert tcpmux("-c", "a.yaml", "--admin", "/run/a.sock").exit_code == 0
    assert tcpmux("run", "-c", "a.yaml", "--admin", "/run/a.sock").exit_code == 0
    assert started == [
        ["a.yaml", "b.yaml"],
        ["a.yaml", "x=127.0.0.1:1"],
        ["a.yaml", "/run/a.sock"],
        ["a.yaml", "/run/a.sock"],
    ]


def test_a_start_that_fails_says_why_in_lines_of_their_own(started: list[list[str]]) -> None:
    result = tcpmux("-c", "bad")
    assert result.stderr == "tcpmux: error: first\ntcpmux: error: second\n"
    assert result.exit_code == 1


def test_without_anything_it_teaches(started: list[list[str]]) -> None:
    result = tcpmux()
    assert result.exit_code == 2
    assert "tcpmux -c routes.yaml" in result.output
    assert started == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-c", "a.yaml", "status"], "-c comes after the command: tcpmux status -c FILE"),
        (["--admin", "a", "status"], "--admin comes after the command: tcpmux status --admin SOCK"),
        (["run"], "no file given: name one with -c"),
        (["check"], "no file given: name one with -c"),
        (["weight"], "Missing argument 'ROUTE'"),
        (["weight", "r"], "Missing argument 'DESTINATION=WEIGHT...'"),
        (["status", "--josn"], "No such option"),
        (["statsu"], "No such command 'statsu'"),
    ],
)
def test_wrong_usage_is_one_line_that_points_at_the_help(arguments: list[str], error: str) -> None:
    result = tcpmux(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("tcpmux: error: ")
    assert error in result.stderr
    assert result.stderr.endswith(" --help`)\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", list(cli.commands))
def test_help_of_every_command_has_an_example(command: str) -> None:
    result = tcpmux(command, "--help")
    assert result.exit_code == 0
    assert f"    tcpmux {command}" in result.output


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_the_list_of_commands_says_what_each_says_of_itself(row: Command) -> None:
    command = named(row.name)
    assert command.name == row.name
    assert command.get_short_help_str(1000) == row.summary
    assert not command.hidden


LOADED = """
import subprocess
import sys
before = set(sys.modules)
from tcpmux.cli import main
sys.argv = ["tcpmux", *sys.argv[1:]]
try:
    main()
finally:
    print(*(set(sys.modules) - before), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Modules that a command loads, in an interpreter of its own."""
    command = [sys.executable, "-I", "-c", LOADED, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_what_says_little_loads_little(arguments: list[str]) -> None:
    loaded = loaded_by(*arguments)
    ours = {name for name in loaded if name.partition(".")[0] == "tcpmux"}
    assert ours == {
        "tcpmux",
        "tcpmux.cli",
        "tcpmux.cli.app",
        "tcpmux.cli.commands",
        "tcpmux.cli.output",
        "tcpmux.cli.run",
        "tcpmux.log_style",
        "tcpmux.cli.text",
        "tcpmux.connection_id",
        "tcpmux.control",
        "tcpmux.control.limits",
        "tcpmux.control.reading",
        "tcpmux.control.operation",
        "tcpmux.control.operations",
        "tcpmux.control.schema",
        "tcpmux.errors",
        "tcpmux.files",
    }
    assert not loaded & {"asyncio", "http.client", "pydantic", "rich", "yaml"}


@pytest.mark.parametrize("command", ["status", "weight", "conns", "reload", "stop"])
def test_a_command_to_an_instance_loads_nothing_that_reads_files(
    command: str, tmp_path: Path
) -> None:
    arguments = {"weight": ["r", "v1=1"]}.get(command, [])
    loaded = loaded_by(command, *arguments, "--admin", str(tmp_path / "none"))
    assert "tcpmux.control.client" in loaded
    assert not loaded & {"aiohttp", "asyncio", "pydantic", "re2", "yaml"}


def test_version() -> None:
    assert tcpmux("--version").output == f"tcpmux {__version__}\n"


def test_check_counts_what_a_good_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(GOOD)
    result = tcpmux("check", "-c", str(path))
    assert result.output.splitlines() == [
        f"{path}: ok: 1 route, 2 destinations, 3 endpoints",
        "tcp-echo on 127.0.0.1:31400",
        "  v1 80: 127.0.0.1:9001, 127.0.0.1:9002",
        "  v2 20: 127.0.0.1:9003",
    ]
    assert result.exit_code == 0


def test_check_counts_endpoints_and_not_their_turns(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("""\
routes:
- name: r
  listen: 127.0.0.1:1
  destinations:
  - name: v1
    endpoints:
    - {address: "127.0.0.1:2", weight: 80}
    - {address: "127.0.0.1:3", weight: 20}
    - {address: "127.0.0.1:4", weight: 1}
""")
    result = tcpmux("check", "-c", str(path))
    assert result.stdout.startswith(f"{path}: ok: 1 route, 1 destination, 3 endpoints\n")
    (route,) = json.loads(tcpmux("check", "--json", "-c", str(path)).stdout)["routes"]
    (destination,) = route["destinations"]
    assert destination["endpoints"] == ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]


def test_check_prints_every_problem_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(GOOD.replace("weight: 20", "weight: -20").replace("listen:", "lisen:"))
    result = tcpmux("check", "-c", str(path))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert any("routes[0].destinations[1].weight" in line for line in lines)
    assert any("lisen" in line for line in lines)
    assert all(":" in line and "routes.yaml:" in line for line in lines)


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    """Also at the end of the process, when Python writes what is left."""
    path = tmp_path / "routes.yaml"
    path.write_text(GOOD)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tcpmux", "check", "-c", str(path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    assert done.stderr == "tcpmux: error: can't write the output: No space left on device\n"
    assert done.returncode == 1


def test_a_standard_output_that_is_closed_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"], prog_name="tcpmux")
    assert not end.value.code
    assert not has_color()
    assert screen_width() is None
