"""`python -m tests.docs.screenshots`: the pictures of the page and of top in docs/, light and dark.

A scene of real traffic is played for some minutes: a canary gets its share step by step, fails and
comes back; then an endpoint is lost, another drained, and a service without redundancy goes down.
What the pictures show is what tcpmux measured meanwhile. All of it is in namespaces of its own,
where hosts have the addresses of a network that is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from tcpmux.cli.top import View
from tcpmux.cli.top_model import Model
from tcpmux.control.client import Client
from tcpmux.control.schema import SORT_KEYS
from tests.docs.pages import DOCS, ROOT

MODULE = "tests.docs.screenshots"
INSIDE = "TCPMUX_SCREENSHOTS"  # the process that has entered its namespaces
NETWORK = "10.20.0.0/16"
PAGE = "10.20.0.2:9901"
TOKEN = "of-this-scene-alone"  # noqa: S105
CHECK = {"type": "tcp", "interval": "2s"}
# Name, port, connections per second, and of each destination its weight and its hosts.
Service = tuple[str, int, float, dict[str, tuple[int, list[str]]]]
SERVICES: list[Service] = [
    ("checkout", 443, 14, {
        "stable": (99, ["10.20.1.11:8443", "10.20.1.12:8443"]),
        "canary": (1, ["10.20.1.21:8443"]),
    }),
    ("catalogue", 8080, 22, {
        "v1": (80, ["10.20.2.11:8080", "10.20.2.12:8080"]),
        "v2": (20, ["10.20.2.21:8080"]),
    }),
    ("payments", 8444, 5, {"main": (1, ["10.20.3.11:8444", "10.20.3.12:8444"])}),
    ("search", 9200, 8, {"main": (1, ["10.20.4.11:9200", "10.20.4.12:9200", "10.20.4.13:9200"])}),
    ("sessions", 6379, 9, {"main": (1, ["10.20.5.11:6379"])}),
    ("orders-db", 5432, 2, {
        "primary": (1, ["10.20.6.11:5432"]),
        "replica": (0, ["10.20.6.12:5432"]),
    }),
    ("mail", 25, 0.6, {"main": (1, ["10.20.7.11:2525", "10.20.7.12:2525"])}),
    ("legacy-reports", 8090, 0.5, {"main": (1, ["10.20.8.11:8090"])}),
]  # fmt: skip
# When (of the whole scene's time), and what: a command, or a host that stops or starts.
SCRIPT: list[tuple[float, str]] = [
    (0.12, "weight checkout stable=95 canary=5"),
    (0.24, "weight checkout stable=80 canary=20"),
    (0.38, "stop 10.20.1.21:8443"),
    (0.50, "start 10.20.1.21:8443"),
    (0.66, "weight checkout stable=50 canary=50"),
    (0.72, "weight catalogue v1=60 v2=40"),
    (0.80, "stop 10.20.3.12:8444"),
    (0.86, "endpoint 10.20.4.13:9200 drain"),
    (0.93, "stop 10.20.8.11:8090"),
]


def configuration(directory: Path) -> dict[str, Any]:
    routes = [
        {
            "name": name,
            "listen": f"10.20.0.1:{port}",
            "check": CHECK,
            "destinations": [
                {"name": each, "weight": weight, "endpoints": hosts}
                for each, (weight, hosts) in destinations.items()
            ],
        }
        for name, port, _, destinations in SERVICES
    ]
    socket, token = directory / "admin.sock", directory / "token"
    admin = {"socket": str(socket), "http": PAGE, "token_file": str(token)}
    return {"user": "root", "workers": 2, "admin": admin, "routes": routes}


class Hosts:
    """The services' hosts, each of which can stop and start."""

    def __init__(self) -> None:
        self._servers: dict[str, asyncio.Server] = {}

    async def start(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._servers[address] = await asyncio.start_server(self._answer, host, int(port))

    async def stop(self, address: str) -> None:
        self._servers.pop(address).close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(4096):
                writer.write(b"x" * random.randrange(500, 20_000))
                await writer.drain()
        writer.close()


async def _visit(port: int) -> None:
    """One client: some requests, and then it leaves."""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(
            "10.20.0.1", port, local_addr=(f"10.20.{random.randrange(100, 120)}.7", 0)
        )
        for _ in range(random.choice((1, 1, 2, 5))):
            writer.write(b"x" * random.randrange(100, 2000))
            if not await reader.read(65536):
                break
            await asyncio.sleep(random.expovariate(1 / 1.5))
        writer.close()


async def _visits(port: int, rate: float) -> None:
    """Clients of a service: rate a second, more and less in the course of minutes."""
    phase, visits = random.random() * 6, set()
    while True:
        wave = 1 + 0.25 * math.sin(time.monotonic() / 50 + phase)
        await asyncio.sleep(random.expovariate(rate * wave))
        visit = asyncio.create_task(_visit(port))
        visits.add(visit)
        visit.add_done_callback(visits.discard)


class Scene:
    """A tcpmux with traffic. perform() plays the script."""

    def __init__(self, directory: Path) -> None:
        self.admin = directory / "admin.sock"
        self._file = directory / "routes.yaml"
        self._log = directory / "log"
        self._hosts = Hosts()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        config = configuration(self._file.parent)
        (self._file.parent / "token").touch(0o600)
        (self._file.parent / "token").write_text(TOKEN)
        self._file.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "tcpmux", "-c", str(self._file)]
        for _, _, _, destinations in SERVICES:
            for _, hosts in destinations.values():
                for host in hosts:
                    await self._hosts.start(host)
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, cwd=ROOT
            )
        clients = []
        try:
            while "control is ready" not in (said := self._log.read_text()):
                if process.returncode is not None:
                    raise RuntimeError(f"tcpmux has ended: {said}")
                await asyncio.sleep(0.1)
            clients = [asyncio.create_task(_visits(port, rate)) for _, port, rate, _ in SERVICES]
            yield
        finally:
            for client in clients:
                client.cancel()
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    async def perform(self, minutes: float) -> None:
        began = time.monotonic()
        for part, what in [*SCRIPT, (1.0, "")]:
            await asyncio.sleep(began + 60 * minutes * part - time.monotonic())
            verb, *words = what.split() or [""]
            if verb in ("stop", "start"):
                await getattr(self._hosts, verb)(*words)
            elif verb:
                await self._tcpmux(verb, *words)

    async def _tcpmux(self, *words: str) -> None:
        command = [sys.executable, "-m", "tcpmux", *words, "--admin", str(self.admin)]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        if await process.wait():
            raise RuntimeError(f"tcpmux {' '.join(words)} failed")


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    from playwright.async_api import async_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    async with async_playwright() as playwright:
        # As root its own sandbox can't be had.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


