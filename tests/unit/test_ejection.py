"""What connections meet with, and what follows from it: what workers note is noted by hand."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tcpmux.config import Check, Passive
from tcpmux.control import ejection
from tcpmux.control.connecting import ProbeImpossible
from tcpmux.shm.image import FALLBACK, REJECT, RouteRow
from tcpmux.shm.rules import EndpointRules
from tests.integration.servers import resetting, saying, serving
from tests.support import refusing_port, will_reset
from tests.unit.watching import PASSIVE, Watching, destination, endpoint, route, watched

DEAD, OTHER = 2, 3  # slots
LONG = Passive(ejection_time=600.0)
STAYS = "failing, but stays in use: nothing else could serve its connections"


def fail(watching: Watching, times: int, slot: int = DEAD) -> None:
    for _ in range(times):
        watching.commons.note(slot, failure=True)


def suspect(watching: Watching, times: int, clients: int, slot: int = DEAD) -> None:
    """clients: how many different ones, which the upper bits of a key tell."""
    for number in range(times):
        watching.commons.note(slot, suspicion=(number % clients) << 58)


# --- connects that fail -------------------------------------------------------------------------


def test_five_connects_in_a_row_that_fail_eject_and_a_success_between_does_not() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        for _ in range(3):
            fail(watching, 4)
            await watching.looks()
            watching.commons.note(DEAD, success=True)
        assert watching.healths() == ["up", "up"]
        fail(watching, 5)
        await watching.until(lambda: watching.healths() == ["ejected", "up"], "it to be out")

    row = route(
        destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"), endpoint(OTHER, "127.0.0.1:2"))
    )
    watching = watched(row, scenario, passive=LONG)
    text = "127.0.0.1:1 is ejected for 600 s: 5 connects in a row failed"
    assert watching.said(text, logging.WARNING)


def alone_with_a_fallback() -> RouteRow:
    v1 = destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"))
    v2 = destination(4, "v2", 0, endpoint(OTHER, "127.0.0.1:2"))
    return route(v1, v2, on_unavailable=FALLBACK, fallback=1)


def with_a_backup() -> RouteRow:
    backup = endpoint(OTHER, "127.0.0.1:2", rules=EndpointRules(priority=1))
    return route(destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"), backup))


def beside_another() -> RouteRow:
    v1 = destination(1, "v1", 95, endpoint(DEAD, "127.0.0.1:1"))
    return route(v1, destination(4, "v2", 5, endpoint(OTHER, "127.0.0.1:2")))


@pytest.mark.parametrize(
    ("row", "shares"),
    [(alone_with_a_fallback(), [0, 1]), (with_a_backup(), [1]), (beside_another(), [0, 5])],
    ids=["fallback", "backup", "another destination"],
)
def test_one_is_ejected_if_somebody_gets_its_connections(row: RouteRow, shares: list[int]) -> None:
    """Also if that is a destination without a weight of its own, or an endpoint that is waiting."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 5)
        await watching.until(lambda: watching.healths() == ["ejected", "up"], "it to be out")
        assert watching.shares() == shares
        (last,) = watching.image.routes[0].destinations[-1:]
        assert [last.endpoints[turn].slot for turn in last.turns] == [OTHER]

    watched(row, scenario, passive=LONG)


def no_others() -> RouteRow:
    v1 = destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"))
    return route(v1, destination(4, "v2", 0, endpoint(OTHER, "127.0.0.1:2")))


def others_that_get_nothing() -> RouteRow:
    v1 = destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"))
    v2 = destination(4, "v2", 1, endpoint(OTHER, "127.0.0.1:2"))
    return route(v1, v2, on_unavailable=REJECT)


def others_that_are_disabled() -> RouteRow:
    other = endpoint(OTHER, "127.0.0.1:2", state=2)
    return route(destination(1, "v1", 1, endpoint(DEAD, "127.0.0.1:1"), other))


@pytest.mark.parametrize(
    "row", [no_others(), others_that_get_nothing(), others_that_are_disabled()]
)
def test_one_that_nobody_else_stands_in_for_stays_and_that_is_said(row: RouteRow) -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 50)
        await watching.until(lambda: watching.texts, "that to be said")
        fail(watching, 50)
        await watching.looks(10)
        assert watching.healths() == ["up", "up"]
        detail = watching.health.detail("r", "v1", "127.0.0.1:1")
        assert detail["health_reason"] == STAYS
        assert [each["address"] for each in watching.health.troubles()] == ["127.0.0.1:1"]
        watching.commons.note(DEAD, success=True)
        await watching.looks()
        assert watching.health.detail("r", "v1", "127.0.0.1:1")["health_reason"] == ""
        assert watching.health.troubles() == []

    watching = watched(row, scenario, passive=LONG)
    assert watching.levels == [(logging.ERROR, f"r/v1: endpoint 127.0.0.1:1 is {STAYS}")]


