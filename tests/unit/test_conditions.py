"""The condition of everything, why and since when, and what is told of it; what connections meet
with is noted by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tcpmux.config import Check, Passive
from tcpmux.config.address import Address
from tcpmux.config.rule import Rule
from tcpmux.control import ejection
from tcpmux.control.condition import CONDITIONS, Condition
from tcpmux.control.condition_rules import (
    Failures,
    NameTrouble,
    of_destination,
    of_endpoint,
    of_route,
)
from tcpmux.control.conditions import Conditions
from tcpmux.control.endpoint import Endpoint
from tcpmux.control.ends import ENDS, in_words
from tcpmux.control.health import Health
from tcpmux.control.metrics import Metrics
from tcpmux.control.names import HostNames
from tcpmux.control.problems import (
    MAX_PROBLEMS,
    DestinationConditions,
    Problem,
    problems_of_instance,
    problems_of_route,
    worst,
)
from tcpmux.control.readiness import Readiness
from tcpmux.control.slices import Slices
from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import ABSENT, CLOSE_REASONS, PRESENT, STOPPED
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.image import (
    DISABLED,
    DOWN,
    DRAINING,
    EJECTED,
    HOLD,
    REJECT,
    DestinationRow,
    Image,
    ListenerRow,
    RouteRow,
    RuleRow,
)
from tcpmux.shm.serving import with_conditions, with_state
from tcpmux.shm.view import View
from tests.unit.watching import Watching, conditions_of, destination, endpoint, route, watched

DEAD, OTHER = 2, 3  # slots
AT = "127.0.0.1:1"
ALONE = route(destination(1, "v1", 1, endpoint(DEAD, AT)))


def fail(watching: Watching, times: int, error: int = errno.ECONNREFUSED) -> None:
    for _ in range(times):
        watching.commons.note(DEAD, failure=True, error=error)


# --- what connections meet with -----------------------------------------------------------------


def test_one_that_connects_fail_with_is_down_though_it_stays_in_use() -> None:
    """Nobody stands in for it, so it gets all connections; and everything above it is down, too."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        assert watching.condition("v1", AT) == Condition("healthy", "", 5.0)
        before = time.time()
        fail(watching, 2)
        assert watching.condition("v1", AT)[:2] == ("degraded", "connection refused, 2 in a row")
        assert watching.condition()[0] == "degraded"
        fail(watching, 15)
        await watching.looks()
        word, reason, since = watching.condition("v1", AT)
        assert (word, reason) == ("down", "connection refused, 17 in a row")
        assert since is not None
        assert before - 0.1 <= since <= time.time()
        assert watching.condition("v1")[:2] == ("down", f"{AT}: {reason}")
        assert watching.condition()[:2] == (
            "down",
            f"new connections fail: v1 is down: {AT}: {reason}",
        )
        assert watching.shares() == [1]
        assert watching.healths() == ["up"]
        fail(watching, 1)
        assert watching.condition("v1", AT) == Condition(
            "down", "connection refused, 18 in a row", since
        )
        watching.commons.note(DEAD, success=True)
        await watching.looks()
        assert watching.condition("v1", AT)[:2] == ("healthy", "")
        assert watching.condition()[:2] == ("healthy", "")

    watched(ALONE, scenario, passive=Passive(ejection_time=600.0))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (0, "connect timed out, 3 in a row"),
        (errno.EHOSTUNREACH, "no route to host, 3 in a row"),
        (errno.ENOENT, "no such socket, 3 in a row"),
        (0xFFFF_FFF9, "connect timed out, 3 in a row"),
        (1 << 30, "connect timed out, 3 in a row"),
    ],
)
def test_the_reason_is_what_the_last_connect_met_with(error: int, text: str) -> None:
    """A worker writes it, which may write anything."""

    async def scenario(watching: Watching) -> None:
        fail(watching, 2)
        fail(watching, 1, error)
        assert watching.condition("v1", AT).reason == text

    watched(ALONE, scenario, passive=Passive(errors=0))


def test_failures_beside_checks_that_succeed_are_a_doubt_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        async def scenario(watching: Watching) -> None:
            await watching.looks()
            fail(watching, 9)
            word, reason, _ = watching.condition("v1", address)
            assert (word, reason) == (
                "degraded",
                "connection refused, 9 in a row, but its checks succeed",
            )

        row = route(destination(1, "v1", 1, endpoint(DEAD, address)))
        watched(row, scenario, check=Check("tcp", interval=600.0), passive=Passive(errors=0))


