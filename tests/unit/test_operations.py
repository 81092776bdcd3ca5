"""The table of operations, and what is made of it: handlers, clients, commands, the document."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tcpmux import AsyncClient, Client
from tcpmux.config import converge, model
from tcpmux.connection_id import parse_id
from tcpmux.control import openapi, schema
from tcpmux.control.limits import (
    ADMIN_STATES,
    CONVERGE_METHODS,
    CONVERGE_ORDERS,
    CONVERGE_THENS,
    MAX_WEIGHT,
    MAX_WORKERS,
)
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.operation import Call, Command, Method, Role, Row, closed_object
from tcpmux.control.operations import OPERATIONS, Operations
from tcpmux.control.reading import Reading
from tcpmux.control.request_values import body_values
from tcpmux.control.server import AdminApi
from tcpmux.shm import _connections, image

ROOT = Path(__file__).parents[2]
METHODS = {
    name: found
    for name, found in {**vars(Reading), **vars(Operations)}.items()
    if isinstance(found, Method)
}
# What each method is called with here.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "diff": (([("a.yaml", "x: 1")], ["b=127.0.0.1:1"], {"A": "1"}), {}),
    "status": ((), {}),
    "routes": ((), {}),
    "connections": ((), {"route": "r", "older": 1.5, "limit": 3}),
    "names": ((), {}),
    "connection_groups": (("client",), {"endpoint": "127.0.0.1:1", "idle": 60.0}),
    "events": ((4,), {}),
    "history": (("r",), {}),
    "set_weights": (("r/1", {"v1": 1, "v2": "+5"}), {"force": True}),
    "undo": (("r",), {"force": True}),
    "set_mirror": (("r", 0.5), {"to": "v2"}),
    "set_rule_weights": (("r", "x", {"v1": 1, "v2": "+5"}), {"force": True}),
    "explain": (
        ("r",),
        {
            "source": "10.0.0.1",
            "port": "1",
            "sni": "a",
            "alpn": ["h2"],
            "tls": True,
            "tlvs": ["5=a"],
        },
    ),
    "undo_rule": (("r", "x"), {"force": True}),
    "note_saved_rule_weights": (("r", "x", {"v1": 1}), {}),
    "note_saved_weights": (("r/1", {"v1": 1}), {}),
    "set_state": (("r", "v1", "ready"), {"seconds": 2.5}),
    "drain": (("r", "v1", "127.0.0.1:1"), {"force": True, "seconds": 1}),
    "disable": (("r", "v1"), {"force": True}),
    "enable": (("r", "v1", "127.0.0.1:1"), {}),
    "set_states": (([{"route": "r", "destination": "v1"}], "draining"), {"seconds": 1.0}),
    "kill": ((["0-17-4"], 10.0), {"dry_run": True}),
    "converge": (
        ("r",),
        {
            "rate": "1%/s",
            "order": "oldest",
            "quiet": 0.3,
            "deadline": 60.0,
            "then": "reset",
            "tolerance": 2,
            "dry_run": True,
        },
    ),
    "stop_converging": (("r",), {}),
    "rollouts": (("r",), {}),
    "start_rollout": (("r", {"to": "v2", "steps": ["1%"], "judge": {"resets": None}}), {}),
    "change_rollout": (("r", "promote"), {"full": True}),
    "fleet": ((), {}),
    "fleet_documents": ((), {}),
    "fleet_history": ((), {}),
    "put_fleet_documents": (([("shop", "routes: []")], ["x"]), {"only": True, "epoch": 3}),
    "set_fleet_weights": (("r", {"v1": 1, "v2": "+5"}), {"force": True, "why": "w"}),
    "change_fleet": (("undo",), {"why": "w"}),
    "reload": ((), {}),
    "set_workers": ((4,), {}),
    "set_log_level": (("debug",), {}),
    "upgrade": ((), {}),
    "stop": ((), {"now": True}),
    "access": ((), {}),
    "openapi": ((), {}),
    "metrics": ((), {}),
    "healthz": ((), {}),
    "readyz": ((), {}),
}


def public(kind: type) -> dict[str, Any]:
    return {name: found for name, found in inspect.getmembers(kind) if not name.startswith("_")}


def test_both_clients_offer_the_same() -> None:
    """The same names with the same parameters: who knows one knows the other."""
    one, other = public(Client), public(AsyncClient)
    assert one.keys() == other.keys()
    assert {row.name for row in OPERATIONS} <= one.keys()
    for name in one.keys() - METHODS.keys() - {"stream_row"}:
        assert list(inspect.signature(one[name]).parameters) == list(
            inspect.signature(other[name]).parameters
        ), name
    for name, method in METHODS.items():
        assert one[name] is other[name] is method
        bound, waiting = getattr(Client("x"), name), getattr(AsyncClient("x"), name)
        assert inspect.signature(bound) == inspect.signature(waiting) == method.signature
        assert bound.__doc__ == waiting.__doc__ == method.__doc__
        assert method.__doc__


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_every_row_has_a_handler_that_takes_what_it_says(row: Row) -> None:
    handler = inspect.signature(getattr(AdminApi, f"_{row.name}"))
    names = set(row.parameters)
    names |= {name for name, kind in row.query.items() if kind.get("type") == "boolean"}
    if row.body is not None:
        names |= {"body"} if row.checked_by_master else set(row.body["properties"])
    handler.bind("self", "request", **dict.fromkeys(names))
    assert (row.method == "GET") == (row.body is None)
    assert row.summary.endswith(".")


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_sends_is_what_its_row_takes(name: str) -> None:
    given, named = CALLS[name]
    method = METHODS[name]
    call: Call[Any] = method.build(None, *given, **named)
    row = method.row
    assert set(call.query) <= set(row.query)
    assert call.path.keys() == set(row.parameters)
    assert (call.body is None) == (row.body is None)
    if call.body is not None:
        sent = body_values(row, json.dumps(call.body).encode())
        assert sent == json.loads(json.dumps(call.body))
    assert "{" not in row.target(call)


def test_names_are_escaped_in_a_path() -> None:
    call = Operations.drain.build(None, "a/b ?#", "v%1")
    assert Operations.drain.row.target(call) == (
        "/v1/routes/a%2Fb%20%3F%23/destinations/v%251/state"
    )


def test_the_document_has_every_row() -> None:
    made = openapi.document(OPERATIONS, "1")
    found = {
        (method.upper(), path, operation["operationId"])
        for path, methods in made["paths"].items()
        for method, operation in methods.items()
    }
    assert found == {(row.method, row.path, row.name) for row in OPERATIONS}


@pytest.mark.parametrize("row", [row for row in OPERATIONS if row.body], ids=lambda row: row.name)
def test_the_example_in_a_refusal_is_a_body(row: Row) -> None:
    for text in re.split(r" or |, or none$", row.example):
        if text:
            body_values(row, text.encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"ids": 3}', "ids: expected a list of 0 to 20000; the body is {"),
        (b'{"ids": [3]}', "ids: expected a string; the body"),
        (b'{"ids": ["1-2"]}', "ids: '1-2' is not the id of a connection"),
        (b'{"ids": ["1-2-3\\n"]}', "is not the id of a connection"),
        (b'{"ids": ["\\ud800"]}', "ids: expected a string"),
        (b'{"ids": ["\\u0661-2-3"]}', "is not the id of a connection"),
        (b'{"ids": [], "rate": NaN}', "rate: expected a number over 0, up to 100000"),
        (b'{"ids": [], "rate": true}', "rate: expected a number"),
        (b'{"ids": [], "rate": 1e999}', "rate: expected a number"),
        (b'{"ids": [], "dry_run": 1}', "dry_run: expected true or false"),
        (b'{"rate": 1}', "ids is missing"),
        (b'{"ids": [], "idz": 1}', "unknown: 'idz'"),
        (b'{"ids": [], "\\ud800": 1}', "unknown: "),
        (b"[]", "the body is not a JSON object"),
        (b"{" * 100_000, "the body is not JSON"),
        (b'{"rate": ' + b"1" * 5000 + b"}", "the body is not JSON"),
    ],
)
def test_a_wrong_body_is_refused_in_words(body: bytes, message: str) -> None:
    with pytest.raises(MasterRefused) as caught:
        body_values(Operations.kill.row, body)
    assert message in str(caught.value)
    assert caught.value.kind == "invalid"
    str(caught.value).encode()


def test_parts_in_lists_are_checked_as_well() -> None:
    row = Operations.set_states.row
    wrong = {"state": "ready", "targets": [{"route": "r", "destination": "d"}, {"route": "r"}]}
    with pytest.raises(MasterRefused, match=r"targets: destination is missing"):
        body_values(row, json.dumps(wrong).encode())
    with pytest.raises(MasterRefused, match="targets: expected a list of 1 to 4096"):
        body_values(row, b'{"state": "ready", "targets": []}')
    with pytest.raises(MasterRefused, match="state: expected one of ready, draining, disabled"):
        body_values(row, b'{"state": ["ready"], "targets": []}')
    nested = Row(
        "PUT", "/", Role.OPERATOR, body=closed_object(a=closed_object(b={"type": "integer"}))
    )
    with pytest.raises(MasterRefused, match=r"^a\.b: expected a whole number;"):
        body_values(nested, b'{"a": {"b": 1.5}}')


def test_limits_are_those_of_what_is_behind() -> None:
    """A client can't load what has them: they stand twice, and are the same."""
    assert ADMIN_STATES == image.ADMIN_STATES
    assert (
        tuple(converge.CONVERGE_METHOD),
        tuple(converge.CONVERGE_ORDER),
        tuple(converge.CONVERGE_THEN),
    ) == (CONVERGE_METHODS, CONVERGE_ORDERS, CONVERGE_THENS)
    assert schema.SORT_KEYS == _connections.SORT_KEYS
    assert schema.GROUP_KEYS == _connections.GROUP_KEYS
    assert schema.GROUP_SORT_KEYS == _connections.GROUP_SORT_KEYS
    assert MAX_WEIGHT == model.MAX_WEIGHT
    header = (ROOT / "csrc/route_table.h").read_text()
    assert re.search(r"TM_MAX_SHARDS\s*=?\s*(\d+)", header)[1] == str(MAX_WORKERS)  # type: ignore[index]
    assert parse_id("0-17-4") == (0, 17, 4)
    assert parse_id("0-17-4\n") is parse_id(["0-17-4"]) is None


