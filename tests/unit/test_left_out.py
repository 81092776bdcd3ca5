"""What is said of TLVs of PROXY headers for which there was no room."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tcpmux.control import left_out
from tcpmux.control.left_out import FIRST_PAUSE, LeftOut


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    monkeypatch.setattr(left_out, "is_first_control", lambda _: False)
    return [{"proxy_tlvs_dropped": 5}, {"proxy_tlvs_dropped": 0}]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().partition(" of ")[0] for record in caplog.records]


def test_it_is_said_at_once_and_then_ever_less(
    counters: list[dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing while none is left out; what was before this process has been said."""
    lives = [SimpleNamespace(counters=lambda each=each: each) for each in counters]
    view: Any = SimpleNamespace(lives=lives, table=None)
    watch = LeftOut(view)
    caplog.set_level(logging.WARNING, "tcpmux.control")
    watch.look(0.0)
    assert said(caplog) == []
    counters[1]["proxy_tlvs_dropped"] = 1
    watch.look(1.0)
    for second in range(2, 1 + round(7 * FIRST_PAUSE) + 1):
        counters[0]["proxy_tlvs_dropped"] += 1
        watch.look(float(second))
    first, *others = said(caplog)
    assert first == "1 TLV"
    assert others == [f"{round(FIRST_PAUSE)} TLVs", f"{round(2 * FIRST_PAUSE)} TLVs",
                      f"{round(4 * FIRST_PAUSE)} TLVs"]  # fmt: skip
