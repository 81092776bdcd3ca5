"""Connections in front of which a load balancer says who the client is."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

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
    workers_stopped,
)
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import needs_reachable
from tests.support import DEADLINE, EchoServer, free_port, read_all, wait_for

CLIENTS = 30
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v1(number: int) -> bytes:
    return f"PROXY TCP4 198.51.100.{number} 192.0.2.1 {1000 + number} 443\r\n".encode()


def v2(number: int, tlvs: bytes = b"") -> bytes:
    ends = socket.inet_aton(f"198.51.100.{number}") + socket.inet_aton("192.0.2.1")
    ends += struct.pack(">HH", 1000 + number, 443)
    return SIGNATURE + b"\x21\x11" + struct.pack(">H", len(ends + tlvs)) + ends + tlvs


def header(number: int) -> bytes:
    if number % 3 == 2:  # of another family than the balancer
        return f"PROXY TCP6 2001:db8::{number} 2001:db8::ff {1000 + number} 443\r\n".encode()
    return v1(number) if number % 2 else v2(number, b"\x04\0\x05hello")


def named(number: int, header: bytes = b"") -> str:
    six = header.startswith(b"PROXY TCP6")
    return (
        f"[2001:db8::{number}]:{1000 + number}" if six else f"198.51.100.{number}:{1000 + number}"
    )


def accepting(
    one: EchoServer, port: int = 0, peers: Sequence[str] = ("127.0.0.1",), **more: Any
) -> dict[str, Any]:
    """A route. more: keys of accept_proxy."""
    made = route("r", port or free_port(), v1=(1, one.address))
    return {**made, "accept_proxy": {"from": [*peers], "timeout": "10m", **more}}


@pytest.fixture
def proxy(start_proxy: StartProxy, one: EchoServer) -> Proxy:
    return start_proxy(routes(accepting(one)))


def await_clients(proxy: Proxy, clients: list[str]) -> None:
    """Those on the way from one worker to another are in no list for a moment."""
    wait_for(
        lambda: sorted(row["client"] for row in connections(proxy)) == sorted(clients),
        "all to be connected",
    )


def ask(proxy: Proxy, sent: bytes) -> bytes:
    """What comes back until the end. Raises ConnectionResetError."""
    with socket.create_connection(address(proxy), timeout=DEADLINE) as sock:
        sock.sendall(sent)
        with suppress(OSError):  # it may have been reset already
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def answer(client: socket.socket) -> bytes:
    with client.makefile("rb") as lines:
        return lines.readline()


# --- who the client is ----------------------------------------------------------------------------


def test_a_header_names_the_client(proxy: Proxy) -> None:
    with connected(proxy, 3) as clients:
        for client, head in zip(clients, (v1(1), v2(2), b"PROXY UNKNOWN\r\n"), strict=True):
            client.sendall(head + b"hello\n")
            assert answer(client) == b"one hello\n"
        own = ["{}:{}".format(*client.getsockname()) for client in clients]
        assert {row["client"]: row["peer"] for row in connections(proxy)} == {
            named(1): own[0],
            named(2): own[1],
            own[2]: None,
        }


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def test_tlvs_are_kept_that_are_asked_for(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """Whole ones, as far as there is room: 112 bytes of a header."""
    log = tmp_path / "access.log"
    proxy = start_proxy(
        {
            **routes(accepting(one, keep=["0xEA", "0xE0"])),
            "access_log": {"path": str(log), "start": True, "interval": "1s"},
        }
    )
    sent = tlv(0xE1, b"not asked for") + tlv(0xE0, b"x" * 100) + tlv(0xE0, b"too long")
    sent += tlv(0xEA, b"\x01v")
    with connected(proxy, 2) as clients:
        clients[0].sendall(v2(1, sent) + b"hello\n")
        clients[1].sendall(v2(2, tlv(0xE1, b"not asked for")) + b"hello\n")
        assert [answer(client) for client in clients] == [b"one hello\n"] * 2
        kept = {named(1): f"0xe0={'x' * 100}, 0xea=v", named(2): None}
        assert {row["client"]: row["proxy_tlvs"] for row in connections(proxy)} == kept
        own = ["{}:{}".format(*client.getsockname()) for client in clients]
        wait_for(lambda: "alive" in log.read_text(), "open connections in the log")
    wait_for(lambda: log.read_text().count('"end"') == 2, "the end of both in the log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["event"] for line in lines} == {"start", "alive", "end"}
    for line in lines:
        number = 1 if line["downstream_remote_address"] == named(1) else 2
        assert line["proxy_tlvs"] == kept[named(number)], line
        assert line["downstream_direct_remote_address"] == own[number - 1], line
    dropped = sum(worker["counters"]["proxy_tlvs_dropped"] for worker in proxy.status()["workers"])
    assert dropped == 1
    proxy.says("1 TLV of PROXY headers left out")


def test_peers_of_unix_sockets(start_proxy: StartProxy, one: EchoServer, tmp_path: Path) -> None:
    """Those that are listed send one; to the others of the route it is payload."""
    path = f"{tmp_path}/in"
    made = accepting(one, peers=["unix"])
    proxy = start_proxy(routes({**made, "listen": [f"unix:{path}", made["listen"]]}))
    with connected(proxy, 3) as clients:
        for client, head in zip(clients, (v1(1), v2(2), b"PROXY UNKNOWN\r\n"), strict=True):
            client.sendall(head + b"hello\n")
            assert answer(client) == b"one hello\n"
        rows = [(row["client"], row["peer"]) for row in connections(proxy)]
        assert sorted(rows, key=str) == [(named(1), "unix:"), (named(2), "unix:"), ("unix:", None)]
        clients[0].close()
    host, port = made["listen"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
        client.sendall(v1(1))
        assert answer(client) == b"one " + v1(1)


def test_others_must_not_send_one(start_proxy: StartProxy, one: EchoServer) -> None:
    """Theirs is payload, whatever it says."""
    proxy = start_proxy(routes(accepting(one, peers=["192.0.2.0/24"])))
    assert ask(proxy, v1(1)) == b"one " + v1(1)


def test_allow_and_deny_are_of_the_named_client(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes({**accepting(one), "allow": ["198.51.100.1"]}))
    assert ask(proxy, v1(1) + b"hello\n") == b"one hello\n"
    with pytest.raises(ConnectionResetError):
        ask(proxy, v1(2) + b"hello\n")
    assert closed(proxy) == {"finished": 1, "not_allowed": 1}


def test_limits_are_of_the_named_client(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes({**accepting(one), "source": {"max_connections": 1}}))
    with connected(proxy, 3) as clients:
        for client, number in zip(clients[:2], (1, 2), strict=True):
            client.sendall(v1(number) + b"hello\n")
            assert answer(client) == b"one hello\n"
        clients[2].sendall(v1(1) + b"hello\n")
        with pytest.raises(ConnectionResetError):
            clients[2].recv(1)
    assert closed(proxy)["overflow"] == 1


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "missing"),
        (b"PROXY TCP4 198.51.100.256 192.0.2.1 1 2\r\n", "malformed"),
        (b"PROXY UNKNOWN" + b" " * 100, "too_long"),
        (v2(1, b"\x03\0\x04oops"), "checksum"),
    ],
)
def test_a_bad_header_is_reset_and_counted(proxy: Proxy, sent: bytes, why: str) -> None:
    with pytest.raises(ConnectionResetError):
        ask(proxy, sent)
    assert closed(proxy) == {"proxy_header": 1}
    assert sum(worker["counters"][f"proxy_{why}"] for worker in proxy.status()["workers"]) == 1


def test_a_version_that_is_not_asked_for(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(accepting(one, versions=[2])))
    assert ask(proxy, v2(1) + b"hello\n") == b"one hello\n"
    with pytest.raises(ConnectionResetError):
        ask(proxy, v1(1))


def test_a_header_that_is_late(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(accepting(one, timeout="300ms")))
    with ExitStack() as stack:
        with workers_stopped(proxy):
            (client,) = stack.enter_context(connected(proxy, 1))
            client.sendall(b"PROXY TCP4")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert closed(proxy) == {"proxy_header": 1}


# --- what it outlives -----------------------------------------------------------------------------


def in_the_midst(proxy: Proxy, disturb: Callable[[int], None]) -> None:
    """Headers come in four parts, and between two of them something happens."""
    headers = [header(number) for number in range(CLIENTS)]
    with connected(proxy, CLIENTS) as clients:
        for part in range(3):
            for client, head in zip(clients, headers, strict=True):
                size = len(head) // 4
                client.sendall(head[part * size : (part + 1) * size])
            disturb(part)
            wait_for(lambda: states(proxy) == {"reading": CLIENTS}, "all to be read from")
        for client, head in zip(clients, headers, strict=True):
            client.sendall(head[len(head) // 4 * 3 :] + b"hello\n")
        assert [answer(client) for client in clients] == [b"one hello\n"] * CLIENTS
        await_clients(proxy, [named(number, head) for number, head in enumerate(headers)])
    wait_for(lambda: closed(proxy) == {"finished": CLIENTS}, "every connection to end")


def test_a_reload_without_it_lets_nobody_in_unasked(proxy: Proxy, one: EchoServer) -> None:
    """The headers that have begun are read to their end, and name who is asked about."""
    port = address(proxy)[1]
    with connected(proxy, 2) as (allowed, denied):
        for client, number in ((allowed, 1), (denied, 2)):
            client.sendall(v1(number)[:20])
        wait_for(lambda: states(proxy) == {"reading": 2}, "both to be read from")
        without = route("r", port, v1=(1, one.address))
        proxy.reload(routes({**without, "allow": ["198.51.100.1"]}))
        for client, number in ((allowed, 1), (denied, 2)):
            client.sendall(v1(number)[20:] + b"hello\n")
        assert answer(allowed) == b"one hello\n"
        with pytest.raises(ConnectionResetError):
            denied.recv(1)
    wait_for(lambda: closed(proxy) == {"finished": 1, "not_allowed": 1}, "both to end")


def test_kills(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda part: kill_workers(proxy))


@pytest.fixture
def on_unix(start_proxy: StartProxy, one: EchoServer, tmp_path: Path) -> Proxy:
    made = accepting(one, peers=["unix"])
    return start_proxy(routes({**made, "listen": f"unix:{tmp_path}/in"}))


def test_kills_while_headers_come_over_a_unix_socket(on_unix: Proxy) -> None:
    in_the_midst(on_unix, lambda part: kill_workers(on_unix))


@pytest.mark.parametrize("over", ["proxy", "on_unix"])
def test_kills_at_any_moment(over: str, request: pytest.FixtureRequest) -> None:
    """Also in the midst of taking a header out of the stream."""
    proxy: Proxy = request.getfixturevalue(over)
    chance = random.Random(18)
    for _ in range(6):
        with connected(proxy, CLIENTS) as clients:
            for number, client in enumerate(clients):
                client.sendall(header(number) + b"hello\n")
                perhaps_kill(proxy, chance, 5)
            assert [answer(client) for client in clients] == [b"one hello\n"] * CLIENTS
            await_clients(proxy, [named(number, header(number)) for number in range(CLIENTS)])
        wait_for(lambda: not connections(proxy), "every connection to end")


def test_headers_that_are_known_and_not_yet_taken(start_proxy: StartProxy, one: EchoServer) -> None:
    """What is read next drops them; until then they outlive kills and moves to other workers."""
    made = {**accepting(one), "on_all_unavailable": {"hold": "10m"}}
    proxy = start_proxy(routes(made))
    assert proxy.run("drain", "r/v1", "--force").returncode == 0
    with connected(proxy, CLIENTS) as clients:
        for number, client in enumerate(clients):
            client.sendall(header(number) + (b"hello\n", b"hel", b"")[number % 3])
        for count in (3, 1):
            wait_for(lambda: states(proxy) == {"waiting": CLIENTS}, "all to be held")
            kill_workers(proxy)
            set_workers(proxy, made, count)
        wait_for(lambda: states(proxy) == {"waiting": CLIENTS}, "all to be held")
        assert proxy.run("enable", "r/v1").returncode == 0
        for number, client in enumerate(clients):
            client.sendall((b"", b"lo\n", b"hello\n")[number % 3])
        assert [answer(client) for client in clients] == [b"one hello\n"] * CLIENTS
        await_clients(proxy, [named(number, header(number)) for number in range(CLIENTS)])
    wait_for(lambda: closed(proxy) == {"finished": CLIENTS}, "every connection to end")


def test_other_workers(proxy: Proxy, one: EchoServer) -> None:
    """Workers come and go, and hand their connections over."""
    parts = accepting(one, address(proxy)[1])

    in_the_midst(proxy, lambda part: set_workers(proxy, parts, (1, 3, 2)[part]))


@needs_reachable
def test_an_upgrade(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda part: upgrade(proxy, part + 1))
