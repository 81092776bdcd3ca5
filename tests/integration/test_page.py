"""The page in a real browser: plots drawn from traffic, and a weight changed by hand."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import pytest

from tests.integration.browsing import ARTEFACTS, PAGE, assert_usable, give_role, needs_chromium
from tests.integration.conftest import StartProxy
from tests.integration.looking import connected, start, with_http
from tests.integration.proxy import Proxy
from tests.integration.routes import route
from tests.pool import Pool
from tests.support import EchoServer, ask, free_port, patient, refusing_port, wait_for

pytestmark = needs_chromium


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
    give_role(page, "operator")
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
        assert "v2 20 → 80 (20 % → 50 %)" in page.locator("#action-content").inner_text()
        page.locator("#confirm-action").click()
        page.locator("#result", has_text="generation 2 in 2 of 2 workers").wait_for()
        assert proxy.destination("v2")["weight"] == 80
        seen = len(traffic[0].answers) + 1  # one may be under way
        wait_for(lambda: len(traffic[0].answers) >= seen + 40, "more traffic")
        answers = traffic[0].answers[seen : seen + 40]
        assert 19 <= answers.count("two") <= 21
        page.locator("#event-rows li", has_text="v2 20->80").wait_for()
        wait_for(lambda: "v2 20->80" in _mark_under_pointer(page), "a mark of it on the time axis")
        row = page.locator("#destination-table tr.destination", has_text="v2")
        wait_for(lambda: _percent(row) > 30, "the split that is shown to follow", patient(30))
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"page-{scheme}.png", full_page=True)
        page.locator("#undo-weights").click()
        page.locator("#confirm-action").click()
        page.locator("#result", has_text="generation 3 in 2 of 2 workers").wait_for()
        page.locator("#connection-rows tr", has_text=str(sock.getsockname()[1])).get_by_role(
            "button"
        ).click()
        page.locator("#confirm-action").click()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert wrong == []
    assert asked_elsewhere == []


def _change_state(page: Any, name: str, choice: str) -> None:
    page.locator(f"#destination-table tr:has(:text-is('{name}'))").get_by_role("button").click()
    page.locator(".choice", has_text=choice).click()
    page.locator("#confirm-action").click()


def test_what_changes_something_says_first_what_it_will_do(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, browser: Any
) -> None:
    """And why, in the dialog itself, if it is refused."""
    port = free_port()
    config, address = with_http(route("shop", port, v1=(1, one.address), v2=(1, two.address)))
    proxy = start(start_proxy, config, address)
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    give_role(page, "operator")
    with ExitStack() as stack:
        socks = [stack.enter_context(connected(port)) for _ in range(3)]
        page.goto(f"http://{address}/")
        dialog, result = page.locator("#action-dialog"), page.locator("#result")
        _change_state(page, "v1", "Drained")
        result.get_by_text("v1 draining").wait_for()
        page.locator("tr.destination", has_text="drained").wait_for()
        _change_state(page, "v2", "Disabled")
        dialog.get_by_text("Not done: shop would have no destination left").wait_for()
        assert "--force" not in dialog.inner_text()
        assert proxy.destination("v2")["state"] == "ready"
        page.get_by_label("Do it even so").check()
        page.locator("#confirm-action").click()
        result.get_by_text("v2 disabled").wait_for()
        _change_state(page, "v1", "Enabled")
        result.get_by_text("v1 ready").wait_for()
        page.locator("tr.endpoint", has_text=one.address).get_by_role("button").click()
        assert page.get_by_label("Enabled again after").is_hidden()
        page.locator(".choice", has_text="Drained").click()
        page.get_by_label("Enabled again after").fill("90")
        page.locator("#confirm-action").click()
        dialog.get_by_text("Not done: shop").wait_for()
        page.get_by_label("Do it even so").check()
        page.locator("#confirm-action").click()
        page.locator("tr.endpoint", has_text="ready again in 1h 2").wait_for()
        _change_state(page, one.address, "Enabled")

        proxy.client.set_weights("shop", {"v2": 5})
        page.locator("#save-weights").click()
        assert "tcpmux weight shop v1=1 v2=5 --save" in dialog.inner_text()
        page.keyboard.press("Escape")
        page.locator("#reload").click()
        dialog.get_by_text("shop / v2: 5").wait_for()
        page.locator("#confirm-action").click()
        result.get_by_text("v2 5->1").wait_for()

        page.locator("#kill-matching", has_text="Kill these 3…").click()
        dialog.get_by_text("Kill 3 connections?").wait_for()
        page.get_by_label("At most").fill("100")
        page.locator("#confirm-action").click()
        result.get_by_text("3 connections killed").wait_for()
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        page.get_by_text("No open connections. Clients of this route").wait_for()


def test_who_may_only_look_sees_nothing_that_changes_something(
    start_proxy: StartProxy, one: EchoServer, browser: Any
) -> None:
    """Nor does anybody as long as it is not known who may."""
    port = free_port()
    config, address = with_http(route("shop", port, v1=(1, one.address)))
    start(start_proxy, config, address)
    viewers, unknown = browser.new_page(), browser.new_page()
    give_role(viewers, "viewer")
    unknown.route("**/v1/access", lambda asked: asked.abort())
    with connected(port):
        for page in (viewers, unknown):
            page.goto(f"http://{address}/")
            page.locator("#connection-rows tr").first.wait_for()
            actions = page.locator(".for-operators")
            assert actions.count() >= 5
            assert not any(each.is_visible() for each in actions.all())
        viewers.locator("#read-only").wait_for()
        assert unknown.locator("#read-only").is_hidden()


def test_live_connections_are_moved_after_a_preview_and_their_share_is_seen(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, browser: Any
) -> None:
    """Where there is nothing to move, or it can't be told, nothing is offered but the way out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    port = free_port()
    made = route("shop", port, v1=(100, one.address), v2=(0, two.address))
    slowly = {"when": "manual", "rate": "0.2/s", "quiet": "50ms", "deadline": "1h"}
    config, address = with_http({**made, "converge": slowly})
    proxy = start(start_proxy, config, address)
    page = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="dark", reduced_motion="reduce"
    ).new_page()
    give_role(page, "operator")
    dialog, result, state = map(page.locator, ("#action-dialog", "#result", "#convergence-state"))
    move, confirm = page.locator("#converge"), page.locator("#confirm-action")
    with Pool(port, 20):
        page.goto(f"http://{address}/")
        _live_share(page, "v1").get_by_text("20 (100 %)").wait_for()
        move.get_by_text("Move live connections…").click()
        dialog.get_by_text("Nothing to do: of 20 live connections none is too many.").wait_for()
        assert confirm.is_hidden()
        dialog.get_by_role("button", name="Close").click()
        page.route("**/convergence", lambda it: it.fulfill(status=500, json={"error": "torn"}))
        move.click()
        dialog.get_by_text("Not done: torn").wait_for()
        assert confirm.is_hidden()
        page.keyboard.press("Escape")
        page.unroute("**/convergence")

        proxy.client.set_weights("shop", {"v1": 0, "v2": 100})
        page.locator("tr.destination", has_text="v2").get_by_text("100 %", exact=True).wait_for()
        move.click()
        preview = "20 of 20 connections are too many at v1; about 20 closes, about 1m 40s at 0.2/s."
        dialog.get_by_text(preview).wait_for()
        assert_usable(axe.run(page))
        assert proxy.status()["routes"][0]["convergence"] is None
        dialog.get_by_role("button", name="Cancel").click()
        move.click()
        confirm.click()
        result.get_by_text("shop: live connections are being moved; too many: v1 20").wait_for()
        state.get_by_text("converging").wait_for()
        page.locator("#convergence-text", has_text="too many at v1 1").wait_for()
        _live_share(page, "v2").filter(has_text=re.compile(r"^[1-9]")).wait_for()
        assert_usable(axe.run(page))
        page.screenshot(path=ARTEFACTS / "page-converging.png", full_page=True)
        assert page.evaluate("document.activeElement.textContent") == "Stop…"
        move.click()
        confirm.click()
        state.wait_for(state="hidden")
        found = proxy.status()["routes"][0]
        assert found["convergence"] is None
        assert 0 < found["destinations"][1]["connections_active"] < 20


