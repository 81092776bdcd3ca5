"""tcpmux under a service manager: what it tells it, and the sockets that it gets from it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tcpmux.config import Address
from tcpmux.master.supervisor import stored_name
from tests.integration.conftest import StartProxy
from tests.integration.manager import Manager, execute, launch, start_with
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import split, talk
from tests.others import needs_reachable
from tests.support import DEADLINE, EchoServer, free_port, read_all, wait_for


@pytest.fixture
def manager() -> Iterator[Manager]:
    with TemporaryDirectory() as directory:
        made = Manager(Path(directory) / "notify")
        yield made
        made.close()


@pytest.fixture
def environment(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")


@pytest.fixture
def socket_path() -> Iterator[str]:
    with TemporaryDirectory() as directory:
        yield f"{directory}/listen"


def stored(port: int) -> str:
    return stored_name(Address("127.0.0.1", port, ""))


def stopped(start_proxy: StartProxy, one: EchoServer, *listens: int | str) -> Proxy:
    """A proxy that was there and has ended, with a file that has these routes."""
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    proxy.stop()
    parts = [route(f"r{at}", listen, v1=(1, one.address)) for at, listen in enumerate(listens)]
    proxy.write(routes(*parts))
    return proxy


def ask_unix(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(path)
        return talk(client)


# --- what it tells --------------------------------------------------------------------------------


@pytest.mark.usefixtures("environment")
def test_the_manager_hears_of_every_turn(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """Ready, signs of life, a reload with its end, and stopping with the time that it takes."""
    config = routes(route("r", port, v1=(1, one.address)), drain_timeout="3s")
    proxy = start_proxy(config, prefix=["env"])
    wait_for(lambda: manager.has_heard("READY", "1"), "READY")
    wait_for(lambda: manager.count("WATCHDOG") > 3, "signs of life")
    ready = manager.count("READY")
    proxy.reload("routes: nonsense\n")
    wait_for(lambda: manager.has_heard("RELOADING", "1"), "RELOADING")
    wait_for(lambda: manager.count("READY") > ready, "READY after a refused reload")
    assert all(int(said["MONOTONIC_USEC"]) > 0 for said in manager.heard if "RELOADING" in said)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        assert talk(client) == "one hello\n"
        signs = manager.count("WATCHDOG")
        proxy.signal(signal.SIGTERM)
        wait_for(lambda: manager.has_heard("STOPPING", "1"), "STOPPING")
        wait_for(lambda: manager.count("WATCHDOG") > signs + 3, "signs of life of a drain")
    (stopping,) = (said for said in manager.heard if "STOPPING" in said)
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 3_000_000


@pytest.mark.usefixtures("environment")
def test_nothing_is_lost_while_the_manager_does_not_read(
    start_proxy: StartProxy, manager: Manager, one: EchoServer
) -> None:
    """Its queue holds some messages only; the others wait until it reads, in order."""
    ports = [free_port() for _ in range(30)]
    start_proxy(routes(*(route(f"r{port}", port, v1=(1, one.address)) for port in ports)))
    assert not manager.heard
    wait_for(lambda: manager.has_heard("READY"), "READY")
    assert manager.names() == {stored(port) for port in ports}
    said = [said for said in manager.heard if "WATCHDOG" not in said]
    assert said[-1]["READY"] == "1"


@needs_reachable
@pytest.mark.usefixtures("environment")
def test_an_upgraded_master_goes_on_telling(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """The next build, in the same process, says that it is ready and gives signs of life."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY"), "READY")
    before = sorted(os.fstat(fd).st_ino for _, fd in manager.kept)
    ready = manager.count("READY")
    assert proxy.run("upgrade").returncode == 0
    wait_for(lambda: manager.count("READY") > ready, "READY of the next build")
    signs = manager.count("WATCHDOG")
    wait_for(lambda: manager.count("WATCHDOG") > signs + 3, "its signs of life")
    assert sorted(os.fstat(fd).st_ino for _, fd in manager.kept) == before
    assert not proxy.log.count("WARNING")


