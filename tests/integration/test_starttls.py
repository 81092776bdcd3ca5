"""Clients of PostgreSQL, which ask for TLS first: they get an answer, and endpoints are asked."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.client_hellos import hello
from tests.integration.conftest import StartProxy
from tests.integration.disturbances import (
    address,
    closed,
    connected,
    connections,
    kill_workers,
    perhaps_kill,
    set_workers,
    states,
    upgrade,
)
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_accept_proxy import v1, v2
from tests.integration.test_preread import counters, is_reset, names
from tests.others import needs_reachable
from tests.support import DEADLINE, EchoServer, free_port, patient, receive, wait_for, will_reset

CLIENTS = 16
SSL = bytes([0, 0, 0, 8, 4, 210, 22, 47])
GSS = bytes([0, 0, 0, 8, 4, 210, 22, 48])
CANCEL = bytes([0, 0, 0, 16, 4, 210, 22, 46]) + b"pid, key"
STARTUP = bytes([0, 0, 0, 17, 0, 3, 0, 0]) + b"user\0me\0\0"


class Server(EchoServer):
    """Takes what comes ahead of TLS, answers as it is told, and sends every byte back that comes
    then. ahead: bytes that are in front of the SSLRequest."""

    def __init__(self, answer: bytes = b"S", ahead: int = 0, path: str = "") -> None:
        self.answer = answer
        self.ahead = ahead
        self.seen: list[bytes] = []  # what each client has begun with
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.resets = False  # as soon as it has been asked
        super().__init__(family=socket.AF_UNIX if path else socket.AF_INET, path=path)

    def close(self) -> None:
        self.may_answer.set()
        super().close()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            size = self.ahead + len(SSL)
            begun = receive(client, size)
            self.seen.append(begun)
            self.may_answer.wait(DEADLINE)
            if self.resets:
                will_reset(client)
                return
            client.sendall(self.answer if begun[-len(SSL) :] == SSL else begun)
            while data := client.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(*arguments: Any, **named: Any) -> Server:
            server = Server(*arguments, **named)
            stack.callback(server.close)
            return server

        yield start


StartServer = Callable[..., Server]


def asking(*servers: Server, port: int = 0, send_proxy: int = 0, **preread: Any) -> dict[str, Any]:
    """A route to them, in this order. Their answers may come late: whoever holds one back does
    other things meanwhile, which take a busy machine long."""
    made = route("r", port or free_port(), v1=(1, ""))
    made["destinations"][0]["connect_timeout"] = "10m"
    made["destinations"][0]["endpoints"] = [server.address for server in servers]
    made["preread"] = {"timeout": "10m", "starttls": "postgres", **preread}
    if send_proxy:
        made["destinations"][0]["send_proxy"] = send_proxy
    return made


def begin(client: socket.socket) -> None:
    client.sendall(SSL)
    assert client.recv(2) == b"S"


# --- what clients ask -----------------------------------------------------------------------------


def test_the_names_of_a_client_that_asks_first(
    start_proxy: StartProxy, servers: StartServer
) -> None:
    """Its hello is read before it is connected, and the endpoint sees what it would have seen."""
    server = servers()
    proxy = start_proxy(routes(asking(server)))
    sent = hello("shop.example", ("postgresql",), 400)
    with connected(proxy, 1) as (client,):
        begin(client)
        assert server.seen == []
        client.sendall(sent)
        assert receive(client, len(sent)) == sent
        assert server.seen == [SSL]
        (row,) = connections(proxy)
        assert (row["sni"], row["alpn"]) == ("shop.example", ["postgresql"])
    wait_for(lambda: closed(proxy) == {"finished": 1}, "it to end")
    (destination,) = proxy.status()["routes"][0]["destinations"]
    assert destination["bytes_in_total"] == destination["bytes_out_total"] == len(sent)
    assert counters(proxy) == {"tls": 1}


def test_a_client_that_asks_for_gssapi_first(start_proxy: StartProxy, servers: StartServer) -> None:
    """It is refused that once, as by a server without it; what comes then is like any first."""
    server = servers()
    proxy = start_proxy(routes(asking(server)))
    sent = hello("shop.example")
    with connected(proxy, 3) as (tls, plain, twice):
        for client in (tls, plain, twice):
            client.sendall(GSS)
            assert client.recv(2) == b"N"
        begin(tls)
        tls.sendall(sent)
        assert receive(tls, len(sent)) == sent
        plain.sendall(STARTUP)
        assert receive(plain, len(STARTUP)) == STARTUP
        twice.sendall(GSS)
        assert receive(twice, len(GSS)) == GSS
        assert names(proxy) == ["", "", "shop.example"]
    assert sorted(server.seen) == sorted([SSL, STARTUP[:8], GSS])


@pytest.mark.parametrize("first", [STARTUP, CANCEL, hello("direct.example", ("postgresql",))])
def test_what_asks_for_nothing_is_passed_on(
    start_proxy: StartProxy, servers: StartServer, first: bytes
) -> None:
    """A client without TLS, a cancellation, and one that begins with TLS at once."""
    proxy = start_proxy(routes(asking(servers())))
    with connected(proxy, 1) as (client,):
        client.sendall(first)
        assert receive(client, len(first)) == first
        assert names(proxy) == ["direct.example" if b"direct" in first else ""]


@pytest.mark.parametrize("request_", [SSL, GSS])
def test_bytes_behind_a_request_are_refused(
    start_proxy: StartProxy, servers: StartServer, request_: bytes
) -> None:
    """Somebody may have put them there, ahead of TLS: PostgreSQL refuses them too."""
    server = servers()
    proxy = start_proxy(routes(asking(server)))
    with connected(proxy, 1) as (client,):
        client.sendall(request_ + b"x")
        assert is_reset(client)
    assert closed(proxy) == {"client_hello": 1}
    assert counters(proxy) == {"malformed": 1}
    assert server.seen == []


def test_part_of_a_request_is_waited_for(start_proxy: StartProxy, servers: StartServer) -> None:
    proxy = start_proxy(routes(asking(servers(), timeout="500ms")))
    with connected(proxy, 1) as (late,):
        late.sendall(SSL[:7])
        assert is_reset(late)
    assert counters(proxy) == {"late": 1}


def test_other_bytes_after_the_answer(start_proxy: StartProxy, servers: StartServer) -> None:
    """The endpoint is to judge them, which has been asked for TLS."""
    server = servers()
    proxy = start_proxy(routes(asking(server)))
    with connected(proxy, 1) as (client,):
        begin(client)
        client.sendall(STARTUP)
        assert receive(client, len(STARTUP)) == STARTUP
    assert server.seen == [SSL]
    assert counters(proxy) == {"other": 1}


def test_unix_sockets(start_proxy: StartProxy, servers: StartServer, open_path: Path) -> None:
    server = servers(path=str(open_path / "out"))
    made = {**asking(server), "listen": f"unix:{open_path / 'in'}"}
    proxy = start_proxy(routes(made))
    sent = hello("shop.example")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(open_path / "in"))
        begin(client)
        kill_workers(proxy)
        client.sendall(sent)
        assert receive(client, len(sent)) == sent
    assert server.seen == [SSL]


# --- what endpoints answer ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"N", b"E\0\0\0\4", b"\x16", b""])
def test_an_endpoint_without_tls_has_failed(
    start_proxy: StartProxy, servers: StartServer, answer: bytes
) -> None:
    """The client gets the next one: its hello is still there. One that does not answer has
    connect_timeout."""
    bad, good = servers(answer), servers()
    made = asking(bad, good)
    made["destinations"][0]["connect_timeout"] = "10m" if answer else f"{patient(1):g}s"
    proxy = start_proxy(routes(made))
    sent = hello("shop.example", size=400)
    for _ in range(4):
        with connected(proxy, 1) as (client,):
            begin(client)
            client.sendall(sent)
            assert receive(client, len(sent)) == sent
    assert bad.seen
    assert set(good.seen) == {SSL}
    if answer:
        refuses = "it refuses TLS (ssl = off?)"
        proxy.says(refuses if answer == b"N" else "no TLS: it did not answer with S")
    (destination,) = proxy.status()["routes"][0]["destinations"]
    assert destination["connect_failures_total"] == len(bad.seen)


def test_an_endpoint_that_refuses_tls_is_as_good_as_before_to_others(
    start_proxy: StartProxy, servers: StartServer
) -> None:
    """It is neither ejected nor passed over: each client without TLS is served, by turns."""
    no_tls, good = servers(b"N"), servers()
    made = asking(no_tls, good)
    made["destinations"][0]["passive"] = {"errors": 2, "ejection_time": "10m"}
    proxy = start_proxy(routes(made))
    sent = hello("shop.example")
    for _ in range(8):
        with connected(proxy, 1) as (client,):
            begin(client)
            client.sendall(sent)
            assert receive(client, len(sent)) == sent
    for _ in range(6):
        with connected(proxy, 1) as (client,):
            client.sendall(STARTUP)
            assert receive(client, len(STARTUP)) == STARTUP
    assert no_tls.seen.count(SSL) >= 3
    assert no_tls.seen.count(STARTUP[:8]) + good.seen.count(STARTUP[:8]) == 6
    assert no_tls.seen.count(STARTUP[:8]) >= 2
    (destination,) = proxy.status()["routes"][0]["destinations"]
    (first, _) = destination["endpoints"]
    assert (first["condition"], first["health"]) == ("healthy", "up")
    proxy.says("failed: it refuses TLS (ssl = off?)", times=1)


def test_without_any_endpoint_the_client_is_reset(
    start_proxy: StartProxy, servers: StartServer
) -> None:
    proxy = start_proxy(routes(asking(servers(b"N"), servers(b"N"))))
    with connected(proxy, 1) as (client,):
        begin(client)
        client.sendall(hello("shop.example"))
        assert is_reset(client)
    assert closed(proxy) == {"connect_failed": 1}


def test_an_endpoint_that_fails_after_a_death(
    start_proxy: StartProxy, servers: StartServer
) -> None:
    """It was asked, with a header ahead, before the worker died: the next one gets both as well."""
    size = len(v2(1))
    first, second = servers(ahead=size), servers(ahead=size)
    for server in (first, second):
        server.may_answer.clear()
    made = {**asking(first, second, send_proxy=2), "accept_proxy": {"from": ["127.0.0.1"]}}
    proxy = start_proxy(routes(made))
    sent = hello("shop.example", size=400)
    with connected(proxy, 1) as (client,):
        client.sendall(v1(1))
        begin(client)
        client.sendall(sent)
        wait_for(lambda: len(first.seen + second.seen) == 1, "an endpoint to be asked")
        asked, other = (first, second) if first.seen else (second, first)
        kill_workers(proxy)
        asked.resets = True
        asked.may_answer.set()
        other.may_answer.set()
        assert receive(client, len(sent)) == sent
        assert asked.seen == other.seen == [v2(1) + SSL]
        client.sendall(b"x")
        kill_workers(proxy)  # the counts are right: nothing is lost or doubled
        client.sendall(b"y")
        assert receive(client, 2) == b"xy"


# --- what it outlives -----------------------------------------------------------------------------


def in_the_midst(proxy: Proxy, server: Server, disturb: Callable[[int], None]) -> None:
    """In the midst of a request, of a hello, and of the wait for the endpoint's answer."""
    hellos = [hello(f"c{n}.example", (), 400 + 137 * n) for n in range(CLIENTS)]
    with connected(proxy, CLIENTS) as clients:
        for client in clients:
            client.sendall(SSL[:5])
        wait_for(lambda: states(proxy) == {"reading": CLIENTS}, "requests to be read")
        disturb(0)
        for client in clients:
            client.sendall(SSL[5:])
            assert client.recv(2) == b"S"
        for client, sent in zip(clients, hellos, strict=True):
            client.sendall(sent[:200])
        disturb(1)
        wait_for(lambda: states(proxy) == {"reading": CLIENTS}, "hellos to be read")
        server.may_answer.clear()
        for client, sent in zip(clients, hellos, strict=True):
            client.sendall(sent[200:])
        wait_for(lambda: len(server.seen) == CLIENTS, "the endpoint to be asked")
        disturb(2)
        server.may_answer.set()
        for client, sent in zip(clients, hellos, strict=True):
            assert receive(client, len(sent)) == sent
        kill_workers(proxy)  # the kernel's counts and ours agree
        for client in clients:
            client.sendall(b"y")
            assert client.recv(1) == b"y"
        assert names(proxy) == sorted(f"c{n}.example" for n in range(CLIENTS))
    assert server.seen == [SSL] * CLIENTS
    wait_for(lambda: closed(proxy) == {"finished": CLIENTS}, "every connection to end")


