"""What who asks may do: by the row of each operation, over a real TCP socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from contextlib import asynccontextmanager
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import web

from tcpmux.control.access import Caller, Rules
from tcpmux.control.head import Refused
from tcpmux.control.operation import Role, Row
from tcpmux.control.operations import OPERATIONS
from tcpmux.control.server import AdminApi
from tests.support import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE = patient(10.0)  # s
TOKENS = {"operator": "operator-" * 3, "viewer": "viewer-" * 3}
CHANGING = [row for row in OPERATIONS if row.role is Role.OPERATOR]
READING = [row for row in OPERATIONS if row.role is Role.VIEWER]


class Reached(AdminApi):
    """Answers with the name of the handler that has been reached."""

    def __init__(self, rules: Rules) -> None:
        stream = SimpleNamespace(end=lambda: None)
        readings = SimpleNamespace(connections=None, slices=None, stream=stream)
        super().__init__(cast("Any", readings), cast("Any", SimpleNamespace(rules=rules)), *NOBODY)
        self.reached: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.removeprefix("_") not in NAMES:
            return super().__getattribute__(name)

        async def handle(_request: web.Request, **_values: Any) -> web.Response:
            self.reached.append(name)
            return web.Response(text=name)

        return handle


NAMES = {row.name for row in OPERATIONS} - {"access"}
NOBODY: Any = (None, None)  # no master, no orphaned workers


class Served:
    """The API over TCP."""

    def __init__(self, api: Reached, address: tuple[str, int]) -> None:
        self.api = api
        self.address = address

    async def ask(
        self, method: str, path: str, token: str | None, body: str = "", length: int | None = None
    ) -> tuple[int, str]:
        """length: what the request says of its body, if that is not the truth."""
        reader, writer = await asyncio.open_connection(*self.address)
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        size = len(body) if length is None else length
        head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {size}\r\n{bearer}"
        writer.write(f"{head}\r\n{body}".encode())
        try:
            answer = await asyncio.wait_for(reader.read(), DEADLINE)
        finally:
            writer.transport.abort()
        start, _, rest = answer.decode().partition("\r\n\r\n")
        return int(start.split()[1]), rest

    async def ask_row(self, row: Row, token: str | None) -> tuple[int, str]:
        path = re.sub(r"\{\w+\}", "x", row.path)
        example = row.example.partition(", or none")[0].partition(" or ")[0]
        return await self.ask(row.method, path, token, example if row.body is not None else "")


@asynccontextmanager
async def served(
    operator: str = TOKENS["operator"], viewer: str = TOKENS["viewer"]
) -> AsyncIterator[Served]:
    one, other = (sha256(token.encode()).digest() if token else b"" for token in (operator, viewer))
    us = frozenset({os.getuid()})
    rules = Rules(us, "127.0.0.1:1", token=one, viewer_token=other)
    api = Reached(rules)
    runner = web.AppRunner(api.app(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        api.acceptor.serve(runner.server, listening)
        try:
            yield Served(api, listening.getsockname())
        finally:
            api.acceptor.close()
            await runner.cleanup()


def test_there_are_operations_of_each_kind() -> None:
    assert {"kill", "reload", "stop", "diff", "set_weights"} <= {row.name for row in CHANGING}
    assert {"status", "metrics", "stream", "access"} <= {row.name for row in READING}
    assert {row.name for row in OPERATIONS if row.role is Role.ANYONE} == {"healthz", "readyz"}


def test_a_row_has_to_say_what_it_takes() -> None:
    with pytest.raises(TypeError, match="role"):
        Row("GET", "/v1/forgotten")  # type: ignore[call-arg]
    for row in OPERATIONS:
        assert isinstance(row.role, Role), row.name


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_what_changes_something_is_never_read_by_get(row: Row) -> None:
    """Browsers send GET from other sites; access.py goes by the method, before a row is known."""
    assert (row.method == "GET") == (row.role is not Role.OPERATOR)


def test_a_viewer_reads_and_changes_nothing() -> None:
    async def scenario() -> None:
        async with served() as at:
            for row in CHANGING:
                status, body = await at.ask_row(row, TOKENS["viewer"])
                assert status == 403, row.name
                assert json.loads(body)["error"].startswith("this token may only read"), row.name
            assert at.api.reached == []
            for row in READING:
                assert (await at.ask_row(row, TOKENS["viewer"]))[0] == 200, row.name

    asyncio.run(scenario())


def test_an_operator_does_everything() -> None:
    async def scenario() -> None:
        async with served() as at:
            for row in OPERATIONS:
                assert (await at.ask_row(row, TOKENS["operator"]))[0] == 200, row.name
            assert len(at.api.reached) == len(NAMES)

    asyncio.run(scenario())


@pytest.mark.parametrize("token", [None, "x" * 24, TOKENS["viewer"][:-1], "\xff"])
def test_without_a_token_of_ours_only_whether_it_serves(token: str | None) -> None:
    async def scenario() -> None:
        async with served() as at:
            for row in OPERATIONS:
                status, body = await at.ask_row(row, token)
                assert status == (200 if row.role is Role.ANYONE else 401), row.name
                assert TOKENS["viewer"] not in body
            assert (await at.ask("GET", "/static/../v1/status", token))[0] in (403, 404)
            assert "_status" not in at.api.reached

    asyncio.run(scenario())


@pytest.mark.parametrize("role", TOKENS)
def test_who_asks_is_told_the_role(role: str) -> None:
    async def scenario() -> None:
        async with served() as at:
            status, body = await at.ask("GET", "/v1/access", TOKENS[role])
            assert (status, json.loads(body)) == (200, {"role": role})

    asyncio.run(scenario())


@pytest.mark.parametrize("missing", TOKENS)
def test_each_of_the_tokens_may_be_missing(missing: str) -> None:
    """What is missing is nobody's: an empty token least of all."""

    async def scenario() -> None:
        async with served(**{**TOKENS, missing: ""}) as at:
            for token in (TOKENS[missing], ""):
                assert (await at.ask("GET", "/v1/access", token or None))[0] == 401
            (other,) = TOKENS.keys() - {missing}
            assert (await at.ask("GET", "/v1/access", TOKENS[other]))[0] == 200

    asyncio.run(scenario())


