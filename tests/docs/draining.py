"""`python -m tests.docs.draining`: a version of redis is drained under load, behind tcpmux,
HAProxy and Envoy, and what the application sees is recorded in docs/explanation/draining.md. The
driver of the application comes from PyPI:

    pip install --target /tmp/drivers redis
    PYTHONPATH=/tmp/drivers python -m tests.docs.draining

Two servers of redis are the versions. The application (redis_load.py) stays connected.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import yaml
from rich.console import Console

from tcpmux.cli.top import View
from tcpmux.cli.top_model import Model
from tcpmux.control.client import Client
from tcpmux.control.schema import SORT_KEYS
from tests.docs.envoy_by_eds import ENVOY, KEY, TCP_PROXY, endpoints, envoy_config
from tests.docs.pages import DOCS
from tests.docs.pool_drivers import redis
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import running, system_program
from tests.support import DEADLINE, free_port, patient, short_directory, wait_for

PAGE = DOCS / "explanation" / "draining.md"
BEFORE, AFTER = 4.0, 4.0  # s without a change
PATIENCE = patient(10)  # s for connections to leave by themselves
FRAME = patient(4)  # s between two pictures of top
WIDTH, HEIGHT = 80, 12


@dataclass
class Said:
    """What the application says, each second, and in the end."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return int(self.lines[-1]["errors"]) if self.lines else 0

    def text(self) -> str:
        last, before = self.lines[-1], self.lines[-2] if len(self.lines) > 1 else {"done": 0}
        new = last["done"] - before["done"]
        return f"application: {last['done']} done, {new} in the last second; errors: {self.errors}"

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(patient(30))
        return self.lines[-1]


@contextmanager
def application(port: int) -> Iterator[Said]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.docs.redis_load", str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = Said(process)
    reader = threading.Thread(target=said.read)
    reader.start()
    try:
        wait_for(lambda: said.lines, "the application to begin")
        yield said
    finally:
        process.kill()
        process.wait()
        reader.join()


class Servers:
    """The two versions. What the application has counted is in either."""

    def __init__(self, ports: tuple[int, int]) -> None:
        self.ports = ports

    def ask(self, version: int, *words: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.ports[version - 1]), DEADLINE) as sock:
            sock.sendall(" ".join(words).encode() + b"\r\nQUIT\r\n")
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def clients(self, version: int) -> int:
        """Connections of the application, which has a pool; ours is one more."""
        found = re.search(rb"connected_clients:(\d+)", self.ask(version, "INFO", "clients"))
        assert found
        return int(found[1]) - 1

    def counted(self) -> tuple[set[int], int]:
        """Numbers of those that were executed, and how many were more than once."""
        found: Counter[int] = Counter()
        for port in self.ports:
            server = import_module("redis").Redis(port=port)
            keys = list(server.scan_iter("n:*", count=1000))
            for key, value in zip(keys, server.mget(keys) if keys else (), strict=True):
                found[int(key[2:])] += int(value)
        return set(found), sum(times > 1 for times in found.values())


@dataclass
class Recording:
    """Lines of text, with the time since the start."""

    servers: Servers
    said: Said
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:5.1f} s  {text}")

    def look(self) -> None:
        one, two = self.servers.clients(1), self.servers.clients(2)
        self.note(f"connections: v1 {one}, v2 {two}; {self.said.text()}")

    def pause(self, seconds: float) -> None:
        """A line each second."""
        for _ in range(int(seconds)):
            time.sleep(1.0)
            self.look()

    def until_empty(self) -> None:
        """Or patience ends."""
        began = time.monotonic()
        while self.servers.clients(1) and time.monotonic() - began < PATIENCE:
            time.sleep(1.0)
            if int(time.monotonic() - began) % 5 == 0 or not self.servers.clients(1):
                self.look()
        if self.servers.clients(1):
            self.note(f"after {PATIENCE:.0f} s v1 still has {self.servers.clients(1)} connections")

    def end(self) -> None:
        last = self.said.end()
        executed, twice = self.servers.counted()
        doubtful = sum(number in executed for number in last["failed"])
        self.note(
            f"the end: {last['done']} done, {last['errors']} errors, of which {doubtful} were "
            f"executed nevertheless; {twice} executed twice"
        )
        self.lines += [f"         {times} x {text}" for text, times in last["by"].items()]


# --- tcpmux -----------------------------------------------------------------------------------


class Top:
    """`tcpmux top`, as it is drawn in a terminal."""

    def __init__(self, admin: str) -> None:
        self.view = View(Model())
        self._client = Client(admin)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with suppress(Exception):  # the instance ends before it does
            for kind, data in self._client.stream():
                self.view.model.take(kind, data)

    def text(self) -> list[str]:
        found = self._client.connections(sort=SORT_KEYS[0], limit=5)
        self.view.connections, self.view.connections_total = found["connections"], found["total"]
        console = Console(width=WIDTH, file=io.StringIO(), force_terminal=False)
        console.print(self.view.draw(WIDTH, HEIGHT))
        assert isinstance(console.file, io.StringIO)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]


