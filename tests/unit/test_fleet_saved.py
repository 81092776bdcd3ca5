"""What is in force of a fleet is kept on the disk, as soon as that can."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path

import pytest

from tcpmux.config.fleet import FleetState
from tcpmux.control.fleet import saved
from tcpmux.control.fleet.saved import SavedFleet
from tcpmux.halves import FLEET
from tests.support import patient


def epoch(fd: int) -> int:
    body = FLEET.read(fd)
    return 0 if body is None else int(json.loads(body)["state"]["epoch"])


def test_a_disk_without_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then it has what was in force last, also if nothing has changed since."""
    fd = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT)
    is_full = True
    fdatasync = os.fdatasync

    def synced(fd: int) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        fdatasync(fd)

    async def run() -> None:
        nonlocal is_full
        kept = SavedFleet(fd, "")
        for number in (1, 2):
            kept.save(FleetState("/tcpmux/prod/", epoch=number))
            while not kept.failed:
                await asyncio.sleep(0)
        is_full = False
        while kept.failed:
            await asyncio.sleep(0.001)
        await kept.close()

    monkeypatch.setattr(saved, "AGAIN", 0.01)
    monkeypatch.setattr(os, "fdatasync", synced)
    asyncio.run(asyncio.wait_for(run(), patient(20)))
    assert epoch(fd) == 2
    os.close(fd)