def _live_share(page: Any, destination: str) -> Any:
    return page.locator("tr.destination", has_text=destination).locator("td[data-label=Live] span")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(trouble: str, browser: Any, scheme: str, width: int) -> None:
    """Names, roles, landmarks and contrast are as the rules of axe-core have them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    ).new_page()
    give_role(page, "operator")
    page.goto(f"http://{trouble}/#route=shop")
    page.locator("#problems-title", has_text="2 problems").wait_for()
    page.locator("#event-rows li").first.wait_for()
    assert_usable(axe.run(page))
    page.locator("tr.destination", has_text="v2").get_by_role("button").click()
    assert_usable(axe.run(page))
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "State…"


def _percent(row: Any) -> float:
    """The measured share of a destination; 0.0 while the page has seen too little of it."""
    text = row.locator("td[data-label^=New] span").first.inner_text()
    return float(text.split()[0]) if text.endswith("%") else 0.0


def _mark_under_pointer(page: Any) -> str:
    """What the marks of the split's plot say, one after the other, to a pointer that is near."""
    box = page.locator("#plot-split .u-over").bounding_box()
    said = set()
    for x in range(0, int(box["width"]), 10):  # 6 px away is near enough
        page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
        said.add(page.locator("#plot-split .mark-text").inner_text())
    return "\n".join(said)


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


