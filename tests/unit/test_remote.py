"""Both clients over HTTP and HTTPS: the token, certificates, and whatever may be in between."""

from __future__ import annotations

import asyncio
import json
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest

from tcpmux import AsyncClient, Client
from tcpmux.control.asking import (
    AdminError,
    NotRunning,
    PermissionDenied,
    Refused,
    TokenMissing,
)
from tcpmux.control.remote import NotEncrypted, Remote, token_in
from tcpmux.errors import TcpmuxError, UsageError
from tests import others
from tests.support import TOKEN
from tests.unit.answering import DEADLINE, answering_at_a_port, both

pytestmark = pytest.mark.usefixtures("host_authorities")
OK = b'HTTP/1.0 200 OK\r\n\r\n{"routes": []}'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return others.certificate(tmp_path_factory.mktemp("tls"), "localhost")


def routes(client: Any) -> Any:
    return client.routes()


def test_the_token_and_the_host_are_in_the_request() -> None:
    async def scenario() -> None:
        async with answering_at_a_port(OK) as (port, asked):
            for ask in both(f"http://127.0.0.1:{port}/mux/", routes, token=TOKEN):
                assert await ask() == []
            for head in asked:
                lines = head.decode().split("\r\n")
                assert lines[0] == "GET /mux/v1/status HTTP/1.0"
                assert f"Host: 127.0.0.1:{port}" in lines
                assert f"Authorization: Bearer {TOKEN}" in lines
            asked.clear()
            for ask in both(f"HTTP://localhost:{port}", routes):
                assert await ask() == []
            assert all(b"Authorization" not in head for head in asked)
            assert len(asked) == 2

    asyncio.run(scenario())


