"""Both clients of the admin API against whatever may be at the other end of a socket."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tcpmux import AsyncClient, Client
from tcpmux.control.asking import AdminError, NotRunning, PermissionDenied, Refused, Unanswered
from tcpmux.control.http_answer import Events, NotHttp, Reply
from tests.others import as_other, needs_root
from tests.unit.answering import DEADLINE, HEAD, answering, both

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "hung up before it answered"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "hung up before it answered"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"], "hung up before it answered"),
        ([HEAD, b'{"routes": [{"name": "sh'], "hung up before it answered"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n"], "not tcpmux: it does not send HTTP"),
        ([b"hi"], "not tcpmux"),
        ([b"HTTP/1.1 2xx\r\n\r\n"], "not tcpmux"),
        ([b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * (70 << 10)], "not tcpmux"),
        ([HEAD, b"hi"], "not tcpmux"),
        ([HEAD, b"[]"], "not tcpmux"),
        ([HEAD, b"[" * 100_000], "not tcpmux: it does not send an answer that this build knows$"),
        ([HEAD, b"\xff"], "not tcpmux"),
        ([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}"], "HTTP status 502"),
    ],
)
def test_a_stranger_is_known(tmp_path: Path, parts: list[bytes], message: str) -> None:
    async def scenario() -> None:
        async with answering(tmp_path / "s", *parts):
            for ask in both(tmp_path / "s", lambda client: client.status()):
                with pytest.raises(AdminError, match=message):
                    await ask()

    asyncio.run(scenario())


def test_an_answer_without_what_it_should_have_is_no_fault_of_the_caller(tmp_path: Path) -> None:
    async def scenario() -> None:
        for answer in (b"{}", b'{"routes": 5, "pid": "x"}'):
            async with answering(tmp_path / "s", HEAD, answer):
                for call in (lambda client: client.routes(), lambda client: client.status()):
                    for ask in both(tmp_path / "s", call):
                        with pytest.raises(AdminError, match="not tcpmux"):
                            await ask()
            (tmp_path / "s").unlink(missing_ok=True)

    asyncio.run(scenario())


def test_a_refusal_has_its_status(tmp_path: Path) -> None:
    async def scenario() -> None:
        answer = b'HTTP/1.1 422 x\r\n\r\n{"error": "because"}'
        async with answering(tmp_path / "s", answer):
            for ask in both(tmp_path / "s", lambda client: client.reload()):
                with pytest.raises(Refused, match=r"^because$") as caught:
                    await ask()
                assert (caught.value.status, caught.value.exit_code) == (422, 2)
                assert caught.value.hint == ""

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("told", "hint"), [(b'"force"', "force"), (b'"rm -rf"', ""), (b"[1]", ""), (b"null", "")]
)
def test_a_hint_is_one_that_is_known(tmp_path: Path, told: bytes, hint: str) -> None:
    async def scenario() -> None:
        answer = b'HTTP/1.1 409 x\r\n\r\n{"error": "because", "hint": ' + told + b"}"
        async with answering(tmp_path / "s", answer):
            for ask in both(tmp_path / "s", lambda client: client.undo("r")):
                with pytest.raises(Refused, match=r"^because$") as caught:
                    await ask()
                assert caught.value.hint == hint

    asyncio.run(scenario())


# What parses the master's and control's own command lines, and starts them.
OF_PROGRAMS = {"__main__.py", "start.py"}


def test_no_message_of_client_and_instance_names_an_option() -> None:
    """They are not the command line's alone: the page and programs of others show them, too."""
    for package in ("control", "master"):
        for path in (ROOT / "tcpmux" / package).glob("*.py"):
            if path.name in OF_PROGRAMS:
                continue
            every = list(ast.walk(ast.parse(path.read_text())))
            texts = {node for node in every if isinstance(node, ast.Constant)}
            texts -= {node.value for node in every if isinstance(node, ast.Expr)}  # docstrings
            for text in texts:
                # With something before it, it is in a message and no argument.
                assert not re.search(r"[\s`(]--[a-z]", str(text.value)), f"{path}:{text.lineno}"


def test_an_answer_that_comes_in_parts_is_put_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        whole = HEAD + b'  {"routes":\n [{"name": "a"}, {}]}'
        async with answering(tmp_path / "s", *(bytes([byte]) for byte in whole)):
            for ask in both(tmp_path / "s", lambda client: client.routes()):
                assert await ask() == [{"name": "a"}, {}]

    asyncio.run(scenario())


