"""The short form of `make prove`: each event a few times under load; nothing is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.others import needs_reachable
from tests.stress.__main__ import again, run_event
from tests.stress.catalogue import EVENTS
from tests.stress.load import Load

LIGHT = Load(bulk=8, small=40, rate=200)


def _event(name: str) -> Any:
    has_upgrades = "upgrade" in name or name == "rollout"
    return pytest.param(name, marks=[needs_reachable] if has_upgrades else [])


@pytest.mark.parametrize("name", [_event(name) for name in EVENTS if name != "calm"])
def test_nothing_is_lost(name: str) -> None:
    """No connection, no byte, under what must not harm any; and tcpmux counts each once."""
    seed = random.randrange(1 << 32)
    print(again(seed, name, quick=True))
    outcome = run_event(name, "tcpmux", EVENTS[name].quick, LIGHT, seed)
    assert outcome is not None
    print(outcome.log)
    seen = outcome.seen
    assert outcome.failed == []
    assert (seen.causes, seen.first_loss, seen.wrong) == ("", "", 0)
    assert outcome.acted.times == EVENTS[name].quick
    assert seen.streams == LIGHT.bulk + LIGHT.small
    assert seen.bytes > 0
    assert seen.messages > 0
