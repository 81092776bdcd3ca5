"""Connections of Redis that go on at another server, which is told who the client is, what it is
called and which database it has selected."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.database_clients import Redis
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_converge import live, state
from tests.integration.test_converge_servers import await_left, kill_workers, needs, shift
from tests.others import running
from tests.support import free_port, patient, receive, short_directory, wait_for

pytestmark = needs("redis-server")
FAST = {"when": ["weights", "drain"], "method": "rehome", "protocol": "redis",
        "rate": "500/s", "quiet": "20ms", "deadline": "60s"}  # fmt: skip
PASSWORD = "a-secret-of-some-length"  # noqa: S105


@contextmanager
def server(password: str = PASSWORD) -> Iterator[int]:
    """In each database of it `k` is its port and the database's number."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--requirepass", password]
    with short_directory() as place, running([*command, "--dir", str(place)], [port]):
        with Redis(port) as client:
            assert client.ask(f"AUTH {password}") == b"+OK"
            for number in range(16):
                assert client.ask(f"SELECT {number}") == b"+OK"
                assert client.ask(f"SET k {port}-{number}") == b"+OK"
        yield port


@pytest.fixture
def servers() -> Iterator[tuple[int, int]]:
    with server() as one, server() as two:
        yield one, two


def in_front(
    start_proxy: StartProxy, servers: tuple[int, int], **settings: object
) -> tuple[Proxy, int]:
    """Everything goes to v1, until shift()."""
    port = free_port()
    one, two = (f"127.0.0.1:{server}" for server in servers)
    r = {**route("r", port, v1=(1, one), v2=(0, two)), "converge": {**FAST, **settings}}
    return start_proxy(routes(r)), port


def login(port: int) -> Redis:
    client = Redis(port)
    assert client.ask(f"AUTH {PASSWORD}") == b"+OK"
    return client


def value(client: Redis, request: str = "GET k") -> str:
    """Of a bulk or, since HELLO 3, a verbatim string."""
    head = client.ask(request)
    assert head[:1] in (b"$", b"="), head
    return receive(client.sock, int(head[1:]) + 2)[:-2].decode()


def await_moved(proxy: Proxy, count: int) -> None:
    wait_for(lambda: live(proxy)["v2"] == count, f"{count} connections to have moved")


def stays(proxy: Proxy, at: str = "v1") -> Counter[str]:
    """Why connections of that destination do, as `conns` has it."""
    found = proxy.client.connections(destination=at)["connections"]
    return Counter(str(each["stays"]) for each in found)


def test_the_other_server_knows_the_client(
    start_proxy: StartProxy, servers: tuple[int, int]
) -> None:
    proxy, port = in_front(start_proxy, servers)
    with ExitStack() as stack:
        plain, named, stranger = (stack.enter_context(Redis(port)) for _ in range(3))
        assert plain.ask(f"auth {PASSWORD}") == b"+OK"
        assert plain.ask("SELECT 3") == b"+OK"
        greeting = f"HELLO 3 AUTH default {PASSWORD} SETNAME somebody"
        named.sock.sendall(f"{greeting}\r\nSELECT 5\r\nCLIENT NO-EVICT on\r\nPING\r\n".encode())
        wait_for(lambda: named.sock.recv(4096).endswith(b"+PONG\r\n"), "all answers")
        assert stranger.ask("GET k") == b"-NOAUTH Authentication required."
        proxy.client.set_workers(1)  # what is kept goes along
        shift(proxy)
        await_moved(proxy, 2)
        assert value(plain) == f"{servers[1]}-3"
        assert value(named) == f"{servers[1]}-5"
        info = dict(each.partition("=")[::2] for each in value(named, "CLIENT INFO").split())
        assert (info["name"], info["db"], info["resp"]) == ("somebody", "5", "3")
        assert "e" in info["flags"]  # not to be evicted
        # Who has not logged in is nobody there either: it is not exchanged for an error.
        await_left(proxy, turned_away=1)
        assert stays(proxy) == {"turned_away": 1}
        assert stranger.ask(f"AUTH {PASSWORD}") == b"+OK"
        assert value(stranger) == f"{servers[0]}-0"


