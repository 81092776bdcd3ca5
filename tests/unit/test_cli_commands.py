"""The commands that talk to an instance, against an admin API in a thread."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

import pytest

from tcpmux.cli import weight
from tests.support import patient
from tests.unit.calling import tcpmux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPLIED = {
    "generation": 7,
    "changes": ["tcp-echo: v1 80->50, v2 20->50"],
    "workers": [{"id": 0, "pid": 1, "generation": 7}, {"id": 1, "pid": 2, "generation": 7}],
}


def destination(name: str, weight: int, file_weight: int, **counters: int) -> dict[str, Any]:
    return {
        "name": name,
        "weight": weight,
        "file_weight": file_weight,
        "effective_weight": weight,
        "state": "ready",
        "connections_active": 0,
        "connections_total": 0,
        "connect_failures_total": 0,
        "bytes_in_total": 0,
        "bytes_out_total": 0,
        "closed": {},
        "condition": "healthy",
        "condition_reason": "",
        "condition_since": None,
        "slow_start_percent": 100,
        "ramp": 100,
        "panic": False,
        "unresolved": 0,
        "names": [],
        "endpoints": [],
        **counters,
    }


STATUS: dict[str, Any] = {
    "pid": 123,
    "version": "9.9",
    "state": "running",
    "generation": 7,
    "started_at": 0,
    "config": ["/etc/[red]routes.yaml"],
    "admin": "/run/a.sock",
    "upgrade": {"count": 0, "state": "idle", "error": ""},
    "buffers": {
        "pinned_bytes": 0,
        "pinned_bytes_limit": 400 << 20,
        "pinned_bytes_limit_per_source": 256 << 20,
        "pipe_bytes": 1 << 20,
        "pipe_bytes_limit": 48 << 20,
        "pipe_fallbacks_total": 0,
    },
    "workers": [
        {
            "id": 0,
            "pid": 124,
            "guardian_pid": 122,
            "state": "running",
            "generation": 7,
            "connections": 3,
            "connections_limit": 100,
            "starts": 1,
            "counters": {"recovered": 17},
        },
        {
            "id": 1,
            "pid": 0,
            "guardian_pid": 125,
            "state": "away",
            "generation": 6,
            "connections": 0,
            "connections_limit": 100,
            "starts": 4,
            "counters": {"recovered": 0},
        },
    ],
    "routes": [
        {
            "name": "tcp-echo",
            "listen": ["127.0.0.1:31400", "[::1]:31400"],
            "connections_active": 3,
            "connections_total": 40,
            "available": True,
            "connections_rejected_total": 2,
            "condition": "healthy",
            "condition_reason": "",
            "condition_since": None,
            "closed": {"finished": 35, "connect_failed": 2, "new_reason": 1},
            "destinations": [
                destination("v1", 50, 80, connections_total=36, bytes_in_total=2048),
                destination("v2", 25, 25, connect_failures_total=4) | {"condition": "down"},
            ],
        }
    ],
}


CUT = (0, None)  # no answer: control is replaced meanwhile


class FakeAdmin:
    """An admin API that answers what a test has laid down for a request."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answers: dict[str, tuple[int, Any] | Callable[[], tuple[int, Any]]] = {}
        self.requests: list[tuple[str, Any]] = []

    def answer(self, request: str, body: bytes) -> tuple[int, Any]:
        self.requests.append((request, json.loads(body) if body else None))
        found = self.answers.get(request, (404, {"error": f"no such path: {request}"}))
        return found() if callable(found) else found


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[FakeAdmin]:
    fake = FakeAdmin(tmp_path / "admin.sock")

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = fake.answer(f"{self.command} {self.path}", body)
            if (status, answer) == CUT:
                return
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingUnixStreamServer(fake.path, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


def test_weights_that_can_t_be_saved_are_in_force_and_that_is_said(
    admin: FakeAdmin, tmp_path: Path
) -> None:
    """Exit 1: a script that saves must know."""
    admin.answers["PUT /v1/routes/tcp-echo/weights"] = (200, APPLIED)
    admin.answers["GET /v1/status"] = (200, {**STATUS, "config": [str(tmp_path / "gone.yaml")]})
    result = tcpmux("weight", "tcp-echo", "v1=50", "--save", "--admin", admin.path)
    assert result.exit_code == 1
    assert "the weights are in force, but not saved" in result.stderr
    assert "gone.yaml: can't be read: No such file or directory" in result.stderr


def test_an_instance_that_can_t_be_told_of_saved_weights_is_no_failure(
    admin: FakeAdmin, tmp_path: Path
) -> None:
    """They are in force and in the file; a build before this one can't be told."""
    file = tmp_path / "routes.yaml"
    text = """\
routes:
- name: tcp-echo
  listen: 127.0.0.1:1
  destinations: [{name: v1, weight: 80, endpoints: ["127.0.0.1:2"]}]
"""
    file.write_text(text)
    destination = {"name": "v1", "weight": 50}
    routes = [{"name": "tcp-echo", "destinations": [destination]}]
    admin.answers["PUT /v1/routes/tcp-echo/weights"] = (200, APPLIED)
    admin.answers["GET /v1/status"] = (200, {**STATUS, "config": [str(file)], "routes": routes})
    admin.answers["PUT /v1/routes/tcp-echo/saved-weights"] = (404, {"error": "no such path"})
    result = tcpmux("weight", "tcp-echo", "v1=50", "--save", "--admin", admin.path)
    assert result.exit_code == 0
    assert file.read_text() == text.replace("80", "50")
    assert f"saved in {file}" in result.stdout
    assert "warning: the instance could not be told" in result.stderr
    assert "no such path" in result.stderr
    admin.answers["PUT /v1/routes/tcp-echo/saved-weights"] = (200, APPLIED)
    result = tcpmux("weight", "tcp-echo", "v1=50", "--save", "--admin", admin.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert admin.requests[-1][1] == {"v1": 50}


@pytest.mark.parametrize("is_in_time", [True, False])
def test_weight_waits_for_workers_that_are_behind_while_control_is_replaced(
    admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch, *, is_in_time: bool
) -> None:
    """Exit 1 if they don't catch up."""
    monkeypatch.setattr(weight, "WAIT_TIME", patient(30.0) if is_in_time else 0)
    workers = [{**worker, "generation": 7} for worker in STATUS["workers"]]
    answers = [(200, STATUS), CUT, (200, {**STATUS, "workers": workers})]
    behind = [{"id": n, "pid": n + 1, "generation": 7 - n} for n in range(2)]
    admin.answers["PUT /v1/routes/tcp-echo/weights"] = (200, {**APPLIED, "workers": behind})
    admin.answers["GET /v1/status"] = lambda: answers.pop(0)
    result = tcpmux("weight", "tcp-echo", "v1=50", "--wait", "--admin", admin.path)
    assert result.exit_code == (0 if is_in_time else 1)
    used = "generation 7 in 2 of 2 workers" if is_in_time else "not yet in worker 1 (not running)"
    assert result.stdout.endswith(f"{used}\n")
    assert len(answers) == (0 if is_in_time else 2)


def test_weight_force(admin: FakeAdmin) -> None:
    admin.answers["PUT /v1/routes/tcp-echo/weights?force=true"] = (200, APPLIED)
    result = tcpmux("weight", "tcp-echo", "v1=0", "--force", "--admin", admin.path)
    assert result.exit_code == 0


def test_kill_counts_what_there_is(admin: FakeAdmin) -> None:
    """Not what was named."""
    answer = {"killed": 0, "gone": 2, "left": 0}
    admin.answers["POST /v1/connections/kill"] = lambda: (200, answer)
    result = tcpmux("kill", "9-9-9", "8-8-8", "--admin", admin.path)
    assert (
        result.stdout == "would reset 0 connections; 2 of the IDs are not of an open connection\n"
    )
    assert result.exit_code == 1
    assert admin.requests[-1][1] == {"ids": ["9-9-9", "8-8-8"], "dry_run": True}
    answer.update(gone=1, left=1)
    result = tcpmux("kill", "9-9-9", "8-8-8", "--admin", admin.path)
    assert (
        "would reset 1 connection; 1 of the IDs is not of an open connection; add" in result.stdout
    )
    assert result.exit_code == 0


NAMES = {
    "routes": [
        {
            "name": "tcp-echo",
            "destinations": [
                {"name": "v1", "endpoints": ["10.0.0.7:9000"]},
                {"name": "v2", "endpoints": ["10.0.0.7:9000", "unix:/run/v2.sock"]},
            ],
        },
        {"name": "mail", "destinations": [{"name": "v1", "endpoints": []}]},
    ]
}
V2_SOCKET = {"route": "tcp-echo", "destination": "v2", "endpoint": "unix:/run/v2.sock"}
TARGETS: list[tuple[str, list[dict[str, str]]]] = [
    ("tcp-echo/v1", [{"route": "tcp-echo", "destination": "v1"}]),
    ("v2", [{"route": "tcp-echo", "destination": "v2"}]),
    ("tcp-echo/v2/unix:/run/v2.sock", [V2_SOCKET]),
    (
        "tcp-echo",
        [{"route": "tcp-echo", "destination": "v1"}, {"route": "tcp-echo", "destination": "v2"}],
    ),
    (
        "10.0.0.7:9000",
        [
            {"route": "tcp-echo", "destination": name, "endpoint": "10.0.0.7:9000"}
            for name in ("v1", "v2")
        ],
    ),
]


@pytest.mark.parametrize(
    ("verb", "state"), [("drain", "draining"), ("disable", "disabled"), ("enable", "ready")]
)
@pytest.mark.parametrize(("target", "named"), TARGETS)
def test_what_takes_connections_is_named_in_one_way(
    admin: FakeAdmin, verb: str, state: str, target: str, named: list[dict[str, str]]
) -> None:
    """Whichever command it is for; a route is all of its destinations."""
    admin.answers |= {"GET /v1/names": (200, NAMES), "PUT /v1/states": (200, APPLIED)}
    result = tcpmux(verb, target, "--admin", admin.path)
    assert result.exit_code == 0, result.output
    assert admin.requests[-1] == ("PUT /v1/states", {"state": state, "targets": named})


@pytest.mark.parametrize(
    "arguments", [("drain",), ("enable",), ("disable",), ("conns",), ("kill",), ("kill", "--yes")]
)
def test_a_name_that_could_be_two_is_refused_by_each_command_alike(
    admin: FakeAdmin, arguments: tuple[str, ...]
) -> None:
    admin.answers["GET /v1/names"] = (200, NAMES)
    result = tcpmux(*arguments, "v1", "--admin", admin.path)
    assert (result.exit_code, result.stderr) == (
        1,
        "tcpmux: error: 'v1' is ambiguous: use one of tcp-echo/v1, mail/v1\n",
    )
    assert admin.requests == [("GET /v1/names", None)]


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (["tcp-echo"], "route=tcp-echo"),
        (["tcp-echo/v1"], "route=tcp-echo&destination=v1"),
        (["10.0.0.7:9000"], "endpoint=10.0.0.7%3A9000"),
        (
            ["tcp-echo/v2/unix:/run/v2.sock"],
            "route=tcp-echo&destination=v2&endpoint=unix%3A%2Frun%2Fv2.sock",
        ),
        (
            ["tcp-echo", "--endpoint", "10.0.0.7:9000", "--src", "10.0.0.0/8"],
            "route=tcp-echo&endpoint=10.0.0.7%3A9000&client=10.0.0.0%2F8",
        ),
        (["mail", "--route", "mail"], "route=mail"),
    ],
)
def test_connections_of_a_target(admin: FakeAdmin, arguments: list[str], query: str) -> None:
    """The options narrow it further, and are there for what is no target."""
    none = {"time": 0, "total": 0, "connections": []}
    request = f"GET /v1/connections?{query}&sort=age&limit=1000"
    admin.answers |= {"GET /v1/names": (200, NAMES), request: (200, none)}
    result = tcpmux("conns", *arguments, "--admin", admin.path)
    assert result.exit_code == 0, result.output
    assert admin.requests[-1] == (request, None)


