"""What a shortage of this host does: counted as local_error, no endpoint blamed, no spinning,
and over as soon as the shortage is."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from tests.fault.control import Control
from tests.fault.sites import name_of
from tests.support import patient

SHORTAGES = [
    ("connect", errno.EADDRNOTAVAIL),
    ("connect", errno.ENOBUFS),
    ("connect", errno.ENOMEM),
    ("connect", errno.EPERM),
    ("socket", errno.EMFILE),
    ("socket", errno.ENFILE),
    ("socket", errno.ENOBUFS),
    ("setsockopt_nodelay", errno.ENOMEM),
    ("epoll_ctl_add", errno.ENOSPC),
]


def ask(control: Control, *arguments: object) -> dict[str, object]:
    """What tests.fault.shortage says of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.shortage", *map(str, arguments)],
        env=control.environment(),
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("site", "error"), SHORTAGES, ids=[f"{site}-{name_of(error)}" for site, error in SHORTAGES]
)
def test_no_endpoint_is_blamed(control: Control, site: str, error: int) -> None:
    """While it lasts each client is reset and counted as local_error; then all work again."""
    found = ask(control, "connects", site, error)
    assert found == {
        "closed": {"local_error": 5, "finished": 5},
        "connect_failures": [0, 0],
        "accepted": 10,
    }


@pytest.mark.parametrize(
    "error",
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM],
    ids=name_of,
)
def test_accept_that_keeps_failing_does_not_spin(control: Control, error: int) -> None:
    """Clients wait in the queue, while the worker tries a few times a second and serves those
    that it has; then they are served."""
    found = ask(control, "accepts", "accept4", error)
    assert found["served"] == 5
    assert found["starts"] == 1
    assert isinstance(found["pauses"], int)
    assert isinstance(found["most_pauses"], int)
    assert 0 < found["pauses"] <= found["most_pauses"]


def test_a_pipe_that_can_not_be_had(control: Control) -> None:
    """Bytes wait in the sockets instead; every one arrives."""
    for site, error in (("pipe2", errno.EMFILE), ("fcntl_size", errno.EPERM)):
        found = ask(control, "pipes", site, error)
        assert found["closed"] == {"finished": 5}
        if site == "pipe2":
            assert found["fallbacks"]


def test_the_calendar_does_not_matter(control: Control) -> None:
    """The relay asks no clock but the monotonic ones, and a jump of the calendar by ten years
    there and back ends no connection."""
    found = ask(control, "clock", "accept4", 0)
    assert found["closed"] == {"finished": 4}
    assert found["clocks"]
    assert set(found["clocks"]) <= {"CLOCK_MONOTONIC", "CLOCK_MONOTONIC_COARSE"}  # type: ignore[call-overload]