def test_who_is_in_the_middle_of_something_stays(
    start_proxy: StartProxy, servers: tuple[int, int]
) -> None:
    proxy, port = in_front(start_proxy, servers, deadline="8s")
    with ExitStack() as stack:
        clients = [stack.enter_context(login(port)) for _ in range(6)]
        idle, multi, watches, blocked, subscribed, tracks = clients
        assert multi.ask("MULTI") == b"+OK"
        assert watches.ask("WATCH k") == b"+OK"
        blocked.sock.sendall(b"BLPOP q 0\r\n")
        assert subscribed.ask("SUBSCRIBE c") == b"*3"
        assert subscribed.sock.recv(100).endswith(b":1\r\n")
        assert tracks.ask("CLIENT NO-EVICT on") == b"+OK"
        assert tracks.ask("READONLY") == b"-ERR This instance has cluster support disabled"
        assert tracks.ask("CLIENT ID").startswith(b":")
        shift(proxy)
        left = {"in_transaction": 2, "unanswered": 1, "subscribed": 1, "stateful": 1}
        await_left(proxy, **left)
        assert stays(proxy) == left
        shown = proxy.run("conns", "r/v1").stdout
        for word in ("STAYS", "in a transaction", "subscribed", "waiting for an answer"):
            assert word in shown
        kill_workers(proxy)
        await_left(proxy, **left)
        assert multi.ask("DISCARD") == b"+OK"
        assert watches.ask("UNWATCH") == b"+OK"
        await_moved(proxy, 3)
        assert [value(one) for one in (idle, multi, watches)] == [f"{servers[1]}-0"] * 3
        wait_for(lambda: state(proxy) is None, "the deadline", patient(30))
        proxy.says("1 waiting for an answer, 1 subscribed, 1 with state that can't go along")
        assert live(proxy) == {"v1": 3, "v2": 3}
        with login(servers[0]) as other:
            assert other.ask("RPUSH q x") == b":1"
            assert other.ask("PUBLISH c m") == b":1"
        assert blocked.line() == b"*2"
        assert subscribed.sock.recv(100).endswith(b"\r\nm\r\n")


def test_a_server_that_does_not_know_the_client_gets_nobody(start_proxy: StartProxy) -> None:
    """Another password; nobody notices, and nobody is told of one."""
    with server() as one, server("another") as two, ExitStack() as stack:
        proxy, port = in_front(start_proxy, (one, two))
        clients = [stack.enter_context(login(port)) for _ in range(4)]
        shift(proxy)
        await_left(proxy, turned_away=4)
        assert [value(client) for client in clients] == [f"{one}-0"] * 4
        said = [proxy.run("converge", "r", "--dry-run").stdout]
        said += [proxy.log, json.dumps(proxy.status())]
        said += [json.dumps(proxy.client.connections()), str(proxy.run("events").stdout)]
        assert "4 not accepted by the other endpoint" in said[0]
        assert [text for text in said if PASSWORD in text] == []


def test_without_the_method_in_the_file_nothing_is_kept(
    start_proxy: StartProxy, servers: tuple[int, int]
) -> None:
    proxy, port = in_front(start_proxy, servers, method="close")
    with login(port):
        done = proxy.run("converge", "r", "--method", "rehome")
        assert done.returncode != 0
        assert "noted only with `method: rehome` in the route's converge" in done.stderr


class Busy(threading.Thread):
    """A client that logs in, changes its database now and then, and asks where it is."""

    def __init__(
        self, port: int, number: int, servers: tuple[int, int], over: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._port, self._number, self._servers, self._over = port, number, servers, over
        self.answered: Counter[int] = Counter()
        self.error = ""

    def run(self) -> None:
        try:
            with login(self._port) as client:
                self._ask(client)
        except (OSError, AssertionError, ValueError) as error:
            self.error = repr(error)

    def _ask(self, client: Redis) -> None:
        database = self._number % 16
        assert client.ask(f"SELECT {database}") == b"+OK"
        while not self._over.wait(0.2):
            port, _, number = value(client).partition("-")
            assert int(number) == database
            self.answered[self._servers.index(int(port))] += 1
            if sum(self.answered.values()) % 4 == 0:
                database = (database + 1) % 16
                client.sock.sendall(f"SELECT {database}\r\nECHO hi\r\n".encode())
                assert [client.line() for _ in range(3)] == [b"+OK", b"$2", b"hi"]


def test_while_workers_die_everybody_is_who_he_was(
    start_proxy: StartProxy, servers: tuple[int, int]
) -> None:
    """What a worker dies in the middle of is not known from then on: one connection stays."""
    proxy, port = in_front(start_proxy, servers, rate="50/s")
    kills = 0
    over = threading.Event()
    clients = [Busy(port, number, servers, over) for number in range(20)]
    for client in clients:
        client.start()
    wait_for(lambda: live(proxy)["v1"] == 20, "all to be connected")
    for v1, v2 in ((0, 1), (1, 0), (0, 1)):
        proxy.client.set_weights("r", {"v1": v1, "v2": v2})
        for _ in range(3):
            before = live(proxy)
            wait_for(lambda: state(proxy) is None or live(proxy) != before, "a move")  # noqa: B023
            kill_workers(proxy)
            kills += len(proxy.status()["workers"])
        left = "v2" if v1 else "v1"
        wait_for(
            lambda: not stays(proxy, left).keys() - {"unknown"},  # noqa: B023
            f"all to leave {left}",
            patient(60),
        )
        unknown = stays(proxy, left)["unknown"]
        assert unknown <= min(kills, 10)  # most have moved
    over.set()
    for client in clients:
        client.join(patient(30))
    assert [client.error for client in clients if client.error] == []
    assert sum(set(client.answered) == {0, 1} for client in clients) >= 10
    assert all(worker["counters"]["abandoned"] == 0 for worker in proxy.status()["workers"])
