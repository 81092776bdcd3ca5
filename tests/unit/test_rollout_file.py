"""The state file of rollouts, which more than one may have open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tcpmux.control.rollout_file import RolloutFile
from tcpmux.rollout import saved


def state(started_at: int, **more: Any) -> dict[str, Any]:
    who = {"boot": "b", "namespace": 1, "started_at": started_at}
    return {**who, "rollouts": [], "history": [], **more}


def opened(path: Path) -> RolloutFile:
    return RolloutFile(os.open(path, os.O_RDWR | os.O_CREAT), "")


def test_two_instances_with_one_file_notice(tmp_path: Path) -> None:
    """As two containers with the same volume: none takes the other's rollouts for its own."""
    path = tmp_path / "state"
    one, two = opened(path), opened(path)

    async def write() -> None:
        await one.write(state(1), 5.0)
        await two.write(state(2), 5.0)
        assert (one.failed, two.failed) == ("", "")
        await one.write(state(1), 5.0)
        assert one.failed == (
            f"{path}: another instance writes to it: give each a state_dir of its own"
        )
        assert two.read()["started_at"] == 2
        await one.write(state(1), 5.0)  # the other one writes no more
        assert one.failed == ""

    asyncio.run(write())
    assert one.read()["started_at"] == 1


def test_another_control_of_the_same_instance_may_write(tmp_path: Path) -> None:
    """As one does in an upgrade."""
    path = tmp_path / "state"
    old, new = opened(path), opened(path)

    async def write() -> None:
        for number, each in enumerate((old, new, old, new)):
            await each.write(state(1, number=number), 5.0)
            assert each.failed == ""
            assert each.read()["number"] == number

    asyncio.run(write())


def test_what_is_torn_is_no_reason_to_write_no_more(tmp_path: Path) -> None:
    path = tmp_path / "state"
    file = opened(path)

    async def write() -> None:
        await file.write(state(1), 5.0)
        for size in (0, 100):
            os.truncate(path, size)
            await file.write(state(1), 5.0)
            assert file.failed == ""

    asyncio.run(write())
    assert saved.read(os.open(path, os.O_RDONLY))["started_at"] == 1