def test_once_nobody_connects_any_more_it_is_asked_whether_it_answers_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it does not, it stays down. Only what is shown follows from it: for whoever chooses
    endpoints the failures still count."""
    monkeypatch.setattr(ejection, "QUIET", 0.05)
    looked = []
    answers: list[str | None] = ["connection refused", None, ""]

    async def wrong_with(_self: object, known: Endpoint) -> str | None:
        looked.append(known.address)
        return answers[min(len(looked), 3) - 1]

    monkeypatch.setattr(ejection.Ejection, "_wrong_with", wrong_with)

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 7)
        await watching.until(lambda: len(looked) == 2, "it to be asked twice")
        assert watching.condition("v1", AT).word == "down"
        await watching.until(lambda: watching.condition("v1", AT).word == "healthy", "it to answer")
        assert (
            watching.condition("v1", AT).reason
            == "answers checks again; before that 7 connects failed"
        )
        assert watching.condition().word == "healthy"
        assert watching.commons.failures(DEAD)[0] == 7
        count = len(looked)
        await watching.looks(20)
        assert len(looked) == count, "asked again, with nothing new"
        fail(watching, 3)
        assert watching.condition("v1", AT)[:2] == ("down", "connection refused, 3 in a row")
        watching.commons.note(DEAD, success=True)
        await watching.looks()
        fail(watching, 1)
        await watching.looks()
        assert watching.condition("v1", AT)[:2] == ("degraded", "connection refused")

    watched(ALONE, scenario, passive=Passive(ejection_time=600.0))


def test_one_that_tcpmux_may_not_watch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `passive: off` it is never connected to but for clients."""
    monkeypatch.setattr(ejection, "QUIET", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"127.0.0.1:{server.getsockname()[1]}"

        async def scenario(watching: Watching) -> None:
            fail(watching, 7)
            await watching.looks(20)
            assert watching.condition("v1", address).word == "down"

        row = route(destination(1, "v1", 1, endpoint(DEAD, address)))
        watched(row, scenario, passive=Passive(errors=0))
        with pytest.raises(BlockingIOError):
            server.accept()


# --- since when ---------------------------------------------------------------------------------


def anew(watching: Watching) -> Conditions:
    """Those of another control process: the second, as the table says."""
    watching.table.set_program(0, os.getpid(), PRESENT, 2, 0)
    made = Conditions(watching.view, Health(watching.view), HostNames())
    for _ in made.looking():
        pass
    return made


def test_what_shared_memory_tells_outlives_the_control_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Since when something is drained, out or failing. Of what is healthy it is not known."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        keys = [("r", "v1", "127.0.0.1:1"), ("r", "v2")]
        watching.image = with_conditions(watching.image, {keys[0]: (DOWN, 100)})
        watching.image = with_state(watching.image, keys[1], DRAINING)
        monkeypatch.setattr(time, "time", lambda: 1_000_300.0)
        watching.image = with_state(watching.image, keys[1], DRAINING)  # which it is already
        publish_image(watching.table, watching.image)
        found = anew(watching).of("r")
        assert found is not None
        assert found.destinations["v2"].own.since == 1_000_000.0
        assert found.destinations["v1"].endpoints["127.0.0.1:1"].since == 1_000_000.0
        assert found.destinations["v1"].own.since == 1_000_000.0
        assert found.own == Condition("down", found.own.reason, 1_000_000.0)
        assert found.destinations["v2"].endpoints["127.0.0.1:2"].since is None

    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    v1 = destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"))
    v2 = destination(4, "v2", 1, endpoint(OTHER, "127.0.0.1:2"))
    watched(route(v1, v2), scenario, passive=Passive(errors=0), check=Check("tcp", interval=600.0))


def test_failures_before_a_control_process_count_for_what_it_shows() -> None:
    async def scenario(watching: Watching) -> None:
        before = time.time()
        fail(watching, 7)
        found = anew(watching).of("r")
        assert found is not None
        assert found.own.word == "down"
        since = found.destinations["v1"].endpoints[AT].since
        assert since is not None
        assert before - 1 < since <= time.time()

    watched(ALONE, scenario, passive=Passive(errors=0))


def test_a_look_at_what_has_not_changed_looks_at_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done each second, of a thousand routes as well."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        watching.condition()
        looks: list[str] = []
        original = Conditions._update

        def update(self: Conditions, name: str) -> None:
            looks.append(name)
            original(self, name)

        monkeypatch.setattr(Conditions, "_update", update)
        for _ in range(3):
            watching.condition()
        assert looks == []
        fail(watching, 1)
        watching.condition()
        assert looks == ["r"]
        watching.commons.note(DEAD, success=True)
        watching.condition()
        watching.condition()
        assert looks == ["r", "r"]

    watched(ALONE, scenario, passive=Passive(errors=0))


def test_many_who_ask_at_the_same_time_cost_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask whether it is ready, without a token; nobody else is to wait for that."""

    async def scenario(watching: Watching) -> None:
        looks: list[float] = []
        original = Conditions.looking

        def looking(self: Conditions) -> Iterator[None]:
            looks.append(time.monotonic())
            yield
            yield from original(self)

        monkeypatch.setattr(Conditions, "looking", looking)
        monkeypatch.setattr("tcpmux.control.slices.SLICE", 0.0)  # so that it takes several
        slices = Slices()
        first = asyncio.create_task(watching.conditions.look(slices))
        await asyncio.sleep(0)
        fail(watching, 3)
        await asyncio.gather(*(watching.conditions.look(slices) for _ in range(50)), first)
        assert len(looks) == 2
        own = watching.conditions.routes["r"].own
        assert own.word == "down"
        await watching.conditions.look(slices)
        assert len(looks) == 3

    watched(ALONE, scenario, passive=Passive(errors=0))


def test_the_stream_is_told_of_what_has_changed_and_of_nothing_else() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        watching.condition()
        conditions = watching.conditions
        assert list(conditions.changed_after(0)) == []  # all is healthy
        version = conditions.version
        fail(watching, 3)
        watching.condition()
        (changed,) = conditions.changed_after(version)
        (at,) = changed["destinations"]
        assert [changed["condition"], at["condition"]] == ["down", "down"]
        assert at["endpoints"][0]["condition_reason"] == "connection refused, 3 in a row"
        assert list(conditions.changed_after(0)) == [changed]
        assert list(conditions.changed_after(conditions.version)) == []
        told = conditions.overview()
        assert [each["route"] for each in told["problems"]] == [None, "r"]  # no worker runs here
        assert told["problems_total"] == 2

    watched(ALONE, scenario, passive=Passive(errors=0))


# --- the rules ----------------------------------------------------------------------------------

GOOD, BAD, OUT = Condition("healthy"), Condition("degraded", "why"), Condition("down", "why")
SET_ASIDE, OFF = Condition("drained"), Condition("disabled")


@pytest.mark.parametrize(
    ("row", "failures", "word", "reason"),
    [
        (endpoint(1, AT), Failures(), "healthy", ""),
        (endpoint(1, AT, slow_start_percent=40), Failures(), "healthy", "slow start: 40%"),
        (endpoint(1, AT, state=DRAINING), Failures(), "drained", "drained by an operator"),
        (
            endpoint(1, AT, state=DISABLED, health=DOWN),
            Failures(),
            "disabled",
            "disabled by an operator; down: its checks fail",
        ),
        (endpoint(1, AT, health=DOWN), Failures(), "down", "its checks fail"),
        (endpoint(1, AT, health=EJECTED), Failures(), "down", "ejected"),
        (endpoint(1, AT), Failures(1, errno.ECONNREFUSED), "degraded", "connection refused"),
        (endpoint(1, AT), Failures(3), "down", "connect timed out, 3 in a row"),
        (endpoint(1, AT), Failures(0, 0, None, 4), "healthy", "answers checks again"),
    ],
)
def test_of_an_endpoint(row: Any, failures: Failures, word: str, reason: str) -> None:
    found = of_endpoint(row, None, failures)
    assert found.word == word
    assert found.reason.startswith(reason)
    assert bool(found.reason) == bool(reason)


def two(**more: Any) -> DestinationRow:
    row = destination(1, "v1", 1, endpoint(2, "127.0.0.1:1"), endpoint(3, "127.0.0.1:2"))
    return replace(row, **more)


NAME = NameTrouble("shop.test:80", "does not resolve (no data)", 7.0, has_addresses=False)


@pytest.mark.parametrize(
    ("row", "endpoints", "names", "word", "reason"),
    [
        (two(), [GOOD, GOOD], [], "healthy", ""),
        (two(), [GOOD, OUT], [], "degraded", "1 of 2 endpoints down: 127.0.0.1:2: why"),
        (two(), [GOOD, BAD], [], "degraded", "127.0.0.1:2: why"),
        (two(), [OUT, OUT], [], "down", "127.0.0.1:1: why (and 1 more down)"),
        (
            two(panic=True),
            [OUT, OUT],
            [],
            "down",
            "127.0.0.1:1: why (and 1 more down); all are used",
        ),
        (
            two(panic=True),
            [GOOD, OUT],
            [],
            "degraded",
            "only 1 of 2 endpoints healthy: all are used",
        ),
        (two(), [SET_ASIDE, GOOD], [], "healthy", "1 of 2 endpoints drained"),
        (two(), [SET_ASIDE, OUT], [], "down", "127.0.0.1:2: why"),
        (two(), [SET_ASIDE, OFF], [], "drained", "all its endpoints are drained"),
        (two(), [OFF, OFF], [], "disabled", "all its endpoints are disabled"),
        (two(state=DRAINING), [OUT, GOOD], [], "drained", "drained by an operator"),
        (two(unresolved=1), [GOOD, GOOD], [NAME], "degraded", "shop.test:80: does not resolve"),
        (two(unresolved=1), [GOOD, GOOD], [], "degraded", "1 host name without an address"),
        (two(endpoints=(), unresolved=1), [], [NAME], "down", "shop.test:80: does not resolve"),
        (two(endpoints=(), unresolved=2), [], [], "down", "no address for 2 names"),
        (two(endpoints=()), [], [], "down", "it has no endpoint"),
    ],
)
def test_of_a_destination(
    row: DestinationRow,
    endpoints: list[Condition],
    names: list[NameTrouble],
    word: str,
    reason: str,
) -> None:
    found = of_destination(row, endpoints, names)
    assert found.word == word
    assert found.reason.startswith(reason)


def split(*weights: int, effective: tuple[int, ...] = (), **rules: Any) -> RouteRow:
    rows = [
        replace(
            destination(10 * n, f"v{n}", weight, endpoint(10 * n + 1, f"127.0.0.1:{n}")),
            effective_weight=(effective or weights)[n - 1],
        )
        for n, weight in enumerate(weights, 1)
    ]
    turned = route(*rows, **rules)
    return replace(turned, destinations=tuple(replace(row, turns=(0,)) for row in rows))


def one_aside(state: int) -> RouteRow:
    """A route of which an operator has taken one endpoint out of service."""
    row = split(9, 1)
    ends = (endpoint(2, "127.0.0.1:1"), endpoint(3, "127.0.0.1:2", state=state))
    v1, v2 = row.destinations
    return replace(row, destinations=(replace(v1, endpoints=ends), v2))


@pytest.mark.parametrize(
    ("row", "destinations", "word", "reason"),
    [
        (split(9, 1), [GOOD, GOOD], "healthy", ""),
        (split(9, 1), [GOOD, SET_ASIDE], "healthy", "v2 is drained"),
        (one_aside(DRAINING), [GOOD, GOOD], "healthy", "v1: 1 of 2 endpoints drained"),
        (one_aside(DISABLED), [GOOD, SET_ASIDE], "healthy", "v1: 1 of 2 endpoints disabled; v2 is"),
        (split(1, 0), [GOOD, OUT], "healthy", ""),
        (
            split(9, 1, effective=(9, 0)),
            [GOOD, OUT],
            "degraded",
            "v2 is down (the others get its share): why",
        ),
        (split(9, 1), [GOOD, OUT], "degraded", "v2 is down (10% of new connections fail): why"),
        (
            split(9, 1),
            [BAD, OUT],
            "degraded",
            "v2 is down (10% of new connections fail): why (and 1 more)",
        ),
        (split(9, 1), [BAD, GOOD], "degraded", "v1 is degraded: why"),
        (split(9, 1), [OUT, SET_ASIDE], "down", "new connections fail: v1 is down: why"),
        (
            split(9, 1),
            [SET_ASIDE, OFF],
            "drained",
            "every destination with weight is drained: new connections are reset",
        ),
        (split(1), [OFF], "disabled", "its only destination is disabled"),
        (
            split(0, 0),
            [GOOD, GOOD],
            "down",
            "every destination has weight 0: new connections are reset",
        ),
    ],
)
def test_of_a_route(row: RouteRow, destinations: list[Condition], word: str, reason: str) -> None:
    found = of_route(row, destinations)
    assert found.word == word
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("weights", "rules", "own", "word", "reason"),
    [
        ((1, 0), [(0, 1)], [GOOD, GOOD], "healthy", ""),
        ((1, 0), [(0, 1)], [GOOD, OUT], "degraded", "connections of rule r0 fail"),
        ((1, 0), [(0, 0)], [GOOD, GOOD], "degraded", "connections of rule r0 are reset"),
        ((1, 0), [(0, 1), (0, 2)], [GOOD, OUT], "degraded", "connections of rule r0 (and 1 more)"),
        ((1, 0), [(1, 1)], [GOOD, OUT], "healthy", ""),
        ((1, 0), [(0, 1)], [OUT, GOOD], "degraded", "without a rule, new connections fail: v1"),
        ((1, 0), [(1, 0)], [OUT, GOOD], "down", "new connections fail: v1 is down"),
        ((0, 0), [(0, 1)], [OUT, GOOD], "healthy", "connections that meet no rule are reset"),
        ((0, 0), [(1, 0)], [OUT, GOOD], "down", "every destination has weight 0"),
    ],
)
def test_of_a_route_with_rules(
    weights: tuple[int, ...],
    rules: list[tuple[int, ...]],
    own: list[Condition],
    word: str,
    reason: str,
) -> None:
    made = tuple(
        RuleRow(Rule(name=f"r{n}"), n, n, 1, each, each, each) for n, each in enumerate(rules)
    )
    found = of_route(replace(split(*weights), pick_rules=made), own)
    assert found.word == word
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("rules", "end"), [({}, "are reset"), ({"on_all_unavailable": HOLD}, "wait")]
)
def test_of_a_route_that_nobody_serves(rules: dict[str, Any], end: str) -> None:
    """What becomes of clients depends on on_all_unavailable."""
    out = endpoint(2, AT, health=DOWN)
    row = route(destination(1, "v1", 1, out), **rules)
    found = of_route(row, [OUT])
    assert found[:2] == ("down", f"new connections {end}: v1 is down: why")


# --- problems -----------------------------------------------------------------------------------


def problems(row: RouteRow, *own: Condition) -> list[Problem]:
    destinations = {
        each.name: DestinationConditions(at, {str(one.address): at for one in each.endpoints}, {})
        for each, at in zip(row.destinations, own, strict=True)
    }
    return problems_of_route(row, of_route(row, own), destinations)


@pytest.mark.parametrize(
    ("row", "own", "expected"),
    [
        (split(9, 1), [GOOD, GOOD], []),
        (split(9, 1), [GOOD, OUT], [("error", "v2", None)]),
        (split(9, 1, effective=(9, 0)), [GOOD, OUT], [("warning", "v2", None)]),
        (split(1, 0), [GOOD, OUT], [("warning", "v2", None)]),
        (split(1, 0), [OUT, OUT], [("error", None, None), ("warning", "v2", None)]),
        (split(9, 1), [GOOD, BAD], [("warning", "v2", "127.0.0.1:2")]),
        (split(9, 1), [SET_ASIDE, SET_ASIDE], [("error", None, None)]),
        (split(0, 0), [GOOD, GOOD], [("error", None, None)]),
        (split(9, 1), [GOOD, SET_ASIDE], []),
    ],
)
def test_a_cause_is_told_once_and_error_means_that_clients_lose(
    row: RouteRow, own: list[Condition], expected: list[tuple[str, str | None, str | None]]
) -> None:
    found = problems(row, *own)
    assert [(each.severity, each.destination, each.endpoint) for each in found] == expected
    for each in found:
        assert each.route == "r"
        assert each.action
        assert "\n" not in each.text + each.action
        assert each.condition in CONDITIONS


def test_a_share_that_is_lost_by_reject_is_an_error() -> None:
    out = endpoint(2, AT, health=DOWN)
    v1, v2 = destination(1, "v1", 1, out), destination(5, "v2", 3, endpoint(6, "127.0.0.1:2"))
    (found,) = problems(route(v1, v2, on_unavailable=REJECT), OUT, GOOD)
    assert (found.severity, found.text) == ("error", "why; 25% of new connections are reset")


def test_the_worst_come_first_and_no_more_than_fit() -> None:
    def one(severity: str, condition: str, name: str, since: float | None = None) -> Problem:
        return Problem(severity, name, None, None, condition, "", since, "")

    many = [one("warning", "degraded", f"r{n}", 1.0) for n in range(500)]
    first = [
        one("error", "down", "z", 3.0),
        one("error", "down", "a", 9.0),
        one("error", "degraded", "b"),
        one("warning", "down", "c"),
    ]
    found = worst([*many, *reversed(first)])
    assert found[:4] == first
    assert len(found) == MAX_PROBLEMS


def test_what_is_wrong_with_the_instance_itself() -> None:
    """Its master, its workers, the log process, the last reload and the last upgrade."""
    table, live, commons = Table.create(1, 1, os.getpid(), 5), Live.create(0, 16), Commons.create()
    second = Live.create(1, 16)
    view = View(table.fd, [live.fd, second.fd], commons_fd=commons.fd, writable=True)
    publish_image(table, Image((), ()))

    def told(*, gone: bool = False, behind: Any = ()) -> list[tuple[str, str]]:
        return [
            (each.severity, each.text)
            for each in problems_of_instance(view, master_gone=gone, behind=behind)
        ]

    assert told() == [("error", "no worker runs: new connections wait")]
    worker = view.lives[0]
    worker.guardian_pid = os.getpid()
    worker.pid = os.getpid()
    worker.presence = PRESENT
    assert told() == []
    worker.presence = STOPPED
    nobody = ("error", "no worker runs: new connections wait")
    assert told() == [nobody, ("warning", "worker 0 is stopped or hangs")]
    other = view.lives[1]
    other.guardian_pid = other.pid = os.getpid()
    other.presence = PRESENT
    assert told() == [("warning", "worker 0 is stopped or hangs: others accept for it")]
    worker.presence = ABSENT
    worker.presence = PRESENT
    table.set_program(1, os.getpid(), STOPPED, 1, 1)
    (log,) = told()
    assert log[1].startswith("the log process is stopped, hangs or has ended")
    table.set_program(1, os.getpid(), PRESENT, 1, 1)
    table.last_reload = 1000, "routes.yaml:3:1: wrong"
    (reload,) = told()
    assert reload[0] == "warning"
    assert reload[1].endswith("configuration is in force: routes.yaml:3:1: wrong")
    table.last_reload = 1001, ""
    table.upgrade = 1, 2, "no such file"
    (upgrade,) = told()
    assert upgrade[1].endswith("build is running: no such file")
    table.upgrade = 1, 0, ""
    assert told(gone=True)[0][1].startswith("the master has ended")
    (silent,) = problems_of_instance(view, master_gone=False, behind=(), master_silent=7.0)
    assert silent.text.startswith("the master is stopped or hangs")
    assert (silent.since, silent.severity) == (7.0, "warning")
    assert told(behind=[(3, 1.0)])[0][1].startswith("worker 3 uses an older route table")


# --- readiness and metrics ----------------------------------------------------------------------


def test_ready_is_what_takes_connections_and_one_dead_route_is_no_reason() -> None:
    table, live, commons = Table.create(1, 1, os.getpid(), 5), Live.create(0, 16), Commons.create()
    view = View(table.fd, [live.fd], commons_fd=commons.fd, writable=True)
    conditions = conditions_of(view)
    readiness = Readiness(view, conditions)
    worker = view.lives[0]

    def publish(*healths: int, listening: int = 2) -> None:
        rows = tuple(
            replace(
                route(destination(10 * n + 1, "v1", 1, endpoint(10 * n, AT, health=at))),
                name=f"r{n}",
                ticket=n,
                slot=100 + n,
            )
            for n, at in enumerate(healths)
        )
        listeners = tuple(
            ListenerRow(Address.parse(f"unix:/{n}"), n, n) for n in range(min(listening, len(rows)))
        )
        publish_image(table, Image(rows, listeners))

    def reasons(*, with_names: bool = True) -> list[str]:
        for _ in conditions.looking():
            pass
        return list(readiness.reasons(with_names=with_names))

    publish(0, 0)
    assert not readiness.is_alive()
    assert reasons() == ["no worker runs"]
    worker.guardian_pid = worker.pid = os.getpid()
    worker.presence = PRESENT
    assert readiness.is_alive()
    assert reasons() == []
    publish(0, DOWN)
    assert reasons() == []
    publish(DOWN, DOWN)
    assert reasons() == ["every route is down: r0, r1"]
    assert reasons(with_names=False) == ["every route is down"]
    publish(0, 0, listening=1)
    assert reasons() == ["1 route not listening: r1"]
    assert reasons(with_names=False) == ["1 route not listening"]
    publish(0, DOWN, listening=1)  # it does not listen as it is down: on_all_unavailable refuse
    assert reasons() == []
    publish()
    assert reasons() == []
    table.set_state(2)
    assert reasons() == ["draining"]
    worker.presence = STOPPED
    assert not readiness.is_alive()


def test_a_metric_for_each_state_and_one_of_them_is_1() -> None:
    """Of the route, the destination and the endpoint; and what is wrong, by severity."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 3)
        watching.condition()
        lines = Metrics(watching.view, "1", watching.conditions).text().splitlines()
        at = 'route="r"'
        for name in ("route", "destination", "endpoint"):
            if name == "destination":
                at += ',destination="v1"'
            elif name == "endpoint":
                at += f',endpoint="{AT}"'
            found = [line for line in lines if line.startswith(f"tcpmux_{name}_state{{")]
            assert found == [
                f'tcpmux_{name}_state{{{at},state="{word}"}} {int(word == "down")}'
                for word in CONDITIONS
            ]
        assert 'tcpmux_problems{severity="error"} 2' in lines  # and no worker runs here
        assert 'tcpmux_problems{severity="warning"} 0' in lines
        assert "tcpmux_last_reload_successful 1" in lines
        assert "tcpmux_last_reload_timestamp_seconds 5" in lines
        assert "tcpmux_drain_state 0" in lines
        watching.table.last_reload = 1000, "no"
        watching.table.set_state(2)
        lines = Metrics(watching.view, "1", watching.conditions).text().splitlines()
        assert "tcpmux_last_reload_successful 0" in lines
        assert "tcpmux_last_reload_timestamp_seconds 1000" in lines
        assert "tcpmux_drain_state 1" in lines

    watched(ALONE, scenario, passive=Passive(errors=0))


# --- ends ---------------------------------------------------------------------------------------


def test_each_reason_for_an_end_has_words() -> None:
    assert tuple(ENDS) == CLOSE_REASONS
    assert len(set(ENDS.values())) == len(ENDS)
    assert max(map(len, ENDS.values())) < 40
    assert in_words(
        {"finished": 3, "killed": 0, "made_up": 5}, {"connections_denied_total": 4}
    ) == [
        (5, "made_up"),
        (4, "client not allowed"),
        (3, ENDS["finished"]),
    ]


def test_who_accepts_for_a_worker_that_is_full() -> None:
    table, commons = Table.create(1, 1, os.getpid(), 5), Commons.create()
    regions = [Live.create(0, 0), Live.create(1, 16)]  # one has no room for any connection
    view = View(table.fd, [live.fd for live in regions], commons_fd=commons.fd, writable=True)
    publish_image(table, Image((), ()))
    for worker in view.lives:
        worker.guardian_pid = worker.pid = os.getpid()
        worker.presence = PRESENT

    def told() -> tuple[str, str]:
        problems = problems_of_instance(view, master_gone=False, behind=())
        (found,) = [each for each in problems if "at the limit" in each.text]
        return found.severity, found.text

    full = "at the limit of 0 connections: worker 0"
    assert told() == ("warning", f"{full}; others accept for it")
    view.lives[1].presence = STOPPED
    assert told() == ("error", f"{full}; new clients wait")
