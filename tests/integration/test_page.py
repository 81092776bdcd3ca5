"""The page in a real browser: plots drawn from traffic, and a weight changed by hand."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.looking import connected, start, with_http
from tests.integration.routes import route
from tests.support import EchoServer, ask, free_port, patient, refusing_port, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install)")
ARTEFACTS = Path(__file__).parents[2] / "build/screenshots"


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, and in containers, its own sandbox can't be had.
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
            env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        )
        yield started
        started.close()


class Traffic(threading.Thread):
    """Asks again and again; counts who answered."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._over = threading.Event()
        self.answers: list[str] = []

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.answers.append(ask(("127.0.0.1", self._port)).split()[0])

    def end(self) -> None:
        self._over.set()
        self.join(patient(10))


@pytest.fixture
def traffic() -> Iterator[list[Traffic]]:
    started: list[Traffic] = []
    yield started
    for each in started:
        each.end()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_weight_is_changed_by_the_slider_and_seen_in_the_traffic(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    browser: Any,
    traffic: list[Traffic],
    scheme: str,
) -> None:
    port = free_port()
    config, address = with_http(route("shop", port, v1=(80, one.address), v2=(20, two.address)))
    proxy = start(start_proxy, config, address)
    traffic.append(Traffic(port))
    traffic[0].start()
    page = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme
    ).new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    asked_elsewhere: list[str] = []
    page.on(
        "request",
        lambda r: (
            None if address in r.url or r.url[:5] == "data:" else asked_elsewhere.append(r.url)
        ),
    )
    with connected(port) as sock:
        page.goto(f"http://{address}/")
        page.locator("#live-state", has_text="live").wait_for()
        page.locator("#connection-rows tr", has_text=str(sock.getsockname()[1])).wait_for()
        wait_for(lambda: _painted(page), "plots with something drawn")
        # By keyboard, as the slider is for everybody: from 20 up to 80.
        page.locator("#weight-range-v2").focus()
        for _ in range(60):
            page.keyboard.press("ArrowRight")
        page.locator("#apply-weights").click()
        assert "v2 20 → 80 (20 % → 50 %)" in page.locator("#weights-changes").inner_text()
        page.locator("#confirm-weights").click()
        page.locator("#result", has_text="generation 2 in 2 of 2 workers").wait_for()
        assert proxy.destination("v2")["weight"] == 80
        seen = len(traffic[0].answers) + 1  # one may be under way
        wait_for(lambda: len(traffic[0].answers) >= seen + 40, "more traffic")
        answers = traffic[0].answers[seen : seen + 40]
        assert 19 <= answers.count("two") <= 21
        page.locator("#event-rows li", has_text="v2 20->80").wait_for()
        row = page.locator("#destination-table tr.destination", has_text="v2")
        wait_for(lambda: _percent(row) > 30, "the split that is shown to follow", patient(30))
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"page-{scheme}.png", full_page=True)
        page.locator("#undo-weights").click()
        page.locator("#result", has_text="generation 3 in 2 of 2 workers").wait_for()
        page.locator("#connection-rows tr", has_text=str(sock.getsockname()[1])).get_by_role(
            "button"
        ).click()
        page.locator("#confirm-kill").click()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert wrong == []
    assert asked_elsewhere == []


def _percent(row: Any) -> float:
    """The measured share of a destination; 0.0 while the page has seen too little of it."""
    text = row.locator("td.measured span").first.inner_text()
    return float(text.split()[0]) if text.endswith("%") else 0.0


def _painted(page: Any) -> bool:
    """Whether every plot has pixels of more than one colour besides nothing."""
    return bool(
        page.evaluate(
            """() => {
              const plots = [...document.querySelectorAll("canvas")];
              return plots.length >= 4 && plots.every((plot) => {
                const { data } = plot.getContext("2d").getImageData(0, 0, plot.width, plot.height);
                const seen = new Set();
                for (let i = 0; i < data.length; i += 4)
                  if (data[i + 3] > 200) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
                return seen.size > 2;
              });
            }"""
        )
    )


def test_the_page_comes_back_when_control_does(
    start_proxy: StartProxy, one: EchoServer, browser: Any
) -> None:
    config, address = with_http(route("shop", free_port(), v1=(1, one.address)))
    proxy = start(start_proxy, config, address)
    page = browser.new_page()
    page.goto(f"http://{address}/")
    page.locator("#live-state", has_text="live").wait_for()
    os.kill(proxy.control_pid(), 9)
    page.locator("#live-state", has_text="reconnecting").wait_for()
    page.locator("#live-state", has_text="live").wait_for()
    proxy.children |= proxy.tree()


def test_the_page_says_who_is_out_and_why(
    start_proxy: StartProxy, one: EchoServer, browser: Any
) -> None:
    with refusing_port() as dead:
        part = route("shop", free_port(), v1=(80, one.address), v2=(20, f"127.0.0.1:{dead}"))
        config, address = with_http(
            {**part, "check": {"type": "tcp", "interval": "100ms", "fast_interval": "50ms"}}
        )
        start(start_proxy, config, address)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(f"http://{address}/")
        row = page.locator("tr.endpoint", has_text=f"127.0.0.1:{dead}")
        row.get_by_text("tcp check: connection refused").wait_for()
        assert "down" in row.locator("td.state").inner_text()
        # Not while it is being tried, which the page may happen to show.
        row.locator("td.health", has_text="tried again in").wait_for()
        whole = page.locator("tr.destination", has_text="v2")
        assert "no endpoint is left" in whole.inner_text()
        page.get_by_text("the others get its share").first.wait_for()
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / "page-health.png")
