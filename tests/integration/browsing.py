"""What tests of the page share: a real browser, and a look at who can use what it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control import pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install)")
PAGE = Path(pages.__file__).parent / "page"
# What Chromium shows below its address bar is a page of its own, as dear as ours in each context.
NO_POPUP = "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup"
ARTEFACTS = Path(__file__).parents[2] / "build/screenshots"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, and in containers, its own sandbox can't be had.
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[NO_POPUP, *(["--no-sandbox"] if os.geteuid() == 0 else [])],
            env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        )
        yield started
        started.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """Its pages are closed after each test: they would go on asking, and drawing."""
    yield chromium
    for context in chromium.contexts:
        context.close()


def give_role(page: Any, role: str) -> None:
    page.route("**/v1/access", lambda asked: asked.fulfill(json={"role": role}))


def assert_usable(results: Any) -> None:
    broken = {
        violation["id"]: [node["html"][:200] for node in violation["nodes"]]
        for violation in results.response["violations"]
    }
    assert broken == {}
