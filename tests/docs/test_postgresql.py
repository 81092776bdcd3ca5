"""What the page about PostgreSQL promises, with a real primary and a real replica of it, and the
configuration that the page shows. Where Patroni would answer, a server asks each of them itself."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import DOCS, Page
from tests.integration.conftest import StartProxy, start_proxy
from tests.integration.routes import routes
from tests.others import NOBODY
from tests.support import free_port, patient, short_directory, wait_for

__all__ = ["start_proxy"]
PAGE = Page(DOCS / "how-to/postgresql.md")
PROGRAMS = max(glob.glob("/usr/lib/postgresql/*/bin/"), default="")
PSQL = f"{PROGRAMS}psql"
HOSTS = ("127.0.0.2", "127.0.0.3")
WHERE, RECOVERING = "select inet_server_addr()", "select pg_is_in_recovery()"
OPTIONS = {
    "fsync": "off",
    "unix_socket_directories": "",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1s",
}

pytestmark = pytest.mark.skipif(
    not (Path(PSQL).exists() and Path(f"{PROGRAMS}initdb").exists()),
    reason="PostgreSQL (package postgresql) is not installed",
)


class Quiet(ThreadingHTTPServer):
    """Says nothing of a check that has not waited for its answer."""

    def handle_error(self, *_: object) -> None:
        pass


class Server:
    """PostgreSQL at an address of this host, with what Patroni says of it on another port."""

    def __init__(self, directory: Path, host: str, port: int, patroni: int) -> None:
        self.directory = directory
        self.host, self.port, self.patroni = host, port, patroni
        self.url = url(host, port)
        server = self

        class Patroni(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = {"primary": "f", "replica": "t"}[self.path.split("?")[0][1:]]
                self.send_response(
                    200 if server.query("select pg_is_in_recovery()") == wanted else 503
                )
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = Quiet((host, patroni), Patroni)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def program(self, name: str, *arguments: str, check: bool = True) -> None:
        """As a user that is not root, which PostgreSQL refuses."""
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        subprocess.run(
            [PROGRAMS + name, *arguments], cwd=self.directory.parent, timeout=patient(60),
            check=check, stdout=subprocess.DEVNULL, **(user if os.geteuid() == 0 else {}),
        )  # fmt: skip

    def start(self) -> None:
        options = {**OPTIONS, "listen_addresses": self.host, "port": str(self.port)}
        given = " ".join(f"-c {name}={value}" for name, value in options.items())
        log = self.directory.with_suffix(".log")
        self.program(
            "pg_ctl", "-D", str(self.directory), "-w", "-l", str(log), "-o", given, "start"
        )

    def stop(self) -> None:
        self.program("pg_ctl", "-D", str(self.directory), "-m", "immediate", "stop", check=False)

    def query(self, text: str) -> str:
        """ "" if it does not answer."""
        return psql(self.url, text).stdout.strip()

    def close(self) -> None:
        self.stop()
        self._http.shutdown()
        self._http.server_close()


def psql(url: str, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PSQL, "--no-psqlrc", "--tuples-only", "--no-align", url, "--command", text],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    ports = free_port(), free_port()
    with short_directory() as place:
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        primary, replica = (
            Server(place / host, host, *ports) for host in ("127.0.0.2", "127.0.0.3")
        )
        try:
            primary.program(
                *("initdb", "-D", str(primary.directory), "-U", "postgres", "-A", "trust", "-N")
            )
            rules = primary.directory / "pg_hba.conf"
            rules.write_text(
                "host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n"
            )
            primary.start()
            primary.program(
                *("pg_basebackup", "-D", str(replica.directory), "-R", "-c", "fast", "--no-sync"),
                *("-d", primary.url),
            )
            replica.start()
            yield primary, replica
        finally:
            for server in (primary, replica):
                server.close()


def shown(pair: tuple[Server, Server], part: str) -> str:
    """The page's block that has this part, with the addresses of these servers. It has three."""
    (text, *_) = [block.text for block in PAGE.blocks if part in block.text]
    text = text.replace(", 10.0.0.3:5432", "").replace("port: 8008", f"port: {pair[0].patroni}")
    for number, server in enumerate(pair, 1):
        text = text.replace(f"10.0.0.{number}:5432", f"{server.host}:{server.port}")
    assert "10.0.0" not in text
    return text


