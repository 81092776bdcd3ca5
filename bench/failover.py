"""`python -m bench.failover`: what clients notice when one of two redis servers dies, hangs, or can
no longer be reached, and comes back. tcpmux, HAProxy and nginx in turn, with the same clients.

Both servers live in network namespaces of their own, one behind each end of a pair of interfaces,
so that one can be cut off as a firewall does it: without an answer. That needs root and `ip`.
Everything is made here and removed at the end. Exit codes: 0 measured, 2 usage or not possible.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from bench.instance import free_ports
from bench.peers import NGINX, NGINX_STREAM
from bench.processes import Program, wait_for
from tcpmux.control.client import Client

START_SECONDS = 10.0
PORT = 6379  # of both servers: each has an address of its own
CLIENTS = 8
PATIENCE = 3.0  # s that a client waits for an answer
ACT_AT, UNDO_AT, END_AT = 2.0, 8.0, 13.0  # s
ACTS = ("kill", "stop", "firewall")
PEERS = ("tcpmux", "haproxy", "nginx")

# The same for all: checks every 500 ms, which may take as long, 3 failures, 2 successes, 1 s to
# connect. HAProxy retries on
# another server (redispatch); nginx has no active checks: a failure takes a server out for 2 s.
HAPROXY = """\
global
    nbthread 2
defaults
    mode tcp
    timeout connect 1s
    timeout check 500ms
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch 1
listen redis
    bind 127.0.0.1:{port} backlog 4096
    balance roundrobin
    option tcp-check
    tcp-check send PING\\r\\n
    tcp-check expect string +PONG
    default-server check inter 500ms fastinter 200ms fall 3 rise 2
    server a {a}:{target}
    server b {b}:{target}
"""
NGINX_CONFIG = """\
load_module {module};
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 4096; }}
stream {{
    upstream redis {{
        zone redis 64k;
        server {a}:{target} max_fails=1 fail_timeout=2s;
        server {b}:{target} max_fails=1 fail_timeout=2s;
    }}
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        proxy_connect_timeout 1s;
        proxy_pass redis;
    }}
}}
"""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


@dataclass(slots=True)
class Server:
    """redis in a network namespace, and what can be done to it."""

    number: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"tcpmux-bench-{os.getpid()}-{self.number}"

    @property
    def address(self) -> str:
        """Of the range that is kept for benchmarks (RFC 2544), and never leaves this host."""
        return f"198.18.{self.number}.2"

    @property
    def _here(self) -> str:
        return f"198.18.{self.number}.1"

    def make(self) -> None:
        ends = f"tmb{os.getpid() % 100000}{self.number}", "eth0"
        _run("ip", "netns", "add", self.name)
        _run(
            "ip",
            "link",
            "add",
            ends[0],
            "type",
            "veth",
            "peer",
            "name",
            ends[1],
            "netns",
            self.name,
        )
        _run("ip", "addr", "add", f"{self._here}/30", "dev", ends[0])
        _run("ip", "link", "set", ends[0], "up")
        _run("ip", "-n", self.name, "addr", "add", f"{self.address}/30", "dev", ends[1])
        _run("ip", "-n", self.name, "link", "set", ends[1], "up")

    def remove(self) -> None:
        self.kill()
        with suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", self.name)  # and with it the interfaces

    def start(self) -> None:
        command = ["ip", "netns", "exec", self.name, "redis-server", "--port", str(PORT)]
        command += ["--bind", self.address, "--save", "", "--protected-mode", "no"]
        self.process = subprocess.Popen(
            [*command, "--dir", str(self.directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def act(self, what: str) -> None:
        if what == "kill":
            self.kill()
        elif what == "stop":
            assert self.process is not None
            self.process.send_signal(signal.SIGSTOP)
        else:  # it gets what is sent, and its answers go nowhere
            _run("ip", "-n", self.name, "route", "add", "blackhole", f"{self._here}/32")

    def undo(self, what: str) -> None:
        if what == "kill":
            self.start()
        elif what == "stop":
            assert self.process is not None
            self.process.send_signal(signal.SIGCONT)
        else:
            _run("ip", "-n", self.name, "route", "del", "blackhole", f"{self._here}/32")


@dataclass(slots=True)
class Seen:
    """By all clients of one run."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    after_detection: int = 0  # errors later than 3 s after the act, until it is undone
    slowest: float = 0.0  # s; of those that were answered
    lock: threading.Lock = field(default_factory=threading.Lock)


