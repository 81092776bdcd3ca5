"""Opening listening sockets: nobody shares an address with us unseen, and what a host lacks."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tcpmux import sock_diag
from tcpmux.config import Address
from tcpmux.master import listeners as module
from tcpmux.master import port_guard
from tcpmux.master.listeners import Listeners
from tcpmux.master.port_guard import ListenError
from tests.support import free_port

Open = Callable[..., Listeners]


@pytest.fixture
def instance() -> Iterator[Open]:
    """instance(port, hosts...) opens these as an instance of its own does."""
    made: list[Listeners] = []

    def start(port: int, *hosts: str) -> Listeners:
        made.append(Listeners(2))
        add(made[-1], port, *hosts)
        return made[-1]

    yield start
    for one in made:
        one.close_all(keep_files=False)


def add(listeners: Listeners, port: int, *hosts: str) -> None:
    addresses = [Address(host, port, "") for host in hosts]
    listeners.add(listeners.open_missing([*listeners.by_address, *addresses]))


# What one instance has, what another one wants, and whether that is somebody else's.
MATRIX = [
    (["127.0.0.1"], ["127.0.0.1"], True),
    (["0.0.0.0"], ["127.0.0.1"], True),
    (["127.0.0.1"], ["0.0.0.0"], True),
    (["::"], ["127.0.0.1"], True),
    (["127.0.0.1"], ["::"], True),
    (["::"], ["::1"], True),
    (["::"], ["::"], True),
    (["0.0.0.0", "::"], ["0.0.0.0", "::"], True),
    (["0.0.0.0", "::"], ["::", "0.0.0.0"], True),
    (["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"], True),
    (["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.3"], True),
    (["127.0.0.1", "::1"], ["::"], True),
    (["0.0.0.0"], ["::", "0.0.0.0"], True),
    (["127.0.0.1"], ["127.0.0.2"], False),
    (["127.0.0.1", "127.0.0.2"], ["127.0.0.3", "127.0.0.4"], False),
    (["127.0.0.1"], ["::1"], False),
    (["0.0.0.0"], ["::1"], False),
]


@pytest.mark.parametrize(("has", "wants", "taken"), MATRIX)
def test_two_instances_never_share_clients(
    instance: Open, has: list[str], wants: list[str], taken: bool
) -> None:
    """Whatever addresses each has on the port; and all that the second one opened is let go."""
    port = free_port()
    instance(port, *has)
    if not taken:
        instance(port, *wants)
        return
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError) as raised:
        instance(port, *wants)
    assert f"(pid {os.getpid()}) has " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("has", "wants", "taken"), MATRIX)
def test_a_reload_takes_nothing_of_another_instance(
    instance: Open, has: list[str], wants: list[str], taken: bool
) -> None:
    """Also where it has an address of its own on that port already."""
    port = free_port()
    instance(port, *has)
    second = instance(port, "127.0.0.9") if not {"0.0.0.0", "::"} & {*has} else instance(port)
    if not taken:
        add(second, port, *wants)
        return
    before = len(second)
    with pytest.raises(ListenError):
        add(second, port, *wants)
    assert len(second) == before


@pytest.mark.parametrize(
    "steps",
    [
        [["0.0.0.0", "::"]],
        [["::", "127.0.0.1", "::1"]],
        [["127.0.0.1"], ["127.0.0.2"]],
        [["127.0.0.1"], ["0.0.0.0"]],
        [["::"], ["127.0.0.1"]],
        [["::"], ["0.0.0.0"]],
        [["0.0.0.0"], ["127.0.0.1"], ["::"]],
    ],
)
def test_one_instance_may_have_several_addresses_on_a_port(
    instance: Open, steps: list[list[str]]
) -> None:
    """At once and by reloads, also such that overlap."""
    port = free_port()
    listeners = instance(port)
    for hosts in steps:
        add(listeners, port, *hosts)
    assert len(listeners) == 2 * sum(map(len, steps))


def test_another_program_with_the_same_option_is_refused(instance: Open) -> None:
    """Any socket with SO_REUSEPORT of the same user would get a part of the clients."""
    port = free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ListenError, match=rf"pid {os.getpid()}\) has 127.0.0.1:{port}"):
            instance(port, "127.0.0.1")


def test_one_that_came_at_the_same_time_is_found(
    instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the bind."""
    port = free_port()
    bind = module._bind_shards
    with ExitStack() as stack:

        def late(*arguments: Any, **options: Any) -> list[socket.socket]:
            other = stack.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            return bind(*arguments, **options)

        monkeypatch.setattr(module, "_bind_shards", late)
        with pytest.raises(ListenError, match="already in use"):
            instance(port, "127.0.0.1")


def test_an_ipv6_socket_that_leaves_ipv4_alone_takes_nothing_from_it(instance: Open) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", port))
        other.listen()
        instance(port, "0.0.0.0")
        with pytest.raises(ListenError):
            instance(port, "::1")


def test_who_has_a_port_is_named(instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or how to find out, where that can't be seen; or what was seen while it could."""
    port = free_port()
    instance(port, "127.0.0.1")
    me = rf"\(pid {os.getpid()}\) has 127.0.0.1:{port}\)"
    with pytest.raises(ListenError, match=me):
        instance(port, "127.0.0.1")
    monkeypatch.setattr(port_guard, "_known", {})
    with monkeypatch.context() as patch:
        patch.setattr(sock_diag, "holder", lambda _: "")
        how = f"another process has 127.0.0.1:{port}: `sudo ss -Hltnp sport = :{port}` shows which"
        with pytest.raises(ListenError, match=how):
            instance(port, "127.0.0.1")
    port_guard.note_holders([Address("0.0.0.0", port, "")])
    monkeypatch.setattr(sock_diag, "holder", lambda _: "")
    with pytest.raises(ListenError, match=me):
        instance(port, "127.0.0.1")


def test_who_listens_on_a_unix_socket_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(OSError, match=rf"\(pid {os.getpid()}\) listens on it"):
            module.bind_unix(path, None)


def test_where_the_kernel_lists_nothing_a_bind_still_tells(
    instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Iterator[sock_diag.ListeningSocket]:
        raise OSError(errno.EPROTONOSUPPORT, "not here")

    monkeypatch.setattr(sock_diag, "listening", refuse)
    port = free_port()
    instance(port, "0.0.0.0", "::")
    with pytest.raises(ListenError, match="another process has it"):
        instance(port, "0.0.0.0", "::")


class WithoutIpv6(socket.socket):
    def __init__(self, family: int = -1, kind: int = -1, *more: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, kind, *more, **named)


def test_every_address_of_a_host_without_ipv6_is_ipv4(
    instance: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`:P` is listened on there, with a word in the log; an address of IPv6 is an error."""
    port = free_port()
    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    with caplog.at_level(logging.WARNING):
        listeners = instance(port, "::")
    (listener,) = listeners.by_address.values()
    assert [sock.getsockname() for sock in listener.sockets] == [("0.0.0.0", port)] * 2
    assert f"no IPv6: listening on [::]:{port} as 0.0.0.0" in caplog.text
    for hosts in (["::1"], ["0.0.0.0", "::"]):
        with pytest.raises(ListenError, match="this host has no IPv6"):
            instance(free_port(), *hosts)