@pytest.mark.parametrize("command", ["conns", "kill"])
def test_a_target_and_an_option_that_contradict_are_not_guessed_at(
    admin: FakeAdmin, command: str
) -> None:
    admin.answers["GET /v1/names"] = (200, NAMES)
    result = tcpmux(command, "mail/v1", "--route", "tcp-echo", "--admin", admin.path)
    assert (result.exit_code, result.stderr) == (
        2,
        "tcpmux: error: mail/v1 contradicts --route tcp-echo: use one of the two\n",
    )


def test_connections_in_groups(admin: FakeAdmin) -> None:
    group: dict[str, Any] = {"route": "r", "destination": None, "endpoint": None, "client": None}
    group |= {"connections": 3, "bytes_in": 2048, "bytes_out": 1, "age": 61.5}
    answer = {"time": 0, "total": 4, "groups_total": 2, "groups": [group]}
    request = "GET /v1/connections/groups?by={}&idle=60000ms&sort={}&limit=1"
    for by, head, name in (
        ("route", "ROUTE", "r"),
        ("destination", "ROUTE/DESTINATION", "r/-"),
        ("endpoint", "ROUTE/DESTINATION/ENDPOINT", "r/-/-"),
    ):
        admin.answers[request.format(by, "connections")] = (200, answer)
        line = ("conns", "--by", by, "--idle", "1m", "--limit", "1", "--admin", admin.path)
        result = tcpmux(*line)
        assert [text.split() for text in result.stdout.splitlines()] == [
            [head, "CONNECTIONS", "IN", "OUT", "OLDEST"],
            [name, "3", "2.0", "KiB", "1", "B", "1m", "01s"],
            ["and", "1", "more", "of", "2:", "raise", "--limit,", "or", "filter"],
        ]
        assert json.loads(tcpmux(*line, "--json").stdout) == answer
    group["client"] = "\x1b[2J"
    admin.answers[request.format("client", "-bytes_in")] = (200, answer)
    result = tcpmux(*line, "--by", "client", "--sort", "bytes_in", "--reverse")
    assert "\\x1b[2J" in result.stdout
    wrong = tcpmux("conns", "--by", "client", "--sort", "idle", "--admin", admin.path)
    assert "--by client can be sorted by connections, bytes_in, bytes_out, age" in wrong.stderr
    wrong = tcpmux("conns", "--sort", "connections", "--admin", admin.path)
    assert "connections can be sorted by age, idle, bytes_in" in wrong.stderr