def test_one_that_fails_and_recovers_all_the_time_does_not_flood_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it is, is shown all the time; in the log it is said once in a while."""

    async def scenario(watching: Watching) -> None:
        def reason() -> Any:
            return watching.health.detail("r", "v1", "127.0.0.1:1")["health_reason"]

        for _ in range(3):
            await watching.looks()
            fail(watching, 50)
            await watching.until(lambda: reason() == STAYS, "that to be shown")
            watching.commons.note(DEAD, success=True)
            await watching.until(lambda: reason() == "", "that to be over")
        assert len(watching.texts) == 1
        monkeypatch.setattr(ejection, "SAY_AGAIN", 0.0)
        fail(watching, 50)
        await watching.until(lambda: len(watching.texts) == 2, "it to be said again")

    watched(no_others(), scenario, passive=LONG)


def test_of_a_large_destination_so_many_percent_are_ejected_and_no_more() -> None:
    endpoints = [endpoint(10 + n, f"127.0.0.1:{n + 1}") for n in range(30)]

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        for row in endpoints:
            fail(watching, 5, row.slot)
        await watching.until(lambda: watching.healths().count("ejected") == 3, "three to be out")
        await watching.looks(10)
        assert watching.healths().count("ejected") == 3

    watching = watched(route(destination(1, "v1", 1, *endpoints)), scenario, passive=LONG)
    assert watching.said("is failing, but stays in use: most_ejected is 10%", logging.WARNING)


def three_beside_another(**rules: Any) -> RouteRow:
    dead = [endpoint(10 + n, f"127.0.0.1:{n + 1}") for n in range(3)]
    v2 = destination(4, "v2", 1, endpoint(OTHER, "127.0.0.2:1"))
    return route(destination(1, "v1", 1, *dead), v2, **rules)


def test_all_are_ejected_if_all_fail_and_another_destination_gets_their_share() -> None:
    """Those that most_ejected keeps have no client of theirs served."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        for slot in (10, 11):
            fail(watching, 5, slot)
        await watching.until(lambda: watching.said("most_ejected is 10%"), "one to be spared")
        assert watching.healths() == ["ejected", "up", "up", "up"]  # the third takes connects
        fail(watching, 5, 12)
        await watching.until(lambda: watching.healths() == ["ejected"] * 3 + ["up"], "all out")
        assert watching.shares() == [0, 1]

    watched(three_beside_another(), scenario, passive=LONG)


def test_and_stay_if_nobody_gets_their_share() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        for slot in (10, 11, 12):
            fail(watching, 5, slot)
        await watching.until(lambda: "ejected" in watching.healths(), "one to be out")
        await watching.looks(10)
        assert watching.healths() == ["ejected", "up", "up", "up"]

    watched(three_beside_another(on_unavailable=REJECT), scenario, passive=LONG)


# --- the end of an ejection ---------------------------------------------------------------------


def behind(port: int) -> RouteRow:
    return route(
        destination(1, "v1", 1, endpoint(DEAD, f"127.0.0.1:{port}"), endpoint(OTHER, "127.0.0.1:2"))
    )


def test_one_that_is_still_dead_gets_no_client_and_is_out_for_longer() -> None:
    """At the end of its ejection control looks; it was never in force that it is up again."""
    in_force: set[str] = set()

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 5)
        await watching.until(lambda: watching.healths()[0] == "ejected", "it to be out")

        def seen() -> bool:
            in_force.add(watching.healths()[0])
            return watching.said("for another 0.15 s")

        await watching.until(seen, "the third ejection")

    with refusing_port() as port:
        watching = watched(behind(port), scenario)
    assert in_force == {"ejected"}
    assert watching.said("is ejected for another 0.1 s: connection refused", logging.WARNING)


@pytest.mark.parametrize("succeeds", [True, False])
def test_one_that_is_back_is_out_by_the_first_failure_until_a_connect_has_succeeded(
    succeeds: bool,
) -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 5)
        await watching.until(lambda: watching.healths()[0] == "ejected", "it to be out")
        await watching.until(lambda: watching.healths()[0] == "up", "it to be back")
        text = "back after its ejection: a check has succeeded"
        assert watching.said(text, logging.INFO)
        if succeeds:
            watching.commons.note(DEAD, success=True)
            await watching.looks()
            fail(watching, 4)
            await watching.looks(10)
            assert watching.healths()[0] == "up"
        fail(watching, 1)
        await watching.until(lambda: watching.healths()[0] == "ejected", "it to be out again")

    with serving(saying(b"")) as server:
        watching = watched(behind(server.port), scenario, passive=Passive(ejection_time=0.05))
    reason = (
        "5 connects in a row failed" if succeeds else "1 connect after the last ejection failed"
    )
    assert watching.said(f"is ejected for 0.1 s: {reason}")


