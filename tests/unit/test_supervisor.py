"""The service manager's protocol, without a tcpmux: what is sent, what waits, what is refused."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tcpmux import programs
from tcpmux.config import Address
from tcpmux.errors import TcpmuxError
from tcpmux.master.listeners import Listeners, Origin
from tcpmux.master.port_guard import ListenError
from tcpmux.master.supervisor import (
    MAX_FDS,
    MAX_NAME,
    MAX_WAITING,
    Inherited,
    Supervisor,
    inherited_sockets,
    stored_name,
)
from tcpmux.shm._declared import MAX_SHARDS
from tests.support import free_port

ADDRESS = Address("127.0.0.1", 80, "")


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with (
        TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{directory}/notify")
        sock.setblocking(False)
        yield sock


@pytest.fixture
def supervisor(manager: socket.socket) -> Supervisor:
    return Supervisor.from_environment({"NOTIFY_SOCKET": manager.getsockname()})


def heard(manager: socket.socket) -> list[tuple[list[str], int]]:
    """(lines, number of descriptors) of every message that is there."""
    found = []
    with suppress(BlockingIOError):
        while True:
            data, fds, _, _ = socket.recv_fds(manager, 4096, MAX_FDS)
            for fd in fds:
                os.close(fd)
            found.append((data.decode().splitlines(), len(fds)))
    return found


def own_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


# --- telling --------------------------------------------------------------------------------------


def test_without_a_manager_nothing_happens() -> None:
    supervisor = Supervisor.from_environment({"WATCHDOG_USEC": "1000000"})
    assert supervisor.watchdog_interval is None
    assert not supervisor.has_store
    with socket.socket() as sock:
        supervisor.ready("up")
        supervisor.reloading()
        supervisor.store(ADDRESS, [sock.fileno()])
        supervisor.do(time.monotonic())
    assert supervisor.due() is None


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({}, None),
    ],
)
def test_signs_of_life_are_half_as_far_apart_as_is_allowed(
    variables: dict[str, str], interval: float | None
) -> None:
    found = Supervisor.from_environment({"NOTIFY_SOCKET": "/there", **variables})
    assert found.watchdog_interval == interval


def test_a_sign_of_life_is_given_when_it_is_due(manager: socket.socket) -> None:
    supervisor = Supervisor(manager.getsockname(), 10.0)
    supervisor.do(100.0)
    assert supervisor.due() == 110.0
    supervisor.do(109.9)
    assert heard(manager) == [(["WATCHDOG=1"], 0)]
    supervisor.do(110.1)
    assert heard(manager) == [(["WATCHDOG=1"], 0)]


def test_an_abstract_address_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.bind("")  # the kernel chooses an abstract name
        name = manager.getsockname().decode()
        Supervisor.from_environment({"NOTIFY_SOCKET": "@" + name[1:]}).status("fine")
        assert heard(manager) == [(["STATUS=fine"], 0)]


def test_what_is_told(manager: socket.socket, supervisor: Supervisor) -> None:
    before = time.monotonic_ns() // 1000
    supervisor.reloading()
    supervisor.ready("1 route")
    supervisor.stopping("draining", 2.5)
    ((reloading, time_line), _), *others = heard(manager)
    assert reloading == "RELOADING=1"
    assert before <= int(time_line.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert others == [
        (["READY=1", "STATUS=1 route"], 0),
        (["STOPPING=1", "EXTEND_TIMEOUT_USEC=2500000", "STATUS=draining"], 0),
    ]


def test_many_descriptors_are_several_messages(
    manager: socket.socket, supervisor: Supervisor
) -> None:
    with socket.socket() as sock:
        supervisor.store(ADDRESS, [sock.fileno()] * (MAX_FDS + 1))
    name = f"FDNAME={stored_name(ADDRESS)}"
    store = ["FDSTORE=1", "FDPOLL=0", name]
    assert heard(manager) == [
        (["FDSTOREREMOVE=1", name], 0),
        (store, MAX_FDS),
        (store, 1),
    ]


def test_what_finds_no_room_is_sent_later_in_order(
    manager: socket.socket, supervisor: Supervisor
) -> None:
    """With the descriptors as they were, whatever has become of ours meanwhile."""
    before = own_descriptors()
    count = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 20
    for number in range(count):
        with socket.socket() as sock:
            supervisor.store(Address("127.0.0.1", 1 + number, ""), [sock.fileno()])
    supervisor.status("left out: it would be stale")
    supervisor.ready("at last")
    assert supervisor.due() is not None
    found: list[tuple[list[str], int]] = []
    while supervisor.due() is not None:
        news = heard(manager)
        assert news, "nothing was sent although there was room"
        found += news
        supervisor.do(time.monotonic())
    found += heard(manager)
    expected = []
    for number in range(count):
        name = f"FDNAME={stored_name(Address('127.0.0.1', 1 + number, ''))}"
        expected += [(["FDSTOREREMOVE=1", name], 0), (["FDSTORE=1", "FDPOLL=0", name], 1)]
    assert found == [*expected, (["READY=1", "STATUS=at last"], 0)]
    assert own_descriptors() == before


def test_a_manager_that_never_reads_costs_no_more_than_so_much(
    manager: socket.socket, supervisor: Supervisor
) -> None:
    for _ in range(MAX_WAITING + 1000):
        supervisor.reloading()
    assert len(supervisor._waiting) == MAX_WAITING
    assert heard(manager)


def test_a_manager_that_is_gone_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor("/nowhere/notify")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            supervisor.ready("up")
    (message,) = caplog.messages
    assert message.startswith("can't notify the service manager of the state (NOTIFY_SOCKET): ")
    assert message.endswith("[Errno 2] No such file or directory")
    assert supervisor.due() is None


def test_other_programs_do_not_learn_of_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master itself keeps the variables, for the build that it may become."""
    names = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SECRET", "PYTHONPATH"
    for name in names:
        monkeypatch.setenv(name, "1")
    assert not set(names) & set(programs.environment())
    assert os.environ["NOTIFY_SOCKET"] == "1"
    assert programs.environment()["PATH"] == os.environ["PATH"]


