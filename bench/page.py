"""How soon the page is there with 1,000 routes, and what it costs control while it is open."""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

from bench.instance import free_ports, route, running

if TYPE_CHECKING:
    import psutil

    from bench.load import LoadGenerator

ROUTES = 1000
SECONDS = 10.0  # of watching control


def page(load: LoadGenerator, rounds: int) -> list[dict[str, Any]]:
    """The page in Chromium with 1,000 routes that all have had connections: ms until something is
    painted and until routes with their figures are, the median of the rounds; percent of a CPU that
    control takes with no page open, with one and with three."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError("page: needs chromium")
    with load.backend("echo") as backend:
        *ports, http = free_ports(ROUTES + 1)
        parts = [
            route(f"team-{n % 37}.service-{n}", port, [backend], [80, 20])
            for n, port in enumerate(ports)
        ]
        admin = {"http": f"127.0.0.1:{http}", "insecure": True}
        with (
            running({"workers": 2, "admin": admin, "routes": parts}) as instance,
            sync_playwright() as playwright,
        ):
            for port in ports:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(b"x" * 64)
                    sock.recv(64, socket.MSG_WAITALL)
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            url = f"http://127.0.0.1:{http}/"
            times = [_open_once(browser, url) for _ in range(rounds)]
            control = instance.control()
            shares = []
            for opened in (0, 1, 2):
                for _ in range(opened):  # 1 and 2 more
                    _opened(browser, url)
                shares.append(_percent(control))
            browser.close()
    painted, shown = zip(*times, strict=True)
    return [
        {
            "first paint": statistics.median(painted),
            "routes": statistics.median(shown),
            "no page %": shares[0],
            "one page %": shares[1],
            "three pages %": shares[2],
        }
    ]


def _opened(browser: Any, url: str) -> Any:
    """A page of a browser that knows nothing yet, once routes have figures."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(url)
    page.locator("#all-active", has_text=re.compile("[0-9]")).wait_for()
    return page


def _open_once(browser: Any, url: str) -> tuple[float, float]:
    """ms from the navigation: something is painted; routes with figures are."""
    page = _opened(browser, url)
    shown = page.evaluate("performance.now()")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return painted, shown


def _percent(control: psutil.Process) -> float:
    """Of a CPU, as long as it is watched."""
    time.sleep(2)
    before, began = sum(control.cpu_times()[:2]), time.monotonic()
    time.sleep(SECONDS)
    return 100 * (sum(control.cpu_times()[:2]) - before) / (time.monotonic() - began)
