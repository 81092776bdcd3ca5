"""Examples of configuration load, and examples of commands parse."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tcpmux.cli.app import cli
from tcpmux.cli.commands import named
from tcpmux.config.loader import load
from tcpmux.config.problems import ConfigError
from tcpmux.config.schema import DestinationModel, EndpointModel, FileModel, RouteModel
from tests.docs.pages import Block, Page, blocks, pages

ROUTE: dict[str, Any] = {
    "name": "example",
    "listen": "127.0.0.1:31400",
    "destinations": [
        {"name": "v1", "endpoints": ["127.0.0.1:9001"]},
        {"name": "v2", "endpoints": ["127.0.0.1:9002"]},
    ],
}
SHELL = blocks("sh", "console")


def completed(found: Any) -> Any:
    """A fragment, as a whole file: what is on the page is a part of a file, route, destination or
    list of endpoints."""
    if not isinstance(found, dict):
        return {"routes": [{**ROUTE, "destinations": found}]}
    for model, put in (
        (FileModel, lambda: {"routes": [ROUTE], **found}),
        (RouteModel, lambda: {"routes": [{**ROUTE, **found}]}),
        (
            DestinationModel,
            lambda: {
                "routes": [{**ROUTE, "destinations": [{**ROUTE["destinations"][0], **found}]}]
            },
        ),
        (
            EndpointModel,
            lambda: {"routes": [{**ROUTE, "destinations": [{"name": "v1", "endpoints": [found]}]}]},
        ),
    ):
        if found.keys() <= model.model_fields.keys():
            return put()
    return found  # its mistakes will be named


@pytest.mark.parametrize(
    "block", [b for b in blocks("yaml") if not b.directive.startswith("of:")], ids=lambda b: b.name
)
def test_configuration_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where it is a whole file, and otherwise in a file around it."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/tcpmux.service")
    monkeypatch.setenv("PWD", str(tmp_path))  # as a shell has it, in which the page is read
    documents = list(yaml.safe_load_all(block.text))
    first = documents[0]
    path = tmp_path / "routes.yaml"
    is_whole = isinstance(first, dict) and ("routes" in first or "apiVersion" in first)
    path.write_text(block.text if is_whole else yaml.safe_dump(completed(first)))
    if block.directive == "invalid":
        with pytest.raises(ConfigError):
            load([path])
        return
    config = load([path])
    assert not config.warnings, block.name


# --- commands -----------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command of tcpmux in a script."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if "tcpmux" not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words = list(lexer)
        while words:
            end = next((i for i, w in enumerate(words) if set(w) & set("();<>|&")), len(words))
            command, rest = words[:end], words[end:]
            words = rest[2:] if rest and set(rest[0]) & set("<>") else rest[1:]
            while command and (command[0] in ("$", "sudo", "time", "!", "if", "until", "while")
                               or re.fullmatch(r"\w+=.*", command[0])):  # fmt: skip
                command = command[1:]
            if command and (command[0] == "tcpmux" or command[0].endswith("bin/tcpmux")):
                # A descriptor before a redirection is none of its arguments.
                if rest and ">" in rest[0] and command[-1] in ("1", "2"):
                    command = command[:-1]
                yield command[1:]


def parse(arguments: list[str]) -> None:
    """Raises click.UsageError."""
    if not arguments:
        return
    if arguments[0].startswith("-"):
        if arguments[0] not in ("--version", "--help", "-h"):
            named("run").make_context("run", list(arguments), **cli.context_settings)
        return
    name, *rest = arguments
    if name not in cli.commands:
        raise click.UsageError(f"no command {name!r}")
    if not {"--help", "-h"} & set(rest):
        named(name).make_context(name, rest, **cli.context_settings)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_commands_in_scripts_parse(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in commands(block.text):
        try:
            parse(arguments)
        except click.UsageError as error:
            raise AssertionError(f"{block.name}: {arguments}: {error.format_message()}") from None


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_in_prose_exist_with_their_options(page: Page) -> None:
    for code in page.codes:
        found = re.match(r"tcpmux ([a-z][a-z-]*)\b(.*)", code)
        if found is None:
            continue
        name, rest = found.groups()
        assert name in cli.commands, f"{page.name}: {code}"
        known = {opt for param in named(name).params for opt in param.opts}
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest):
            assert option in known | {"--help"}, f"{page.name}: {code}: {option}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tcpmux status --json | jq .x", [["status", "--json"]]),
        ("$ sudo tcpmux reload && tcpmux status", [["reload"], ["status"]]),
        ("tcpmux check -c a.yaml 2>errors   # all", [["check", "-c", "a.yaml"]]),
        ("TCPMUX_ADMIN=/a tcpmux \\\n    top", [["top"]]),
        ("if ! /opt/tcpmux/bin/tcpmux diff -c x; then echo tcpmux; fi", [["diff", "-c", "x"]]),
        ("echo tcpmux", []),
    ],
)
def test_commands_are_found(text: str, found: list[list[str]]) -> None:
    assert list(commands(text)) == found


def test_a_wrong_command_is_found() -> None:
    for text in ("tcpmux wieght a v1=1", "tcpmux status --jsno", "tcpmux undo", "tcpmux --foo"):
        (arguments,) = commands(text)
        with pytest.raises(click.UsageError):
            parse(arguments)


def test_json_is_json() -> None:
    for block in blocks("json"):
        is_one = block.text.startswith(("{\n", "[\n"))
        for text in [block.text] if is_one else block.text.splitlines():
            json.loads(text)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.name, "exec")