@pytest.fixture
def server(servers: StartServer) -> Server:
    return servers()


@pytest.fixture
def proxy(start_proxy: StartProxy, server: Server) -> Proxy:
    return start_proxy(routes(asking(server)))


def test_kills(proxy: Proxy, server: Server) -> None:
    in_the_midst(proxy, server, lambda part: kill_workers(proxy))


def test_other_workers(proxy: Proxy, server: Server) -> None:
    """Workers come and go, and hand their connections over."""
    made = asking(server, port=address(proxy)[1])
    in_the_midst(proxy, server, lambda part: set_workers(proxy, made, (1, 3, 2)[part]))


@needs_reachable
def test_an_upgrade(proxy: Proxy, server: Server) -> None:
    in_the_midst(proxy, server, lambda part: upgrade(proxy, part + 1))


def test_a_reload_without_it(proxy: Proxy, server: Server) -> None:
    """Who was told to begin with TLS has an endpoint that is asked for it."""
    sent = hello("shop.example", size=400)
    with connected(proxy, 1) as (client,):
        begin(client)
        proxy.reload(routes(route("r", address(proxy)[1], v1=(1, server.address))))
        client.sendall(sent)
        assert receive(client, len(sent)) == sent
    assert server.seen == [SSL]


def test_kills_at_any_moment(start_proxy: StartProxy, servers: StartServer) -> None:
    """Each endpoint gets header and request once, whole, ahead of all else; each client one S."""
    server = servers(ahead=len(v2(1)))
    made = {**asking(server, send_proxy=2), "accept_proxy": {"from": ["127.0.0.1"]}}
    proxy = start_proxy(routes(made))
    chance = random.Random(18)

    for _ in range(6):
        server.seen.clear()
        hellos = [hello(f"c{n}.example", (), 300 + 97 * n) for n in range(CLIENTS)]
        with connected(proxy, CLIENTS) as clients:
            for number, client in enumerate(clients):
                client.sendall(v1(number) + (GSS if number % 2 else SSL))
                perhaps_kill(proxy, chance, 4)
            for number, client in enumerate(clients):
                if number % 2:
                    assert client.recv(2) == b"N"
                    client.sendall(SSL)
                    perhaps_kill(proxy, chance, 4)
            for client, sent in zip(clients, hellos, strict=True):
                assert client.recv(2) == b"S"
                client.sendall(sent)
                perhaps_kill(proxy, chance, 4)
            for client, sent in zip(clients, hellos, strict=True):
                assert receive(client, len(sent)) == sent
            assert sorted(server.seen) == sorted(v2(n) + SSL for n in range(CLIENTS))
            # Of a worker that is just being replaced nothing is told.
            whole = sorted(f"c{n}.example" for n in range(CLIENTS))
            wait_for(lambda: names(proxy) == whole, "all names")  # noqa: B023
        wait_for(lambda: not connections(proxy), "every connection to end")