def connection(number: int) -> dict[str, Any]:
    return {
        "id": f"0-{number}-1",
        "unique_id": f"0-{number}-1",
        "route": "tcp-echo",
        "destination": "v1",
        "endpoint": "10.0.0.7:9000",
        "client": f"10.1.0.1:{number}",
        "peer": None,
        "proxy_tlvs": None,
        "worker": 0,
        "state": "relaying",
        "age": 1.0,
        "idle": 0.5,
        "bytes_in": 1,
        "bytes_out": 2,
        "generation": 1,
        "pick_reason": "weight",
    }


def test_conns_has_a_column_for_balancers_where_one_named_a_client(admin: FakeAdmin) -> None:
    query = "GET /v1/connections?sort=age&limit=1000"
    via = {**connection(1), "peer": "10.9.0.1:443"}
    for rows, head, cells in (
        ([connection(0)], "PICK ID", [["weight", "0-0-1"]]),
        (
            [connection(0), via],
            "PICK VIA ID",
            [["weight", "-", "0-0-1"], ["weight", "10.9.0.1:443", "0-1-1"]],
        ),
    ):
        admin.answers[query] = (200, {"time": 0, "total": len(rows), "connections": rows})
        result = tcpmux("conns", "--admin", admin.path)
        assert result.exit_code == 0, result.output
        first, *lines = [line.split() for line in result.stdout.splitlines()]
        assert " ".join(first).endswith(head)
        assert [line[-len(cells[0]) :] for line in lines] == cells


def test_kill_of_a_target_first_shows_how_many_it_would_reset(admin: FakeAdmin) -> None:
    """All of them, not those that one answer lists."""
    found = {"time": 0, "total": 20_001, "connections": [connection(n) for n in range(10)]}
    query = "GET /v1/connections?route=tcp-echo&destination=v2&sort=age&limit=10"
    admin.answers |= {"GET /v1/names": (200, NAMES), query: (200, found)}
    result = tcpmux("kill", "v2", "--admin", admin.path)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2:] == [
        "and 19991 more",
        "would reset 20001 connections; add --yes to reset",
    ]
    assert "POST /v1/connections/kill" not in dict(admin.requests)


def test_kill_of_more_than_an_answer_lists_goes_on_until_none_is_left(admin: FakeAdmin) -> None:
    """And spares those that came after it."""
    lists = iter([(3, [0, 1]), (1, [2])])
    older: list[str] = []

    class Answers(dict[str, Any]):
        def get(self, request: str, default: Any = None) -> Any:
            if not request.startswith("GET /v1/connections?"):
                return super().get(request, default)
            older.extend(part for part in request.split("&") if part.startswith("older="))
            total, numbers = next(lists)
            return 200, {"time": 0, "total": total, "connections": list(map(connection, numbers))}

    admin.answers = Answers({"GET /v1/names": (200, NAMES)})
    killed = iter([{"killed": 2, "gone": 0, "left": 0}, {"killed": 0, "gone": 1, "left": 0}])
    admin.answers["POST /v1/connections/kill"] = lambda: (200, next(killed))
    result = tcpmux("kill", "v2", "--yes", "--rate", "10/s", "--admin", admin.path)
    assert (result.exit_code, result.stdout) == (0, "reset 2 connections; 1 had ended already\n")
    ids = [body for request, body in admin.requests if body is not None]
    assert ids == [
        {"ids": ["0-0-1", "0-1-1"], "rate": 10.0},
        {"ids": ["0-2-1"], "rate": 10.0},
    ]


def test_kill_names_connections_or_says_which(admin: FakeAdmin) -> None:
    for arguments in ([], ["0-1-2", "--route", "r"], ["0-1-2", "0-1-3", "--older", "1m"]):
        result = tcpmux("kill", "--admin", admin.path, *arguments)
        assert result.exit_code == 2
        assert "expected a TARGET, an option such as --src, or the IDs" in result.stderr
    assert admin.requests == []


def test_weights_are_named_as_targets_as_well(admin: FakeAdmin) -> None:
    admin.answers |= {
        "GET /v1/names": (200, NAMES),
        "PUT /v1/routes/tcp-echo/weights": (200, APPLIED),
    }
    for pairs in (["tcp-echo/v1=50", "tcp-echo/v2=+5"], ["v2=+5", "tcp-echo/v1=50"]):
        result = tcpmux("weight", *pairs, "--admin", admin.path)
        assert result.exit_code == 0, result.output
        assert admin.requests[-1][1] == {"v1": 50, "v2": "+5"}


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        (["tcp-echo=1"], "tcp-echo is not a destination: expected ROUTE/DESTINATION=WEIGHT"),
        (["10.0.0.7:9000=1"], "10.0.0.7:9000 is not a destination: expected"),
        (["unix:/run/v2.sock=1"], "unix:/run/v2.sock is not a destination: expected"),
        (["v2=1", "tcp-echo/v2=2"], "tcp-echo/v2 is given twice"),
        (["v2=1", "mail/v1=2"], "these are destinations of 2 routes, tcp-echo and mail: change"),
        (["v3=1"], "no route, destination or endpoint named 'v3'"),
    ],
)
def test_weights_of_what_is_no_destination_of_one_route_are_refused(
    admin: FakeAdmin, pairs: list[str], error: str
) -> None:
    admin.answers["GET /v1/names"] = (200, NAMES)
    result = tcpmux("weight", *pairs, "--admin", admin.path)
    assert result.stderr.startswith(f"tcpmux: error: {error}")
    assert admin.requests == [("GET /v1/names", None)]


def test_weight_prints_the_change_and_where_it_is_in_force(admin: FakeAdmin) -> None:
    admin.answers["PUT /v1/routes/tcp-echo/weights"] = (200, APPLIED)
    result = tcpmux("weight", "tcp-echo", "v1=50", "v2=50", "--admin", admin.path)
    assert result.output == "tcp-echo: v1 80->50, v2 20->50\ngeneration 7 in 2 of 2 workers\n"
    assert result.exit_code == 0
    assert admin.requests == [("PUT /v1/routes/tcp-echo/weights", {"v1": 50, "v2": 50})]


