"""Who may come in to the admin API, how many, and for how long; whatever they send."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp import web

from tcpmux.control import acceptor, client_connection
from tcpmux.control.acceptor import Acceptor, add_headers
from tcpmux.control.access import Rules
from tests.support import DEADLINE, TOKEN, will_reset

BEARER = f"Authorization: Bearer {TOKEN}\r\n"
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class House:
    """An acceptor and a small server: /v1/status, /v1/stream (endless), /v1/diff (echoes)."""

    def __init__(self, directory: Path, rules: Rules) -> None:
        self.path = str(directory / "admin.sock")
        self.acceptor = Acceptor(rules)
        self.seen: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.tcp.getsockname()
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(self.path)
        self.unix.listen(1024)

    async def _status(self, request: web.Request) -> web.Response:
        self.seen.append(self.acceptor.connection(request).caller.name)
        return web.json_response({"path": request.path_qs, "body": (await request.text())[:50]})

    async def _large(self, _request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (32 << 20))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        group = self.acceptor.connection(request).group
        group.streams += 1
        try:
            await response.prepare(request)
            while True:
                await response.write(b"x" * 10_000)
                await asyncio.sleep(0)
        finally:
            group.streams -= 1

    async def open(self) -> web.AppRunner:
        app = web.Application(middlewares=[self.acceptor.middleware])
        app.on_response_prepare.append(add_headers)
        app.router.add_route("*", "/v1/status", self._status)
        app.router.add_get("/v1/large", self._large)
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_post("/v1/diff", self._status)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False, read_bufsize=16 << 20)
        await runner.setup()
        assert runner.server is not None
        for sock in (self.tcp, self.unix):
            self.acceptor.serve(runner.server, sock)
        return runner

    async def over_tcp(self) -> tuple[Reader, Writer]:
        return await asyncio.open_connection(*self.address)

    async def ask(
        self, data: str | bytes, *, tcp: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """One request as it is, and its answer; a connection that ends without one is status 0."""
        opened = self.over_tcp() if tcp else asyncio.open_unix_connection(self.path)
        reader, writer = await opened
        try:
            writer.write(data if isinstance(data, bytes) else data.encode("latin-1"))
            return await asyncio.wait_for(answer(reader), DEADLINE)
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, {}, b""
        finally:
            writer.close()

    async def local(self) -> None:
        """The UNIX socket answers."""
        status, _, body = await self.ask("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", tcp=False)
        assert status == 200
        assert json.loads(body)["path"] == "/v1/status"


async def answer(reader: Reader) -> tuple[int, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    return int(first.split()[1]), headers, body


@asynccontextmanager
async def house(directory: Path, **rules: Any) -> AsyncIterator[House]:
    made = House(
        directory,
        Rules(
            rules.pop("uids", frozenset({os.getuid()})),
            "127.0.0.1:1",
            token=rules.pop("token", sha256(TOKEN.encode()).digest()),
            **rules,
        ),
    )
    runner = await made.open()
    try:
        yield made
    finally:
        made.acceptor.close()
        await runner.cleanup()
        made.tcp.close()
        made.unix.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 4 * DEADLINE)

    asyncio.run(bounded())


def request(path: str = "/v1/status", method: str = "GET", more: str = BEARER) -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n"


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# --- who ---------------------------------------------------------------------------------------


def test_over_tcp_whoever_has_the_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            assert (await at.ask(request()))[0] == 200
            assert at.seen == ["127.0.0.1 over HTTP"]
            for wrong in ("", "Authorization: Bearer x\r\n", f"Authorization: Basic {TOKEN}\r\n"):
                status, headers, body = await at.ask(request(more=wrong))
                assert status == 401
                assert headers["WWW-Authenticate"] == "Bearer"
                assert list(json.loads(body)) == ["error"]
            assert (await at.ask(request("/", more="")))[0] == 404, "the page needs none"

    run(scenario)


def test_without_a_token_nobody_but_if_insecure(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, token=b"") as at:
            assert (await at.ask(request()))[0] == 403
            assert (await at.ask(request(more="")))[0] == 403
        (tmp_path / "open").mkdir()
        async with house(tmp_path / "open", token=b"", insecure=True) as at:
            assert (await at.ask(request(more="")))[0] == 200

    run(scenario)


def test_over_the_unix_socket_the_users_that_are_named_and_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, uids=frozenset({os.getuid() + 1})) as at:
            status, _, body = await at.ask(request(), tcp=False)
            assert status == 403
            assert f"user {os.getuid()} may not" in json.loads(body)["error"]

    run(scenario)


@pytest.mark.parametrize(
    "foreign",
    [
        "Origin: http://evil.example\r\n",
        "Origin: http://[\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ],
)
def test_a_page_of_another_site_is_refused(tmp_path: Path, foreign: str) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            assert (await at.ask(request(more=BEARER + foreign)))[0] == 403
            for host in ("evil.example", "127.0.0.1.evil.example", "[", "x" * 5000):
                data = f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n{BEARER}\r\n"
                assert (await at.ask(data))[0] == 403

    run(scenario)


# --- what --------------------------------------------------------------------------------------

BODY = request(method="POST", path="/v1/diff", more=BEARER + "Content-Length: {}\r\n{}")
HOSTILE = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"\0" * 100 + b"\r\n\r\n", 400),
    (b"GET /" + b"a" * 20_000, 414),
    (b"GET / " + b"a" * 20_000, 431),
    (request(more="X: " + "y" * 16_000 + "\r\n"), 401),
    (request(more="X: " + "y" * 17_000 + "\r\n"), 431),
    (request(more=BEARER + "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 411),
    (request(more="Content-Encoding: deflate\r\nContent-Length: 4\r\n") + "\0\1\2\3", 415),
    (request(more=BEARER + "Content-Encoding: br\r\nContent-Length: 4\r\n") + "\0\1\2\3", 415),
    (request(more="Content-Length: 4\r\n") + "abcd", 401),
    (BODY.format(9 << 20, ""), 413),
    (request("/v1/status", "POST", BEARER + "Content-Length: 100000\r\n"), 413),
    (request("/v1/%zz%ff%00?%1b[2J"), 404),
    (request("//evil/../.."), 404),
    (request(method="TRACE"), 405),
]


@pytest.mark.parametrize(("data", "status"), HOSTILE)
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
def test_whatever_is_sent_is_answered_in_one_line_and_not_logged(
    tmp_path: Path, data: str | bytes, status: int, tcp: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            got, headers, body = await at.ask(data, tcp=tcp)
            assert got == status or (not tcp and status == 401 and got == 200)
            assert "Server" not in headers
            if got not in (404, 405, 200):  # those are the small server's here
                assert list(json.loads(body)) == ["error"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            await at.local()

    run(scenario)
    assert caplog.records == []


def test_a_client_that_is_gone_before_it_is_refused_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            for _ in range(200):
                with socket.create_connection(at.address) as sock:
                    will_reset(sock)
                    sock.sendall(b"NONSENSE\r\n\r\n")
                await asyncio.sleep(0)
            await until(lambda: not at.acceptor.remote.connections)
            await at.local()

    run(scenario)
    assert caplog.records == []


def test_a_fault_of_ours_ends_one_connection_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        raise RuntimeError(data)

    async def scenario() -> None:
        async with house(tmp_path) as at:
            with monkeypatch.context() as patch:
                patch.setattr(client_connection, "parse_head", broken)
                for _ in range(20):
                    assert (await at.ask(request()))[0] == 0
            assert (await at.ask(request()))[0] == 200
            await at.local()

    run(scenario)
    assert len(caplog.records) == 1


def test_requests_one_after_the_other_are_answered_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.over_tcp()
            asked = [request(f"/v1/status?{n}") for n in range(20)]
            writer.write(("".join(asked) + "NONSENSE\r\n\r\n" + request()).encode())
            for n in range(20):
                status, _, body = await answer(reader)
                assert (status, json.loads(body)["path"]) == (200, f"/v1/status?{n}")
            assert (await answer(reader))[0] == 400
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_a_body_comes_in_any_parts_and_after_a_word_if_that_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.over_tcp()
            for byte in BODY.format(5, "Expect: 100-continue\r\n").encode():
                writer.write(bytes([byte]))
                await writer.drain()
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hel")
            await writer.drain()
            writer.write(b"lo" + request().encode())
            assert json.loads((await answer(reader))[2])["body"] == "hello"
            assert (await answer(reader))[0] == 200
            writer.close()

    run(scenario)


# --- how many ----------------------------------------------------------------------------------


def blocking(at: House, data: bytes, stack: ExitStack) -> socket.socket:
    """A client that sends, reads nothing, and stays."""
    sock = stack.enter_context(socket.socket())
    sock.setblocking(False)
    with suppress(BlockingIOError):
        sock.connect(at.address)
    asyncio.get_running_loop().create_task(send(sock, data))
    return sock


async def send(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(sock, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost:",
        request(more="").encode() * 30,
        BODY.format(1000, "").encode() + b"abc",
        request("/v1/stream").encode(),
        os.urandom(300),
    ],
    ids=["nothing", "heads", "without a token", "bodies", "streams", "garbage"],
)
def test_the_unix_socket_answers_whatever_comes_over_tcp(tmp_path: Path, data: bytes) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            with ExitStack() as stack:
                for number in range(1100):
                    blocking(at, data, stack)
                    if number % 100 == 99:
                        await at.local()
                await at.local()
                group = at.acceptor.remote
                assert len(group.connections) <= group.max_connections
                assert group.served <= group.max_served
                assert len(at.acceptor.local.connections) < 20
            await until(lambda: not group.connections)
            assert (group.served, group.streams, group.held) == (0, 0, 0)

    run(scenario)


def test_who_asks_stays_and_who_only_sits_there_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            at.acceptor.remote.max_connections = 10
            reader, writer = await at.over_tcp()
            writer.write(request("/v1/stream").encode())
            await until(lambda: at.acceptor.remote.streams)
            with ExitStack() as stack:
                for _ in range(50):
                    blocking(at, b"", stack)
                await until(lambda: len(at.acceptor.remote.connections) == 10)
                assert (await at.ask(request()))[0] == 200
                assert await reader.read(10)
                assert at.acceptor.remote.streams == 1
            writer.close()

    run(scenario)


def test_bodies_on_their_way_are_bounded_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            with ExitStack() as stack:
                for _ in range(2):
                    blocking(at, BODY.format(8 << 20, "").encode(), stack)
                await until(lambda: at.acceptor.remote.held == 16 << 20)
                assert (await at.ask(BODY.format(1, "") + "x"))[0] == 503
                await at.local()
            await until(lambda: at.acceptor.remote.held == 0)
            assert (await at.ask(BODY.format(1, "") + "x"))[0] == 200

    run(scenario)


def test_requests_that_are_answered_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            at.acceptor.remote.max_served = 3
            with ExitStack() as stack:
                for _ in range(3):
                    blocking(at, request("/v1/stream").encode(), stack)
                await until(lambda: at.acceptor.remote.served == 3)
                assert (await at.ask(request()))[0] == 503
                await at.local()
            await until(lambda: at.acceptor.remote.served == 0)
            assert (await at.ask(request()))[0] == 200

    run(scenario)


# --- how long ----------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_TIME", "HEAD_TIME", "BODY_TIME", "LEAVING_TIME", "WRITE_TIME"):
        monkeypatch.setattr(client_connection, name, 0.2)
    monkeypatch.setattr(acceptor, "CHECK_EVERY", 0.02)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 0), (b"GET / HT", 408), (BODY.format(1000, "").encode() + b"abc", 408)],
    ids=["idle", "head", "body"],
)
def test_who_does_not_come_to_an_end_is_let_go(tmp_path: Path, data: bytes, status: int) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            assert (await at.ask(data))[0] == status
            await until(lambda: not at.acceptor.remote.connections)

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_a_byte_now_and_then_buys_no_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.over_tcp()

            async def drip() -> None:
                with suppress(ConnectionError):
                    while True:
                        writer.write(b"a")
                        await writer.drain()
                        await asyncio.sleep(0.01)

            dripping = asyncio.create_task(drip())
            assert (await answer(reader))[0] == 408
            await until(lambda: not at.acceptor.remote.connections)
            dripping.cancel()
            writer.close()

    run(scenario)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("path", ["/v1/stream", "/v1/large"])
def test_a_client_that_reads_nothing_is_cut(tmp_path: Path, path: str) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as at:
            with ExitStack() as stack:
                blocking(at, request(path).encode(), stack)
                await until(lambda: at.acceptor.remote.served)
                await until(lambda: not at.acceptor.remote.connections)
                assert at.acceptor.remote.served == 0

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_one_that_reads_slowly_is_not(tmp_path: Path) -> None:
    """32 MiB, a part now and then, for longer than a client may read nothing."""

    async def scenario() -> None:
        async with house(tmp_path) as at:
            reader, writer = await at.over_tcp()
            writer.write(request("/v1/large", more=BEARER + "Connection: close\r\n").encode())
            size = 0
            while part := await reader.read(1 << 20):
                size += len(part)
                await asyncio.sleep(0.01)
            assert size > 32 << 20
            writer.close()

    run(scenario)
