"""Endpoints that are told who the client is, by a header of the PROXY protocol."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, connected
from tests.integration.routes import route, routes
from tests.integration.test_accept_proxy import SIGNATURE, accepting, connections, v1, v2
from tests.support import DEADLINE, EchoServer, free_port, wait_for

CLIENTS = 30


def sending(endpoint: EchoServer, version: int, port: int = 0) -> dict[str, Any]:
    made = route("r", port or free_port(), v1=(1, endpoint.address))
    made["destinations"][0]["send_proxy"] = version
    return made


def received(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = client.recv(size - len(got))
        assert part, f"ended after {got!r}"
        got += part
    return got


def expected(client: socket.socket, port: int, version: int) -> bytes:
    """The header that names this client."""
    ip, own = client.getsockname()
    if version == 1:
        return f"PROXY TCP4 {ip} 127.0.0.1 {own} {port}\r\n".encode()
    ends = socket.inet_aton(ip) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", own, port)
    return SIGNATURE + b"\x21\x11\0\x0c" + ends


@pytest.fixture
def mirror(echo_servers: Any) -> EchoServer:
    """Sends back every byte."""
    server: EchoServer = echo_servers()
    return server


@pytest.mark.parametrize("version", [1, 2])
def test_the_endpoint_hears_who_the_client_is(
    start_proxy: StartProxy, mirror: EchoServer, version: int
) -> None:
    proxy = start_proxy(routes(sending(mirror, version)))
    port = address(proxy)[1]
    with connected(proxy, 1) as (client,):
        header = expected(client, port, version)
        # Nothing has been said by the client: a server that speaks first has it as well.
        assert received(client, len(header)) == header
        client.sendall(b"hello")
        assert received(client, 5) == b"hello"
    wait_for(lambda: not connections(proxy), "the connection to end")
    (destination,) = proxy.status()["routes"][0]["destinations"]
    assert destination["bytes_in_total"] == 5, "the header is no payload of the client"


def test_over_ipv6(start_proxy: StartProxy, mirror: EchoServer) -> None:
    made = sending(mirror, 1)
    port = free_port()
    proxy = start_proxy(routes({**made, "listen": f"[::1]:{port}"}))
    with socket.create_connection(("::1", port), timeout=DEADLINE) as client:
        own = client.getsockname()[1]
        header = f"PROXY TCP6 ::1 ::1 {own} {port}\r\n".encode()
        assert received(client, len(header)) == header
    assert proxy.active() <= 1


@pytest.mark.parametrize("version", [1, 2])
def test_who_was_named_is_named(start_proxy: StartProxy, mirror: EchoServer, version: int) -> None:
    """As the header that came said it, also where the client had connected to."""
    made = accepting(mirror)
    made["destinations"][0]["send_proxy"] = version
    proxy = start_proxy(routes(made))
    with connected(proxy, 1) as (client,):
        client.sendall(v2(7, b"\x04\0\0") + b"hello")
        header = v1(7) if version == 1 else v2(7)
        assert received(client, len(header) + 5) == header + b"hello"


def test_kills_at_any_moment(start_proxy: StartProxy, mirror: EchoServer) -> None:
    """Each endpoint gets the header once, whole, ahead of all else."""
    made = accepting(mirror)
    made["destinations"][0]["send_proxy"] = 2
    proxy = start_proxy(routes(made))
    chance = random.Random(18)
    for _ in range(8):
        with connected(proxy, CLIENTS) as clients:
            for number, client in enumerate(clients):
                client.sendall(v1(number) + b"hello")
                if chance.randrange(5) == 0:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(proxy.worker_pids()), signal.SIGKILL)
            for number, client in enumerate(clients):
                whole = v2(number) + b"hello"
                assert received(client, len(whole)) == whole
        wait_for(lambda: not connections(proxy), "every connection to end")
