"""Clients that do not read, as the kernel sees their proxy: a user whose pipes are counted."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.looking import metric
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import needs_root
from tests.relay.cases import fill
from tests.support import DEADLINE, wait_for

KIB, MIB = 1 << 10, 1 << 20
PAGES = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
CLIENTS = 80  # more than there can be pipes of 1 MiB
TASTE = 400 * KIB
SOMEBODY = "4243"  # a user that nobody has, so that nobody else has pipes of its


@pytest.fixture
def endpoint() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)) as listener:
        listener.settimeout(DEADLINE)
        yield listener


def address_of(endpoint: socket.socket) -> str:
    return f"127.0.0.1:{endpoint.getsockname()[1]}"


def start(start_proxy: StartProxy, endpoint: socket.socket, port: int, **buffers: str) -> Proxy:
    address = address_of(endpoint)
    return start_proxy(
        routes(
            route("r", port, v1=(1, address)),
            workers=1,
            user=SOMEBODY,
            group=SOMEBODY,
            buffers=buffers,
        )
    )


def stalled(endpoint: socket.socket, port: int, count: int, stack: ExitStack) -> None:
    """Clients that read a good deal, and then no more, while the endpoint goes on."""
    servers = []
    for _ in range(count):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", port))
        server = stack.enter_context(endpoint.accept()[0])
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        server.setblocking(False)
        left = TASTE
        while left > 0:
            fill([server], 0)
            left -= len(client.recv(left))
        servers.append(server)
    fill(servers, 0.1)


@needs_root
@pytest.mark.skipif(not 8192 <= PAGES <= 16384, reason="another number of pages than is usual")
def test_an_ordinary_user_has_a_pipe_for_each(
    start_proxy: StartProxy, endpoint: socket.socket, port: int
) -> None:
    """The kernel lets a user have 64 of those that we would like."""
    proxy = start(start_proxy, endpoint, port, per_source="off", total="off")
    with ExitStack() as stack:
        stalled(endpoint, port, CLIENTS, stack)

        def told() -> tuple[Any, Any]:
            status = proxy.status()
            return status["buffers"], status["workers"][0]

        def agree() -> bool:
            """They are read one after the other, and pipes shrink meanwhile."""
            buffers, worker = told()
            return bool(buffers["pipe_bytes"] == worker["pipe_bytes"] > 0)

        wait_for(agree, "both sums to be the same")
        buffers, worker = told()
        assert worker["pipes"] >= CLIENTS
        assert buffers["pipe_fallbacks_total"] == 0
        assert buffers["pipe_bytes_limit"] == PAGES * 4096 * 3 // 4
        assert "pipe" not in proxy.run("status").stdout


def test_what_is_pinned_is_shown(
    start_proxy: StartProxy, endpoint: socket.socket, port: int
) -> None:
    proxy = start_proxy(
        routes(
            route("r", port, v1=(1, address_of(endpoint))),
            buffers={"per_source": "1GiB", "total": "2GiB"},
        )
    )
    with ExitStack() as stack:
        stalled(endpoint, port, 2, stack)
        wait_for(lambda: proxy.status()["buffers"]["pinned_bytes"], "them to be seen")
        buffers = proxy.status()["buffers"]
        assert buffers["pinned_bytes_limit"] == 2 << 30
        assert buffers["pinned_bytes_limit_per_source"] == 1 << 30
        assert metric(proxy.admin, "tcpmux_pinned_bytes_limit", of="source") == 1 << 30
        assert metric(proxy.admin, "tcpmux_pinned_bytes") > 0
        assert metric(proxy.admin, "tcpmux_pipe_bytes_limit") == buffers["pipe_bytes_limit"]
        assert "has stopped reading hold" in proxy.run("status").stdout
        # A reload that changes nothing else changes the limits, at once.
        proxy.write(
            routes(
                route("r", port, v1=(1, address_of(endpoint))),
                buffers={"per_source": "64KiB", "total": "off"},
            )
        )
        assert "buffers changed" in proxy.run("reload").stdout
        wait_for(lambda: proxy.status()["routes"][0]["closed"]["unread"] == 2, "both to be reset")
    proxy.says("buffers.per_source")