def test_without_a_listener_at_the_socket_it_runs_all_the_same(
    start_proxy: StartProxy, one: EchoServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that is not there is named once, and nothing else is different."""
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens-here")
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    assert split(port, 4) == {"one": 4}
    proxy.says("can't notify the service manager of the state", times=1)


# --- what it has kept -----------------------------------------------------------------------------


@pytest.mark.usefixtures("environment")
def test_listening_sockets_are_stored_while_they_are_configured(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    other = free_port()
    wait_for(lambda: manager.names() == {stored(port)}, "the first listener")
    assert len(manager.kept) >= 2
    proxy.reload(routes(route("r", other, v1=(1, one.address))))
    wait_for(lambda: manager.names() == {stored(other)}, "the other instead")


@pytest.mark.usefixtures("environment")
def test_a_restart_serves_what_was_queued_meanwhile(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int, socket_path: str
) -> None:
    """The store keeps the sockets while nobody runs: clients wait, and none is refused."""
    unix = route("unix", f"unix:{socket_path}", v1=(1, one.address))
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), unix))
    wait_for(lambda: manager.has_heard("READY"), "the store to have all")
    proxy.stop()
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            for _ in range(40)
        ]
        for _ in range(10):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(DEADLINE)
            client.connect(socket_path)
            waiting.append(client)
        start_with(proxy, manager.kept)
        for client in waiting:
            assert talk(client) == "one hello\n"
    assert split(port, 10) == {"one": 10}
    assert ask_unix(socket_path) == "one hello\n"
    proxy.reload(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.names() == {stored(port)}, "the UNIX listener to leave")
    assert not Path(socket_path).exists()


@pytest.mark.usefixtures("environment")
def test_a_unix_socket_that_has_lost_its_name_is_bound_anew(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, socket_path: str
) -> None:
    """Nobody could reach the one that the store has kept."""
    proxy = start_proxy(routes(route("unix", f"unix:{socket_path}", v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY"), "the store to have it")
    proxy.stop()
    Path(socket_path).unlink()
    ready = manager.count("READY")
    start_with(proxy, manager.kept)
    assert ask_unix(socket_path) == "one hello\n"
    wait_for(lambda: manager.count("READY") > ready, "READY")
    assert len(manager.kept) == 1


@pytest.mark.usefixtures("environment")
def test_what_no_route_wants_any_more_leaves_the_store(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """Else clients would be let in by the kernel and wait for ever."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY"), "the store to have it")
    proxy.stop()
    other = free_port()
    proxy.write(routes(route("r", other, v1=(1, one.address))))
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        start_with(proxy, manager.kept)
        wait_for(lambda: manager.names() == {stored(other)}, "the store to let go of it")
        with pytest.raises(ConnectionResetError):
            read_all(client)
    proxy.says(f"no route listens on 127.0.0.1:{port} any more", times=1)


