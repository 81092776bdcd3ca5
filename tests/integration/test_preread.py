"""Connections whose first bytes are looked at before they are given to a destination."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.client_hellos import hello, in_records, message, of_openssl
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
from tests.integration.small_buffers import PIECES, SIZES
from tests.others import needs_reachable
from tests.support import (
    DEADLINE,
    EchoServer,
    free_port,
    patient,
    read_all,
    receive,
    wait_for,
    will_reset,
)

CLIENTS = 24
ALPN = ("h2", "http/1.1")


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """Sends every byte back."""
    server = EchoServer()
    yield server
    server.close()


def reading(echo: EchoServer, port: int = 0, **preread: Any) -> dict[str, Any]:
    """A route that reads a ClientHello. preread: its keys."""
    made = route("r", port or free_port(), v1=(1, echo.address))
    return {**made, "preread": {"timeout": "10m", **preread}}


@pytest.fixture
def proxy(start_proxy: StartProxy, echo: EchoServer) -> Proxy:
    return start_proxy(routes(reading(echo)))


def names(proxy: Proxy) -> list[str | None]:
    return sorted(row["sni"] or "" for row in connections(proxy))


def counters(proxy: Proxy) -> dict[str, int]:
    """Those of all workers that are about first bytes, without preread_."""
    found: Counter[str] = Counter()
    for worker in proxy.status()["workers"]:
        for name, count in worker["counters"].items():
            if name.startswith("preread_") and count:
                found[name.removeprefix("preread_")] += count
    return dict(found)


def is_reset(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b"never"
    except ConnectionResetError:
        return True


# --- what is read ---------------------------------------------------------------------------------


def test_names_are_told_and_every_byte_is_passed_on(
    start_proxy: StartProxy, echo: EchoServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    proxy = start_proxy(routes(reading(echo), access_log=str(log)))
    sent = of_openssl("Shop.Example", ALPN)
    with connected(proxy, 1) as (client,):
        client.sendall(sent)
        assert receive(client, len(sent)) == sent
        (row,) = connections(proxy)
        assert (row["sni"], row["alpn"]) == ("shop.example", [*ALPN])
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), "its line")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["requested_server_name"], line["alpn"]) == ("shop.example", "h2,http/1.1")
    assert counters(proxy) == {"tls": 1}


@pytest.mark.parametrize("size", [300, 1800, 16384])
def test_hellos_in_many_records(proxy: Proxy, size: int) -> None:
    with connected(proxy, 10) as clients:
        for records, client in enumerate(clients, 1):
            sent = hello(f"r{records}.example", ALPN, size, records)
            client.sendall(sent)
            assert receive(client, len(sent)) == sent
        assert names(proxy) == sorted(f"r{n}.example" for n in range(1, 11))
    assert counters(proxy)["tls"] == 10


def test_a_hello_cut_at_every_byte(proxy: Proxy) -> None:
    """Of those that are cut somewhere else half of all wait at any time."""
    sent = hello("shop.example", ALPN, 300, 3)
    cuts = range(1, len(sent))
    with connected(proxy, len(cuts)) as clients:
        for cut, client in zip(cuts, clients, strict=True):
            client.sendall(sent[:cut])
        wait_for(lambda: states(proxy) == {"reading": len(cuts)}, "all to be read from")
        for cut, client in zip(cuts, clients, strict=True):
            client.sendall(sent[cut:])
        for client in clients:
            assert receive(client, len(sent)) == sent
        assert names(proxy) == ["shop.example"] * len(cuts)


def test_byte_by_byte_wakes_a_worker_a_few_times(start_proxy: StartProxy, echo: EchoServer) -> None:
    """The socket waits for what is missing at the least."""
    proxy = start_proxy(routes(reading(echo), workers=1))
    sent = hello("shop.example", ALPN, 3000, 10)

    def looks() -> int:
        return int(proxy.status()["workers"][0]["counters"]["wakeups"])

    with connected(proxy, 1) as (client,):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(sent[:5])
        wait_for(lambda: states(proxy) == {"reading": 1}, "it to be read from")
        before = looks()
        for byte in sent[5:]:
            client.sendall(bytes([byte]))
        assert receive(client, len(sent)) == sent
        assert looks() - before < len(sent) // 10
        assert names(proxy) == ["shop.example"]
        # And is one like any other afterwards.
        for _ in range(3):
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_records_of_one_byte(proxy: Proxy) -> None:
    sent = in_records(message("shop.example", ALPN, 1500), 1)
    with connected(proxy, 1) as (client,):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), 100):
            client.sendall(sent[at : at + 100])
        assert receive(client, len(sent)) == sent
        assert names(proxy) == ["shop.example"]


def test_what_is_no_tls_goes_on_at_the_byte_that_decides(proxy: Proxy) -> None:
    firsts = [b"G", b"\0", b"\x80", b"\x16\x02", b"\x16\x03\x01\0\x04\x02"]
    with connected(proxy, len(firsts)) as clients:
        for client, first in zip(clients, firsts, strict=True):
            client.sendall(first)
            assert receive(client, len(first)) == first
        assert names(proxy) == [""] * len(firsts)
    assert counters(proxy) == {"other": len(firsts)}


def test_behind_a_proxy_header(start_proxy: StartProxy, echo: EchoServer) -> None:
    parts = {**reading(echo), "accept_proxy": {"from": ["127.0.0.1"]}}
    proxy = start_proxy(routes(parts))
    sent = hello("shop.example", ALPN)
    with connected(proxy, 2) as clients:
        for client, cut in zip(clients, (40, 60), strict=True):
            whole = b"PROXY TCP4 198.51.100.1 192.0.2.1 1001 443\r\n" + sent
            client.sendall(whole[:cut])
            wait_for(lambda: "reading" in states(proxy), "it to be read from")
            client.sendall(whole[cut:])
            assert receive(client, len(sent)) == sent
        assert names(proxy) == ["shop.example"] * 2
        assert {row["client"] for row in connections(proxy)} == {"198.51.100.1:1001"}


def test_a_header_may_take_longer_than_a_hello(start_proxy: StartProxy, echo: EchoServer) -> None:
    """Its client's own bytes can't come before it has ended."""
    limit = 2.0
    parts = reading(echo, timeout=f"{limit:g}s", silent="reject")
    proxy = start_proxy(routes({**parts, "accept_proxy": {"from": ["127.0.0.1"], "timeout": "1h"}}))
    sent = hello("shop.example", ALPN)
    with connected(proxy, 1) as (client,):
        wait_for(lambda: [row for row in connections(proxy) if row["age"] > limit], "its age")
        client.sendall(b"PROXY TCP4 198.51.100.1 192.0.2.1 1001 443\r\n")
        wait_for(lambda: [row for row in connections(proxy) if row["peer"]], "its header")
        client.sendall(sent)
        assert receive(client, len(sent)) == sent
        assert names(proxy) == ["shop.example"]


@pytest.mark.parametrize("rules", [[], [{"alpn": "last", "reject": True}]], ids=["none", "some"])
def test_a_list_of_protocols_without_room(
    start_proxy: StartProxy, echo: EchoServer, rules: list[dict[str, Any]]
) -> None:
    """Where rules go by protocols, one of them could be among those that are left out."""
    proxy = start_proxy(routes({**reading(echo), "rules": rules}))
    sent = hello("shop.example", ("x" * 30, "y" * 30, "z" * 20, "last"))
    with connected(proxy, 1) as (client,):
        client.sendall(sent)
        if not rules:
            assert receive(client, len(sent)) == sent
            return
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_for(lambda: closed(proxy) == {"client_hello": 1}, "its end")
    assert counters(proxy) == {"too_long": 1}


def test_clients_of_a_unix_socket(
    start_proxy: StartProxy, echo: EchoServer, open_path: Path
) -> None:
    path = open_path / "in"
    proxy = start_proxy(routes({**reading(echo), "listen": f"unix:{path}"}))
    sent = hello("shop.example", ALPN, 3000, 4)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(path))
        for at in range(0, len(sent), 100):
            client.sendall(sent[at : at + 100])
        assert receive(client, len(sent)) == sent
        assert names(proxy) == ["shop.example"]


# --- who says nothing -----------------------------------------------------------------------------


def test_who_says_nothing_goes_on_in_the_end(start_proxy: StartProxy, echo: EchoServer) -> None:
    """As where the server speaks first."""
    proxy = start_proxy(routes(reading(echo, timeout="300ms")))
    with connected(proxy, 1) as (client,):
        wait_for(lambda: states(proxy) == {"relaying": 1}, "it to go on")
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    assert counters(proxy) == {"silent": 1}


def test_who_will_say_nothing_goes_on_at_once(proxy: Proxy) -> None:
    with connected(proxy, 1) as (client,):
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    wait_for(lambda: closed(proxy) == {"finished": 1}, "it to end")
    assert counters(proxy) == {"silent": 1}


@pytest.mark.parametrize("timeout", ["10m", "200ms"])
def test_who_says_nothing_may_be_reset(
    start_proxy: StartProxy, echo: EchoServer, timeout: str
) -> None:
    proxy = start_proxy(routes(reading(echo, timeout=timeout, silent="reject")))
    with connected(proxy, 1) as (client,):
        if timeout == "10m":
            client.shutdown(socket.SHUT_WR)
        assert is_reset(client)
    assert closed(proxy) == {"client_hello": 1}
    assert counters(proxy) == {"silent": 1}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x16\x03\x01\0\0", "malformed"),
        (in_records(message("a.example")[:60], 30) + b"\x17\x03\x03\0\1x", "malformed"),
        (hello(size=3000, records=2), "too_long"),
        (hello(size=3000)[:9], "too_long"),
    ],
)
def test_a_bad_hello_is_reset_and_counted(
    start_proxy: StartProxy, echo: EchoServer, tmp_path: Path, sent: bytes, why: str
) -> None:
    log = tmp_path / "log"
    proxy = start_proxy(routes(reading(echo, limit="2KiB"), access_log=str(log)))
    with connected(proxy, 1) as (client,):
        with suppress(ConnectionError):
            client.sendall(sent)
        assert is_reset(client)
    assert closed(proxy) == {"client_hello": 1}
    assert counters(proxy) == {why: 1}
    assert echo.accepted == 0
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), "its line")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["response_flags"], line["limit"]) == ("DPE", "preread")
    assert line["connection_termination_details"] == f"client_hello_{why}"


def test_a_hello_that_is_late(start_proxy: StartProxy, echo: EchoServer) -> None:
    """The time is of all of it: parts do not prolong it."""
    proxy = start_proxy(routes(reading(echo, timeout="300ms", silent="default")))
    with ExitStack() as stack:
        with workers_stopped(proxy):
            clients = stack.enter_context(connected(proxy, 2))
            for client, size in zip(clients, (1, 200), strict=True):
                client.sendall(hello(size=400)[:size])
        assert all(map(is_reset, clients))
    assert closed(proxy) == {"client_hello": 2}
    assert counters(proxy) == {"late": 2}


def test_a_hello_that_can_not_become_whole(proxy: Proxy) -> None:
    """Its client ends, or sends urgent data, behind which nobody sees."""
    with connected(proxy, 2) as (ends, urgent):
        ends.sendall(hello(size=400)[:200])
        ends.shutdown(socket.SHUT_WR)
        assert is_reset(ends)
        urgent.sendall(hello(size=400)[:200])
        urgent.send(b"!", socket.MSG_OOB)
        assert is_reset(urgent)
    assert counters(proxy) == {"malformed": 2}


def test_a_client_that_resets(proxy: Proxy) -> None:
    with connected(proxy, 2) as clients:
        clients[0].sendall(hello(size=400)[:200])
        wait_for(lambda: states(proxy) == {"reading": 2}, "both to be read from")
        for client in clients:
            will_reset(client)
            client.close()
        wait_for(lambda: closed(proxy) == {"client_reset": 2}, "both to end")


def test_a_client_that_has_reset_before_anybody_looks(proxy: Proxy) -> None:
    """What it has sent can be read all the same."""
    with workers_stopped(proxy), connected(proxy, 1) as (client,):
        client.sendall(hello(size=400)[:200])
        will_reset(client)
    wait_for(lambda: closed(proxy) == {"client_reset": 1}, "it to end")


@pytest.mark.parametrize(("memory", "largest"), [(4096, 1800), (131072, 40000)])
def test_a_socket_that_can_not_hold_it(tmp_path: Path, memory: int, largest: int) -> None:
    """Its client is reset at once, however it sends it; it is not waited for in vain."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    program = ["unshare", "--net", sys.executable, "-m", "tests.integration.small_buffers"]
    done = subprocess.run(
        [*program, str(tmp_path), str(memory)],
        capture_output=True, text=True, timeout=patient(100), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passes"] == [[size, piece, size <= largest] for size in SIZES for piece in PIECES]
    assert found["too_long"] == sum(not passes for _, _, passes in found["passes"])


# --- what it outlives -----------------------------------------------------------------------------


def in_the_midst(proxy: Proxy, disturb: Callable[[int], None]) -> None:
    """Hellos come in four parts, and between two of them something happens."""
    hellos = [hello(f"c{n}.example", ALPN, 400 + 137 * n, 1 + n % 5) for n in range(CLIENTS)]
    with connected(proxy, CLIENTS) as clients:
        for part in range(3):
            for client, sent in zip(clients, hellos, strict=True):
                size = len(sent) // 4
                client.sendall(sent[part * size : (part + 1) * size])
            disturb(part)
            wait_for(lambda: states(proxy) == {"reading": CLIENTS}, "all to be read from")
        for client, sent in zip(clients, hellos, strict=True):
            client.sendall(sent[len(sent) // 4 * 3 :] + b"x")
        for client, sent in zip(clients, hellos, strict=True):
            assert receive(client, len(sent) + 1) == sent + b"x"
        # One that is being handed over is nobody's for a moment.
        told = sorted(f"c{n}.example" for n in range(CLIENTS))
        wait_for(lambda: names(proxy) == told, "every name to be told")
        for client in clients:  # one byte is enough again
            client.sendall(b"y")
            assert client.recv(1) == b"y"
    wait_for(lambda: closed(proxy) == {"finished": CLIENTS}, "every connection to end")


def test_kills(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda part: kill_workers(proxy))


def test_kills_at_any_moment(proxy: Proxy) -> None:
    chance = random.Random(18)
    for _ in range(4):
        sent = [hello(f"c{n}.example", ALPN, 400 + 97 * n, 1 + n % 5) for n in range(CLIENTS)]
        with connected(proxy, CLIENTS) as clients:
            for half in (slice(None, 150), slice(150, None)):
                for client, text in zip(clients, sent, strict=True):
                    client.sendall(text[half])
                    perhaps_kill(proxy, chance, 6)
            for client, text in zip(clients, sent, strict=True):
                assert receive(client, len(text)) == text
            assert names(proxy) == sorted(f"c{n}.example" for n in range(CLIENTS))
        wait_for(lambda: not connections(proxy), "every connection to end")


def test_other_workers(proxy: Proxy, echo: EchoServer) -> None:
    """Workers come and go, and hand their connections over."""
    parts = reading(echo, address(proxy)[1])
    in_the_midst(proxy, lambda part: set_workers(proxy, parts, (1, 3, 2)[part]))


@needs_reachable
def test_an_upgrade(proxy: Proxy) -> None:
    in_the_midst(proxy, lambda part: upgrade(proxy, part + 1))


def test_a_reload_without_it(proxy: Proxy, echo: EchoServer) -> None:
    """Nobody waits for the rest any more, and what has come is passed on."""
    sent = hello("shop.example", size=400)
    with connected(proxy, 2) as clients:
        clients[0].sendall(sent[:200])
        wait_for(lambda: states(proxy) == {"reading": 2}, "both to be read from")
        proxy.reload(routes(route("r", address(proxy)[1], v1=(1, echo.address))))
        clients[0].sendall(sent[200:])
        clients[1].sendall(b"x")
        assert receive(clients[0], len(sent)) == sent
        assert receive(clients[1], 1) == b"x"
    wait_for(lambda: closed(proxy) == {"finished": 2}, "both to end")
