"""What became of shadows, on the page."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.browsing import ARTEFACTS, PAGE, assert_usable, needs_chromium
from tests.integration.conftest import StartProxy
from tests.integration.looking import start, with_http
from tests.integration.routes import route
from tests.integration.test_shifting import held, split
from tests.support import EchoServer, free_port

pytestmark = needs_chromium
TEXTS = "li => li.map(one => one.textContent)"


def test_how_many_agreed_where_they_differ_and_who_is_slower(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, browser: Any
) -> None:
    """Of the chosen route alone; nothing on one that has no mirror."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    port, other = free_port(), free_port()
    mirrored = route("r", port, v1=(1, one.address), v2=(0, two.address), v3=(0, one.address))
    mirrored["mirror"] = {"to": "v2", "percent": 100}
    config, address = with_http(mirrored, route("s", other, v1=(1, one.address)))
    proxy = start(start_proxy, config, address)
    page = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    ).new_page()
    page.goto(f"http://{address}/#route=s")
    page.locator("tr.destination").first.wait_for()
    assert page.locator("#mirror").is_hidden()
    page.goto(f"http://{address}/#route=r")
    text = page.locator("#mirror-text")
    text.get_by_text("100% mirrored to v2: 0 shadows, 0 of them open, none compared").wait_for()
    assert page.locator("#mirror-where").is_hidden()
    assert page.locator("#mirror-latency").is_hidden()
    split(port, 10)
    with held(port):
        text.get_by_text("11 shadows, 1 of them open, 0 % of those compared agreed").wait_for()
        results = page.locator("#mirror-results li")
        assert results.evaluate_all(TEXTS) == ["10 answered with other bytes"]
        differences = page.locator("#mirror-differences li")
        assert differences.count() == 8
        assert "byte 0: the first that differs" in differences.first.inner_text()
        times = page.locator("#mirror-times tr")
        assert [row.split("\t")[:2] for row in times.all_inner_texts()] == [
            ["Connections", "10"],
            ["Their shadows", "10"],
        ]
        assert_usable(axe.run(page))
        page.screenshot(path=ARTEFACTS / "page-mirror.png", full_page=True)
    proxy.client.set_mirror("r", 100, "v3")
    split(port, 10)
    results.get_by_text("10 agreed").wait_for()
    proxy.client.set_mirror("r", 0)
    text.get_by_text("mirroring to v3 is off: 21 shadows").wait_for()


WORDS = """async () => {
  const { differenceText, headline, resultTexts } = await import("/static/mirror.js");
  const all = { to: "v2", percent: 10, mirrored_total: 3000, active: 0, skipped_total: 0 };
  return [
    headline({ ...all, percent: 0.5, mirrored_total: 1, active: 1, agreement: null }),
    headline({ ...all, agreement: 0.99999, skipped_total: 2 }),
    differenceText({ result: "content", offset: 8192, within: 32 }),
    differenceText({ result: "bytes", offset: 7, within: 1 }),
    resultTexts({ agreed: 0, late: 1, of_later: 2 }).map(({ text }) => text).join(", "),
  ];
}"""


def test_its_words(browser: Any) -> None:
    """A result that an older page does not know is shown by its name."""
    page = browser.new_page()
    page.route("**/*", lambda it: it.fulfill(path=PAGE / it.request.url.rpartition("/")[2]))
    page.route("**/empty", lambda it: it.fulfill(body="<!doctype html>", content_type="text/html"))
    page.goto("http://page/static/empty")
    assert page.evaluate(WORDS) == [
        "0.5% mirrored to v2: 1 shadow, 1 of them open, none compared so far",
        (
            "10% mirrored to v2: 3,000 shadows, 0 of them open, 99.9 % of those compared agreed; "
            "2 more were picked and got none"
        ),
        "bytes 8,192 to 8,223: the first that differs",
        "byte 7: one of the two had ended",
        "1 late to end, 2 of_later",
    ]