def test_text_stays_text(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with answering(tmp_path / "s", HEAD, b"up 1\n") as asked:
            for ask in both(tmp_path / "s", lambda client: client.metrics()):
                assert await ask() == "up 1\n"
        assert all(b"\r\nAccept: text/plain\r\n" in head for head in asked)

    asyncio.run(scenario())


def test_who_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with answering(tmp_path / "s", HEAD, stays=True):
            for ask in both(tmp_path / "s", lambda client: client.status(), timeout=0.05):
                with pytest.raises(AdminError, match=r"has not answered within 0\.05 s"):
                    await ask()

    asyncio.run(scenario())


@needs_root
def test_whose_uid_is_among_the_greatest_is_known_as_who_it_is(tmp_path: Path) -> None:
    """The greatest that a user can have is 2**32 - 2; a signed number ends at 2**31 - 1."""
    path, uid = tmp_path / "s", 2**32 - 2
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        with as_other(listening.listen, uid):
            for peers, error in (({uid}, Unanswered), ({0}, PermissionDenied)):
                with pytest.raises(error):
                    Client(path, 0.05, frozenset(peers)).status()


def test_who_sends_a_byte_now_and_then_is_given_up(tmp_path: Path) -> None:
    """Each byte comes in time, and the answer has no end."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            pass  # the client has gone
        finally:
            writer.transport.abort()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(drip, str(tmp_path / "s"))
        for ask in both(tmp_path / "s", lambda client: client.status(), timeout=0.2):
            with pytest.raises(Unanswered, match=r"has not sent the whole answer within 1 s"):
                await asyncio.wait_for(ask(), DEADLINE)
        server.close()

    asyncio.run(scenario())


def test_another_user_who_listens_is_told_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        strangers = frozenset({os.getuid() + 1})
        for ask in both(tmp_path / "s", lambda client: client.stop(), peers=strangers):
            with pytest.raises(PermissionDenied, match="whom the socket does not belong to"):
                asyncio.run(ask())
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(100) == b""


def test_where_nobody_listens_is_told_apart(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))
    left.close()
    (tmp_path / "file").touch()
    for name, message in (
        ("none", "nothing answers at"),
        ("left", "left over, nobody listens on it"),
        ("file", "is not a socket"),
    ):
        for ask in both(tmp_path / name, lambda client: client.status()):
            with pytest.raises(NotRunning, match=message):
                asyncio.run(ask())


def test_both_streams_tell_the_same(tmp_path: Path) -> None:
    parts = [b"HTTP/1.0 200 OK\r\n\r\nevent: table\nda", b'ta: {"a": 1}\n\nevent: sample\n']
    parts += [b'data: {"b": 2}\n\n']

    async def scenario() -> None:
        async with answering(tmp_path / "s", *parts) as asked:
            client = Client(tmp_path / "s", DEADLINE)
            expected: list[Any] = [("table", {"a": 1}), ("sample", {"b": 2})]
            assert await asyncio.to_thread(lambda: list(client.stream("r"))) == expected
            found = [event async for event in AsyncClient(tmp_path / "s", DEADLINE).stream("r")]
            assert found == expected
        assert all(head.startswith(b"GET /v1/stream?route=r ") for head in asked)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b'HTTP/1.0 503 x\r\n\r\n{"error": "close one"}', Refused, "close one"),
        (HEAD + b"event: x\ndata: {\n\n", AdminError, "not tcpmux"),
        (b"", AdminError, "hung up"),
    ],
)
def test_a_stream_that_is_none_says_why(
    tmp_path: Path, answer: bytes, kind: type[AdminError], message: str
) -> None:
    async def scenario() -> None:
        async with answering(tmp_path / "s", answer):
            client = Client(tmp_path / "s", DEADLINE)
            with pytest.raises(kind, match=message):
                await asyncio.to_thread(lambda: list(client.stream()))
            with pytest.raises(kind, match=message):
                _ = [event async for event in AsyncClient(tmp_path / "s", DEADLINE).stream()]

    asyncio.run(scenario())


def test_many_are_asked_at_the_same_time_and_one_may_be_given_up(tmp_path: Path) -> None:
    """No thread waits for an answer: a hundred requests that hang keep no other from going on."""

    async def scenario() -> None:
        async with (
            answering(tmp_path / "s", HEAD, stays=True) as asked,
            answering(tmp_path / "other", HEAD, b"{}"),
        ):
            hanging = AsyncClient(tmp_path / "s", DEADLINE)
            tasks = [asyncio.ensure_future(hanging.status()) for _ in range(100)]
            while len(asked) < 100:
                await asyncio.sleep(0.01)
            assert await AsyncClient(tmp_path / "other", DEADLINE).openapi() == {}
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)

    asyncio.run(scenario())


def test_what_has_no_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpmux.control.http_answer.MAX_ANSWER", 1000)
    reply, events = Reply(), Events()
    reply.feed(HEAD + b"x" * 900)
    with pytest.raises(NotHttp):
        reply.feed(b"x" * 100)
    assert list(events.feed(b"x" * 900)) == []
    with pytest.raises(NotHttp):
        list(events.feed(b"x" * 101))
