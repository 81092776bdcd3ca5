"""The short form of `make prove`: each event a few times under load; nothing is lost."""

from __future__ import annotations

import random

import pytest

from tests.stress.__main__ import run_event
from tests.stress.events import EVENTS
from tests.stress.load import Load

LIGHT = Load(bulk=8, small=40, new=200)


@pytest.mark.parametrize("name", [name for name, event in EVENTS.items() if event.quick])
def test_nothing_is_lost(name: str) -> None:
    """No connection, no byte, under what must not harm any."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}: python -m tests.stress --skip-peers --only {name} --seed {seed}")
    event = EVENTS[name]
    done = run_event(name, "tcpmux", event.quick, LIGHT, seed)
    assert done is not None
    acted, seen = done
    assert acted.times == event.quick
    assert seen.streams == LIGHT.bulk + LIGHT.small
    assert seen.bytes > 0
    assert seen.messages > 0
    assert (seen.streams_lost, seen.failed, seen.wrong) == (0, 0, 0), seen
