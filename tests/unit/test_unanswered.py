"""Endpoints that end every connection without a byte: what workers note is noted by hand."""

from __future__ import annotations

import logging

import pytest

from tcpmux.config import Passive
from tcpmux.control import unanswered
from tcpmux.control.condition import DEGRADED, HEALTHY
from tests.unit.watching import Watching, destination, endpoint, route, watched

SICK, OTHER = 2, 3  # slots
ADDRESS = "127.0.0.1:1"
OFF = Passive(errors=0)
ROW = route(destination(1, "v1", 1, endpoint(SICK, ADDRESS), endpoint(OTHER, "127.0.0.1:2")))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered, "LOOK_EVERY", 0.0)


def end(watching: Watching, times: int, clients: int, *, reset: bool = True) -> None:
    """clients: how many different ones, which the upper bits of a key tell."""
    for number in range(times):
        watching.commons.note(SICK, unanswered=(number % clients) << 58, reset=reset)


def test_it_is_degraded_stays_in_use_and_is_told_once() -> None:
    """With passive off as well; and healthy as soon as it answers."""

    async def scenario(watching: Watching) -> None:
        await watching.looks()
        end(watching, 5, 2)
        await watching.until(lambda: watching.texts, "a line")
        assert watching.condition("v1", ADDRESS)[:2] == (
            DEGRADED,
            "the last 5 connections were reset by the endpoint without an answer",
        )
        assert watching.condition("v1").word == DEGRADED
        end(watching, 100, 2, reset=False)
        await watching.looks()
        assert "last 105 connections were reset or closed" in watching.condition().reason
        assert watching.healths() == ["up", "up"]
        assert len(watching.texts) == 1
        watching.commons.note(SICK, answer=True)
        await watching.until(lambda: len(watching.texts) > 1, "the all-clear")
        assert watching.condition("v1", ADDRESS).word == HEALTHY

    watching = watched(ROW, scenario, passive=OFF)
    assert watching.said(f"v1: endpoint {ADDRESS} is degraded: the last 5 ", logging.WARNING)
    assert watching.said(f"v1: endpoint {ADDRESS} is answering clients again", logging.INFO)
    assert len(watching.texts) == 2


@pytest.mark.parametrize(("times", "clients"), [(1000, 1), (4, 4)])
def test_one_client_or_few_connections_colour_nothing(times: int, clients: int) -> None:
    async def scenario(watching: Watching) -> None:
        await watching.looks()
        end(watching, times, clients)
        await watching.looks(5)
        assert watching.condition("v1", ADDRESS).word == HEALTHY
        assert watching.texts == []

    watched(ROW, scenario, passive=OFF)


def test_one_that_answers_now_and_then_does_not_flood_the_log() -> None:
    async def scenario(watching: Watching) -> None:
        for _ in range(10):
            end(watching, 5, 5, reset=False)
            await watching.looks()
            assert "closed at once" in watching.condition("v1", ADDRESS).reason
            watching.commons.note(SICK, answer=True)
            await watching.looks()
            assert watching.condition("v1", ADDRESS).word == HEALTHY

    watching = watched(ROW, scenario, passive=OFF)
    assert len(watching.texts) == 2