NEW_ROW = '''
    @operation(
        Row(
            "PUT",
            "/v1/greeting",
            Role.OPERATOR,
            dict,
            body=closed_object(["name"], name=_TEXT),
            commands=(Command("greet", "Greet NAME."),),
        )
    )
    def greet(self, name: str) -> Call[str]:
        """Greets somebody."""
        return Call(body={"name": name}, unpack=lambda answer: str(answer["text"]))

'''
NEW_METHOD = """
    async def _greet(self, _request: web.Request, name: str) -> dict[str, Any]:
        return {"text": f"Hello {name}"}

"""
NEW_COMMAND = '''
"""`tcpmux greet`: greets."""

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import say
from tcpmux.cli.where import Where, admin_option


@click.command("greet")
@click.argument("name")
@admin_option
def greet(admin: Where, name: str) -> int:
    """Greet NAME."""
    say(client(admin).greet(name))
    return 0
'''
SERVE_AND_GREET = """
import asyncio, os, socket, sys
from aiohttp import web
from click.testing import CliRunner
import tcpmux
from tcpmux import AsyncClient
from tcpmux.cli.app import cli
from tcpmux.control import openapi
from tcpmux.control.access import Rules
from tcpmux.control.operations import OPERATIONS
from tcpmux.control.server import AdminApi

class Nothing:
    connections = slices = None
    rules = Rules(frozenset({os.getuid()}))

async def main(path):
    api = AdminApi(Nothing(), Nothing(), None, None)
    runner = web.AppRunner(api.app(), access_log=None)
    await runner.setup()
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    api.acceptor.serve(runner.server, sock)
    print(await AsyncClient(path).greet("both"))
    run = lambda: CliRunner().invoke(cli, ["greet", "you", "--admin", path])
    print((await asyncio.to_thread(run)).output.strip())
    print("greet" in CliRunner().invoke(cli, ["--help"]).output)
    print("/v1/greeting" in openapi.document(OPERATIONS, "1")["paths"])
    print(tcpmux.__file__)
    api.acceptor.close()
    await runner.cleanup()

asyncio.run(main(sys.argv[1]))
"""


