"""What a shell is told to complete a command line with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click.testing
import pytest

from tcpmux.cli import instance
from tcpmux.cli.app import COMPLETE, cli
from tcpmux.cli.instance import Found
from tcpmux.cli.where import Where
from tcpmux.control.asking import AdminError, Refused
from tests.support import patient

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [
    {
        "name": "shop",
        "destinations": [
            {"name": "v1", "endpoints": ["10.0.0.7:9000", "unix:/run/a"]},
            {"name": "v2", "endpoints": ["10.0.0.8:9000", "unix:/run/with a blank", "x\x1b:1"]},
        ],
        "rules": ["testers", "split", "with a blank"],
    },
    {"name": "shop-canary", "destinations": [{"name": "only", "endpoints": ["[::1]:1"]}]},
    {
        "name": "mail",
        "destinations": [{"name": "v1", "endpoints": ["10.0.0.7:9000"]}],
        "rules": [{"name": "split"}, {"name": "tls"}],  # as a status has them
    },
]


class FakeInstance:
    def __init__(self, answer: Callable[[], Any] = lambda: NAMES) -> None:
        self.names = answer

    def routes(self) -> Any:
        return NAMES


def offered(line: str, shell: str = "bash") -> list[str]:
    """What a shell is told at the end of that line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": "line", COMPLETE: f"{shell}_complete"}
    result = click.testing.CliRunner().invoke(
        cli, [], env=words, prog_name="tcpmux", complete_var=COMPLETE
    )
    assert result.stderr == ""
    assert result.exit_code == 0
    return [text.removeprefix("plain,") for text in result.stdout.split()]


@pytest.fixture
def _running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "only_client", lambda _admin, _timeout: FakeInstance())


@pytest.mark.usefixtures("_running")
@pytest.mark.parametrize("command", ["drain", "enable", "disable", "conns", "kill --yes"])
@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("", ["shop", "shop-canary", "mail"]),
        ("sh", ["shop", "shop-canary"]),
        ("m", ["mail", "mail/v1", "mail/v1/10.0.0.7:9000"]),
        ("shop/", ["shop/v1", "shop/v2"]),
        ("shop/v1/", ["shop/v1/10.0.0.7:9000", "shop/v1/unix:/run/a"]),
        ("shop/v1/u", ["shop/v1/unix:/run/a"]),
        ("shop/v2/", ["shop/v2/10.0.0.8:9000"]),  # the others can't be typed as they are
        ("v", ["v1", "v2"]),
        ("10.0.0.7", ["10.0.0.7:9000"]),
        ("mail/v2", []),
        ("zzz", []),
    ],
)
def test_names_of_the_running_instance(command: str, begun: str, expected: list[str]) -> None:
    """A level at a time, so that thousands of endpoints are not offered at once."""
    assert offered(f"tcpmux {command} {begun}") == expected