def with_patroni(pair: tuple[Server, Server], write: int, read: int) -> dict[str, Any]:
    """The page's configuration, listening on these ports."""
    text = shown(pair, "name: pg-read")
    text = text.replace("0.0.0.0:5432", f"127.0.0.1:{write}")
    config: dict[str, Any] = yaml.safe_load(text.replace("0.0.0.0:5433", f"127.0.0.1:{read}"))
    return config


def url(host: str, port: int) -> str:
    return f"host={host} port={port} user=postgres dbname=postgres connect_timeout=20"


def test_each_route_goes_to_its_servers_through_a_failover(
    pair: tuple[Server, Server], start_proxy: StartProxy
) -> None:
    """Writes reach the primary and reads the replica; a client that comes while there is no
    primary waits for the next one; an open connection to a server that has died has ended."""
    primary, replica = pair
    ports = free_port(), free_port()
    write, read = (url("127.0.0.1", port) for port in ports)
    proxy = start_proxy(with_patroni(pair, *ports))
    proxy.says(f"pg-write/primary: endpoint {replica.host}:{replica.port} is down")
    proxy.says(f"pg-read/replicas: endpoint {primary.host}:{primary.port} is down")
    assert (psql(write, RECOVERING).stdout, psql(read, RECOVERING).stdout) == ("f\n", "t\n")
    assert psql(write, "create table t as select 7 as x").returncode == 0
    wait_for(lambda: psql(read, "select x from t").stdout == "7\n", "it to be replicated")
    assert "read-only" in psql(read, "insert into t values (8)").stderr

    with subprocess.Popen(
        [PSQL, "--no-psqlrc", write], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as session:  # fmt: skip
        names = "select application_name from pg_stat_activity"
        wait_for(lambda: "psql" in primary.query(names), "the session")
        primary.stop()
        said = session.communicate("select 1;\n", patient(20))[1]
        assert "server closed the connection" in said or "terminating connection" in said
    wait_for(lambda: proxy.status()["routes"][0]["condition"] == "down", "none to be there")
    command = [PSQL, "--no-psqlrc", "-tA", write, "-c", WHERE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        wait_for(
            lambda: [
                c for c in proxy.client.connections()["connections"] if c["state"] == "waiting"
            ],
            "the client to wait",
        )
        replica.program("pg_ctl", "-D", str(replica.directory), "-w", "promote")
        assert waiting.communicate(timeout=patient(30))[0] == f"{replica.host}\n"
    assert psql(write, "insert into t values (9)").returncode == 0
    wait_for(lambda: psql(read, WHERE).stdout == f"{replica.host}\n", "reads to fall back to it")


def test_a_query_is_cancelled_at_its_server(
    pair: tuple[Server, Server], start_proxy: StartProxy
) -> None:
    """By a second connection, which has to reach the same one."""
    port = free_port()
    proxy = start_proxy(with_patroni(pair, port, free_port()))
    write = url("127.0.0.1", port)
    proxy.says(f"pg-write/primary: endpoint {pair[1].host}:{pair[1].port} is down")
    command = [PSQL, "--no-psqlrc", write, "-c", "select pg_sleep(1000)"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as session:
        active = "select count(*) from pg_stat_activity where query like '%pg_sleep(1000)'"
        try:
            wait_for(lambda: pair[0].query(active) == "1", "the query to run")
            session.send_signal(signal.SIGINT)
        except BaseException:
            session.kill()
            raise
        assert (
            "canceling statement due to user request" in session.communicate(timeout=patient(20))[1]
        )


def test_without_patroni_a_backup_takes_over_reads(
    pair: tuple[Server, Server], start_proxy: StartProxy
) -> None:
    """`check: postgres` can't tell them apart: both are healthy."""
    primary, replica = pair
    port = free_port()
    destinations = yaml.safe_load(shown(pair, "backup: true"))
    listen = f"127.0.0.1:{port}"
    proxy = start_proxy(routes({"name": "pg", "listen": listen, "destinations": destinations}))
    client = url("127.0.0.1", port)
    wait_for(lambda: proxy.status()["routes"][0]["condition"] == "healthy", "both to be healthy")
    assert psql(client, WHERE).stdout == f"{primary.host}\n"
    primary.stop()
    wait_for(lambda: psql(client, WHERE).stdout == f"{replica.host}\n", "the backup")
    assert "read-only" in psql(client, "create table t (x int)").stderr
    primary.start()
    wait_for(lambda: psql(client, WHERE).stdout == f"{primary.host}\n", "the primary again")
