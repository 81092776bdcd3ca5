"""The page about PostgreSQL, where testers and the clients of one name get their versions: with
real clients, load balancers and servers, while workers are killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.postgres_by_name import CLIENTS, OTHER, SOURCES, TESTER, TESTERS
from tests.docs.test_postgresql import PSQL
from tests.others import needs_root, system_program
from tests.support import patient

MISSING = [
    name
    for name, place in {
        "PostgreSQL (package postgresql)": PSQL if Path(PSQL).exists() else None,
        "HAProxy (package haproxy)": system_program("haproxy"),
        "ip (package iproute2)": shutil.which("ip"),
        "openssl": shutil.which("openssl"),
    }.items()
    if not place
]

pytestmark = [
    needs_root,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """In a network namespace of its own: HAProxy speaks in other addresses' names there."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.docs.postgres_by_name"],
        capture_output=True, text=True, timeout=patient(200), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_tester_gets_the_new_version(seen: dict[str, Any]) -> None:
    assert seen["testers"] == {"v2": TESTERS}
    assert seen["rules"]["testers"] == TESTERS


def test_the_clients_of_the_name_are_split_exactly(seen: dict[str, Any]) -> None:
    """Those that stay for long are among them."""
    assert seen["rules"]["shop"] == CLIENTS
    logged = seen["in_the_log"]
    assert logged["v1"][SOURCES[OTHER]] == CLIENTS * 9 // 10
    assert logged["v2"][SOURCES[OTHER]] == CLIENTS // 10


def test_servers_log_who_the_clients_are(seen: dict[str, Any]) -> None:
    assert seen["in_the_log"]["v1"].keys() == {SOURCES[OTHER]}
    assert seen["in_the_log"]["v2"][SOURCES[TESTER]] == TESTERS


def test_no_session_is_lost(seen: dict[str, Any]) -> None:
    """Queries go on over connections whose workers die, and nobody is told of an error."""
    assert seen["kills"] > 3
    assert seen["said"] == []
    assert seen["lost"] == {}
    assert seen["sessions"] == [200] * 4
    assert set(seen["by_name"]) == {"v1", "v2"}