async def photograph(browser: Any, scheme: str, width: int, height: int, to: Path) -> None:
    """The page with the route `checkout`, as it is after some seconds."""
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    await context.add_init_script(f"sessionStorage.setItem('tcpmux-token', '{TOKEN}')")
    page = await context.new_page()
    await page.goto(f"http://{PAGE}/#route=checkout")
    await page.locator("#problem-rows li").nth(1).wait_for()
    await page.locator("#connection-rows tr").nth(5).wait_for()
    await asyncio.sleep(12)  # rates are over ten seconds
    await page.screenshot(path=to)
    await context.close()


def photograph_top(admin: Path, to: Path) -> None:
    """`tcpmux top` in a terminal of 80x24."""
    view = View(Model())
    for kind, data in Client(admin).stream():
        view.model.take(kind, data)
        if len(view.model.samples) >= 12:
            break
    found = Client(admin).connections(sort=SORT_KEYS[0], limit=20)
    view.connections, view.connections_total = found["connections"], found["total"]
    console = Console(width=80, height=24, record=True, file=io.StringIO(), force_terminal=True)
    console.print(view.draw(80, 24))
    # A reader's own font, instead of one that would be asked for elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, ", "monospace, ")
    to.write_text(console.export_svg(title="tcpmux top", code_format=form))


async def make(minutes: float, into: Path) -> None:
    async with AsyncExitStack() as stack:
        directory = Path("/run/tcpmux")
        directory.mkdir()
        scene = Scene(directory)
        await stack.enter_async_context(scene.running())
        await scene.perform(minutes)
        browser = await stack.enter_async_context(chromium())
        for scheme in ("light", "dark"):
            await photograph(browser, scheme, 1440, 1000, into / f"page-{scheme}.png")
        await asyncio.to_thread(photograph_top, scene.admin, into / "top.svg")


def enter_namespaces() -> None:
    """A network where the hosts have their addresses, and an empty /run. Those of this process."""
    for command in (
        "ip link set lo up",
        f"ip route replace local {NETWORK} dev lo",
        "mount -t tmpfs -o mode=755 tmpfs /run",
    ):
        subprocess.run(command.split(), check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.screenshots", description=__doc__)
    parser.add_argument("--minutes", type=float, default=12, help="how long the scene is played")
    parser.add_argument("--into", type=Path, default=DOCS, metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    if os.environ.get(INSIDE) != str(os.getpid()):
        inside = ["sh", "-c", f'{INSIDE}=$$ exec "$@"', "sh", sys.executable, "-m", MODULE]
        command = ["unshare", "--map-root-user", "--net", "--mount", *inside]
        given = sys.argv[1:] if arguments is None else arguments
        os.execvp("unshare", [*command, *given])  # noqa: S606
    enter_namespaces()
    asyncio.run(make(options.minutes, options.into.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
