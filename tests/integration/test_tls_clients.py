"""Clients that others wrote, whose ClientHello is read before they are connected: curl, and openssl
as TLS has it and as PostgreSQL has it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, connections, kill_workers
from tests.integration.routes import route, routes
from tests.integration.test_preread import counters
from tests.integration.test_starttls import SSL
from tests.others import certificate
from tests.support import EchoServer, free_port, patient, receive, wait_for

NAME = "shop.example"
ANSWER = b"HTTP/1.0 200 OK\r\n\r\nit is the shop\n"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


pytestmark = needs("openssl")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate(tmp_path_factory.mktemp("tls"), NAME))
    made.set_alpn_protocols(["http/1.1", "postgresql"])
    return made


class TlsServer(EchoServer):
    """Answers each line that begins with GET as a web server does, and sends others back. Asks for
    PostgreSQL's request first, if there is one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.asked = 0
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if client.recv(len(SSL), socket.MSG_PEEK) == SSL:
                receive(client, len(SSL))
                self.asked += 1
                client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as tls, tls.makefile() as text:
                for line in text:
                    if line.startswith("GET"):
                        tls.sendall(ANSWER)
                        return
                    tls.sendall(line.encode())


@pytest.fixture
def server(context: ssl.SSLContext) -> Iterator[TlsServer]:
    made = TlsServer(context)
    yield made
    made.close()


@needs("curl")
def test_curl(start_proxy: StartProxy, server: TlsServer) -> None:
    made = {**route("r", free_port(), v1=(1, server.address)), "preread": {}}
    proxy = start_proxy(routes(made))
    host, port = address(proxy)
    done = subprocess.run(
        ["curl", "-sSk", "--resolve", f"{NAME}:{port}:{host}", f"https://{NAME}:{port}/"],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.stdout == "it is the shop\n", done.stderr
    assert counters(proxy) == {"tls": 1}


def ready_line(output: IO[str]) -> str:
    """What comes between the noise of s_client, which -quiet leaves little of."""
    for line in output:
        if line.startswith("hello"):
            return line
    return "it has ended"


@pytest.mark.parametrize("asks_first", [False, True])
def test_openssl(start_proxy: StartProxy, server: TlsServer, asks_first: bool) -> None:
    """With TLS at once or as PostgreSQL's clients ask for it; it goes on after deaths."""
    made = route("r", free_port(), v1=(1, server.address))
    proxy = start_proxy(routes({**made, "preread": {"starttls": "postgres"}}))
    host, port = address(proxy)
    command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-servername", NAME]
    command += ["-alpn", "postgresql", "-quiet"]
    command += ["-starttls", "postgres"] if asks_first else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stdin
        assert client.stdout
        for number in range(3):
            print("hello", number, file=client.stdin, flush=True)
            assert ready_line(client.stdout) == f"hello {number}\n"
            kill_workers(proxy)
        (row,) = connections(proxy)
        assert (row["sni"], row["alpn"]) == (NAME, ["postgresql"])
        client.terminate()
    assert server.asked == asks_first
    wait_for(lambda: not connections(proxy), "it to end")