def test_a_file_of_authorities_that_is_none_is_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenSSL passes it over, and says of every certificate that it is not trusted."""
    missing, other = tmp_path / "missing.pem", tmp_path / "other.pem"
    other.write_text("no certificate")
    for path, why in (
        (missing, f"SSL_CERT_FILE: {missing}: No such file or directory"),
        (other, f"SSL_CERT_FILE: {other} has no certificate in it"),
        (tmp_path, f"SSL_CERT_FILE: {tmp_path}"),
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(UsageError) as caught:
            Client("https://127.0.0.1:1")
        assert str(caught.value).startswith(why)
        Client("http://127.0.0.1:1")  # it has no use for them


def test_a_certificate_that_is_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def scenario() -> None:
        async with answering_at_a_port(OK, certificate) as (port, asked):
            for ask in both(f"https://localhost:{port}", routes, token=TOKEN):
                assert await ask() == []
            assert len(asked) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("host", "is_trusted", "reason"),
    [
        ("localhost", False, "self-signed certificate"),
        ("127.0.0.1", True, "IP address mismatch"),
    ],
)
def test_who_has_no_certificate_for_that_name_is_told_nothing(
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    is_trusted: bool,
    reason: str,
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def scenario() -> None:
        async with answering_at_a_port(OK, certificate) as (port, asked):
            for ask in both(f"https://{host}:{port}", routes, token=TOKEN):
                with pytest.raises(
                    AdminError, match=f"{host} is not trusted: .*{reason}"
                ) as caught:
                    await ask()
                assert TOKEN not in str(caught.value)
            assert asked == []

    asyncio.run(scenario())


def test_tls_with_what_speaks_none_and_the_other_way_round(certificate: Path) -> None:
    async def scenario() -> None:
        async with answering_at_a_port(OK) as (port, asked):
            for ask in both(f"https://localhost:{port}", routes, 1.0):
                with pytest.raises(AdminError, match=r"can't reach|has not answered within 1 s"):
                    await ask()
            assert asked == []
        async with answering_at_a_port(OK, certificate) as (port, asked):
            for ask in both(f"http://localhost:{port}", routes, token=TOKEN):
                with pytest.raises(AdminError, match=r"not tcpmux|hung up"):
                    await ask()
            assert asked == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "token", "kind", "message"),
    [
        (401, None, TokenMissing, "asks for a token"),
        (401, TOKEN, PermissionDenied, "does not accept this token"),
        (301, TOKEN, AdminError, r"a redirect \(HTTP status 301\), which is not followed"),
        (502, TOKEN, AdminError, r"is not tcpmux \(HTTP status 502\)"),
        (200, TOKEN, AdminError, "is not tcpmux"),
    ],
)
def test_what_stands_in_front_of_it_is_told_apart(
    answer: int, token: str | None, kind: type[AdminError], message: str
) -> None:
    """A redirect is not followed: the token would go to somebody else."""

    async def scenario() -> None:
        page = f"HTTP/1.0 {answer} x\r\nLocation: http://127.0.0.1:1/\r\n\r\n<html>hello\n</html>"
        async with answering_at_a_port(page.encode()) as (port, asked):
            url = f"http://127.0.0.1:{port}"
            for call in (routes, lambda client: client.reload()):
                for ask in both(url, call, token=token):
                    with pytest.raises(kind, match=message):
                        await ask()
            with pytest.raises(kind, match=message):
                await asyncio.to_thread(lambda: list(Client(url, DEADLINE, token=token).stream()))
            assert len(asked) == 5
            if answer != 200:  # which of a text may be anything
                with pytest.raises(AdminError) as caught:
                    await AsyncClient(url, DEADLINE, token=token).metrics()
                assert "hello" not in str(caught.value)

    asyncio.run(scenario())


def test_a_refusal_of_tcpmux_is_told_in_its_words() -> None:
    async def scenario() -> None:
        answer = b"HTTP/1.0 403 x\r\n\r\n" + json.dumps({"error": "may only read"}).encode()
        async with answering_at_a_port(answer) as (port, _asked):
            for ask in both(f"http://127.0.0.1:{port}", routes, token=TOKEN):
                with pytest.raises(Refused, match=r"^may only read$") as caught:
                    await ask()
                assert caught.value.status == 403

    asyncio.run(scenario())


def test_the_reasons_of_readiness_are_told() -> None:
    async def scenario() -> None:
        async with answering_at_a_port(b"HTTP/1.0 503 x\r\n\r\nit drains\n") as (port, _asked):
            url = f"http://127.0.0.1:{port}"
            for ask in both(url, lambda client: client.readyz()):
                with pytest.raises(Refused, match=r"^it drains$"):
                    await ask()

    asyncio.run(scenario())


def test_a_stream_comes_over_http_as_well() -> None:
    async def scenario() -> None:
        answer = b'HTTP/1.0 200 OK\r\n\r\nevent: table\ndata: {"a": 1}\n\n'
        expected: list[Any] = [("table", {"a": 1})]
        async with answering_at_a_port(answer) as (port, asked):
            url = f"http://127.0.0.1:{port}"
            client = Client(url, DEADLINE, token=TOKEN)
            assert await asyncio.to_thread(lambda: list(client.stream())) == expected
            other = AsyncClient(url, DEADLINE, token=TOKEN)
            assert [event async for event in other.stream()] == expected
            assert all(TOKEN.encode() in head for head in asked)

    asyncio.run(scenario())


def test_where_nobody_answers_is_told_apart() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        for ask in both(f"http://127.0.0.1:{port}", routes):
            with pytest.raises(NotRunning, match=f"nothing answers at http://127.0.0.1:{port}"):
                await ask()
        for ask in both("http://name.invalid.localhost:1", routes):
            with pytest.raises(AdminError, match=r"can't reach|nothing answers"):
                await ask()
        async with answering_at_a_port(b"", stays=True) as (port, _asked):
            for ask in both(f"http://127.0.0.1:{port}", routes, 0.05):
                with pytest.raises(AdminError, match=r"has not answered within 0\.05 s"):
                    await ask()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        ("http://127.0.0.1:9901", False),
        ("http://[::1]:9901", False),
        ("http://localhost", False),
        ("https://mux.example", False),
        ("http://mux.example", True),
        ("http://10.0.0.1:9901", True),
        ("http://localhost.example", True),
        ("http://127.0.0.1.example", True),
    ],
)
def test_who_would_send_a_token_in_clear_text_is_warned(url: str, is_exposed: bool) -> None:
    for kind in (Client, AsyncClient):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            client = kind(url, token=TOKEN)
            client.with_timeout(1.0)
        assert [one.category for one in said] == [NotEncrypted] * is_exposed
        assert all(one.filename == __file__ for one in said), "where the client is made"
        assert client.is_remote


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://user:s3cret@mux.example", "without a user or a password"),
        ("https://s3cret@mux.example", "without a user or a password"),
        ("https://", "expected a URL such as"),
        ("https://mux.example?token=x", "expected a URL such as"),
        ("https://mux.example/#x", "expected a URL such as"),
        ("https://mux.example:x", "is not a URL"),
        ("https://mux.example:99999", "is not a URL"),
        ("https://mux.example/\r\nX: y", "in ASCII and without blanks"),
        ("https://mux.example/a b", "in ASCII and without blanks"),
        ("https://[::1", "is not a URL"),
    ],
)
def test_what_is_no_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Client(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "größer", "a\0"])
def test_what_is_no_token_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(UsageError, match=r"^the token is not one word of ASCII text$"):
        Remote("https://mux.example", token)


def test_a_token_goes_with_a_url(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a token goes with a URL"):
        Client(tmp_path / "s", token=TOKEN)


def test_the_environment_says_where_and_with_which_token(
    token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TCPMUX_ADMIN", raising=False)
    monkeypatch.setenv("TCPMUX_TOKEN_FILE", str(token_file))

    async def scenario() -> None:
        async with answering_at_a_port(OK) as (port, asked):
            monkeypatch.setenv("TCPMUX_URL", f"http://127.0.0.1:{port}")
            for ask in both(None, routes):
                assert await ask() == []
            assert all(TOKEN.encode() in head for head in asked)
            asked.clear()
            for ask in both(f"http://127.0.0.1:{port}", routes):
                assert await ask() == []
            assert not any(TOKEN.encode() in head for head in asked), "it is meant for another one"

    asyncio.run(scenario())
    token_file.chmod(0o644)
    with pytest.raises(TcpmuxError, match=f"token file {token_file}: others may read it"):
        Client()
    monkeypatch.setenv("TCPMUX_ADMIN", "/run/x.sock")
    with pytest.raises(UsageError, match="TCPMUX_ADMIN and TCPMUX_URL are both set"):
        Client()
    assert Client("/run/y.sock").path == "/run/y.sock"
    with pytest.raises(TcpmuxError, match="can't be read"):
        token_in(str(tmp_path / "missing"))
