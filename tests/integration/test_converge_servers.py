"""Connections to real servers follow the weights without a request or a transaction being cut.

One server is both destinations, at two addresses.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.database_clients import Client, MySQL, Postgres, Redis
from tests.integration.disturbances import set_workers
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_converge import QUICK, live, state
from tests.others import NOBODY, running, system_program
from tests.support import free_port, patient, short_directory, wait_for

PROGRAMS = "/usr/lib/postgresql/15/bin/"


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if not system_program(name) and not Path(name).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def as_nobody(place: Path) -> dict[str, Any]:
    """How to start a server that refuses to be root."""
    if os.geteuid() != 0:
        return {}
    os.chown(place, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": place}


@contextmanager
def postgres(more: Sequence[str] = ()) -> Iterator[int]:
    with short_directory() as place:
        user, port = as_nobody(place), free_port()
        subprocess.run(
            [f"{PROGRAMS}initdb", "-D", place / "data", "-U", "postgres", "-A", "trust", "-N"],
            check=True, capture_output=True, timeout=patient(120), **user,
        )  # fmt: skip
        server = subprocess.Popen(
            [f"{PROGRAMS}postgres", "-D", place / "data", "-p", str(port), "-h", "*", "-k", place,
             "-c", "fsync=off", *more],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
        )  # fmt: skip
        with ended_with(server):
            ready = [f"{PROGRAMS}pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
            wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")
            yield port


@contextmanager
def mariadb(more: Sequence[str] = ()) -> Iterator[int]:
    with short_directory() as place:
        user, port = as_nobody(place), free_port()
        subprocess.run(
            ["mariadb-install-db", f"--datadir={place}/data", "--skip-test-db",
             "--skip-name-resolve", "--auth-root-authentication-method=normal"],
            check=True, capture_output=True, timeout=patient(120), **user,
        )  # fmt: skip
        server = [
            system_program("mariadbd"), "--no-defaults", f"--datadir={place}/data",
            f"--port={port}", f"--socket={place}/s", "--skip-grant-tables", "--skip-networking=0",
            "--bind-address=*", *more,
        ]  # fmt: skip
        process = subprocess.Popen(server, stderr=subprocess.DEVNULL, **user)
        with ended_with(process):
            wait_for((place / "s").exists, "MariaDB")
            yield port


@contextmanager
def ended_with(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT if "postgres" in str(process.args) else signal.SIGTERM)
        process.wait(patient(30))


@contextmanager
def redis() -> Iterator[int]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--protected-mode", "no"]
    with short_directory() as place, running([*command, "--dir", str(place)], [port]):
        yield port


def in_front(start_proxy: StartProxy, server: int, **settings: Any) -> tuple[Proxy, int]:
    """Everything goes to v1, until shift()."""
    port = free_port()
    r = route("r", port, v1=(1, f"127.0.0.1:{server}"), v2=(0, f"127.0.0.2:{server}"))
    converge = {**QUICK, "when": ["weights"], **settings}
    return start_proxy(routes({**r, "converge": converge})), port


def shift(proxy: Proxy) -> None:
    proxy.client.set_weights("r", {"v1": 0, "v2": 1})


def await_left(proxy: Proxy, **expected: int) -> None:
    """Until so many are left at v1, with reasons why they are."""
    known = (
        *("busy", "unanswered", "in_transaction", "subscribed", "unknown"),
        *("stateful", "turned_away"),
    )

    def left() -> dict[str, int]:
        found = state(proxy) or {}
        return {name: found[name] for name in known if found.get(name)}

    wait_for(
        lambda: left() == expected and live(proxy)["v1"] == sum(expected.values()),
        f"{expected} to be left",
    )


def has_none(proxy: Proxy, destination: str) -> bool:
    return live(proxy)[destination] == 0


def await_end(proxy: Proxy) -> None:
    wait_for(lambda: live(proxy)["v1"] == 0 and state(proxy) is None, "all to have left")


def kill_workers(proxy: Proxy) -> None:
    before = proxy.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(before) & set(proxy.worker_pids()), "other workers")


@needs(f"{PROGRAMS}initdb")
def test_postgresql_queries_and_transactions_are_never_cut(start_proxy: StartProxy) -> None:
    """Workers die in the middle of it."""
    with postgres() as server, ExitStack() as stack:
        proxy, port = in_front(start_proxy, server, protocol="postgres", goodbye=True)
        idle, begun, slow, listens = (stack.enter_context(Postgres(port)) for _ in range(4))
        assert idle.ask("CREATE TABLE t (n int)") == b"I"
        assert begun.ask("BEGIN; INSERT INTO t VALUES (1)") == b"T"
        assert listens.ask("LISTEN news") == b"I"
        slow.say("INSERT INTO t SELECT 2 FROM pg_sleep(5)")
        shift(proxy)
        told = idle.rest()
        assert told[:1] == b"E"
        assert b"\0C57P01\0" in told
        await_left(proxy, unanswered=1, in_transaction=1, subscribed=1)
        kill_workers(proxy)
        await_left(proxy, unanswered=1, in_transaction=1, subscribed=1)
        assert begun.ask("INSERT INTO t VALUES (3)") == b"T"
        assert begun.ask("COMMIT") == b"I"
        assert b"\0C57P01\0" in begun.rest()
        stack.enter_context(Postgres(port))  # else no more are closed: nobody seems to come again
        assert slow.answer() == b"I"
        assert b"\0C57P01\0" in slow.rest()
        stack.enter_context(Postgres(port))
        assert listens.ask("DISCARD ALL") == b"I"
        assert b"\0C57P01\0" in listens.rest()
        await_end(proxy)
        assert live(proxy) == {"v1": 0, "v2": 2}
        seen = stack.enter_context(Postgres(port))
        seen.say("SELECT string_agg(n::text, ',' ORDER BY n) FROM t")
        assert b"1,2,3" in seen.sock.recv(4096)


class Teller(threading.Thread):
    """A client that adds 1 to its row, in transactions, and comes again when it is told to."""

    def __init__(self, port: int, row: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.row, self.stop = port, row, stop
        self.committed = self.told = self.crossed = 0
        self.cut: list[str] = []
        self.random = random.Random(row)
        self.start()

    def run(self) -> None:
        while not self.stop.is_set():
            with Postgres(self.port) as client:
                # A worker may die in the very moment in which it passes bytes on: such a one stays.
                for _ in range(30):
                    if self.stop.wait(self.random.random() * 0.3) or not self._once(client):
                        break

    def _once(self, client: Postgres) -> bool:
        """False: the connection has ended, before anything of this transaction was answered."""
        if client.is_told():
            self.told += 1
            return False
        try:
            client.ask("BEGIN")
        except (AssertionError, OSError):  # 57P01 or a reset instead of an answer
            self.crossed += 1
            return False
        try:
            client.ask(f"SELECT add_one({self.row})")
            time.sleep(self.random.random() * 0.1)
            client.ask("COMMIT")
            self.committed += 1
        except (AssertionError, OSError) as error:
            self.cut.append(repr(error))
            return False
        return True


@needs(f"{PROGRAMS}initdb")
def test_no_transaction_of_a_busy_pool_is_cut(start_proxy: StartProxy) -> None:
    """To and fro, while workers die. What the clients know is what the server has."""
    count, stop = 30, threading.Event()
    with postgres() as server, ExitStack() as stack:
        settings = {"quiet": "20ms", "rate": "200/s", "protocol": "postgres", "goodbye": True}
        proxy, port = in_front(start_proxy, server, **settings)
        direct = stack.enter_context(Postgres(server))
        direct.ask("CREATE TABLE t AS SELECT id, 0 AS n FROM generate_series(1, 30) AS id")
        direct.ask(
            "CREATE FUNCTION add_one(integer) RETURNS void LANGUAGE sql AS "
            "'UPDATE t SET n = n + 1 WHERE id = $1'"
        )
        tellers = [Teller(port, row, stop) for row in range(1, count + 1)]
        stack.callback(stop.set)
        for to in ("v2", "v1", "v2"):
            other = "v1" if to == "v2" else "v2"
            wait_for(lambda: sum(live(proxy).values()) == count, "all to be open")
            proxy.client.set_weights("r", {to: 1, other: 0})
            kill_workers(proxy)
            wait_for(partial(has_none, proxy, other), f"all to leave {other}", patient(60))
        stop.set()
        for teller in tellers:
            teller.join(patient(30))
        assert [error for teller in tellers for error in teller.cut] == []
        assert sum(teller.told for teller in tellers) > count
        direct.say("SELECT string_agg(n::text, ',' ORDER BY id) FROM t")
        expected = ",".join(str(teller.committed) for teller in tellers)
        assert expected.encode() in direct.sock.recv(4096)


@needs(f"{PROGRAMS}initdb", f"{PROGRAMS}pgbench")
def test_pgbench_is_understood_in_all_its_modes(start_proxy: StartProxy, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("BEGIN;\nSELECT 1;\nCOMMIT;\n\\sleep 200 ms\n")
    with postgres() as server, ExitStack() as stack:
        proxy, port = in_front(start_proxy, server, when="manual", protocol="postgres")
        command = [f"{PROGRAMS}pgbench", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        command += ["-n", "-c", "4", "-t", "1000", "-f", str(script), "-M"]
        for mode in ("simple", "extended", "prepared"):
            process = subprocess.Popen(
                [*command, mode, "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_for(lambda: live(proxy)["v1"] == 12, "all to be open")
        shift(proxy)

        def safe() -> int:
            plan = proxy.client.converge("r", quiet=0.01, dry_run=True)
            assert plan["unknown"] == plan["subscribed"] == 0
            return 12 - plan["busy"] - plan["unanswered"] - plan["in_transaction"]

        for _ in range(10):
            wait_for(lambda: safe() >= 6, "half of them to be asleep, between transactions")


@needs("redis-server")
def test_redis_transactions_and_subscribers_stay(start_proxy: StartProxy) -> None:
    with redis() as server, ExitStack() as stack:
        proxy, port = in_front(start_proxy, server, protocol="redis")
        idle, multi, watches, blocked, subscribed = (
            stack.enter_context(Redis(port)) for _ in range(5)
        )
        assert idle.ask("SET k v") == b"+OK"
        assert multi.ask("MULTI") == b"+OK"
        assert watches.ask("WATCH k") == b"+OK"
        blocked.sock.sendall(b"BLPOP q 0\r\n")
        assert subscribed.ask("SUBSCRIBE c") == b"*3"
        assert subscribed.sock.recv(100).endswith(b":1\r\n")
        shift(proxy)
        assert idle.rest() == b""
        await_left(proxy, in_transaction=2, unanswered=1, subscribed=1)
        kill_workers(proxy)
        assert multi.ask("INCR n") == b"+QUEUED"
        await_left(proxy, in_transaction=2, unanswered=1, subscribed=1)
        assert multi.ask("EXEC") == b"*1"
        assert multi.rest() == b":1\r\n"
        assert watches.ask("UNWATCH") == b"+OK"
        assert watches.rest() == b""
        again = stack.enter_context(Redis(port))
        assert again.ask("PUBLISH c m") == b":1"
        assert subscribed.sock.recv(100).endswith(b"\r\nm\r\n")
        assert again.ask("RPUSH q x") == b":1"
        assert blocked.rest() == b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n"
        await_left(proxy, subscribed=1)


@needs("redis-server")
def test_what_was_heard_goes_along_to_another_worker(start_proxy: StartProxy) -> None:
    with redis() as server, ExitStack() as stack:
        port = free_port()
        r = route("r", port, v1=(1, f"127.0.0.1:{server}"), v2=(0, f"127.0.0.2:{server}"))
        r["converge"] = {**QUICK, "when": ["weights"], "protocol": "redis"}
        proxy = start_proxy(routes(r, workers=4))
        clients = [stack.enter_context(Redis(port)) for _ in range(12)]
        for client in clients:
            assert client.ask("MULTI") == b"+OK"
        set_workers(proxy, r, 1)
        shift(proxy)
        await_left(proxy, in_transaction=12)
        assert clients[0].ask("DISCARD") == b"+OK"
        assert clients[0].rest() == b""
        await_left(proxy, in_transaction=11)


@contextmanager
def memcached() -> Iterator[int]:
    port = free_port()
    with running(["memcached", "-u", "nobody", "-l", "0.0.0.0", "-p", str(port)], [port]):
        yield port


@contextmanager
def mosquitto() -> Iterator[int]:
    port = free_port()
    with short_directory() as place:
        (place / "conf").write_text(f"listener {port} 0.0.0.0\nallow_anonymous true\n")
        command = [system_program("mosquitto"), "-c", str(place / "conf")]
        with running(command, [port]):
            yield port


@contextmanager
def nginx() -> Iterator[int]:
    port = free_port()
    with short_directory() as place:
        (place / "conf").write_text(f"""
            daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error;
            events {{ }}
            http {{
              access_log off;
              client_body_temp_path {place}/b; proxy_temp_path {place}/p;
              fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
              server {{ listen {port}; location / {{ return 200 "hello"; }} }}
            }}""")
        command = [system_program("nginx"), "-c", str(place / "conf"), "-e", str(place / "error")]
        with running(command, [port]):
            yield port


@pytest.mark.parametrize(
    ("protocol", "serving", "asks", "answer", "half", "goodbye"),
    [
        pytest.param(
            "memcached", memcached, b"get k\r\n", b"END\r\n", b"set k 0 0 9\r\n", b"",
            marks=needs("memcached"),
        ),
        pytest.param(
            "mqtt", mosquitto, b"\x10\x0f\0\4MQTT\5\2\0\x3c\0\0\2me", b"\x20", b"\xc0",
            b"\xe0\2\x9c\0", marks=needs("mosquitto"),
        ),
        pytest.param(
            "http1", nginx, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"hello", b"GET /", b"",
            marks=needs("nginx"),
        ),
    ],
)  # fmt: skip
def test_idle_ones_of_other_protocols_are_closed(
    start_proxy: StartProxy,
    protocol: str,
    serving: Any,
    asks: bytes,
    answer: bytes,
    half: bytes,
    goodbye: bytes,
) -> None:
    """And half a message is not cut."""
    with serving() as server, ExitStack() as stack:
        proxy, port = in_front(start_proxy, server, protocol=protocol, goodbye=bool(goodbye))
        clients = [stack.enter_context(Client(port)) for _ in range(2)]
        for number, client in enumerate(clients):
            client.sock.sendall(asks.replace(b"me", b"m%d" % number))
            got = client.sock.recv(4096)
            assert answer in got
        clients[1].sock.sendall(half)
        wait_for(lambda: live(proxy)["v1"] == 2, "both to be open")
        shift(proxy)
        assert clients[0].rest() == goodbye
        await_left(proxy, unanswered=1)


@needs("mariadbd", "mariadb-install-db")
def test_mysql_queries_and_transactions_are_never_cut(start_proxy: StartProxy) -> None:
    with mariadb() as server, ExitStack() as stack:
        proxy, port = in_front(start_proxy, server, protocol="mysql", goodbye=True)
        idle, begun, slow = (stack.enter_context(MySQL(port)) for _ in range(3))
        idle.ask("CREATE DATABASE d")
        idle.ask("CREATE TABLE d.t (n INT) ENGINE=InnoDB")
        begun.ask("BEGIN")
        begun.ask("INSERT INTO d.t VALUES (1)")
        slow.say("SELECT SLEEP(5)")
        shift(proxy)
        assert idle.packet()[:3] == b"\xff\x1d\x04"  # 1053
        assert idle.rest() == b""
        await_left(proxy, unanswered=1, in_transaction=1)
        kill_workers(proxy)
        await_left(proxy, unanswered=1, in_transaction=1)
        begun.ask("SELECT * FROM d.t")
        begun.ask("COMMIT")
        assert begun.packet()[:3] == b"\xff\x1d\x04"
        stack.enter_context(MySQL(port))  # else no more are closed: nobody seems to come again
        slow.answer()
        assert slow.packet()[:3] == b"\xff\x1d\x04"
        await_end(proxy)


def idle_program(*command: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, bufsize=1, **options,
    )  # fmt: skip


def says(program: subprocess.Popen[str], text: str, expected: str) -> None:
    assert program.stdin
    assert program.stdout
    program.stdin.write(text + "\n")
    seen = ""
    while expected not in seen:
        line = program.stdout.readline()
        assert line, seen
        seen += line


@pytest.mark.parametrize(
    ("protocol", "serving", "command", "asks", "answer"),
    [
        pytest.param(
            "postgres", postgres,
            ["psql", "-X", "-q", "-t", "-h", "127.0.0.1", "-U", "postgres", "-p"],
            "SELECT 40 + 2;", "42", marks=needs(f"{PROGRAMS}initdb", "psql"),
        ),
        pytest.param(
            "mysql", mariadb,
            ["mysql", "--no-defaults", "-n", "-N", "-h", "127.0.0.1", "-u", "root", "-P"],
            "SELECT 40 + 2;", "42", marks=needs("mariadbd", "mariadb-install-db", "mysql"),
        ),
        pytest.param(
            "redis", redis, ["redis-cli", "-h", "127.0.0.1", "-p"],
            "PING", "PONG", marks=needs("redis-server", "redis-cli"),
        ),
    ],
)  # fmt: skip
def test_their_own_clients_are_understood(
    start_proxy: StartProxy,
    protocol: str,
    serving: Any,
    command: list[str],
    asks: str,
    answer: str,
) -> None:
    with serving() as server:
        proxy, port = in_front(start_proxy, server, protocol=protocol)
        program = idle_program(*command, str(port))
        try:
            for _ in range(3):
                says(program, asks, answer)
            shift(proxy)
            await_end(proxy)
            assert proxy.destination("v1")["closed"]["converged"] == 1
        finally:
            program.kill()
            program.communicate()


@needs("redis-server")
def test_one_that_speaks_another_protocol_stays(start_proxy: StartProxy) -> None:
    with redis() as server:
        proxy, port = in_front(start_proxy, server, protocol="postgres")
        with Redis(port) as client:
            assert client.ask("PING") == b"+PONG"
            shift(proxy)
            await_left(proxy, unknown=1)
            assert client.ask("PING") == b"+PONG"
