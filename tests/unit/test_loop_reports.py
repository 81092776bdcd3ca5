"""The master says that connections go round: which route, how many, and not too often."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import cast

import pytest

from tcpmux.master.loops import REPEAT_SECONDS, Loops
from tcpmux.master.workers import Workers
from tcpmux.shm.image import Image, ListenerRow, RouteRow


def test_a_loop_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    told: set[int] = set()
    workers = SimpleNamespace(lives=[], take_loops=lambda: {told.pop()} if told else set())
    routes = tuple(RouteRow(name, 0, slot, 1, ()) for slot, name in enumerate("ab"))
    listeners = ListenerRow("0.0.0.0:80", 3, 0), ListenerRow("[::]:81", 7, 1)
    image = Image(routes, listeners)
    loops = Loops(cast("Workers", workers), lambda: image)

    def said(listener: int | None, now: float) -> list[str]:
        caplog.clear()
        if listener is not None:
            told.add(listener)
        loops.do(now)
        assert all(record.levelno == logging.ERROR for record in caplog.records)
        return caplog.messages

    assert said(None, 0.0) == []
    (text,) = said(3, 0.0)
    assert text.startswith(
        "a: connections are forwarded in a loop: those that come back to 0.0.0.0:80 are reset (0 "
        "so far)"
    )
    assert said(3, REPEAT_SECONDS - 1) == []
    assert len(said(7, REPEAT_SECONDS - 1)) == 1  # another route
    assert len(said(3, REPEAT_SECONDS)) == 1
    assert said(0xFFFFFFFF, 0.0) == []  # no listener of this image
