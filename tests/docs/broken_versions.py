"""`python -m tests.docs.broken_versions [redis] [postgres]`: rollouts to versions of real servers
that are broken in five ways, and what their clients notice; rows for docs/explanation/rollout.md.
With `--picture`: a rollout of redis on the page, for docs/how-to/rollout.md.

Two servers of each kind, 8 clients, each question in a connection of its own. Versions that answer
errors are real ones: a redis that wants a password, a PostgreSQL that wants TLS. What resets,
closes early and is slow stands in front of a server.
"""

from __future__ import annotations

import itertools
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.docs.pages import DOCS
from tests.docs.postgres_by_name import postgresql
from tests.integration.browsing import CHROMIUM, NO_POPUP
from tests.integration.database_clients import Postgres, Redis
from tests.integration.looking import with_http
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import NOBODY, certificate, running, system_program
from tests.rolling import BadServer, closes, resets
from tests.support import free_port, patient, refusing_port, short_directory, wait_for

CLIENTS, PAUSE = 8, 0.02  # s between two questions of a client
DELAY = 0.02  # s, of a slow version
WAYS = ("refuses", "resets after accept", "answers errors", "is slow", "closes early")


def ask_redis(port: int) -> None:
    with Redis(port) as client:
        assert client.ask("INCR n").startswith(b":")


def ask_postgres(port: int) -> None:
    with Postgres(port) as client:
        assert client.ask("select 1") == b"I"


@contextmanager
def redis(place: Path, *options: str) -> Iterator[int]:
    port = free_port()
    options = ("--bind", "127.0.0.1", "--dir", str(place), "--loglevel", "warning", *options)
    command = [system_program("redis-server"), "--port", str(port), "--save", "", *options]
    with running(command, [port]):
        yield port


def slow(to: int) -> Callable[[socket.socket], None]:
    """In front of a server: what it answers comes later."""

    def treat(client: socket.socket) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", to)) as server:

            def answers() -> None:
                with suppress(OSError):
                    for data in iter(lambda: server.recv(4096), b""):
                        time.sleep(DELAY)
                        client.sendall(data)
                    client.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=answers)
            back.start()
            with suppress(OSError):
                for data in iter(lambda: client.recv(4096), b""):
                    server.sendall(data)
            with suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join()

    return treat


class Load:
    """Questions of all clients: when each was over, how long it took, what went wrong."""

    def __init__(self, port: int, ask: Callable[[int], None]) -> None:
        self._port, self._ask = port, ask
        self._over = threading.Event()
        self.done: list[tuple[float, float, str]] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            began, wrong = time.monotonic(), ""
            try:
                self._ask(self._port)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            now = time.monotonic()
            self.done.append((now, now - began, wrong))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def rolled_out(directory: Path, protocol: str, ask: Any, one: int, two: str) -> str:
    """The cells of a row, after the way."""
    port = free_port()
    made = route("db", port, v1=(1, f"127.0.0.1:{one}"), v2=(0, two))
    made["converge"] = {"when": "manual", "protocol": protocol}
    config = routes(made, state_dir=str(directory))
    proxy = Proxy(directory, config)
    try:
        load = Load(port, ask)
        wait_for(lambda: len(load.done) > 500, "a load", patient(60))
        began = time.monotonic()
        before = len(load.done)
        started = proxy.run(
            "rollout", "start", "db", "--to", "v2", "--steps", "5%,20%,50%,100%",
            "--bake", "5s", "--min-connections", "10", "--first-error", "1%", "--wait",
        )  # fmt: skip
        took = time.monotonic() - began
        (found,) = proxy.client.rollouts("db")
        last = found["history"][-1]
        settled = len(load.done)
        wait_for(lambda: len(load.done) > settled + 500, "the time after", patient(60))
        load.stop()
        during, after = load.done[before:settled], load.done[settled + CLIENTS :]
        wrong = [text for *_, text in during if text]
        assert not [text for *_, text in after if text], after
        usual = statistics.median(taken for _, taken, _ in load.done[:before]) * 1000
        slowest = max(taken for _, taken, _ in during) * 1000
        told = f"{len(wrong)} of {len(during)} failed" if wrong else "none failed"
        print(f"    exit {started.returncode}; {sorted(set(wrong))[:2]}", file=sys.stderr)
        return (
            f"{last['end']} after {took:.1f} s | {told}; usual {usual:.1f} ms, "
            f"slowest {slowest:.0f} ms | {last['text']}"
        )
    finally:
        proxy.stop()