def test_a_viewer_is_refused_before_the_body_has_come() -> None:
    """What it would send is not waited for, and takes no room from what operators send."""

    async def scenario() -> None:
        async with served() as at:
            status, _ = await at.ask("PUT", "/v1/states", TOKENS["viewer"], length=8 << 20)
            assert status == 403
            assert at.api.acceptor.remote.held == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("row", CHANGING + READING, ids=lambda row: row.name)
def test_the_handler_looks_by_itself(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes as far as that, by whatever way: who may do less than the row takes is
    refused."""
    api = Reached(Rules(frozenset()))
    for role in Role:
        if role >= row.role:
            continue
        connection = SimpleNamespace(caller=Caller("somebody", role))
        monkeypatch.setattr(api.acceptor, "connection", lambda _request, c=connection: c)
        with pytest.raises(Refused) as caught:
            asyncio.run(api._handler(row)(cast("Any", SimpleNamespace())))  # type: ignore[arg-type]
        assert caught.value.status == 403
    assert api.reached == []


def test_over_the_unix_socket_everybody_is_an_operator(tmp_path: Any) -> None:
    async def scenario() -> None:
        async with served() as at:
            path = str(tmp_path / "s")
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen()
                runner = web.AppRunner(at.api.app(), access_log=None)
                await runner.setup()
                assert runner.server is not None
                at.api.acceptor.serve(runner.server, listening)
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /v1/access HTTP/1.0\r\n\r\n")
                answer = await asyncio.wait_for(reader.read(), DEADLINE)
                writer.close()
                assert answer.endswith(b'{"role": "operator"}')
                await runner.cleanup()

    asyncio.run(scenario())