@pytest.mark.usefixtures("_running")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tcpmux weight sh", ["shop", "shop-canary"]),
        ("tcpmux weight shop ", ["v1=", "v2="]),
        ("tcpmux weight shop v1=80 ", ["v2="]),
        ("tcpmux weight shop/", ["shop/v1=", "shop/v2=", "shop/testers", "shop/split"]),
        ("tcpmux weight shop/t", ["shop/testers"]),
        ("tcpmux weight shop/testers v", ["v1=", "v2="]),
        ("tcpmux undo mail/", ["mail/split", "mail/tls"]),
        ("tcpmux conns --rule ", ["testers", "split", "tls"]),
        ("tcpmux kill --route mail --rule ", ["split", "tls"]),
        ("tcpmux weight shop/v1=80 shop/v2", ["shop/v2="]),
        ("tcpmux weight nowhere v", []),
        ("tcpmux undo m", ["mail"]),
        ("tcpmux endpoint 10", ["10.0.0.7:9000", "10.0.0.8:9000"]),
        ("tcpmux endpoint sh", ["shop", "shop-canary"]),
        ("tcpmux stats shop/", ["shop/v1", "shop/v2"]),
        ("tcpmux endpoint shop/v1/u", ["shop/v1/unix:/run/a"]),
        ("tcpmux endpoint 10.0.0.7:9000 d", ["drain", "disable"]),
        ("tcpmux conns --route m", ["mail"]),
        ("tcpmux conns --destination ", ["v1", "v2", "only"]),
        ("tcpmux conns --route mail --destination ", ["v1"]),
        ("tcpmux kill --route shop --destination v1 --endpoint ", ["10.0.0.7:9000", "unix:/run/a"]),
        ("tcpmux conns --by ", ["route", "destination", "endpoint", "client"]),
        ("tcpmux check -c /e", ["file,/e"]),
        ("tcpmux drain --admin ", ["file,"]),
    ],
)
def test_what_else_is_offered(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


@pytest.mark.parametrize(
    "error", [AdminError("no answer\x1b"), Refused("no", 403), OSError(5, "x"), ValueError("x")]
)
def test_nothing_is_said_where_nothing_can_be_had(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> Any:
        raise error

    monkeypatch.setattr(instance, "only_client", lambda *_: FakeInstance(fail))
    assert offered("tcpmux drain ") == []
    monkeypatch.setattr(instance, "only_client", lambda *_: None)
    assert offered("tcpmux drain ") == []


def test_an_instance_that_is_too_old_to_tell_names_is_asked_for_its_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Any:
        raise Refused("no such path: /v1/names", 404)

    monkeypatch.setattr(instance, "only_client", lambda *_: FakeInstance(fail))
    assert offered("tcpmux undo m") == ["mail"]


def test_one_instance_is_asked_and_never_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Found("/run/a.sock", os.geteuid(), trusted=True, usable=True)
    foreign = Found("/tmp/b.sock", 65534, trusted=False, usable=True)
    monkeypatch.setattr(instance, "candidates", lambda: [own, foreign])
    found = instance.only_client(Where(), 1.0)
    assert found is not None
    assert found.path == "/run/a.sock"
    monkeypatch.setattr(instance, "candidates", lambda: [own, own])
    assert instance.only_client(Where(), 1.0) is None
    monkeypatch.setattr(instance, "candidates", lambda: [foreign])
    assert instance.only_client(Where(), 1.0) is None
    found = instance.only_client(Where("/run/c.sock"), 1.0)
    assert found is not None
    assert found.path == "/run/c.sock"


def test_a_shell_is_told_nothing_where_no_instance_runs(tmp_path: Path) -> None:
    """By the program itself: no word, and no error."""
    done = subprocess.run(
        [Path(sys.executable).with_name("tcpmux")],
        env={
            **os.environ,
            COMPLETE: "bash_complete",
            "COMP_WORDS": "tcpmux drain ",
            "COMP_CWORD": "line",
            "TCPMUX_ADMIN": str(tmp_path / "none"),
        },
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


BASH = r"""
compopt() { echo "compopt $2"; }
complete() { echo "complete $*"; }
. "$1"
cd "$(dirname "$1")" && touch 25 :25
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
_tcpmux_completion "$3"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "answer", "expected"),
    [
        ("tcpmux drain sh", "plain,shop", ["shop"]),
        ("tcpmux drain 10.0.0.7:90", "plain,10.0.0.7:9000", ["9000"]),
        ("tcpmux drain r/v/unix:/r", "plain,r/v/unix:/run/a", ["/run/a"]),
        ("tcpmux drain [::1]:", "plain,[::1]:25", ["25"]),
        ("tcpmux drain [", "plain,[::1]:25", ["[::1]:25"]),  # not the names of files that match
        ("tcpmux weight r v", "plain,v1=", ["compopt nospace", "v1="]),
        ("tcpmux conns --route=sh", "plain,--route=shop", ["shop"]),
        ("tcpmux run -c ", "file,", ["compopt default", ""]),
        ("tcpmux drain x", "", [""]),
    ],
)
def test_bash_gets_what_it_is_to_put_in(
    tmp_path: Path, line: str, answer: str, expected: list[str]
) -> None:
    """It replaces what follows the last : or = alone, since it takes words apart there."""
    script, program = tmp_path / "script", tmp_path / "program"
    script.write_text(click.testing.CliRunner().invoke(cli, ["completion", "bash"]).stdout)
    program.write_text(
        '#!/bin/sh\n[ "$_TCPMUX_COMPLETE" = bash_complete ] && [ "$COMP_CWORD" = line ] || exit 1\n'
        f"[ \"$COMP_WORDS\" = '{line}' ] && printf '%s\\n' '{answer}'\necho noise >&2\n"
    )
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", str(script), line, str(program)],
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=False,
    )
    first, *found = done.stdout.splitlines()
    assert first == "complete -o nosort -F _tcpmux_completion tcpmux"
    assert (found, done.stderr) == (expected, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_of_an_older_build_is_answered(shell: str) -> None:
    """It stays installed when the program is replaced."""
    words = {"COMP_WORDS": "tcpmux wei", COMPLETE: f"{shell}_complete"}
    words["COMP_CWORD"] = "wei" if shell == "fish" else "1"
    result = click.testing.CliRunner().invoke(
        cli, [], env=words, prog_name="tcpmux", complete_var=COMPLETE
    )
    assert "weight" in result.stdout
