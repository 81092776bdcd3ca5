"""Endpoints that are told who the client is, by a header of the PROXY protocol."""

from __future__ import annotations

import json
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, closed, connected, connections, perhaps_kill
from tests.integration.routes import route, routes
from tests.integration.test_accept_proxy import SIGNATURE, accepting, tlv, v1, v2
from tests.support import DEADLINE, EchoServer, free_port, receive, wait_for, will_reset

CLIENTS = 30


ALL = {
    "version": 2,
    "crc32c": True,
    "unique_id": True,
    "authority": True,
    "alpn": True,
    "decision": "0xE0",
    "pass": ["0xEA", "0xE1"],
}


def sending(endpoint: EchoServer, version: Any, port: int = 0) -> dict[str, Any]:
    made = route("r", port or free_port(), v1=(1, endpoint.address))
    made["destinations"][0]["send_proxy"] = version
    return made


def received(client: socket.socket, size: int) -> bytes:
    got = receive(client, size)
    assert len(got) == size, f"ended after {got!r}"
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


def segments_of(server: socket.socket) -> int:
    """Those with data that have come."""
    information = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return int(struct.unpack_from("=I", information, 152)[0])


@pytest.mark.parametrize("protocol", ["none", "redis"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_and_the_first_bytes_are_one_segment(
    start_proxy: StartProxy, version: int, protocol: str
) -> None:
    """They are there when the endpoint is connected to: they have come with a header. Also where
    what they say is followed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        made = route("r", free_port(), v1=(1, f"127.0.0.1:{listener.getsockname()[1]}"))
        made["destinations"][0]["send_proxy"] = version
        made["accept_proxy"] = {"from": ["127.0.0.1"]}
        made["converge"] = {"when": "manual", "protocol": protocol}
        proxy = start_proxy(routes(made))
        with connected(proxy, 1) as (client,):
            client.sendall(v1(7) + b"first")
            server, _ = listener.accept()
            with server:
                server.settimeout(DEADLINE)
                size = len(v1(7)) if version == 1 else len(v2(7))
                assert received(server, size + 5)[size:] == b"first"
                assert segments_of(server) == 1
                client.sendall(b"second")
                assert received(server, 6) == b"second"
                assert segments_of(server) == 2


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


def test_an_endpoint_that_resets_after_the_header_has_had_the_connection(
    start_proxy: StartProxy, mirror: EchoServer
) -> None:
    """No other one is tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        made = sending(mirror, 2)
        resets = "{}:{}".format(*server.getsockname())
        made["destinations"][0]["endpoints"] = [
            resets,
            {"address": mirror.address, "backup": True},
        ]
        proxy = start_proxy(routes(made))
        with connected(proxy, 1) as (client,):
            taken, _ = server.accept()
            assert received(taken, 28) == expected(client, address(proxy)[1], 2)
            will_reset(taken)
            taken.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    wait_for(lambda: closed(proxy) == {"endpoint_reset": 1}, "it to end")
    assert mirror.accepted == 0


def received_v2(client: socket.socket) -> bytes:
    head = received(client, 16)
    return head + received(client, int.from_bytes(head[14:], "big"))


def tlvs_of(header: bytes, addresses: int = 12) -> list[tuple[int, bytes]]:
    at, found = 16 + addresses, []
    while at < len(header):
        end = at + 3 + int.from_bytes(header[at + 1 : at + 3], "big")
        found.append((header[at], header[at + 3 : end]))
        at = end
    assert at == len(header)
    return found


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_what_else_an_endpoint_can_be_told(start_proxy: StartProxy, mirror: EchoServer) -> None:
    """Of the connection, and of the header that came in; the checksum is over all of it."""
    made = accepting(mirror)
    made["destinations"][0]["send_proxy"] = ALL
    proxy = start_proxy(routes(made))
    came = tlv(0x02, b"shop.example") + tlv(0x01, b"h2") + tlv(0xE1, b"") + tlv(0xE2, b"not this")
    came += tlv(0xEA, b"\x01vpce-1") + tlv(0xE1, b"again") + tlv(0xE0, b"is ours")
    with connected(proxy, 1) as (client,):
        client.sendall(v2(7, came) + b"hello")
        header = received_v2(client)
        assert received(client, 5) == b"hello"
        (row,) = connections(proxy)
    assert header[:12] == SIGNATURE
    assert header[12:14] + header[16:28] == v2(7)[12:14] + v2(7)[16:28]
    *tlvs, (last, checksum) = tlvs_of(header)
    assert tlvs == [
        (0x05, row["unique_id"].encode()),
        (0xE0, f"r/v1 {row['generation']} {row['pick_reason']}".encode()),
        (0x02, b"shop.example"),
        (0x01, b"h2"),
        (0xE1, b""),
        (0xEA, b"\x01vpce-1"),
        (0xE1, b"again"),
    ]
    assert last == 0x03
    assert int.from_bytes(checksum, "big") == crc32c(header[:-4] + bytes(4))


def test_a_client_without_an_address_can_be_told_of(
    start_proxy: StartProxy, mirror: EchoServer, tmp_path: Path
) -> None:
    """Receivers ignore TLVs of LOCAL: it is a UNIX socket then, as it is."""
    made = sending(mirror, {"version": 2, "unique_id": True})
    path = str(tmp_path / "in")
    proxy = start_proxy(routes({**made, "listen": f"unix:{path}"}))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(path)
        header = received_v2(client)
        (row,) = connections(proxy)
    assert header[12:232] == b"\x21\x31" + struct.pack(">H", len(header) - 16) + bytes(216)
    assert tlvs_of(header, 216) == [(0x05, row["unique_id"].encode())]


def test_the_unique_id_stays_with_a_connection(
    start_proxy: StartProxy, mirror: EchoServer, tmp_path: Path
) -> None:
    """Also in another worker: the log has it as the endpoint has."""
    log = tmp_path / "access.log"
    parts = sending(mirror, {"version": 2, "unique_id": True})
    logged = {"access_log": {"path": str(log)}}
    proxy = start_proxy(routes(parts, workers=2, **logged))

    def workers() -> list[int]:
        return [row["worker"] for row in connections(proxy)]

    with connected(proxy, CLIENTS) as clients:
        ids = sorted(tlvs_of(received_v2(client))[0][1].decode() for client in clients)
        proxy.reload(routes(parts, workers=1, **logged))
        wait_for(lambda: workers() == [0] * CLIENTS, "all in one worker")
        rows = connections(proxy)
        assert sorted(row["unique_id"] for row in rows) == ids
        assert any(row["unique_id"] != row["id"] for row in rows)
    wait_for(lambda: log.read_text().count("\n") == CLIENTS, "all to be logged")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(line["unique_id"] for line in lines) == ids


@pytest.fixture
def unix_mirror(echo_servers: Any, open_path: Path) -> EchoServer:
    server: EchoServer = echo_servers("", socket.AF_UNIX, f"{open_path}/out")
    return server


@pytest.mark.parametrize("version", [1, 2])
def test_endpoints_on_unix_sockets(
    start_proxy: StartProxy, unix_mirror: EchoServer, version: int
) -> None:
    """They hear of clients as others do, and of who checks them."""
    made = sending(unix_mirror, version)
    made["check"] = {"type": "send", "expect": "PROXY" if version == 1 else "QUIT"}
    proxy = start_proxy(routes(made))
    port = address(proxy)[1]
    with connected(proxy, 1) as (client,):
        header = expected(client, port, version)
        assert received(client, len(header)) == header
    wait_for(
        lambda: proxy.status()["routes"][0]["destinations"][0]["endpoints"][0]["health"] == "up",
        "the check to have heard its own header",
    )


@pytest.mark.parametrize("options", [2, ALL], ids=["short", "long"])
@pytest.mark.parametrize("to", ["mirror", "unix_mirror"])
def test_kills_at_any_moment(
    start_proxy: StartProxy, to: str, request: pytest.FixtureRequest, options: Any
) -> None:
    """Each endpoint gets the header once, whole, ahead of all else."""
    mirror: EchoServer = request.getfixturevalue(to)
    made = accepting(mirror)
    made["destinations"][0]["send_proxy"] = options
    proxy = start_proxy(routes(made))
    chance = random.Random(18)
    for _ in range(8):
        with connected(proxy, CLIENTS) as clients:
            for number, client in enumerate(clients):
                client.sendall(v2(number, tlv(0xEA, b"%d" % number)) + b"hello")
                perhaps_kill(proxy, chance, 5)
            for number, client in enumerate(clients):
                header = received_v2(client)
                assert header[16:28] == v2(number)[16:28]
                assert received(client, 5) == b"hello"
                if options == 2:
                    assert header == v2(number)
                else:
                    kinds = [kind for kind, _ in tlvs_of(header)]
                    assert kinds == [0x05, 0xE0, 0xEA, 0x03]
                    assert (0xEA, b"%d" % number) in tlvs_of(header)
                    assert int.from_bytes(header[-4:], "big") == crc32c(header[:-4] + bytes(4))
        wait_for(lambda: not connections(proxy), "every connection to end")