def behind_tcpmux(stack: ExitStack, servers: Servers) -> list[str]:
    port = free_port()
    v1, v2 = (f"127.0.0.1:{server}" for server in servers.ports)
    r = route("cache", port, v1=(100, v1), v2=(0, v2))
    r["converge"] = {"when": ["drain"], "protocol": "redis", "rate": "10/s", "quiet": "100ms"}
    proxy = Proxy(stack.enter_context(short_directory()), routes(r, workers=2))
    stack.callback(proxy.stop)
    top = Top(proxy.admin)
    with application(port) as said:
        recording = Recording(servers, said)

        def frame() -> None:
            recording.look()
            recording.lines += ["", *(f"    {line}" for line in top.text()), ""]

        time.sleep(BEFORE)
        frame()
        proxy.client.set_weights("cache", {"v1": 0, "v2": 100})
        recording.note("$ tcpmux weight cache v1=0 v2=100")
        recording.note("$ tcpmux drain cache/v1 --converge --wait")
        drain = subprocess.Popen(
            [sys.executable, "-m", "tcpmux", "drain", "cache/v1", "--converge", "--wait", "--admin",
             proxy.admin],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while drain.poll() is None and recording.began + 60 > time.monotonic():
            with suppress(subprocess.TimeoutExpired):
                drain.wait(FRAME)
            frame()
        printed = drain.communicate(timeout=patient(10))[0]
        recording.lines += [f"    {line.rstrip()}" for line in printed.splitlines()[-1:]]
        recording.pause(AFTER)
        recording.end()
    return recording.lines


# --- HAProxy ----------------------------------------------------------------------------------

HAPROXY = """
global
  stats socket {place}/admin level admin
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend cache
  bind 127.0.0.1:{port}
  default_backend redis
backend redis
  server v1 127.0.0.1:{v1} weight 100
  server v2 127.0.0.1:{v2} weight 0
"""


def behind_haproxy(stack: ExitStack, servers: Servers) -> list[str]:
    port, place = free_port(), stack.enter_context(short_directory())
    v1, v2 = servers.ports
    (place / "cfg").write_text(HAPROXY.format(place=place, port=port, v1=v1, v2=v2))
    stack.enter_context(running(["haproxy", "-f", str(place / "cfg")], [port]))

    def tell(text: str) -> None:
        recording.note(f'$ echo "{text}" | socat stdio admin.sock')
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(place / "admin"))
            sock.sendall(f"{text}\n".encode())
            assert not sock.recv(1000).strip()

    with application(port) as said:
        recording = Recording(servers, said)
        time.sleep(BEFORE)
        recording.look()
        tell("set server redis/v2 weight 100")
        tell("set server redis/v1 state drain")
        recording.until_empty()
        tell("shutdown sessions server redis/v1")
        recording.pause(AFTER)
        recording.end()
    return recording.lines


# --- Envoy ------------------------------------------------------------------------------------


def behind_envoy(stack: ExitStack, servers: Servers) -> list[str]:
    port, place = free_port(), stack.enter_context(short_directory())
    v1, v2 = servers.ports
    endpoints(place, {v1: "HEALTHY"})
    (place / "envoy.yaml").write_text(yaml.safe_dump(envoy_config(place, port, [TCP_PROXY])))
    command = [str(ENVOY), "-c", str(place / "envoy.yaml"), "-l", "error", "--use-dynamic-base-id"]
    stack.enter_context(running(command, [port]))
    with application(port) as said:
        recording = Recording(servers, said)
        time.sleep(BEFORE)
        recording.look()
        endpoints(place, {v1: "DRAINING", v2: "HEALTHY"})
        recording.note("endpoints by EDS: v1 DRAINING, v2 HEALTHY")
        recording.until_empty()
        endpoints(place, {v2: "HEALTHY"})
        recording.note("endpoints by EDS: v2 HEALTHY; v1 is removed")
        recording.until_empty()
        endpoints(place, {v1: "DRAINING", v2: "HEALTHY"})
        recording.note("endpoints by EDS: v1 DRAINING, v2 HEALTHY")
        recording.pause(2)
        servers.ask(1, "SET", KEY, "1")
        recording.note(f"$ redis-cli -p v1 SET {KEY} 1: what its health check asks for")
        recording.pause(AFTER)
        recording.end()
    return recording.lines


# --- the page ---------------------------------------------------------------------------------

PROXIES: dict[str, Callable[[ExitStack, Servers], list[str]]] = {
    "tcpmux": behind_tcpmux,
    "haproxy": behind_haproxy,
    "envoy": behind_envoy,
}


def record(name: str) -> list[str]:
    with ExitStack() as stack:
        ports = stack.enter_context(redis()), stack.enter_context(redis())
        return PROXIES[name](stack, Servers(ports))


def insert(name: str, lines: list[str]) -> None:
    """Between its comment and the end of the block that follows."""
    pattern = rf"(<!-- recording: {name} -->\n```text\n).*?(```)"
    text = PAGE.read_text()
    new = "".join(f"{line.rstrip()}\n" for line in lines)
    found, count = re.subn(pattern, lambda at: at[1] + new + at[2], text, flags=re.DOTALL)
    assert count == 1, name
    PAGE.write_text(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.draining", description=__doc__)
    parser.add_argument("proxy", nargs="*", choices=[[], *PROXIES])
    parser.add_argument("--print", action="store_true", help="instead of changing the page")
    options = parser.parse_args()
    for name in options.proxy or PROXIES:
        if (name == "haproxy" and not system_program(name)) or (
            name == "envoy" and not ENVOY.exists()
        ):
            print(f"{name} is not installed", file=sys.stderr)
            return 2
        lines = record(name)
        if options.print:
            print("\n".join(lines), flush=True)
        else:
            insert(name, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