# --- names ----------------------------------------------------------------------------------------


def test_names_in_the_store_are_valid_and_different() -> None:
    texts = [
        "127.0.0.1:80",
        "[::1]:80",
        "[::]:80",
        "unix:/a:b",
        "unix:/a%3ab",
        "unix:/a+b",
        "unix:/a b",
        "unix:/a\nb",
        "unix:/ä",
        f"unix:/{'x' * 106}",
        f"unix:/{':' * 106}",
        f"unix:/{':' * 105}%",
    ]
    names = [stored_name(Address.parse(text)) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert len(name) <= MAX_NAME
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & {":", " "}


# --- being given ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_variables_that_are_not_for_us_give_nothing(variables: dict[str, str]) -> None:
    """Whoever they were for, no other process is to take them for its own."""
    assert inherited_sockets(variables) == []
    assert not variables


def test_a_descriptor_that_is_not_open_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says which, and what the manager calls it."""
    fd = os.open("/", os.O_RDONLY)
    os.close(fd)
    monkeypatch.setattr("tcpmux.master.supervisor.FIRST_FD", fd)  # those below are not ours
    variables = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "web"}
    with pytest.raises(TcpmuxError, match=rf"^descriptor {fd} \(web\) .* is no socket: Bad"):
        inherited_sockets(variables)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"])
def test_a_bound_address_equals_the_one_in_the_file(host: str) -> None:
    address = Address.parse(f"{host}:{free_port()}")
    with socket.socket(address.family) as sock:
        sock.bind(address.sockaddr)
        assert Address.of_socket(sock) == address


def shard(port: int) -> Inherited:
    """As the store gives it back."""
    sock = socket.create_server(("127.0.0.1", port), reuse_port=True)
    address = Address("127.0.0.1", port, "")
    return Inherited(stored_name(address), address, sock)


def test_more_sockets_than_shards_are_all_kept() -> None:
    """Closing one would reset who waits in it."""
    listeners, port = Listeners(2), free_port()
    found = [shard(port) for _ in range(5)]
    listeners.inherit(found)
    (opened,) = listeners.open_missing([found[0].address])
    assert opened.sockets == [one.socket for one in found]
    assert not opened.shared
    assert opened.origin is Origin.STORED
    assert not listeners.drop_inherited()
    opened.close()


def test_there_are_never_more_than_workers_can_poll() -> None:
    listeners, port = Listeners(2), free_port()
    found = [shard(port) for _ in range(MAX_SHARDS + 2)]
    listeners.inherit(found)
    (opened,) = listeners.open_missing([found[0].address])
    assert opened.sockets == [one.socket for one in found[:MAX_SHARDS]]
    assert [one.socket.fileno() for one in found[MAX_SHARDS:]] == [-1, -1]
    opened.close()


def test_what_was_inherited_in_vain_leaves_its_name(tmp_path: Path) -> None:
    """If another address can't be had the start fails; the next one finds the socket again."""
    path = tmp_path / "listen"
    listeners = Listeners(1)
    address = Address("", 0, str(path))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    listeners.inherit([Inherited(stored_name(address), address, sock)])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError):
        listeners.open_missing([address, Address.of_socket(taken)])
    assert sock.fileno() == -1
    assert path.exists()


def test_names_of_unix_sockets_go_at_the_end_unless_they_are_stored(tmp_path: Path) -> None:
    for keep_files in (False, True):
        path = tmp_path / str(keep_files)
        listeners = Listeners(1)
        listeners.add(listeners.open_missing([Address("", 0, str(path))]))
        listeners.close_all(keep_files=keep_files)
        assert path.exists() == keep_files