def test_the_page_comes_back_when_control_does_and_says_when_figures_are_old(
    start_proxy: StartProxy, one: EchoServer, browser: Any
) -> None:
    config, address = with_http(route("shop", free_port(), v1=(1, one.address)))
    proxy = start(start_proxy, config, address)
    page = browser.new_page()
    page.goto(f"http://{address}/#route=gone")
    page.get_by_text("No route has this name").wait_for()
    page.locator("#route-rows a", has_text="shop").click()
    page.get_by_text("Clients of this route connect to").wait_for()
    page.get_by_text("No problems").wait_for()
    page.locator("#route-search").fill("shpo")
    page.get_by_text("No route has “shpo”").wait_for()
    os.kill(proxy.control_pid(), 9)
    page.locator("#live-state", has_text="reconnecting").wait_for()
    page.locator("#live-state", has_text="live").wait_for()
    assert page.locator("#stale").is_hidden()
    proxy.children |= proxy.tree()
    proxy.stop()
    page.locator("#stale", has_text="No news since").wait_for()
    page.locator("#stale", has_text="the instance does not answer").wait_for()
    assert float(_style(page, ".columns", "opacity")) < 0.6


def _style(page: Any, selector: str, name: str) -> str:
    return str(page.locator(selector).evaluate(f"node => getComputedStyle(node).{name}"))


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an instance where one route loses clients and another its canary."""
    server = EchoServer("one")
    with refusing_port() as dead:
        refusing = f"127.0.0.1:{dead}"
        check = {"check": {"type": "tcp", "interval": "100ms", "fast_interval": "50ms"}}
        shop = route("shop", free_port(), v1=(80, server.address), v2=(20, refusing))
        config, address = with_http(
            route("aaa-fine", free_port(), v1=(1, server.address)),
            {**shop, **check},
            {**route("pay", free_port(), only=(1, refusing)), **check},
        )
        proxy = Proxy(tmp_path_factory.mktemp("trouble"), config)
        start(lambda _: proxy, config, address)
        yield address
        proxy.stop()
    server.close()


def test_the_page_says_who_is_out_and_why(trouble: str, browser: Any) -> None:
    """Trouble comes first, in the order of its weight; a click leads to it."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"http://{trouble}/")
    page.locator("#problems-title", has_text="2 problems, 1 of them costs clients").wait_for()
    problems = page.locator("#problem-rows li")
    assert [each.get_attribute("data-severity") for each in problems.all()] == ["error", "warning"]
    page.locator("#problem-rows a", has_text="shop / v2").click()
    page.locator("#route-title", has_text="shop").wait_for()
    assert "degraded" in page.locator("#route-state").inner_text()
    routes = page.locator("#route-rows a")
    wait_for(lambda: routes.all_inner_texts() == ["pay", "shop", "aaa-fine"], "trouble first")
    row = page.locator("tr.endpoint", has_text="127.0.0.1").last
    row.get_by_text("tcp check: connection refused").wait_for()
    assert "down" in row.locator("td.state").inner_text()
    # Not while it is being tried, which the page may happen to show.
    row.locator("td.notes", has_text="tried again in").wait_for()
    canary = page.locator("tr.destination", has_text="v2")
    assert "down" in canary.locator("td.state").inner_text()
    shares = canary.locator("td[data-label=Target]").inner_text()
    assert shares.split("\n") == ["20 %", "now 0 %"]
    page.get_by_text("the others get its share").first.wait_for()
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "page-health.png")


def test_events_are_told_apart_and_found(trouble: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"http://{trouble}/")
    events = page.locator("#event-rows li:not(.day)")
    events.filter(has_text="shop/v2: endpoint").first.wait_for()
    assert str(datetime.now(tz=timezone.utc).year) in page.locator("#event-rows .day").inner_text()
    kinds = page.locator("#event-rows .kind")
    assert {"start", "health"} <= set(kinds.all_inner_texts())
    page.get_by_label("Show").select_option("trouble")
    shown = set(kinds.all_inner_texts())
    assert "health" in shown
    assert not shown & {"start", "reload"}
    page.get_by_label("With the words").fill("PAY/only")
    wait_for(lambda: all("pay/only" in text for text in events.all_inner_texts()), "one of them")
    page.get_by_label("With the words").fill("no such words")
    page.get_by_text("No event matches the filter.").wait_for()


