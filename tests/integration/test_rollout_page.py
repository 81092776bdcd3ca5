"""A rollout on the page: how far it is, both versions, what decided, and the buttons."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browsing import ARTEFACTS, PAGE, assert_usable, give_role, needs_chromium
from tests.integration.conftest import StartProxy
from tests.integration.looking import start, with_http
from tests.integration.proxy import Proxy
from tests.integration.routes import route
from tests.rolling import BadServer, clients, resets
from tests.support import EchoServer, patient, wait_for

pytestmark = needs_chromium
LONG = {"to": "v2", "steps": ["10%", "50%", "100%"], "bake": 600, "min_connections": 5}


def shown(start_proxy: StartProxy, port: int, directory: Path, one: str, two: str) -> Any:
    """(a proxy with a route r, where its page is)"""
    config, address = with_http(route("r", port, v1=(1, one), v2=(0, two)))
    return start(start_proxy, {**config, "state_dir": str(directory)}, address), address


def opened(browser: Any, address: str) -> Any:
    page = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    ).new_page()
    give_role(page, "operator")
    page.goto(f"http://{address}/")
    page.locator("tr.destination").first.wait_for()
    return page


def press(page: Any, name: str) -> None:
    page.locator(f"#rollout-{name}").click()
    page.locator("#confirm-action").click()
    page.locator("#action-dialog").wait_for(state="hidden")


def rollout(proxy: Proxy) -> Any:
    (found,) = proxy.client.rollouts("r")
    return found["rollout"]


def test_its_steps_are_seen_and_changed(
    start_proxy: StartProxy,
    tmp_path: Path,
    port: int,
    one: EchoServer,
    two: EchoServer,
    browser: Any,
) -> None:
    """Nothing of it is shown on a route that has had none."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    proxy, address = shown(start_proxy, port, tmp_path, one.address, two.address)
    with clients(port):
        page = opened(browser, address)
        assert page.locator("#rollout").is_hidden()
        proxy.client.start_rollout("r", LONG)
        state, text = page.locator("#rollout-state"), page.locator("#rollout-text")
        state.get_by_text("running").wait_for()
        text.get_by_text("to v2: step 1 of 3, 10%, for ").wait_for()
        marks = "li => li.map(one => [one.textContent, one.dataset.mark])"
        steps = page.locator("#rollout-steps li")
        assert steps.evaluate_all(marks) == [
            ["10%", "current"], ["50%", "ahead"], ["100%", "ahead"],
        ]  # fmt: skip
        press(page, "promote")
        page.locator("#rollout-steps [aria-current]").get_by_text("50%").wait_for()
        versions = page.locator("#rollout-versions tr")
        wait_for(lambda: versions.count() == 2, "both versions")
        wait_for(lambda: "0 (0 %)" in versions.first.inner_text(), "connections of v2")
        page.locator("#rollout-verdicts li", has_text="50% to v2 (step 2 of 3), by an").wait_for()
        press(page, "pause")
        state.get_by_text("paused").wait_for()
        page.locator("#rollout-resume").wait_for()
        assert page.locator("#rollout-pause").is_hidden()
        assert rollout(proxy)["state"] == "paused"
        assert_usable(axe.run(page))
        page.locator("#rollout-abort").click()
        page.locator("#action-dialog", has_text="The others get the connections").wait_for()
        assert_usable(axe.run(page))
        page.screenshot(path=ARTEFACTS / "page-rollout.png", full_page=True)
        page.locator("#confirm-action").click()
        state.get_by_text("aborted").wait_for()
        text.filter(has_text="to v2: aborted at").wait_for()
        assert page.locator("#rollout-numbers").is_hidden()
        assert rollout(proxy) is None


def test_a_version_that_is_taken_back_says_why(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, browser: Any
) -> None:
    with closing(BadServer(resets)) as bad, clients(port):
        proxy, address = shown(start_proxy, port, tmp_path, one.address, bad.address)
        page = opened(browser, address)
        proxy.client.start_rollout("r", {**LONG, "bake": 0.5})
        state = page.locator("#rollout-state")
        state.get_by_text("rolled back").wait_for(timeout=patient(30) * 1000)
        why = page.locator("#rollout-text").inner_text()
        assert re.search(r"rolled back at .*v2: \d+ of \d+ connections reset by it, v1: 0 of", why)
        assert "p = " in why
        page.locator("#rollout-verdicts li", has_text="10% to v2 (step 1 of 3)").wait_for()


WORDS = """async () => {
  const { nowText, endText, stepMarks } = await import("/static/rollout.js");
  const now = {
    to: "v2", step: 2, steps: ["1%", "50%", "100%"], reason: "",
    waits: "30 connections of v2, 7 so far",
    step_seconds: 61, began_at: 1000,
  };
  return [
    nowText(now, 1090), nowText({ ...now, step: 0, waits: "", reason: "paused by root" }, 1000),
    endText({ to: "v2", end: "promoted", ended: 1000, text: "", by: "" }),
    endText({ to: "v2", end: "aborted", ended: 1000, text: "v2 is gone", by: "root" }),
    stepMarks(now).map(({ mark }) => mark).join(" "),
  ];
}"""


def test_one_that_can_not_be_saved_is_seen(
    start_proxy: StartProxy,
    tmp_path: Path,
    port: int,
    one: EchoServer,
    two: EchoServer,
    browser: Any,
) -> None:
    proxy, address = shown(start_proxy, port, tmp_path, one.address, two.address)
    page = opened(browser, address)
    proxy.client.start_rollout("r", LONG)
    page.locator("#rollout-state").get_by_text("running").wait_for(timeout=patient(30) * 1000)
    assert not page.locator("#rollout-hooks").is_visible()
    for state in tmp_path.glob("rollouts-*"):
        state.unlink()
    proxy.client.change_rollout("r", "pause")
    said = page.locator("#rollout-hooks", has_text="Its state can't be saved: ")
    said.wait_for(timeout=patient(30) * 1000)
    assert "has been removed: start tcpmux again." in said.inner_text()


def test_its_state_in_words(browser: Any) -> None:
    page = browser.new_context(timezone_id="UTC").new_page()
    page.route("**/*", lambda it: it.fulfill(path=PAGE / it.request.url.rpartition("/")[2]))
    page.route("**/empty", lambda it: it.fulfill(body="<!doctype html>", content_type="text/html"))
    page.goto("http://page/static/empty")
    now, waiting, promoted, aborted, marks = page.evaluate(WORDS)
    assert now == (
        "to v2: step 2 of 3, 50%, for 1m 01s; 30 connections of v2, 7 so far; "
        "began 00:16:40 (1m 30s ago)"
    )
    assert waiting == "to v2: before the first step; paused by root; began 00:16:40 (0s ago)"
    assert promoted == "to v2: promoted at 00:16:40"
    assert aborted == "to v2: aborted at 00:16:40 by root: v2 is gone"
    assert marks == "done current ahead"