def test_undo_tells_the_split_that_follows(admin: FakeAdmin) -> None:
    """Nobody takes one step back for the way back to the start. No answer to that is no failure."""
    admin.answers["POST /v1/routes/tcp-echo/undo"] = (200, APPLIED)
    admin.answers["GET /v1/status"] = (200, STATUS)
    result = tcpmux("undo", "tcp-echo", "--admin", admin.path)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "tcp-echo is split now: v1 66.7%, v2 33.3%"
    admin.answers["GET /v1/status"] = (503, {"error": "not now"})
    result = tcpmux("undo", "tcp-echo", "--admin", admin.path)
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        0,
        "generation 7 in 2 of 2 workers",
    )


def test_a_route_and_its_rule_are_quoted(admin: FakeAdmin) -> None:
    for route, path in (("..#b c", "..%23b%20c"), ("a/../b c", "a/rules/..%2Fb%20c")):
        result = tcpmux("weight", route, "v1=1", "--admin", admin.path)
        assert result.exit_code == 1
        assert admin.requests.pop()[0] == f"PUT /v1/routes/{path}/weights"


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        (["v1"], "expected DESTINATION=WEIGHT, as in v1=80, got 'v1'"),
        (["=5"], "expected DESTINATION=WEIGHT, as in v1=80, got '=5'"),
        (["v1=--5"], "v1: a weight is a whole number 0..1000000, or a step such as +5; got '--5'"),
        (
            ["v1=1000001"],
            "v1: a weight is a whole number 0..1000000, or a step such as +5; got '1000001'",
        ),
        (["v1=80%"], "v1: a weight is a whole number 0..1000000, or a step such as +5; got '80%'"),
        (["v1=1_0"], "v1: a weight is a whole number 0..1000000, or a step such as +5; got '1_0'"),
        (["v1=²"], "v1: a weight is a whole number 0..1000000, or a step such as +5; got '²'"),
        (["v1=1", "v1=2"], "v1 is given twice"),
    ],
)
def test_wrong_weights_are_a_usage_error_before_anything_is_asked(
    admin: FakeAdmin, pairs: list[str], error: str
) -> None:
    result = tcpmux("weight", "r", *pairs, "--admin", admin.path)
    assert result.stderr == f"tcpmux: error: {error}\n"
    assert result.exit_code == 2
    assert admin.requests == []