def _visit(port: int, number: int) -> str:
    """Connects, stores a value, reads it back. "" or what went wrong."""
    value = f"{number:012d}"
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(f"SET {value} {value}\r\nGET {value}\r\n".encode())
            expected, got = f"+OK\r\n$12\r\n{value}\r\n".encode(), b""
            while len(got) < len(expected):
                part = sock.recv(256)
                if not part:
                    return "closed"
                got += part
            return "" if got == expected else "wrong answer"
    except TimeoutError:
        return "no answer"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "reset"


def _client(port: int, first: int, begin: float, seen: Seen) -> None:
    number = first
    while (now := time.monotonic() - begin) < END_AT:
        error = _visit(port, number)
        took = time.monotonic() - begin - now
        number += CLIENTS
        with seen.lock:
            if error:
                seen.errors[error] += 1
                seen.after_detection += ACT_AT + 3 < now < UNDO_AT
            else:
                seen.answered += 1
                seen.slowest = max(seen.slowest, took)
        time.sleep(0.004)


def _benchmark(port: int, begin: float) -> str:
    """redis' own client, a new connection for each request, all the time: how often it gave up."""
    runs = failures = 0
    while time.monotonic() - begin < END_AT - 1:
        command = ["redis-benchmark", "-p", str(port), "-t", "ping_mbulk", "-k", "0"]
        try:
            done = subprocess.run(
                [*command, "-c", "2", "-n", "400", "-q"],
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            failed = done.returncode != 0 or b"Error" in done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            failed = True
        runs += 1
        failures += failed
        time.sleep(0.05)
    return f"{failures} of {runs}"


# --- the proxies --------------------------------------------------------------------------------


def _command(peer: str, directory: Path, port: int, servers: Sequence[Server]) -> list[str]:
    names = {"a": servers[0].address, "b": servers[1].address, "target": PORT, "port": port}
    if peer == "haproxy":
        path = directory / "haproxy.cfg"
        path.write_text(HAPROXY.format(**names))
        return ["haproxy", "-db", "-f", str(path)]
    if peer == "nginx":
        path = directory / "nginx.conf"
        path.write_text(NGINX_CONFIG.format(module=NGINX_STREAM, directory=directory, **names))
        return [NGINX, "-e", "stderr", "-p", str(directory), "-c", str(path)]
    check = {"type": "redis", "interval": "500ms", "fast_interval": "200ms", "timeout": "500ms"}
    route = {
        "name": "redis",
        "listen": f"127.0.0.1:{port}",
        "connect_timeout": "1s",
        "check": check,
        "destinations": [{"name": "v1", "endpoints": [f"{s.address}:{PORT}" for s in servers]}],
    }
    path = directory / "routes.yaml"
    admin = {"socket": str(directory / "admin.sock")}
    path.write_text(yaml.safe_dump({"workers": 2, "admin": admin, "routes": [route]}))
    return [sys.executable, "-m", "tcpmux", "-c", str(path)]


@contextmanager
def _proxy(peer: str, servers: Sequence[Server]) -> Iterator[tuple[int, Path]]:
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        command = _command(peer, directory, port, servers)
        program = Program(command, cpu=None, log=directory / "log", directory=directory)
        try:
            if not wait_for(lambda: not _visit(port, 0), START_SECONDS):
                raise RuntimeError(f"{peer} did not begin to serve: {program.log_tail()}")
            yield port, directory
        finally:
            program.stop()


def _health(directory: Path, server: Server) -> str:
    """What tcpmux says of a server."""
    done = subprocess.run(
        [sys.executable, "-m", "tcpmux", "status", "--admin", str(directory / "admin.sock")],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if server.address in line]
    return lines[0].strip() if lines else "up"


@contextmanager
def _servers(run: int) -> Iterator[list[Server]]:
    """Two, with addresses of this run alone, for which no port has been used up before."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [Server(2 * run + 1, directory), Server(2 * run + 2, directory)]
        for server in servers:
            stack.callback(server.remove)
            server.make()
            server.start()
        yield servers


def measure(peer: str, act: str, servers: Sequence[Server], say: Callable[[str], object]) -> Seen:
    """One run: both are healthy, one is not, both are again. Raises RuntimeError."""
    victim = servers[1]
    with _proxy(peer, servers) as (port, directory):
        time.sleep(1.0)  # for the first checks
        seen, begin = Seen(), time.monotonic()
        threads = [
            threading.Thread(target=_client, args=(port, number, begin, seen))
            for number in range(1, CLIENTS + 1)
        ]
        benchmark: list[str] = []
        threads.append(threading.Thread(target=lambda: benchmark.append(_benchmark(port, begin))))
        for thread in threads:
            thread.start()
        time.sleep(ACT_AT)
        victim.act(act)
        if peer == "tcpmux":
            for after in (1.0, 3.0):
                time.sleep(max(0.0, begin + ACT_AT + after - time.monotonic()))
                say(f"  {after:g} s after {act}: {_health(directory, victim)}")
        time.sleep(max(0.0, begin + UNDO_AT - time.monotonic()))
        victim.undo(act)
        for thread in threads:
            thread.join()
        if peer == "tcpmux":
            say(f"  at the end: {_health(directory, victim)}")
            for event in Client(directory / "admin.sock").events():
                if event["kind"] == "health":
                    say(f"  event: {event['text']}")
        say(f"  {peer}, {act}: redis-benchmark gave up in {benchmark[0]} runs")
    return seen


def _impossible(peers: Sequence[str]) -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = {"haproxy": shutil.which("haproxy"), "nginx": NGINX_STREAM.exists() and NGINX}
    wanted = [name for name in ("ip", "redis-server", "redis-benchmark") if not shutil.which(name)]
    wanted += [peer for peer in peers if not programs.get(peer, True)]
    return f"not installed: {', '.join(wanted)}" if wanted else ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), metavar="A,B")
    parser.add_argument("--acts", default=",".join(ACTS), metavar="A,B")
    parser.add_argument("--json", metavar="FILE", help="the figures, for another program")
    options = parser.parse_args(arguments)
    peers, acts = options.peers.split(","), options.acts.split(",")
    if not set(peers) <= set(PEERS) or not set(acts) <= set(ACTS):
        parser.error(f"--peers: of {', '.join(PEERS)}; --acts: of {', '.join(ACTS)}")
    why = _impossible(peers)
    if why:
        print(f"bench.failover: {why}", file=sys.stderr)
        return 2
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(title=f"{CLIENTS} clients, each visit SET and GET over a new connection")
    for column in ("act", "peer", "answered", "errors", "of what kind", "after 3 s", "slowest"):
        table.add_column(column, justify="left" if column in ("act", "peer") else "right")
    rows: list[dict[str, object]] = []
    for act in acts:
        for peer in peers:
            with _servers(len(rows)) as servers:
                seen = measure(peer, act, servers, console.print)
            kinds = {kind: count for kind, count in seen.errors.items() if count}
            count = sum(kinds.values())
            shown = ", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "-"
            slowest = f"{seen.slowest * 1000:.0f} ms"
            cells = str(seen.answered), str(count), shown, str(seen.after_detection), slowest
            table.add_row(act, peer, *cells)
            rows.append(
                {
                    "act": act,
                    "peer": peer,
                    "answered": seen.answered,
                    "errors": kinds,
                    "after_detection": seen.after_detection,
                    "slowest_s": seen.slowest,
                }
            )
    console.print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