def test_the_check_that_is_configured_decides_whether_it_is_back() -> None:
    """And a connect, if what is checked is another port than clients go to."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        fail(watching, 5)
        await watching.until(lambda: watching.said("for another 0.1 s"), "a look in vain")

    slow = {"interval": 600.0, "fall": 100}
    with serving(saying(b"nothing of the kind\n")) as server:
        check = Check("redis", **slow)  # type: ignore[arg-type]
        watching = watched(behind(server.port), scenario, check=check)
        assert watching.said("for another 0.1 s: answered 'nothing of the kind")
        with refusing_port() as port:
            check = Check("tcp", port=server.port, **slow)  # type: ignore[arg-type]
            watching = watched(behind(port), scenario, check=check)
            assert watching.said("for another 0.1 s: connection refused")


# --- what clients can bring about ---------------------------------------------------------------


def test_resets_and_closes_alone_eject_nobody_and_are_shown() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 500, 8)
        await watching.until(lambda: watching.texts, "a suspicion")
        suspect(watching, 500, 64)
        await watching.looks(10)
        assert watching.healths() == ["up", "up"]
        detail = watching.health.detail("r", "v1", address)
        assert detail["suspected"]
        assert detail["health_reason"].startswith(
            "suspected: 500 connections in a row, of 8 client"
        )
        assert [each["address"] for each in watching.health.troubles()] == [address]
        watching.commons.note(DEAD, answer=True)
        await watching.looks()
        assert not watching.health.detail("r", "v1", address)["suspected"]

    with serving(saying(b"")) as server:
        address = server.address
        watching = watched(behind(server.port), scenario, passive=LONG)
    assert len(watching.texts) == 1
    assert watching.said("a check succeeds, so it stays in use", logging.WARNING)


def test_one_client_makes_nobody_suspicious() -> None:
    """However often it comes."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 1000, 1)
        suspect(watching, 1000, 2)
        await watching.looks(10)
        assert server.accepted == 0
        assert watching.texts == []

    with serving(saying(b"")) as server:
        watched(behind(server.port), scenario, passive=LONG)


def test_a_suspect_is_ejected_if_a_look_of_our_own_fails_as_well() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 5, 5)
        await watching.until(lambda: watching.healths() == ["ejected", "up"], "it to be out")

    with serving(resetting) as server:
        check = Check("redis", interval=600.0, fall=100)
        watching = watched(behind(server.port), scenario, check=check, passive=LONG)
    assert watching.said("5 connections in a row, of 5 clients or more, had no answer, and a check")
    assert watching.said("connection reset by peer")


def resetting_at_once(client: socket.socket) -> None:
    will_reset(client)


def closing_at_once(_: socket.socket) -> None:
    pass


@pytest.mark.parametrize(
    ("server_does", "passive", "reason"),
    [
        (resetting_at_once, Passive(resets=True, ejection_time=0.01), "it resets a connection"),
        (closing_at_once, Passive(early_close=60.0, ejection_time=0.01), "it closes a connection"),
    ],
)
def test_one_that_accepts_and_ends_all_is_out_and_stays_out(
    server_does: Callable[[socket.socket], None], passive: Passive, reason: str
) -> None:
    """A plain connect to it succeeds: it would come back at the end of each ejection, and take
    clients with it until it is out again."""
    in_force: list[str] = []

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 5, 5)
        await watching.until(lambda: watching.healths() == ["ejected", "up"], "it to be out")

        def seen() -> bool:
            in_force.append(watching.healths()[0])
            return watching.said("for another 0.03 s")

        await watching.until(seen, "the third ejection")

    with serving(server_does) as server:
        watching = watched(behind(server.port), scenario, passive=passive)
    assert set(in_force) == {"ejected"}
    assert watching.said(f"and a check fails: {reason}")
    assert watching.said(f"ejected for another 0.02 s: {reason}")


def test_and_stays_if_nothing_else_could_serve() -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 5, 5)
        await watching.until(lambda: watching.texts, "a look")
        assert watching.healths() == ["up", "up"]

    row = no_others()
    watching = watched(row, scenario, passive=LONG)
    assert watching.said("nothing else could serve", logging.ERROR)


def test_what_this_host_can_not_look_at_is_not_ejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def impossible(*_: object) -> None:
        looks.append(1)
        raise ProbeImpossible("too many open files")

    looks: list[int] = []
    monkeypatch.setattr(ejection, "stays_open", impossible)

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        suspect(watching, 5, 5)
        await watching.until(lambda: looks, "a look")
        await watching.looks(10)
        assert watching.healths() == ["up", "up"]

    watched(behind(1), scenario, passive=PASSIVE)
