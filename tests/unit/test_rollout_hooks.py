"""Hooks by themselves: requests to servers of every kind, and programs of every kind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control.hook_programs import run_program
from tcpmux.control.hook_requests import HookFailed, HookRequests, outside, values_in
from tcpmux.control.hooks import RolloutHooks, environment
from tcpmux.rollout.hooks import (
    Hooks,
    Query,
    as_json,
    checked_path,
    checked_query,
    checked_url,
    site_of,
)
from tcpmux.rollout.machine import Rollout
from tcpmux.rollout.plan import Plan
from tests.hook_server import (
    HookServer,
    Treat,
    answers,
    answers_ten_megabytes,
    answers_without_an_end,
    closes,
    hangs,
    resets,
    stops_in_the_middle,
    value,
)
from tests.rolling import BadServer
from tests.support import patient, refusing_port, wait_for

SOON = 0.3  # s
LONG = patient(20)


@contextmanager
def serving(*treats: Treat) -> Iterator[HookServer]:
    server = HookServer(*treats)
    yield server
    server.close()


def asked(what: Callable[[HookRequests], Any]) -> Any:
    """What it returns, or the text of its failure."""

    async def ask() -> Any:
        requests = HookRequests("tcpmux/test")
        try:
            return await what(requests)
        except HookFailed as error:
            return str(error)
        finally:
            await requests.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (answers(200), 200),
        (answers(500, b"sorry"), 500),
        (answers(302, more="Location: http://127.0.0.1:1/\r\n"), 302),
        (answers_ten_megabytes, 200),  # of which nothing is read
        (hangs, "no answer within 0.3 s"),
        (closes, "closed without an answer"),
        (answers_without_an_end, "its answer is not HTTP"),
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH\r\n"), "its answer is not HTTP"),
    ],
)
def test_a_gate_of_every_kind(treat: Treat, says: Any) -> None:
    with serving(treat) as server:
        limit = SOON if treat is hangs else LONG
        found = asked(lambda requests: requests.get(f"{server.url}/ok?secret", {"A": "b"}, limit))
    assert found == (says if isinstance(says, int) else f"127.0.0.1:{server.port}: {says}")
    assert "GET /ok?secret HTTP/1.1" in server.heads[0]
    assert "\r\nA: b" in server.heads[0]


def test_one_that_resets_and_one_that_is_not_there() -> None:
    with serving(resets) as server:
        found = asked(lambda requests: requests.get(server.url, {}, LONG))
    assert found == f"127.0.0.1:{server.port}: connection reset by peer"
    with refusing_port() as port:
        found = asked(lambda requests: requests.get(f"http://127.0.0.1:{port}/x", {}, LONG))
    assert found == f"127.0.0.1:{port}: connection refused"
    found = asked(lambda requests: requests.get("http://tcpmux.invalid/x", {}, LONG))
    assert found.startswith("tcpmux.invalid: its name can't be looked up: ")


def test_one_that_does_not_speak_tls() -> None:
    """The number of such an error is none of the system's: it is not that of `not permitted`."""
    server = BadServer(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    address = server.address
    found = asked(lambda requests: requests.get(f"https://{address}/", {}, LONG))
    server.close()
    assert re.fullmatch(rf"{re.escape(address)}: TLS failed: [a-z ]+", found), found


def measured(server: HookServer, **bounds: float) -> Any:
    query = Query(server.url, "sum(up)", **bounds)

    async def ask(requests: HookRequests) -> str:
        return outside(await requests.value_of(query, LONG), query)

    return asked(ask)


def data(kind: str, result: str) -> bytes:
    return (
        f'{{"status": "success", "data": {{"resultType": "{kind}", "result": {result}}}}}'
    ).encode()


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (value("1"), ""),
        (value("1", "2.5"), "2.5 is above 2"),
        (value("-1"), "-1 is below 0"),
        (value("NaN"), "the value is NaN"),
        (value("+Inf"), "inf is above 2"),
        (value(), "the query finds nothing"),
        (answers(200, data("scalar", '[1, "2"]')), ""),
        (answers(200, data("matrix", "[]")), "the query gives a matrix, and no number"),
        (answers(400, b'{"status": "error", "error": "parse error\\u001b"}'), "parse error"),
        (answers(200, b"<html>"), "answered 200, and not as Prometheus does"),
        (answers(200, b"[" * 100_000), "answered 200, and not as Prometheus does"),
        (answers_ten_megabytes, "its answer has more than 1 MiB"),
        (stops_in_the_middle, "closed in the middle of its answer"),
    ],
)  # fmt: skip
def test_a_query(treat: Treat, says: str) -> None:
    with serving(treat) as server:
        found = measured(server, low=0, high=2)
    assert says in found
    assert bool(says) == bool(found)
    if "answered" in says or "query gives" in says or "parse" in says:
        assert found.startswith(f"127.0.0.1:{server.port}: ")
    assert "\x1b" not in found
    assert server.heads[0].startswith("POST /api/v1/query HTTP/1.1")
    assert server.bodies == [b"query=sum%28up%29"]