def test_reload_prints_what_changed(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/reload"] = (200, APPLIED)
    result = tcpmux("reload", TCPMUX_ADMIN=admin.path)
    assert result.output.endswith("generation 7 in 2 of 2 workers\n")
    assert result.exit_code == 0


def test_a_refused_reload_fails_with_the_reason(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/reload"] = (409, {"error": "a.yaml:3:5: routes[0].name: missing"})
    result = tcpmux("reload", "--admin", admin.path)
    assert result.stderr == "tcpmux: error: a.yaml:3:5: routes[0].name: missing\n"
    assert result.stdout == ""
    assert result.exit_code == 1


def test_status_shows_workers_routes_and_weights_that_differ_from_the_file(
    admin: FakeAdmin,
) -> None:
    admin.answers["GET /v1/status"] = (200, STATUS)
    result = tcpmux("status", "--admin", admin.path)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[0].startswith("tcpmux 9.9 (pid 123): running, generation 7, up ")
    assert lines[1] == "config /etc/[red]routes.yaml; admin /run/a.sock"
    assert "0 124 7 3 1" in lines
    assert "1 not running 6 0 4" in lines
    assert "tcp-echo healthy" in lines
    assert "on 127.0.0.1:31400, [::1]:31400: 3 active, 40 total, 2 rejected" in lines
    assert "v1 healthy 66.7% 50 (file: 80) 0 36 0 2.0 KiB 0 B" in lines
    assert "v2 down 33.3% 25 0 0 4 0 B 0 B" in lines


def problem(severity: str, text: str, route: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "severity": severity,
        "route": route,
        "destination": None,
        "endpoint": None,
        "condition": "down" if severity == "error" else "degraded",
        "text": text,
        "since": None,
        "action": f"mend {text}",
        **more,
    }


def test_status_begins_with_what_is_wrong_and_what_to_do_about_it(admin: FakeAdmin) -> None:
    """Also of the instance itself; no more than fit, and none that is of another route than was
    asked for."""
    wrong = [
        problem("error", "nobody answers", "tcp-echo", destination="v1", since=1.0),
        problem("error", "something else", "other"),
        problem("warning", "the log process hangs"),
    ]
    wrong += [problem("warning", f"number {n}", f"r{n}") for n in range(20)]
    status = {**STATUS, "problems": wrong, "problems_total": 230}
    admin.answers["GET /v1/status"] = (200, status)
    lines = tcpmux("status", "--admin", admin.path).output.splitlines()
    assert lines[3] == "230 problems"
    assert lines[4].startswith("  error  tcp-echo/v1  down since 1970-01-01 ")
    assert lines[4].endswith(": nobody answers")
    assert lines[5] == "    -> mend nobody answers"
    assert "  warning  tcpmux  degraded: the log process hangs" in lines
    assert "  and 220 more" in lines
    assert lines.index("  and 220 more") < lines.index(next(at for at in lines if "WORKER" in at))
    every = tcpmux("status", "--all", "--admin", admin.path).output
    assert every.count("-> mend") == 23
    one = tcpmux("status", "tcp-echo", "--admin", admin.path).output
    assert "2 problems\n" in one
    assert "nobody answers" in one
    assert "the log process hangs" in one
    assert "something else" not in one
    assert "WORKER" not in one


HEALTHY = {"condition": "healthy", "condition_reason": "", "condition_since": None}
DEAD = {"condition": "down", "condition_reason": "connection refused, 17 in a row, " * 3}


def many(count: int, dead: int) -> dict[str, Any]:
    """A status of so many routes, the last of which are down."""
    routes = []
    for n in range(count):
        own: dict[str, Any] = {**HEALTHY, **DEAD} if n >= count - dead else HEALTHY
        at: dict[str, Any] = {
            "address": f"10.0.0.7:{n}",
            "state": "ready",
            "health": "healthy",
            "next_try": None,
            "state_until": None,
        }
        at |= {"turns": 1, "slow_start_percent": 100, "ramp": 100, "connections_active": 1} | own
        part = {**destination("v1", 1, 1), "endpoints": [at], **own}
        routes.append({**STATUS["routes"][0], **own, "name": f"r{n}", "destinations": [part]})
    wrong = [problem("error", "w" * 300, f"r{n}") for n in range(min(dead, 200))]
    return {**STATUS, "routes": routes, "problems": wrong, "problems_total": dead}


@pytest.mark.parametrize("dead", [0, 3, 500])
def test_a_thousand_routes_fit_a_screen_or_three(admin: FakeAdmin, dead: int) -> None:
    """What is wrong comes first and is shown as a whole, the rest is a line each, then a count."""
    admin.answers["GET /v1/status"] = (200, many(1000, dead))
    lines = tcpmux("status", "--admin", admin.path).output.splitlines()
    assert len(lines) < 150
    shown = [line.split()[0] for line in lines if line.startswith("r")]
    assert shown[: min(dead, 10)] == [f"r{1000 - dead + n}" for n in range(min(dead, 10))]
    assert len(shown) == len(set(shown)) == min(dead, 10) + 30
    rest = 1000 - min(dead, 10) - 30
    assert lines[-1].startswith(f"and {rest} routes: ")
    assert lines[-1].endswith("(--all or ROUTE shows them)")
    named = tcpmux("status", "r5", "r999", "--admin", admin.path).output
    assert [line for line in named.splitlines() if line.startswith("r")] == [
        *(["r999  down"] if dead else []),
        "r5  healthy",
        *([] if dead else ["r999  healthy"]),
    ]
    assert "35  finished: both sides closed" in named
    assert "v1: 10.0.0.7:5 is healthy" in named
    every = tcpmux("status", "--all", "--admin", admin.path).output.splitlines()
    assert len([line for line in every if line.startswith("r")]) == 1000
    listed = tcpmux("endpoint", "--admin", admin.path).output.splitlines()
    assert len(listed) == 1 + dead + 40 + 1
    assert listed[-1] == f"and {1000 - dead - 40} healthy: --all shows them"
    assert len(tcpmux("endpoint", "--all", "--admin", admin.path).output.splitlines()) == 1001


def test_the_share_of_an_endpoint_is_of_its_destination(admin: FakeAdmin) -> None:
    """Slow start is told as the reason for a small one; also where the endpoint alone is shown."""
    status = many(2, 0)
    (part,) = status["routes"][0]["destinations"]
    (one,) = part["endpoints"]
    part["endpoints"] = [
        {**one, "address": "10.0.0.7:1", "turns": 4},
        {**one, "address": "10.0.0.7:2", "turns": 1, "slow_start_percent": 25, "ramp": 25},
        {**one, "address": "10.0.0.7:3", "turns": 0},
    ]
    admin.answers["GET /v1/status"] = (200, status)
    admin.answers["GET /v1/routes"] = (200, {"routes": status["routes"]})
    lines = tcpmux("endpoint", "--admin", admin.path).output.splitlines()
    rows = [line.split(maxsplit=7) for line in lines[1:]]
    at = lines[0].split().index("SHARE")
    assert [row[at] for row in rows] == ["80%", "20%", "-", "100%"]
    assert lines[2].endswith("  slow start: 25% of its share")
    assert "slow start" not in "".join([lines[1], *lines[3:]])
    result = tcpmux("endpoint", "10.0.0.7:2", "--admin", admin.path)
    assert result.exit_code == 0, result.output
    (alone,) = result.output.splitlines()[1:]
    assert alone.split()[at] == "20%"


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What a command shows on one that is so wide."""
    terminal, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    wanted = {**plain, "TERM": "xterm", "COLUMNS": str(columns), **environment}
    command = [sys.executable, "-m", "tcpmux", *arguments]
    text = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, env=wanted) as process:
        os.close(theirs)
        with suppress(OSError):  # its end, of a terminal
            while part := os.read(terminal, 1 << 16):
                text += part
    os.close(terminal)
    assert process.returncode == 0, text
    return text.decode().replace("\r\n", "\n")


def test_since_when_is_a_time_of_day_and_a_duration_where_there_is_room(admin: FakeAdmin) -> None:
    """With the date if that is another day. 60 columns are enough even so."""
    status = many(3, 1)
    now = time.time()
    days = [now - 2, now - 3 * 86400, now - 7]
    for n, (route, since) in enumerate(zip(status["routes"], days, strict=True)):
        (part,) = route["destinations"]
        (at,) = part["endpoints"]
        at["address"] = f"192.168.100.17:3000{n}"
        for own in (route, part, at):
            own["condition_since"] = since
    status["problems"][0] |= {
        "since": days[2],
        "destination": "v1-canary",
        "endpoint": "192.168.100.17:9000",
    }
    admin.answers["GET /v1/status"] = (200, status)
    texts = [f"{time.strftime('%H:%M:%S', time.localtime(day))} (" for day in days]
    date = time.strftime("%Y-%m-%d ", time.localtime(days[1]))
    for command in ("status", "endpoint"):
        shown = tcpmux(command, "--admin", admin.path).output
        for text in (texts[0], f"{date}{texts[1]}3d 00h)", texts[2]):
            assert text in shown
        narrow = on_a_terminal(60, command, "--admin", admin.path, NO_COLOR="1")
        assert max(len(line) for line in narrow.splitlines()) <= 60
        assert "3d 00h" in narrow
    shown = on_a_terminal(60, "status", "--admin", admin.path, NO_COLOR="1")
    assert "r0/v1-canary/192.168.100.17:9000  down for " in shown


def test_color_is_for_terminals_and_goes_with_a_word(admin: FakeAdmin) -> None:
    """None for a file, with NO_COLOR or where the terminal has none; and 60 columns are enough."""
    admin.answers["GET /v1/status"] = (200, many(20, 1))
    red = "\x1b[31mdown"
    for command in ("status", "endpoint"):
        shown = on_a_terminal(60, command, "--admin", admin.path)
        assert red in shown
        plain = re.sub(r"\x1b\[\d+m", "", shown)
        assert max(len(line) for line in plain.splitlines()) <= 60
        for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert on_a_terminal(60, command, "--admin", admin.path, **without) == plain
        assert "\x1b" not in tcpmux(command, "--admin", admin.path).output


def test_what_is_foreign_does_nothing_to_a_terminal(admin: FakeAdmin) -> None:
    """Reasons come from endpoints, names of problems from files."""
    status = many(1, 1)
    evil = "\x1b]0;owned\x07\x1b[31m\u202e\nforged"
    status["problems"][0] |= {"text": evil, "route": evil, "action": evil}
    for part in (status["routes"][0], *status["routes"][0]["destinations"]):
        part["condition_reason"] = part["condition"] = evil
    status["routes"][0]["destinations"][0]["endpoints"][0]["condition_reason"] = evil
    admin.answers["GET /v1/status"] = (200, status)
    for command in (["status"], ["status", "r0"], ["endpoint"], ["routes"], ["stats", "r0"]):
        shown = on_a_terminal(80, *command, "--admin", admin.path, NO_COLOR="1")
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\nforged" not in shown


def test_stats_of_a_route_tell_in_words_why_connections_ended(admin: FakeAdmin) -> None:
    """Most first; those too that never had a destination; a reason of another build by its name."""
    denied = {**copy.deepcopy(STATUS["routes"][0]), "connections_denied_total": 4}
    denied["destinations"][0]["closed"] = {"client_reset": 7}
    admin.answers["GET /v1/status"] = (200, {**STATUS, "routes": [denied]})
    lines = tcpmux("stats", "tcp-echo", "--admin", admin.path).output.splitlines()
    assert [" ".join(line.split()) for line in lines[-5:]] == [
        "route 35 finished: both sides closed",
        "route 4 client not allowed",
        "route 2 no endpoint accepted",
        "route 1 new_reason",
        "v1 7 reset by the client",
    ]
    shown = json.loads(tcpmux("stats", "tcp-echo", "--json", "--admin", admin.path).output)
    assert [route["name"] for route in shown["routes"]] == ["tcp-echo"]
    result = tcpmux("stats", "nope", "--admin", admin.path)
    assert result.exit_code == 1
    assert "no route, destination or endpoint named 'nope'" in result.stderr


def two_routes() -> dict[str, Any]:
    """r0 and r1, both with a destination v1 and an endpoint of its own and one of both."""
    status = many(2, 0)
    for number, route in enumerate(status["routes"]):
        (destination,) = route["destinations"]
        (endpoint,) = destination["endpoints"]
        destination["closed"] = {"client_reset": 7 + number}
        counts = {"connections_active": 1 + number, "connections_total": 20 + number}
        endpoint |= {"health": "up", "connect_failures_total": 3, **counts}
        destination["endpoints"] = [endpoint, {**endpoint, "address": "10.0.0.9:1"}]
    return status


@pytest.mark.parametrize(
    ("given", "rows", "ended", "shown"),
    [
        (["r1"], ["r1", "v1"], ["route", "v1"], {"r1": {"v1": 2}}),
        (["r1/v1"], ["r1", "v1"], ["v1"], {"r1": {"v1": 2}}),
        (["r1/v1/10.0.0.7:1"], ["r1", "v1/10.0.0.7:1"], [], {"r1": {"v1": 1}}),
        (["10.0.0.7:0"], ["r0", "v1/10.0.0.7:0"], [], {"r0": {"v1": 1}}),
        (
            ["10.0.0.9:1"],
            ["r0", "v1/10.0.0.9:1", "r1", "v1/10.0.0.9:1"],
            [],
            {"r0": {"v1": 1}, "r1": {"v1": 1}},
        ),
        (
            ["r1/v1", "r0", "r1/v1/10.0.0.9:1", "r0/"],
            ["r1", "v1", "v1/10.0.0.9:1", "r0", "v1"],
            ["v1", "route", "v1"],
            {"r1": {"v1": 2}, "r0": {"v1": 2}},
        ),
    ],
)
def test_stats_of_a_target(
    admin: FakeAdmin,
    given: list[str],
    rows: list[str],
    ended: list[str],
    shown: dict[str, dict[str, int]],
) -> None:
    """A route, a destination, an endpoint, each named as for every other command."""
    admin.answers["GET /v1/status"] = (200, two_routes())
    lines = tcpmux("stats", *given, "--admin", admin.path).output.splitlines()
    cells = [line.split() for line in lines if line]
    listed = [
        row[0] for row in cells if len(row) == 1 or row[1:4] == [*filter(str.isdigit, row[1:4])]
    ]
    reasons = [row[0] for row in cells if row[-1] in ("client", "closed")]
    assert (listed, list(dict.fromkeys(reasons))) == (rows, list(dict.fromkeys(ended)))
    parsed = json.loads(tcpmux("stats", *given, "--json", "--admin", admin.path).output)
    assert {
        route["name"]: {d["name"]: len(d["endpoints"]) for d in route["destinations"]}
        for route in parsed["routes"]
    } == shown
    assert list(shown) == [route["name"] for route in parsed["routes"]]


def test_stats_of_an_endpoint_are_its_own(admin: FakeAdmin) -> None:
    admin.answers["GET /v1/status"] = (200, two_routes())
    lines = tcpmux("stats", "r1/v1/10.0.0.7:1", "--admin", admin.path).output.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "r1",
        "DESTINATION ACTIVE TOTAL FAILURES IN OUT",
        "v1/10.0.0.7:1 2 21 3 - -",
    ]


@pytest.mark.parametrize("command", ["stats", "endpoint"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v1", "'v1' is ambiguous: use one of r0/v1, r1/v1"),
        ("r0/v2", "no destination of route r0 named 'v2'"),
        ("r0/v1/10.0.0.8:1", "no endpoint of r0/v1 named '10.0.0.8:1'"),
        ("r7", "no route, destination or endpoint named 'r7'"),
    ],
)
def test_what_is_no_target_is_refused_by_all_alike(
    admin: FakeAdmin, command: str, text: str, message: str
) -> None:
    admin.answers["GET /v1/status"] = (200, two_routes())
    result = tcpmux(command, text, "--admin", admin.path)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["r0"], ["10.0.0.7:0 r0/v1", "10.0.0.9:1 r0/v1", "down.example r0/v1"]),
        (["r1/v1"], ["10.0.0.7:1 r1/v1", "10.0.0.9:1 r1/v1"]),
        (["r1/v1/10.0.0.9:1"], ["10.0.0.9:1 r1/v1"]),
        (["10.0.0.9:1"], ["10.0.0.9:1 r0/v1", "10.0.0.9:1 r1/v1"]),
        (["10.0.0.9:1", "--route", "r1"], ["10.0.0.9:1 r1/v1"]),
        (["v1", "--route", "r1"], ["10.0.0.7:1 r1/v1", "10.0.0.9:1 r1/v1"]),
        (["down.example"], ["down.example r0/v1"]),
        (["r0/v1/down.example"], ["down.example r0/v1"]),
    ],
)
def test_endpoints_of_a_target(admin: FakeAdmin, given: list[str], expected: list[str]) -> None:
    """A name that does not resolve stands where its addresses would."""
    status = two_routes()
    status["routes"][0]["destinations"][0]["names"] = [
        {"name": "down.example", "error": "not found", "since": 1.0, "next_look": None}
    ]
    admin.answers["GET /v1/status"] = (200, status)
    done = tcpmux("endpoint", *given, "--json", "--admin", admin.path)
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.output)
    assert [f"{row['address']} {row['route']}/{row['destination']}" for row in rows] == expected


def test_status_of_a_route_that_is_not_there(admin: FakeAdmin) -> None:
    admin.answers["GET /v1/status"] = (200, STATUS)
    result = tcpmux("status", "tcp-ecoh", "--admin", admin.path)
    assert result.exit_code == 1
    assert "no route named 'tcp-ecoh': did you mean tcp-echo?" in result.stderr


def test_status_says_what_is_pinned_and_that_pipes_are_short(admin: FakeAdmin) -> None:
    buffers = STATUS["buffers"] | {"pinned_bytes": 3 << 20, "pipe_fallbacks_total": 1}
    admin.answers["GET /v1/status"] = (200, STATUS | {"buffers": buffers})
    output = tcpmux("status", "--admin", admin.path).output
    assert "has stopped reading hold 3.0 MiB of at most 400.0 MiB." in output
    assert "Bulk was copied 1 time rather than spliced" in output
    buffers["pinned_bytes_limit"] = 0
    assert "hold 3.0 MiB.\n" in tcpmux("status", "--admin", admin.path).output


def test_status_of_an_instance_of_the_build_before(admin: FakeAdmin) -> None:
    """Which knows slow start by its former name: until the upgrade, commands are newer than it."""
    before = {**destination("v1", 50, 50), "ramp": 40}
    del before["slow_start_percent"], before["condition"]
    routes = [{**STATUS["routes"][0], "destinations": [before]}]
    admin.answers["GET /v1/status"] = (200, {**STATUS, "routes": routes})
    result = tcpmux("status", "--admin", admin.path)
    assert result.exit_code == 0
    assert "50 (slow start: 40%)" in result.output


def test_status_json_is_the_answer_itself(admin: FakeAdmin) -> None:
    admin.answers["GET /v1/status"] = (200, STATUS)
    result = tcpmux("status", "--json", "--admin", admin.path)
    assert json.loads(result.stdout) == STATUS


def test_a_missing_socket_tells_how_to_start(tmp_path: Path) -> None:
    path = tmp_path / "missing.sock"
    result = tcpmux("status", "--admin", str(path))
    assert result.stderr == (
        f"tcpmux: error: no tcpmux is running (nothing answers at {path}): start one with "
        "`tcpmux -c routes.yaml`, or name its socket with --admin\n"
    )
    assert result.exit_code == 1


def test_a_socket_without_a_listener_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = str(tmp_path / "left.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    result = tcpmux("status", "--admin", path)
    assert f"{path} is left over, nobody listens on it" in result.stderr
    plain = tmp_path / "plain"
    plain.touch()
    assert f"{plain} is not a socket" in tcpmux("status", "--admin", str(plain)).stderr


def test_a_path_no_socket_can_have_is_one_line_too() -> None:
    result = tcpmux("status", "--admin", "/" + "x" * 200)
    assert result.stderr.startswith("tcpmux: error: can't reach tcpmux at /xxx")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_somebody_elses_socket_is_named_with_owner_and_mode() -> None:
    program = (
        "import os, sys; from tcpmux.control.client import Client, PermissionDenied\n"
        "os.setuid(65534)\n"
        "try: Client(sys.argv[1], 5).status()\n"
        "except PermissionDenied as error: print(error)\n"
    )
    # Not tmp_path: pytest's directories are closed to others.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/admin.sock"
        listener.bind(path)
        listener.listen()
        Path(path).chmod(0o600)
        Path(directory).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", program, path],
            capture_output=True,
            text=True,
            timeout=patient(30),
            check=True,
        )
        assert done.stdout == (
            f"may not talk to tcpmux at {path}: the socket is root's, mode 0600: use sudo, "
            "or become that user\n"
        )
        Path(directory).chmod(0o700)
        done = subprocess.run(
            [sys.executable, "-c", program, path],
            capture_output=True,
            text=True,
            timeout=patient(30),
            check=True,
        )
        assert done.stdout.endswith("its directory is closed to you: use sudo\n")


@pytest.fixture
def master() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the master: it lasts until it is killed."""
    program = "import signal; signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("pidfd", [True, False])
def test_stop_waits_and_tells_how_many_connections_remain(
    admin: FakeAdmin,
    master: subprocess.Popen[bytes],
    pidfd: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [2, 2, 1]

    def status() -> tuple[int, Any]:
        if not left:
            master.kill()
            return 503, {"error": "gone"}
        return 200, {**STATUS, "workers": [{**STATUS["workers"][0], "connections": left.pop(0)}]}

    def not_permitted(_pid: int) -> int:
        raise PermissionError

    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", not_permitted)
    admin.answers |= {"POST /v1/stop": (202, {"pid": master.pid}), "GET /v1/status": status}
    result = tcpmux("stop", "--admin", admin.path)
    assert result.output.splitlines() == [
        "waiting for 2 connections",
        "waiting for 1 connection",
        f"stopped (pid {master.pid})",
    ]
    assert result.exit_code == 0
    assert admin.requests[0] == ("POST /v1/stop", {})


def test_stop_of_what_has_ended_meanwhile_is_done(
    admin: FakeAdmin, master: subprocess.Popen[bytes]
) -> None:
    master.kill()
    master.wait()
    admin.answers["POST /v1/stop"] = (202, {"pid": master.pid})
    assert tcpmux("stop", "--admin", admin.path).output == f"stopped (pid {master.pid})\n"


def test_stop_now_without_waiting(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/stop"] = (202, {"pid": os.getpid()})
    result = tcpmux("stop", "--now", "--no-wait", "--admin", admin.path)
    assert result.output == f"tcpmux (pid {os.getpid()}) is stopping\n"
    assert admin.requests == [("POST /v1/stop", {"now": True})]


# --- workers, upgrade, drain ------------------------------------------------------------------


def test_workers_shows_them(admin: FakeAdmin) -> None:
    admin.answers["GET /v1/status"] = (200, STATUS)
    result = tcpmux("workers", "--admin", admin.path)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[1].split() == [
        "id", "pid", "guardian", "state", "generation", "connections", "limit", "starts",
        "recovered",
    ]  # fmt: skip
    assert lines[3].split() == ["0", "124", "122", "running", "7", "3", "100", "1", "17"]
    assert lines[4].split() == ["1", "none", "125", "away", "6", "0", "100", "4", "0"]
    as_json = tcpmux("workers", "--json", "--admin", admin.path)
    assert json.loads(as_json.output) == STATUS["workers"]


def test_workers_changes_their_number(admin: FakeAdmin) -> None:
    admin.answers["PUT /v1/workers"] = (200, {**APPLIED, "changes": ["workers 2->4"]})
    result = tcpmux("workers", "4", "--admin", admin.path)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "workers 2->4")
    assert admin.requests == [("PUT /v1/workers", {"count": 4})]


@pytest.mark.parametrize("arguments", [("0",), ("65",), ("-1",), ("two",), ("4", "--json")])
def test_workers_refuses_what_makes_no_sense(admin: FakeAdmin, arguments: tuple[str, ...]) -> None:
    result = tcpmux("workers", "--admin", admin.path, "--", *arguments)
    if "--json" in arguments:
        result = tcpmux("workers", *arguments, "--admin", admin.path)
    assert result.exit_code == 2
    assert admin.requests == []


def test_upgrade_waits_for_its_end(admin: FakeAdmin) -> None:
    """Through the time in which control is replaced and does not answer."""
    looks = iter(
        [
            (200, {**STATUS, "upgrade": {"count": 3, "state": "running", "error": ""}}),
            (503, {"error": "the master is gone"}),
            (200, {**STATUS, "upgrade": {"count": 3, "state": "idle", "error": ""}}),
        ]
    )
    admin.answers["POST /v1/upgrade"] = (202, {"pid": 123, "count": 3})
    admin.answers["GET /v1/status"] = lambda: next(looks)
    result = tcpmux("upgrade", "--admin", admin.path)
    assert result.output == "upgraded to 9.9: 2 workers replaced, 3 connections open\n"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("builds", "said"),
    [
        (("aa", "aa"), "no new build: 9.9 (build aa) was running already"),
        (("aa", "bb"), "upgraded from 9.8 (build aa) to 9.9 (build bb)"),
        ((None, "bb"), "upgraded to 9.9"),
        (("aa", "unknown"), "upgraded to 9.9"),
    ],
)
def test_upgrade_says_which_build_has_become_which(
    admin: FakeAdmin, builds: tuple[str | None, str], said: str
) -> None:
    before = {**STATUS, "version": "9.8" if builds[0] != builds[1] else "9.9"}
    before |= {} if builds[0] is None else {"build": builds[0]}
    after = {**STATUS, "build": builds[1], "upgrade": {"count": 3, "state": "idle", "error": ""}}
    looks = iter([(200, before), (200, after)])
    admin.answers["POST /v1/upgrade"] = (202, {"pid": 123, "count": 3})
    admin.answers["GET /v1/status"] = lambda: next(looks)
    result = tcpmux("upgrade", "--admin", admin.path)
    assert result.output == f"{said}: 2 workers replaced, 3 connections open\n"


def test_upgrade_to_a_build_that_counts_anew_is_over_too(admin: FakeAdmin) -> None:
    """One that can't share memory with the build before knows nothing of its upgrades."""
    looks = iter(
        [
            (200, {**STATUS, "upgrade": {"count": 3, "state": "running", "error": ""}}),
            (503, {"error": "the master is gone"}),
            (200, {**STATUS, "upgrade": {"count": 0, "state": "idle", "error": ""}}),
        ]
    )
    admin.answers["POST /v1/upgrade"] = (202, {"pid": 123, "count": 3})
    admin.answers["GET /v1/status"] = lambda: next(looks)
    result = tcpmux("upgrade", "--admin", admin.path)
    assert result.exit_code == 0
    assert result.output == (
        "upgraded to 9.9: 2 workers for new connections; workers of the previous build, whose "
        "memory layout differs, keep their connections until these end\n"
    )


def test_upgrade_tells_why_it_failed(admin: FakeAdmin) -> None:
    failed = {"count": 3, "state": "failed", "error": "routes.yaml:1:1: no routes"}
    admin.answers["POST /v1/upgrade"] = (202, {"pid": 123, "count": 3})
    told = [problem("warning", "the last upgrade failed: routes.yaml:1:1: no routes")]
    status = {**STATUS, "upgrade": failed, "problems": told, "problems_total": 1}
    admin.answers["GET /v1/status"] = (200, status)
    result = tcpmux("upgrade", "--admin", admin.path)
    assert (result.exit_code, result.stderr) == (
        1,
        "tcpmux: error: not upgraded: routes.yaml:1:1: no routes\n",
    )
    shown = tcpmux("status", "--admin", admin.path)
    assert "the last upgrade failed: routes.yaml:1:1: no routes" in shown.output


def test_upgrade_under_way_is_refused(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/upgrade"] = (409, {"error": "upgrade 2 is under way"})
    result = tcpmux("upgrade", "--admin", admin.path)
    assert (result.exit_code, result.stderr) == (1, "tcpmux: error: upgrade 2 is under way\n")


def test_upgrade_need_not_be_waited_for(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/upgrade"] = (202, {"pid": 123, "count": 3})
    result = tcpmux("upgrade", "--no-wait", "--admin", admin.path)
    assert (result.exit_code, result.output) == (0, "upgrade 3 started\n")


def test_drain_asks_and_returns(admin: FakeAdmin) -> None:
    admin.answers["POST /v1/stop"] = (202, {"pid": 123})
    result = tcpmux("drain", "--admin", admin.path)
    assert (result.exit_code, result.output) == (0, "tcpmux (pid 123) is draining\n")
    assert admin.requests == [("POST /v1/stop", {})]


def test_drain_shows_what_remains(admin: FakeAdmin) -> None:
    """By route and destination, until the process has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        route = STATUS["routes"][0]
        busy = {**route, "destinations": [destination("v1", 50, 80, connections_active=3)]}

        def status() -> tuple[int, Any]:
            process.terminate()
            return 200, {**STATUS, "routes": [busy]}

        admin.answers["POST /v1/stop"] = (202, {"pid": process.pid})
        admin.answers["GET /v1/status"] = status
        result = tcpmux("drain", "--wait", "--admin", admin.path)
    assert result.output.splitlines() == [
        "waiting for 3 connections (tcp-echo/v1 3)",
        f"drained (pid {process.pid})",
    ]
    assert result.exit_code == 0


def test_a_drain_of_a_destination_is_waited_for_while_control_is_replaced(
    admin: FakeAdmin,
) -> None:
    """As in an upgrade: what is cut off is asked for again. How many are left is said when it
    changes."""
    (route,) = STATUS["routes"]
    left = [3, 3, None, 1, None, 0]

    def status() -> tuple[int, Any]:
        count = left.pop(0)
        if count is None:
            return CUT
        busy = destination("v1", 50, 80, connections_active=count)
        return 200, {**STATUS, "routes": [{**route, "destinations": [busy]}]}

    admin.answers |= {
        "GET /v1/names": (200, NAMES),
        "PUT /v1/states": (200, APPLIED),
        "GET /v1/status": status,
    }
    result = tcpmux("drain", "tcp-echo/v1", "--wait", "--admin", admin.path)
    assert result.stdout.splitlines()[-3:] == [
        "waiting for 3 connections",
        "waiting for 1 connection",
        "drained: no connections are left",
    ]
    assert (result.exit_code, left) == (0, [])


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 connection"), (None, "an unknown number of connections")]
)
def test_a_drain_that_takes_too_long_fails_and_says_what_is_left(
    admin: FakeAdmin, count: int | None, text: str
) -> None:
    """Also if the instance has not said how many these are."""
    (route,) = STATUS["routes"]
    busy = destination("v1", 50, 80, connections_active=count or 0)
    answer = 200, {**STATUS, "routes": [{**route, "destinations": [busy]}]}
    admin.answers |= {
        "GET /v1/names": (200, NAMES),
        "PUT /v1/states": (200, APPLIED),
        "GET /v1/status": CUT if count is None else answer,
    }
    result = tcpmux("drain", "tcp-echo/v1", "--wait", "--timeout", "0", "--admin", admin.path)
    assert result.exit_code == 1
    assert f"error: {text} left after 0 s: look at them with" in result.stderr
    assert "no connections are left" not in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_the_shell(shell: str) -> None:
    result = tcpmux("completion", shell)
    assert result.exit_code == 0
    assert f"_TCPMUX_COMPLETE={shell}_complete" in result.stdout


def test_the_shell_is_told_what_goes_on() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("tcpmux")],
        env={
            **os.environ,
            "_TCPMUX_COMPLETE": "bash_complete",
            "COMP_WORDS": "tcpmux we",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=False,
    )
    assert done.stdout == "plain,weight\n"


def test_an_instance_that_reports_no_problems_is_not_taken_for_healthy(admin: FakeAdmin) -> None:
    """One of an older build knows none: that is said, rather than nothing."""
    said = "This instance runs an older build, which reports no problems: tcpmux upgrade\n"
    status = {**STATUS, "problems": [], "problems_total": 0}
    admin.answers["GET /v1/status"] = (200, status)
    assert said not in tcpmux("status", "--admin", admin.path).output
    del status["problems"], status["problems_total"]
    assert said in tcpmux("status", "--admin", admin.path).output