@pytest.mark.usefixtures("environment")
def test_a_master_that_was_killed_is_followed_with_the_same_sockets(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """The workers have them, and so has the store: nothing is opened twice, nobody notices."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY"), "READY")
    before = sorted(os.fstat(fd).st_ino for _, fd in manager.kept)
    ready = manager.count("READY")
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        assert talk(client) == "one hello\n"
        proxy.process.kill()
        proxy.process.wait()
        start_with(proxy, manager.kept)
        assert talk(client) == "one hello\n"
    assert split(port, 10) == {"one": 10}
    wait_for(lambda: manager.count("READY") > ready, "READY of the next master")
    assert sorted(os.fstat(fd).st_ino for _, fd in manager.kept) == before
    assert "no route listens" not in proxy.log


@pytest.mark.usefixtures("environment")
def test_a_master_that_was_killed_while_it_drained_is_followed_by_one_that_serves(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """Its workers don't listen any more; what waits in the stored sockets is served even so."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    wait_for(lambda: manager.has_heard("READY"), "READY")
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        assert talk(client) == "one hello\n"
        proxy.signal(signal.SIGTERM)
        wait_for(lambda: manager.has_heard("STATUS", "draining, 1 connection left"), "the drain")
        proxy.process.kill()
        proxy.process.wait()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as late:
            start_with(proxy, manager.kept)
            assert talk(late) == "one hello\n"
        assert talk(client) == "one hello\n"
    assert proxy.status()["state"] == "running"
    wait_for(lambda: {w["state"] for w in proxy.status()["workers"]} == {"running"}, "all workers")
    assert split(port, 10, at_once=5) == {"one": 10}


# --- what it has opened ---------------------------------------------------------------------------


def test_a_socket_that_the_manager_opened_is_used(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """One without SO_REUSEPORT is polled by all workers; one nobody wants is named and closed."""
    proxy = stopped(start_proxy, one, port)
    with (
        socket.create_server(("127.0.0.1", port)) as wanted,
        socket.create_server(("127.0.0.1", 0)) as unwanted,
    ):
        start_with(proxy, [("web", wanted.fileno()), ("other", unwanted.fileno())], execute)
        assert split(port, 10, at_once=5) == {"one": 10}
        address = f"127.0.0.1:{unwanted.getsockname()[1]}"
        line = f"no route listens on {address}, which the service manager has opened (other)"
        wait_for(lambda: proxy.log.count(line) == 1, "the word of it")


def test_a_socket_named_as_a_route_but_with_another_address_is_an_error(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """The line says both addresses; the file is in force."""
    proxy = stopped(start_proxy, one, port)
    with socket.create_server(("127.0.0.1", 0)) as other:
        start_with(proxy, [("r0", other.fileno())])
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = f"route r0 listens on 127.0.0.1:{port}, but the service manager has opened {address}"
        proxy.says(f"ERROR {line}", times=1)
    assert split(port, 4) == {"one": 4}


def reuse_port(address: tuple[str, int], family: int = socket.AF_INET) -> socket.socket:
    sock = socket.create_server(address, family=family, reuse_port=True)
    sock.setblocking(False)
    return sock


@pytest.mark.usefixtures("environment")
def test_missing_shards_are_bound_beside_those_that_came(
    start_proxy: StartProxy, manager: Manager, one: EchoServer, port: int
) -> None:
    """Also of [::], and a socket that comes twice, from its unit and from the store, is one."""
    other = free_port()
    proxy = stopped(start_proxy, one, port, f"[::1]:{other}")
    with (
        reuse_port(("127.0.0.1", port)) as first,
        reuse_port(("127.0.0.1", port)) as second,
        reuse_port(("::1", other), socket.AF_INET6) as third,
    ):
        given = [first, second, third, first]
        names = ["web", stored(port), "web6", stored(port)]
        ready = manager.count("READY")
        start_with(proxy, list(zip(names, (sock.fileno() for sock in given), strict=True)))
        wait_for(lambda: manager.count("READY") > ready, "the store to have all")
        inodes = {os.fstat(sock.fileno()).st_ino for sock in (first, second)}
        kept = [os.fstat(fd).st_ino for fd in manager.store[stored(port)]]
        assert inodes < set(kept)
        assert len(kept) == len(manager.store[stored_name(Address("::1", other, ""))])
        assert split(port, 40) == {"one": 40}
        with socket.create_connection(("::1", other), timeout=DEADLINE) as client:
            assert talk(client) == "one hello\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="binding as another user needs root")
def test_shards_of_another_user_are_polled_by_all(
    start_proxy: StartProxy, one: EchoServer, port: int
) -> None:
    """None can be bound beside them, so that each worker must look at those that there are."""
    proxy = stopped(start_proxy, one, port)
    os.seteuid(65534)
    try:
        opened = reuse_port(("127.0.0.1", port))
    finally:
        os.seteuid(0)
    with opened:
        start_with(proxy, [("web", opened.fileno())])
        assert split(port, 20, at_once=10) == {"one": 20}
        workers = proxy.status()["workers"]
        os.kill(workers[0]["pid"], signal.SIGSTOP)  # the other one has the socket as well
        try:
            assert split(port, 4) == {"one": 4}
        finally:
            os.kill(workers[0]["pid"], signal.SIGCONT)


def test_a_units_unix_socket_keeps_its_name(
    start_proxy: StartProxy, one: EchoServer, port: int, socket_path: str
) -> None:
    """It is the unit's: neither a reload without it nor the end takes its file away."""
    proxy = stopped(start_proxy, one, f"unix:{socket_path}", port)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(socket_path)
        listening.listen()
        start_with(proxy, [("web", listening.fileno())])
        assert ask_unix(socket_path) == "one hello\n"
        proxy.reload(routes(route("r1", port, v1=(1, one.address))))
        line = f"the service manager keeps unix:{socket_path} open"
        proxy.says(line)
        assert Path(socket_path).exists()
        proxy.stop()
        proxy.write(routes(route("r", f"unix:{socket_path}", v1=(1, one.address))))
        start_with(proxy, [("web", listening.fileno())])
        assert ask_unix(socket_path) == "one hello\n"
        proxy.stop()
        assert Path(socket_path).exists()


KINDS: dict[str, tuple[Callable[[], int], str]] = {
    "datagram": (
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        "is neither TCP nor a UNIX stream socket",
    ),
    "unix datagram": (
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(),
        "is neither TCP nor a UNIX stream socket",
    ),
    "not listening": (
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach(),
        "does not listen",
    ),
    "no socket": (lambda: os.memfd_create("no-socket"), "is no socket"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_descriptor_that_is_no_listening_socket_is_refused(
    start_proxy: StartProxy, one: EchoServer, kind: str, port: int
) -> None:
    proxy = stopped(start_proxy, one, port)
    make, problem = KINDS[kind]
    fd = make()
    process = launch(proxy, [("odd", fd)])
    os.close(fd)
    assert process.wait(DEADLINE) == 1
    proxy.says(f"descriptor 3 (odd) from the service manager {problem}")
    assert "Traceback" not in proxy.log