def test_a_command_is_a_row_a_method_and_a_file(tmp_path: Path) -> None:
    """The recipe in CONTRIBUTING.md, followed in a copy: three files, and both clients, the
    server, the document and the command line have it."""
    package = tmp_path / "tcpmux"
    shutil.copytree(ROOT / "tcpmux", package, ignore=shutil.ignore_patterns("__pycache__"))
    edited = 0
    for name, before, new in (
        ("control/operations.py", "\n\nOPERATIONS: tuple", NEW_ROW),
        ("control/server.py", "    async def _upgrade(", NEW_METHOD),
    ):
        text = (package / name).read_text()
        assert text.count(before) == 1
        (package / name).write_text(text.replace(before, new + before))
        edited += 1
    (package / "cli/greet.py").write_text(NEW_COMMAND.lstrip())
    edited += 1
    done = subprocess.run(
        [sys.executable, "-c", SERVE_AND_GREET, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.splitlines() == [
        "Hello both",
        "Hello you",
        "True",
        "True",
        str(package / "__init__.py"),
    ], done.stderr
    assert edited == 3
    assert "one operation row, one method, one command file" in " ".join(
        (ROOT / "CONTRIBUTING.md").read_text().split()
    )


def test_every_command_of_a_row_has_its_place() -> None:
    named = [command for row in OPERATIONS for command in row.commands]
    assert len({command.name for command in named}) == len(named)
    assert all(isinstance(command, Command) for command in named)
