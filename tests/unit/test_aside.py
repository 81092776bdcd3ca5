"""What is done aside: the master gets an outcome, whatever the work does, and does not wait."""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tcpmux.config import ConfigError, Problem, Text, load_texts
from tcpmux.errors import TcpmuxError
from tcpmux.master.answers import Refusal
from tcpmux.master.aside import Aside
from tcpmux.privileges import User, oneself
from tests.others import NOBODY, needs_root
from tests.support import DEADLINE

USER = User(NOBODY, NOBODY) if os.geteuid() == 0 else oneself()

LAUGHS = "\n".join(
    ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
)
RANGES = ", ".join(['":1024-5119"'] * 200)
PORTS = "".join(f"- {{name: r{i}, listen: [{RANGES}], destinations: []}}\n" for i in range(400))


def outcome(work: Callable[[], Any], limit: float = DEADLINE) -> Mapping[str, Any]:
    """As the master's loop gets it."""
    aside = Aside(USER, limit)
    came: list[Mapping[str, Any]] = []
    begun = time.monotonic()
    aside.start(work).then(came.append)
    assert aside.due() is not None
    while not came:
        assert time.monotonic() - begun < limit + DEADLINE
        with selectors.DefaultSelector() as selector:
            aside.register(selector)
            due = aside.due()
            assert due is not None
            selector.select(max(0.0, due - time.monotonic()))
        aside.do(time.monotonic())
    assert aside.due() is None
    pid, _ = os.wait()
    assert aside.child_ended(pid, 0)
    assert not aside.child_ended(pid, 0)
    return came[0]


def raising(error: Exception) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        raise error

    return work


def forever() -> NoReturn:
    while True:
        pass


def test_a_result_of_any_size_comes() -> None:
    changes = ["x" * 1000] * 500
    assert outcome(lambda: {"changes": changes}) == {"ok": True, "result": {"changes": changes}}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConfigError([Problem("a", 1, 2, "", "no")]), "bad_file", "a:1:2: no"),
        (Refusal("invalid", "so not"), "invalid", "so not"),
        (TcpmuxError("no"), "refused", "no"),
        (RuntimeError("oops"), "refused", "internal error in tcpmux: RuntimeError('oops')"),
        (MemoryError(), "refused", "given up: it took more than 1024 MiB of memory"),
    ],
)
def test_what_it_raises_is_the_outcome(error: Exception, kind: str, text: str) -> None:
    assert outcome(raising(error)) == {"ok": False, "kind": kind, "error": text}


def test_problems_without_end_are_cut() -> None:
    error = outcome(raising(ConfigError([Problem("a", n, 1, "", "no") for n in range(1, 1001)])))
    assert error["error"].splitlines()[-1] == "and 900 more"


def test_one_that_takes_too_long_is_ended() -> None:
    assert "it took longer than 0.3 s" in outcome(forever, limit=0.3)["error"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_dies_is_told_of(number: signal.Signals) -> None:
    assert "given up" in outcome(lambda: os.kill(os.getpid(), number))["error"]


def test_what_it_leaves_out_of_an_answer_without_end_is_not_waited_for() -> None:
    assert "given up" in outcome(lambda: {"x": "x" * 3_000_000})["error"]


def test_it_can_open_nothing_and_has_nothing_of_the_master(tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)

    def work() -> dict[str, Any]:
        left = []
        for fd in (kept, *range(4, 200)):
            try:
                os.fstat(fd)
                left.append(fd)
            except OSError:
                pass
        try:
            os.open("/etc/passwd", os.O_RDONLY)
        except OSError as error:
            return {"left": left, "open": error.errno, "uid": os.getuid()}
        return {"left": left, "open": 0, "uid": os.getuid()}

    try:
        result = outcome(work)["result"]
    finally:
        os.close(kept)
    assert result["left"] == []
    assert result["open"] != 0
    assert result["uid"] != 0


NO_NEW_PRIVS, BOUNDING_SET = 39, 23  # linux/prctl.h: PR_GET_NO_NEW_PRIVS, PR_CAPBSET_READ


def test_it_has_no_rights_and_can_get_none() -> None:
    prctl = ctypes.CDLL(None).prctl

    def look() -> dict[str, Any]:
        return {
            "uids": os.getresuid(),
            "groups": os.getgroups(),
            "no_new_privs": prctl(NO_NEW_PRIVS, 0, 0, 0, 0),
            "bounds": [number for number in range(41) if prctl(BOUNDING_SET, number, 0, 0, 0) == 1],
        }

    found = outcome(look)["result"]
    assert found["no_new_privs"] == 1
    assert found["uids"] == [USER.uid] * 3
    if os.geteuid() == 0:
        assert (found["groups"], found["bounds"]) == ([], [])


@needs_root
def test_one_that_can_not_become_its_user_does_nothing(tmp_path: Path) -> None:
    no_id = (1 << 32) - 1  # "leave it as it is", for the kernel
    done = tmp_path / "done"
    aside = Aside(User(no_id, no_id))
    came: list[Mapping[str, Any]] = []

    def work() -> dict[str, Any]:
        done.touch()
        return {}

    aside.start(work).then(came.append)
    while not came:
        aside.do(time.monotonic())
    os.wait()
    assert not came[0]["ok"]
    assert "can't become" in came[0]["error"]
    assert not done.exists()


def test_only_one_piece_of_work_is_under_way() -> None:
    aside = Aside(USER)
    came: list[Mapping[str, Any]] = []
    aside.start(forever).then(came.append)
    with pytest.raises(Refusal, match="another such request"):
        aside.start(dict)
    aside.end()
    assert "tcpmux is stopping" in came[0]["error"]
    os.wait()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, "are there aliases of aliases"),
        ("a: " + "[" * 100_000, "nest"),
        ("routes:\n" + PORTS, "memory"),
    ],
    ids=["aliases of aliases", "deep", "ranges of ports"],
)
def test_a_small_file_that_means_very_much_is_given_up(
    content: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some kilobytes, which would become gigabytes."""
    (line,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    monkeypatch.setattr("tcpmux.master.aside.MAX_MEMORY", (int(line) << 10) + (64 << 20))
    monkeypatch.setattr("tcpmux.config.document.MAX_NODES", 90_000)
    found = outcome(lambda: {"x": str(load_texts([Text("a.yaml", content)]))})
    assert not found["ok"]
    # Which bound comes first depends on how fast the machine is.
    assert reason in found["error"] or "it took longer" in found["error"]
