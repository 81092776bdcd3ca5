"""For all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import patient, short_directory, write_token

_kill = os.kill


def _kill_one(pid: int, number: int) -> None:
    """A status says pid 0 of a worker that is between two lives; kill(2) takes that for the whole
    process group, which is the test run itself."""
    if pid <= 0:
        raise ValueError(f"a test wants to signal pid {pid}")
    _kill(pid, number)


def pytest_configure() -> None:
    """A shell has its background jobs ignore these, and what they start ignores them too; some
    tests send them."""
    # How long an example takes says more about the machine than about what is tested.
    settings.register_profile("tcpmux", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tcpmux")
    # Else each instance reads the host's certification authorities, which takes long: a seventh of
    # the start of its control. Tests of TLS bring their own.
    os.environ.setdefault("SSL_CERT_FILE", os.devnull)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    os.kill = _kill_one


def pytest_collectstart() -> None:
    """To collect tests makes hundreds of thousands of objects, and all stay: there is no garbage
    among them to look for, now or later."""
    gc.disable()


# Of the directories, by how long their tests take. Of single ones: more than 6 s each.
SLOWEST_FIRST = (
    "debian",
    "preface",
    "fault",
    "integration",
    "docs",
    "stress",
    "convert",
    "c",
    "relay",
    "unit",
    "bench",
)
LONG = (
    "test_a_change_is_whole_or_absent_when_control_is_killed_meanwhile",
    "test_a_master_that_was_killed_while_it_drained_is_followed_by_one_that_serves",
    "test_a_place_that_only_root_can_read_will_do",
    "test_a_silent_name_server_stops_nothing",
    "test_a_stage_is_one_file_and_one_row",
    "test_a_stopped_guardian_goes_on_and_so_do_connections_of_a_worker_that_died_meanwhile",
    "test_a_weight_is_changed_by_the_slider_and_seen_in_the_traffic",
    "test_an_upgrade",
    "test_another_master_goes_on_counting",
    "test_builds_in_different_folders_are_equal",
    "test_checks_of_the_largest_configuration_come_through",
    "test_keepalive_is_set_on_both_sides_of_a_connection_that_stays",
    "test_nothing_is_lost",
    "test_rows_arrive_wherever_they_are_needed",
    "test_some_of_all_the_rest",
    "test_the_api_keeps_to_its_document",
    "test_the_walk_with_files_as_they_are",
    "test_what_changes_something_says_first_what_it_will_do",
)


def _order(item: pytest.Item) -> tuple[bool, int]:
    name = getattr(item, "originalname", item.name)
    return name not in LONG, SLOWEST_FIRST.index(item.nodeid.split("/", 2)[1])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The limits of pytest-timeout are multiplied as all others are. What takes long comes first:
    at the end of a run that goes on several CPUs, none should wait for the last test on another."""
    items.sort(key=_order)
    usual = config.getoption("timeout") or config.getini("timeout")
    for item in items if patient(1) != 1 else ():
        own = item.get_closest_marker("timeout")
        limit = patient(float(own.args[0] if own else usual))
        item.add_marker(pytest.mark.timeout(limit), append=False)
    gc.freeze()
    gc.enable()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """That holds TOKEN of tests/support.py."""
    return write_token(tmp_path / "token")


@pytest.fixture
def host_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certification authorities are the host's, if it has any: pytest_configure() may have set
    none."""
    monkeypatch.delenv("SSL_CERT_FILE")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """As tmp_path, and other users may look into it: tcpmux runs as one when tests run as root."""
    with short_directory() as directory:
        yield directory
