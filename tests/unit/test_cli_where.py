"""Options and variables that say which instance is meant, and the token's token_file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tcpmux.cli import instance
from tcpmux.cli.commands import COMMANDS, named
from tcpmux.cli.where import Where
from tcpmux.control.asking import TokenMissing
from tcpmux.control.client import Client, PermissionDenied, Refused
from tcpmux.control.remote import TOKEN_VARIABLE
from tcpmux.errors import TcpmuxError, UsageError
from tests.support import TOKEN
from tests.unit.calling import tcpmux

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("host_authorities")
URL = "https://mux.example:9901"
VARIABLES = ("TCPMUX_ADMIN", "TCPMUX_URL", "TCPMUX_TOKEN_FILE")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (Where(), {}, Where()),
        (Where("/a"), {}, Where("/a")),
        (Where(url=URL), {}, Where(url=URL)),
        (Where(), {"TCPMUX_ADMIN": "/a"}, Where("/a")),
        (Where(), {"TCPMUX_URL": URL}, Where(url=URL)),
        (Where(url=URL), {"TCPMUX_TOKEN_FILE": "/t"}, Where("", URL, "/t")),
        (Where("", URL, "/u"), {"TCPMUX_TOKEN_FILE": "/t"}, Where("", URL, "/u")),
        (Where("/a"), {"TCPMUX_TOKEN_FILE": "/t"}, Where("/a")),
        # What is said in the command line counts.
        (Where("/a"), {"TCPMUX_URL": URL}, Where("/a")),
        (Where(url=URL), {"TCPMUX_ADMIN": "/a"}, Where(url=URL)),
        (Where(), {"TCPMUX_ADMIN": "", "TCPMUX_URL": ""}, Where()),
    ],
)
def test_options_count_before_variables(
    given: Where, environment: dict[str, str], expected: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert given.resolved() == expected


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (Where("/a", URL), {}, "--admin and --url are two instances"),
        (
            Where(),
            {"TCPMUX_ADMIN": "/a", "TCPMUX_URL": URL},
            "are both set: say which",
        ),
        (Where(URL), {}, "name it with --url"),
        (Where(url="mux.example:9901"), {}, "--url: expected one such as https://"),
        (Where(url="ftp://mux.example"), {}, "--url: expected one such as https://"),
        (Where("", "", "/t"), {}, "--token-file goes with --url"),
        (Where("/a", "", "/t"), {}, "--token-file goes with --url"),
    ],
)
def test_what_is_not_clear_is_refused(
    given: Where, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for ask in (instance.client, instance.only_client):
        with pytest.raises(UsageError, match=message):
            ask(given, 1.0)


def asks_an_instance(name: str) -> bool:
    return any("--url" in param.opts for param in named(name).params)


def test_every_command_that_asks_an_instance_may_ask_a_url() -> None:
    asking = {row.name for row in COMMANDS if asks_an_instance(row.name)}
    assert {row.name for row in COMMANDS} - asking == {
        *("run", "check", "convert", "fmt", "schema", "completion", "demo"),
    }
    for name in asking:
        options = {opt for param in named(name).params for opt in param.opts}
        assert {"--admin", "--url", "--token-file"} <= options


@pytest.mark.parametrize("given", [["--token", TOKEN], [f"--token={TOKEN}"]])
@pytest.mark.parametrize("command", ["status", "stop"])
def test_a_token_in_the_command_line_is_refused(command: str, given: list[str]) -> None:
    done = tcpmux(command, "--url", URL, *given)
    assert done.exit_code == 2
    assert "can be read by everybody on this host" in done.stderr
    assert "--token-file" in done.stderr
    assert TOKEN not in done.stderr
    assert "--token " not in tcpmux(command, "--help").output, "it is not offered"


def test_a_token_in_the_url_is_refused() -> None:
    done = tcpmux("status", "--url", f"https://x:{TOKEN}@mux.example")
    assert done.exit_code == 2
    assert "a token has its own place" in done.stderr
    assert TOKEN not in done.stderr


def test_the_token_is_what_is_in_the_file(token_file: Path) -> None:
    found = instance.client(Where("", URL, str(token_file)))
    assert isinstance(found, Client)
    assert found.path == URL
    assert found._remote is not None
    assert found._remote.token == TOKEN
    assert TOKEN_VARIABLE in VARIABLES
    token_file.chmod(0o640)
    with pytest.raises(TcpmuxError, match=rf"^token file {token_file}: others may read it"):
        instance.client(Where("", URL, str(token_file)))


def test_what_is_not_encrypted_is_said_in_one_line(
    token_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in ("http://127.0.0.1:1", URL):
            instance.client(Where("", url, str(token_file)))
        assert capsys.readouterr() == ("", "")
        instance.client(Where("", "http://mux.example", str(token_file)))
        said = capsys.readouterr().err
        assert said.startswith("tcpmux: warning: http://mux.example is not encrypted")
        assert said.count("\n") == 1
        instance.only_client(Where("", "http://mux.example"), 1.0)
        assert capsys.readouterr() == ("", ""), "a shell that completes says nothing"


def test_the_option_that_would_help_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own message knows of no command line."""

    def fail(error: TcpmuxError) -> Any:
        def ask(*_: Any) -> Any:
            raise error

        return ask

    monkeypatch.setattr(Client, "ask", fail(TokenMissing("it asks for a token")))
    done = tcpmux("routes", "--url", URL)
    assert done.stderr == (
        "tcpmux: error: it asks for a token: name the file that holds it with --token-file\n"
    )
    monkeypatch.setattr(Client, "ask", fail(Refused("this token may only read", 403)))
    assert tcpmux("reload", "--url", URL).stderr == "tcpmux: error: this token may only read\n"
    monkeypatch.setattr(Client, "ask", fail(Refused("nobody is left", hint="force")))
    done = tcpmux("undo", "r", "--url", URL)
    assert done.stderr == "tcpmux: error: nobody is left, or use --force\n"
    monkeypatch.setattr(Client, "ask", fail(PermissionDenied("a stranger listens", hint="path")))
    assert tcpmux("stop", "--admin", "/a").stderr == (
        "tcpmux: error: a stranger listens: name it with --admin if that is the one you mean\n"
    )
