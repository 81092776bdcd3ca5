"""In which order a rollout's changes are said and saved: control may die in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tcpmux.control.hooks import RolloutHooks
from tcpmux.control.rollouts import Rollouts
from tcpmux.rollout.machine import ABORTED, PROMOTED, Rollout
from tcpmux.rollout.plan import Plan


class Recorder:
    """Stands in for the master, and for the state file."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def request(self, operation: str, **_: Any) -> dict[str, Any]:
        self.done.append(operation)
        return {"over": []}

    async def write(self, state: Mapping[str, Any], _patience: float) -> None:
        self.done.append("saved" if state["rollouts"] else "saved without it")


class Recorded(Rollouts):
    def __init__(self, recorder: Recorder) -> None:
        self._master = self._file = recorder  # type: ignore[assignment]
        self._boot, self._namespace, self.history, self.ends = "", 0, {}, {}
        self.hooks = RolloutHooks("", self._save_later)
        self.rollout = Rollout("r", Plan("v2"), 1.0, {"v1": 1, "v2": 0}, {"v1": 1, "v2": 0})
        self.runs = {"r": self.rollout}

        class Table:
            started_at = 1

        class View:
            table = Table

        self._view = View  # type: ignore[assignment]

    async def pause(self) -> None:
        await self._pause(self.rollout, "why")

    async def abort(self) -> None:
        await self._end(self.rollout, ABORTED, "why")

    async def promote(self) -> None:
        await self._end(self.rollout, PROMOTED, "why")

    def _row(self, _name: str) -> None:
        """Nothing is in force."""


@pytest.mark.parametrize(
    ("act", "done"),
    [
        ("pause", ["rollout_says", "saved"]),
        ("abort", ["saved", "set_weights", "rollout_says", "saved without it"]),
        ("promote", ["saved", "rollout_says", "saved without it"]),
    ],
)
def test_what_happened_is_said_before_it_is_done_with(act: str, done: list[str]) -> None:
    """It may be said twice, but never not at all; and an end that was said remains one."""
    recorder = Recorder()
    asyncio.run(getattr(Recorded(recorder), act)())
    assert recorder.done == done