def test_an_answer_with_types_that_are_none_of_prometheus() -> None:
    for body in (b"1", b"{}", data("vector", "[1]"), data("scalar", "[1, 2]")):
        with pytest.raises(HookFailed, match="not as Prometheus does"):
            values_in(200, body)


# --- programs -----------------------------------------------------------------------------------


def program(directory: Path, text: str) -> str:
    path = directory / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def ran(path: str, seconds: float = LONG, **more: str) -> str:
    """Why it failed."""
    try:
        asyncio.run(run_program(path, more, seconds))
    except HookFailed as error:
        return str(error)
    return ""


def test_a_program_has_its_environment_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = program(tmp_path, f'env > {out}; echo "$# $PWD" >> {out}; ls /proc/self/fd >> {out}')
    os.environ["TCPMUX_SECRET"] = "1"  # noqa: S105
    try:
        assert ran(path, TCPMUX_EVENT="step", TCPMUX_TEXT="a\nb $(id)") == ""
    finally:
        del os.environ["TCPMUX_SECRET"]
    lines = out.read_text().split("\n")
    assert "TCPMUX_EVENT=step" in lines
    assert "b $(id)" in lines
    assert "0 /" in lines
    assert not [line for line in lines if "SECRET" in line]
    assert [int(line) for line in lines if line.isdigit() and int(line) > 3] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo no money >&2; exit 3", "exit code 3: no money"),
        ("printf '\\033[31mred'; exit 1", "exit code 1: "),
        ("kill -9 $$", "it was ended by signal 9"),
        ("exec sleep 1000", "it had not ended after 0.3 s, and was killed"),
        ("trap '' TERM INT; while :; do :; done", "it had not ended after 0.3 s, and was killed"),
        ("exec yes flood", "it was ended by signal 13: flood flood"),
        ("exec >&- 2>&-; exec sleep 1000", "it had not ended after 0.3 s, and was killed"),
    ],
)
def test_a_program_that_fails(tmp_path: Path, text: str, says: str) -> None:
    began = time.monotonic()
    found = ran(program(tmp_path, text), SOON if "0.3" in says else LONG)
    assert found.startswith(says)
    assert len(found) < 300
    assert "\x1b" not in found
    assert time.monotonic() - began < patient(10)


def test_a_program_that_can_not_be_run(tmp_path: Path) -> None:
    assert ran(str(tmp_path / "absent")) == "it can't be run: No such file or directory"
    path = tmp_path / "text"
    path.write_text("no program")
    assert ran(str(path)) == "it can't be run: Permission denied"
    path.chmod(0o755)
    assert ran(str(path)) == "it can't be run: Exec format error"
    assert ran(str(tmp_path)) == "it can't be run: Permission denied"