CONVERGENCE = """async () => {
  const { planText, progressText } = await import("/static/convergence.js");
  const surplus = [{ name: "v1", connections: 1200 }, { name: "v3", connections: 4 }];
  const plan = { connections: 5000, surplus, closes: 2400, seconds: 240 };
  const one = { connections: 1, surplus: [{ name: "v1", connections: 1 }], closes: 1, seconds: 1 };
  const state = {
    reason: "v2 can take no connections", surplus, closed: 7, reset: 1, busy: 3, unanswered: 0,
    rate: "1%/s", deadline_at: 1000,
  };
  return [
    planText(plan), planText(one), progressText(state, 940),
    progressText({ ...state, reason: "", surplus: [], busy: 0 }, 1001),
  ];
}"""


def test_what_there_is_to_move_is_said_in_words(browser: Any) -> None:
    """Of several destinations and of one connection; why it is paused; after the deadline."""
    page = browser.new_context(timezone_id="UTC").new_page()
    page.route("**/*", lambda it: it.fulfill(path=PAGE / it.request.url.rpartition("/")[2]))
    page.goto("http://page/static/history.js")
    many, one, paused, late = page.evaluate(CONVERGENCE)
    assert many == (
        "1,204 of 5,000 connections are too many: v1 1,200, v3 4; about 2,400 closes, "
        "about 4m 00s at 10/s."
    )
    assert one == "1 of 1 connection is too many at v1; about 1 close, about 1s at 1/s."
    assert paused == (
        "v2 can take no connections; too many at v1 1,200, v3 4 (3 busy); 8 connections closed "
        "so far; until 00:16:40 (in 1m 00s), at most 1%/s"
    )
    assert late == (
        "counting; 8 connections closed so far; since 00:16:40 those left are reset, at most 1%/s"
    )


HISTORY = """async () => {
  const { RouteHistory } = await import("/static/history.js");
  const history = new RouteHistory(["v1"]);
  const add = (time, weight) =>
    history.add(time, 0, (_, column) => column === "weight" ? weight : NaN);
  const kept = (time, weights) => ({
    time, step: 10, points: weights.length, marks: [], lost: weights.map(() => 0),
    destinations: [{ name: "v1", weight: weights }],
  });
  const shown = () => [history.times.slice(), history.column("v1", "weight").slice()];
  const steps = [];
  add(1000, 1); add(1001, 2); add(1002, 3);
  steps.push(shown());
  history.load(kept(1000, [7, 8, 9]));
  steps.push(shown());
  history.load(kept(1000, []));
  steps.push(shown());
  add(1100, 4);
  steps.push(shown());
  for (let time = 1101; time < 6000; time += 1) add(time, 5);
  steps.push([history.times.length, history.times.at(-1) - history.times[0]]);
  return steps;
}"""


def test_points_of_control_and_of_the_page_are_one_line(browser: Any) -> None:
    """What control tells stands before what the page has seen itself, and takes nothing of it away;
    a line is broken where nobody looked, and memory is bounded."""
    page = browser.new_page()
    page.route("**/*", lambda it: it.fulfill(path=PAGE / it.request.url.rpartition("/")[2]))
    page.goto("http://page/static/history.js")
    own, loaded, unloaded, later, (length, span) = page.evaluate(HISTORY)
    assert own == [[1000, 1002], [1, 3]]
    assert loaded == [[980, 990, 1000, 1002], [7, 8, 9, 3]]
    assert unloaded == loaded
    assert later == [[980, 990, 1000, 1002, 1012, 1100], [7, 8, 9, 3, None, 4]]
    assert length < 450
    assert span <= 3600


def test_rules_and_how_many_connections_have_met_them(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer, browser: Any
) -> None:
    """Of a route that has some; their names and conditions are text, whatever they are."""
    port = free_port()
    rules = [
        {"name": "unmet", "alpn": ["<b>x</b>"], "reject": True},
        {"name": "local", "source": "127.0.0.0/8", "weights": {"v1": 1, "v2": 3}},
    ]
    made = {**route("shop", port, v1=(1, one.address), v2=(0, two.address)), "rules": rules}
    other = route("other", free_port(), v1=(1, one.address))
    config, address = with_http({**made, "preread": {"timeout": "1ms"}}, other)
    start(start_proxy, config, address)
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    with connected(port):
        page.goto(f"http://{address}/")
        row = page.locator("#rule-rows tr", has_text="source 127.0.0.0/8")
        wait_for(lambda: row.inner_text().split("\t")[-2:] == ["1", "1"], "its counts")
        assert row.inner_text().split("\t")[2] == "v1 25 %, v2 75 %"
        unmet = page.locator("#rule-rows tr", has_text="alpn <b>x</b>").inner_text()
        assert unmet.split("\t")[2:] == ["rejected", "0", "0"]
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / "page-rules.png", full_page=True)
        page.locator("#route-rows tr", has_text="other").click()
        page.locator("#rules").wait_for(state="hidden")
