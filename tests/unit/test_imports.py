"""What is imported: nothing that imports what it comes from, and little where somebody waits."""

from __future__ import annotations

import subprocess
from dataclasses import fields

import pytest

from tcpmux import programs
from tcpmux.privileges import oneself
from tcpmux.shm._shm import DESTINATION_RULES, ROUTE_RULES
from tcpmux.shm.image import DestinationRules, RouteRules

# Each of them takes long to import, or imports much.
SLOW = {"aiohttp", "asyncio", "dataclasses", "inspect", "pathlib", "pydantic", "yaml", "site"}


def test_the_program_that_connections_wait_for_loads_little() -> None:
    """During an upgrade, from the end of a worker to the beginning of the next build's."""
    command = programs.quick_command("tcpmux.worker.__main__", [], oneself())
    code = command.index("-c") + 1
    before, _, _ = command[code].partition("from tcpmux.programs")
    command[code] = f"{before}import tcpmux.programs, tcpmux.worker.__main__; print(*sys.modules)"
    done = subprocess.run(
        command,
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    loaded = set(done.stdout.split())
    assert {"tcpmux.worker._relay", "setproctitle"} <= loaded
    assert not loaded & SLOW
    assert len(loaded) < 130


@pytest.mark.parametrize(
    ("kind", "names"), [(RouteRules, ROUTE_RULES), (DestinationRules, DESTINATION_RULES)]
)
def test_the_rules_of_an_image_are_those_of_the_memory(kind: type, names: tuple[str, ...]) -> None:
    assert tuple(field.name for field in fields(kind)) == names
