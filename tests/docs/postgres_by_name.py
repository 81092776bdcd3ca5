"""PostgreSQL behind a load balancer, with the configuration that docs/how-to/postgresql.md shows,
in the network namespace that this process was started in:

    unshare --net python -m tests.docs.postgres_by_name

    psql -> HAProxy (send-proxy-v2) -> tcpmux -> HAProxy (accept-proxy) -> PostgreSQL

Workers are killed all the while. Prints what was counted, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.docs.test_postgresql import PAGE, PROGRAMS, PSQL
from tests.integration.proxy import Proxy
from tests.others import NOBODY, certificate, running, system_program
from tests.support import free_port, patient, short_directory

NAME = "shop.example"
# Who connects to the one address comes from the other.
SOURCES = {"127.9.0.1": "127.9.0.50", "127.8.0.1": "127.8.0.50"}
TESTER, OTHER = SOURCES
CLIENTS, TESTERS, BETWEEN_KILLS = 300, 40, 0.1


def run(*command: str, **options: Any) -> None:
    subprocess.run(command, check=True, timeout=patient(60), stdout=subprocess.DEVNULL, **options)


def set_up_network() -> None:
    run("ip", "link", "set", "lo", "up")
    for to, source in SOURCES.items():
        run("ip", "route", "replace", "local", to, "dev", "lo", "table", "local", "src", source)


@contextmanager
def postgresql(pem: Path, version: str, kinds: Sequence[str] = ("hostssl",)) -> Iterator[int]:
    """A server with TLS that logs its clients; yields its port. Its database is named after it,
    and beside its certificate. kinds: of pg_hba.conf, that may connect."""
    place = pem.parent
    port, data, log = free_port(), place / version, place / f"{version}.log"
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": place}
    run(f"{PROGRAMS}initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-N", **user)
    allowed = "".join(f"{kind} all all 127.0.0.0/8 trust\n" for kind in kinds)
    (data / "pg_hba.conf").write_text(allowed)
    options = {
        "fsync": "off", "unix_socket_directories": "", "listen_addresses": "127.0.0.1",
        "port": str(port), "ssl": "on", "ssl_cert_file": str(pem),
        "ssl_key_file": str(pem), "log_connections": "on", "cluster_name": version,
    }  # fmt: skip
    given = " ".join(f"-c {name}={value}" for name, value in options.items())
    control = f"{PROGRAMS}pg_ctl"
    run(control, "-D", str(data), "-w", "-l", str(log), "-o", given, "start", **user)
    try:
        yield port
    finally:
        run(control, "-D", str(data), "-m", "immediate", "stop", **user)


@contextmanager
def haproxy(place: Path, text: str, *ports: int) -> Iterator[None]:
    config = place / f"haproxy-{ports[0]}.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 1h\n  timeout server 1h\n"
        + text
    )
    with running([system_program("haproxy"), "-db", "-q", "-f", str(config)], [*ports]):
        yield


def in_front_of(servers: Mapping[int, int]) -> str:
    """server's port by port listened on: speaks to it in the client's name."""
    return "".join(
        f"listen {port}\n  bind 127.0.0.1:{port} accept-proxy\n"
        f"  source 0.0.0.0 usesrc clientip\n  server s 127.0.0.1:{server}\n"
        for port, server in servers.items()
    )


def balancer(port: int, to: int) -> str:
    return f"listen {port}\n  bind 0.0.0.0:{port}\n  server t 127.0.0.1:{to} send-proxy-v2\n"


def config(listen: int, v1: int, v2: int) -> dict[str, Any]:
    """That of the page, with these ports and this host as the balancer."""
    (text,) = [block.text for block in PAGE.blocks if "starttls" in block.text]
    for shown, here in (
        ("0.0.0.0:5432", f"127.0.0.1:{listen}"),
        ("10.0.0.0/24", "127.0.0.1"),
        ("10.9.0.0/16", f"{SOURCES[TESTER]}/32"),
        ("10.0.1.1:5432", f"127.0.0.1:{v1}"),
        ("10.0.1.2:5432", f"127.0.0.1:{v2}"),
    ):
        assert shown in text, shown
        text = text.replace(shown, here)
    found: dict[str, Any] = yaml.safe_load(text)
    return {**found, "workers": 2}


def psql(host: str, port: int, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    url = f"host={NAME} hostaddr={host} port={port} user=postgres sslmode=require"
    return subprocess.run(
        [PSQL, "--no-psqlrc", "-tA", url, *more],
        capture_output=True, text=True, timeout=patient(120), check=False, **options,
    )  # fmt: skip


def ask(host: str, port: int) -> str:
    """The version that answers, or what psql says."""
    done = psql(host, port, "-c", "show cluster_name")
    return done.stdout.strip() or done.stderr.strip()


@contextmanager
def kills(proxy: Proxy) -> Iterator[list[int]]:
    """One worker after the other, as soon as all of them serve."""
    over, killed = threading.Event(), list[int]()

    def work() -> None:
        while not over.wait(BETWEEN_KILLS):
            with suppress(Exception):
                pid = proxy.worker_pids()[len(killed) % 2]
                if pid and pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def sessions(port: int, count: int, queries: int) -> list[subprocess.Popen[str]]:
    """Each runs so many queries, over one connection."""
    text = "begin;\n" + "select pg_sleep(0.02), 7;\n" * queries + "commit;\n"
    url = f"host={NAME} hostaddr={OTHER} port={port} user=postgres sslmode=require"
    found = []
    for _ in range(count):
        process = subprocess.Popen(
            [PSQL, "--no-psqlrc", "-tA", "-v", "ON_ERROR_STOP=1", url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        found.append(process)
    return found


def clients_of(log: Path) -> dict[str, int]:
    """Who has connected, as the server has logged it."""
    found = re.findall(r"connection received: host=(\S+)", log.read_text())
    return dict(Counter(host for host in found if host in SOURCES.values()))


def observe(proxy: Proxy, place: Path, port: int) -> dict[str, Any]:
    with ThreadPoolExecutor(8) as pool, kills(proxy) as killed:
        started = time.monotonic()
        long = sessions(port, 4, 200)
        testers = Counter(pool.map(lambda _: ask(TESTER, port), range(TESTERS)))
        others = Counter(pool.map(lambda _: ask(OTHER, port), range(CLIENTS - len(long))))
        outputs = [process.communicate(timeout=patient(120))[0] for process in long]
        took = time.monotonic() - started
    rules = proxy.status()["routes"][0]["rules"]
    return {
        "testers": dict(testers),
        "by_name": dict(others),
        "sessions": [output.count("|7\n") for output in outputs],
        "said": [o for o in outputs if "ERROR" in o or "FATAL" in o or "server closed" in o],
        "kills": len(killed),
        "seconds": round(took, 1),
        "in_the_log": {name: clients_of(place / f"{name}.log") for name in ("v1", "v2")},
        "rules": {rule["name"]: rule["connections_total"] for rule in rules},
        # psql resets what it has not read of TLS when it ends: that is an end of its own.
        "lost": {
            f"{rule['name']}: {reason}": count
            for rule in rules
            for reason, count in rule["closed"].items()
            if count and reason not in ("finished", "client_reset")
        },
    }


def main() -> int:
    set_up_network()
    front, listen, *back = (free_port() for _ in range(4))
    with short_directory() as place, short_directory() as own, ExitStack() as stack:
        pem = certificate(place, NAME)
        for path in (place, pem):
            os.chown(path, NOBODY, NOBODY)
        servers = [stack.enter_context(postgresql(pem, name)) for name in ("v1", "v2")]
        behind = in_front_of(dict(zip(back, servers, strict=True)))
        stack.enter_context(haproxy(place, behind, *back))
        proxy = Proxy(own, config(listen, *back))
        stack.callback(proxy.stop)
        stack.enter_context(haproxy(place, balancer(front, listen), front))
        print(json.dumps(observe(proxy, place, front), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