def photograph(directory: Path, one: int, two: int) -> None:
    """A rollout in its second step, as the page shows it."""
    port = free_port()
    config, address = with_http(
        route("db", port, v1=(1, f"127.0.0.1:{one}"), v2=(0, f"127.0.0.1:{two}"))
    )
    full = {
        "state_dir": str(directory),
        "admin": {"socket": str(directory / "admin.sock"), "http": address, "insecure": True},
        **config,
    }
    proxy = Proxy(directory, full)
    try:
        load = Load(port, ask_redis)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=[NO_POPUP, "--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.goto(f"http://{address}/#route=db")
            page.locator("tr.destination").first.wait_for()
            plan = {"to": "v2", "steps": ["5%", "20%", "50%", "100%"], "bake": 12}
            proxy.client.start_rollout("db", {**plan, "min_connections": 100})
            page.locator("#rollout-steps [aria-current]").get_by_text("20%").wait_for(
                timeout=patient(60) * 1000
            )
            page.locator("#rollout-text", has_text="baking for 3 s").wait_for(
                timeout=patient(60) * 1000
            )
            box: Any = page.locator("#rollout").bounding_box()
            clip: Any = {
                "x": box["x"] - 12, "y": box["y"] - 12,
                "width": box["width"] + 24, "height": box["height"] + 24,
            }  # fmt: skip
            page.screenshot(path=DOCS / "rollout.png", clip=clip)
            browser.close()
        load.stop()
    finally:
        proxy.stop()


def versions(stack: ExitStack, place: Path, server: Any, broken: Any) -> Iterator[tuple[str, str]]:
    """(way, endpoint) of each broken one."""
    yield WAYS[0], f"127.0.0.1:{stack.enter_context(refusing_port())}"
    yield WAYS[1], stack.enter_context(closing(BadServer(resets))).address
    yield WAYS[2], f"127.0.0.1:{stack.enter_context(broken(place))}"
    other = stack.enter_context(server(place))
    yield WAYS[3], stack.enter_context(closing(BadServer(slow(other)))).address
    yield WAYS[4], stack.enter_context(closing(BadServer(closes))).address
    yield "works", f"127.0.0.1:{other}"


def main() -> int:
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        if sys.argv[1:] == ["--picture"]:
            one, two = (stack.enter_context(redis(place)) for _ in range(2))
            photograph(stack.enter_context(short_directory()), one, two)
            return 0
        kinds = sys.argv[1:] or ["redis", "postgres"]
        os.chown(place, NOBODY, NOBODY)
        pem = certificate(place)
        os.chown(pem, NOBODY, NOBODY)
        numbers = itertools.count()
        made: dict[str, tuple[Any, Any, Any]] = {
            "redis": (redis, lambda at: redis(at, "--requirepass", "secret"), ask_redis),
            "postgres": (
                lambda _: postgresql(pem, f"v{next(numbers)}", ("host",)),
                lambda _: postgresql(pem, "closed", ("hostssl",)),
                ask_postgres,
            ),
        }
        for kind in kinds:
            server, broken, ask = made[kind]
            one = stack.enter_context(server(place))
            for way, endpoint in versions(stack, place, server, broken):
                directory = stack.enter_context(short_directory())
                row = rolled_out(directory, kind, ask, one, endpoint)
                print(f"| {kind} | {way} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