@pytest.mark.parametrize("end", ["exit 0", "exec sleep 1000"])
def test_what_a_program_leaves_behind_is_killed(tmp_path: Path, end: str) -> None:
    out = tmp_path / "pid"
    assert bool(ran(program(tmp_path, f"sleep 1000 & echo $! > {out}; {end}"), 1.0)) == (
        "sleep" in end
    )
    wait_for(lambda: is_gone(int(out.read_text())), "the child to be killed")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_one_that_nobody_waits_for_any_more_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "pid"
    path = program(tmp_path, f"echo $$ > {out}.new; mv {out}.new {out}; exec sleep 1000")

    async def cancelled() -> None:
        task = asyncio.create_task(run_program(path, {}, LONG))
        await asyncio.to_thread(wait_for, out.exists, "the program to run")
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(cancelled())
    wait_for(lambda: is_gone(int(out.read_text())), "the program to be killed")


def test_the_environment_of_an_event() -> None:
    document = {"event": "step", "steps": ["1%", "100%"], "weights": {"v1": 99, "v2": 1}, "step": 1}
    assert environment(document) == {
        "TCPMUX_EVENT": "step",
        "TCPMUX_STEPS": "1%,100%",
        "TCPMUX_WEIGHTS": "v1=99 v2=1",
        "TCPMUX_STEP": "1",
    }


def test_what_is_no_hook() -> None:
    for text in ("", "ftp://a", "http://", "http://a b", "http://u:p@a", "http://a#b", "http://ä",
                 "http://a:99999", "http://a:0", "http://[::1", None, 5):  # fmt: skip
        with pytest.raises(ValueError, match="expected a URL"):
            checked_url(text)
    with pytest.raises(ValueError, match=r"without \? or #"):
        checked_url("http://a?b", is_base=True)
    for text in ("hook", "/a\n", "/a/", "/" + "a" * 5000, None):
        with pytest.raises(ValueError, match="path of a program"):
            checked_path(text)
    for text in ("", "a\nb", "x" * 5000, None):
        with pytest.raises(ValueError, match="a query in one line"):
            checked_query(text)
    assert str(site_of("https://chat.example/secret?token")) == "chat.example"
    assert str(site_of("http://[::1]:9090/")) == "[::1]:9090"


def told(*routes: str) -> RolloutHooks:
    """Of routes that have a hook, and many events that nobody has taken."""

    async def save() -> None:
        raise AssertionError("nothing is delivered")

    hooks = RolloutHooks("tcpmux/test", save)
    for route in routes:
        hooks.take(route, as_json(Hooks(events="http://chat.example/")))
        rollout = Rollout(route, Plan("v2"), 1.0, {"v1": 1, "v2": 0}, {"v1": 1, "v2": 0})
        for number in range(150):
            hooks.tell(rollout, "step", f"{number} {'x' * 200}")
    return hooks


def test_what_waits_has_bounds() -> None:
    hooks = told("r")
    texts = [each["event"]["text"].split()[0] for each in hooks.untold()]
    assert texts == ["0", *map(str, range(51, 150))]  # the first one may be on its way
    assert hooks.failures["r", "events"] == 50
    assert "more than 100 events wait" in hooks.shown("r")[0]["text"]
    many = told(*(f"r{number}" for number in range(20))).untold()
    assert len(json.dumps(many)) < 150_000
    assert {each["event"]["route"] for each in many} == {f"r{number}" for number in range(20)}
    assert {each["event"]["text"].split()[0] for each in many} >= {"149"}


def test_what_was_not_told_is_read_back() -> None:
    hooks = told("r")
    again = told()
    again.restore(hooks.untold())
    assert again.untold() == hooks.untold()
    assert again.waiting() == {"r"}
    again.forget("r")
    assert again.untold() == []
    wrongs: list[Any] = [
        [1],
        [{}],
        [{"hook": "x", "event": {"route": "r"}}],
        [{"hook": "exec", "event": {"route": 1}}],
        [{"hook": "exec", "event": []}],
        [{"hook": "exec", "event": {"route": "r"}}],
    ]
    for wrong in wrongs:
        with pytest.raises((ValueError, TypeError, KeyError)):
            again.restore(wrong)
