"""Whatever comes instead of an answer, a command says so in one line."""

from __future__ import annotations

import copy
import io
import json
import random
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import click.testing
import pytest
from rich.console import Console

from tcpmux import Client
from tcpmux.cli.app import cli
from tcpmux.cli.top import View
from tcpmux.cli.top_model import Model
from tcpmux.control import schema
from tcpmux.control.asking import AdminError
from tcpmux.control.fitting import Unfit, answers, fitted
from tcpmux.control.http_answer import Events, NotHttp
from tcpmux.control.waiting import updates
from tcpmux.errors import TcpmuxError

ANSWERS: dict[str, Any] = {
    "/v1/status": schema.Status,
    "/v1/names": schema.NameList,
    "/v1/connections": schema.ConnectionList,
    "/v1/connections/groups": schema.ConnectionGroups,
    "/v1/events": schema.EventList,
    "/v1/history": schema.History,
    "/v1/access": schema.Access,
    "/v1/fleet": schema.FleetStatus,
    "/v1/fleet/documents": schema.FleetDocuments,
    "/v1/fleet/history": schema.FleetHistory,
    "/v1/routes/text/explanation": schema.Explanation,
}
COMMANDS = [
    ["status"], ["status", "--all"], ["status", "text"], ["status", "--json"], ["routes"],
    ["stats"], ["stats", "text"], ["stats", "--json"], ["endpoint", "text"], ["conns"],
    ["conns", "--by", "client"], ["conns", "--json"], ["events"], ["workers"],
    ["explain", "text"], ["explain", "text", "--json"],
    ["fleet", "status"], ["fleet", "hosts"], ["fleet", "history"], ["fleet", "get"],
    ["fleet", "status", "--json"],
]  # fmt: skip
RUBBISH: tuple[Any, ...] = (
    None, True, 1, -1, 0.5, 1e300, 1 << 70, "", "x", "\x1b[2J\n", [], [1], [None], [[]], {},
    {"a": 1}, {"name": 5},
)  # fmt: skip
GONE = object()


def sample(kind: Any) -> Any:
    """A value of a type of schema.py, with everything that it may have."""
    origin, arguments = get_origin(kind), get_args(kind)
    plain = {str: "text", int: 7, float: 1.5, bool: True, Any: {}}
    if kind in plain:
        return plain[kind]
    if origin is Literal:
        return arguments[0]
    if origin is list:
        return [sample(arguments[0])]
    if origin is dict:
        return {"text": sample(arguments[1])}
    if origin in (Union, types.UnionType):
        return sample(arguments[0])
    assert is_typeddict(kind)
    return {name: sample(of) for name, of in get_type_hints(kind).items()}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Of everything in it: what it is in, and by which key."""
    found, left = [], [value]
    while left:
        outer = left.pop()
        for key, inner in outer.items() if isinstance(outer, dict) else enumerate(outer):
            found.append((outer, key))
            if isinstance(inner, (dict, list)):
                left.append(inner)
    return found


class Canned:
    """A connection on which each request is answered at once."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers
        self._left = b""

    def __enter__(self) -> Canned:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def sendall(self, request: bytes) -> None:
        path = request.split()[1].decode().partition("?")[0]
        self._left = b"HTTP/1.0 200 OK\r\n\r\n" + self._answers[path]

    def recv(self, _size: int) -> bytes:
        part, self._left = self._left, b""
        return part


def says(command: list[str], given: dict[str, Any], patch: pytest.MonkeyPatch) -> str:
    """The whole output. Fails if a fault of ours ends the command."""
    texts = {path: json.dumps(answer).encode() for path, answer in given.items()}
    patch.setattr(Client, "_connected", lambda _: Canned(texts))
    arguments = [*command, "--url", "http://127.0.0.1:1"]
    result = click.testing.CliRunner().invoke(cli, arguments, prog_name="tcpmux")
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        command,
        given,
        result.exc_info,
    )
    if result.exit_code:
        assert result.stderr.count("\n") <= 2, (command, result.stderr)
    return result.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_rubbish_in_an_answer_is_told_in_a_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any part of it may be missing, or be anything."""
    whole = {path: sample(kind) for path, kind in ANSWERS.items()}
    says(command, whole, monkeypatch)
    text = json.dumps(whole)
    number = random.randrange(1 << 32)
    chance = random.Random(number)
    print(f"seed {number}")
    for _ in range(150):
        given = json.loads(text)
        for _ in range(chance.choice((1, 1, 2))):
            inside, key = chance.choice(places(given))
            new = chance.choice((GONE, *RUBBISH))
            if new is not GONE:
                inside[key] = copy.deepcopy(new)
            elif isinstance(inside, dict) and inside is not given:
                del inside[key]
        said = says(command, given, monkeypatch)
        assert "\x1b" not in said, (command, given)


def test_what_is_wrong_with_an_answer_is_said() -> None:
    good = sample(schema.Status)
    assert fitted(good, schema.Status) is good
    for wrong, text in (
        ({"routes": [1]}, "routes[0] is 1, and not an object"),
        ({"routes": None}, "routes is None, and not a list"),
        ({"routes": [{"name": 5}]}, "routes[0].name is 5, and not text"),
        ({"started_at": 1.5}, "started_at is 1.5, and not an integer of 64 bits"),
        ({"generation": 1 << 64}, f"generation is {1 << 64}, and not an integer of 64 bits"),
        ({"last_reload": {"time": 1e300}}, "last_reload.time is 1e+300, and not a number of"),
        ({"last_reload": {"time": float("nan")}}, "last_reload.time is nan, and not a number of"),
        ({"workers": [{"counters": {"a": "b"}}]}, "workers[0].counters.a is 'b', and not an"),
    ):
        with pytest.raises(Unfit) as caught:
            fitted(wrong, schema.Status)
        assert str(caught.value).startswith(text)
    assert fitted({"new": 1, "routes": [{"new": [1]}]}, schema.Status)  # of a newer build
    with pytest.raises(Unfit, match=r"^it is a list, and not an object$"):
        fitted([], schema.Status)


def test_what_an_answer_lacks_is_told_to_whom_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older build does not know of everything; and for others its objects are plain ones."""
    canned = Canned({"/v1/status": b'{"pid": 5, "routes": [{"name": "shop"}]}'})
    monkeypatch.setattr(Client, "_connected", lambda _: canned)
    status = Client("http://127.0.0.1:1").status()
    assert status == {"pid": 5, "routes": [{"name": "shop"}]}
    assert type(copy.deepcopy(status)) is dict
    text = "what answers at http://127.0.0.1:1 is not tcpmux, or of another build: in its answer "
    with pytest.raises(AdminError) as caught:
        status["routes"][0]["listen"]
    assert str(caught.value) == f"{text}it has no 'listen'"
    assert isinstance(caught.value, TcpmuxError)
    assert status["routes"][0].get("listen") is None


STREAM = {
    "table": schema.StreamTable,
    "conditions": schema.StreamConditions,
    "sample": schema.Sample,
}


def stream_sample() -> dict[str, Any]:
    """Updates as they come, of one route."""
    made: dict[str, Any] = {kind: sample(of) for kind, of in STREAM.items()}
    made["table"]["routes"] = made["conditions"]["routes"] = sample(list[schema.RouteStatus])
    made["sample"]["routes"] = [[[1, 2, 3, 4, 5, 6]]]
    made["sample"]["rule_counts"] = [[[1, 2]]]
    made["sample"]["workers"] = sample(list[schema.WorkerStatus])
    return made


def test_rubbish_in_a_stream_is_told_in_a_line() -> None:
    """As `top` reads and draws it."""
    number = random.randrange(1 << 32)
    chance = random.Random(number)
    print(f"seed {number}")
    console = Console(file=io.StringIO(), width=100, height=30)
    text = json.dumps(stream_sample())
    for round_ in range(600):
        told = json.loads(text)
        if round_:
            inside, key = chance.choice(places(told))
            if inside is not told and (chance.random() < 0.8 or isinstance(inside, list)):
                inside[key] = copy.deepcopy(chance.choice(RUBBISH))
            elif inside is not told:
                del inside[key]
        lines = [f"event: {kind}\ndata: {json.dumps(of)}\n\n" for kind, of in told.items()]
        objects = answers(AdminError)
        view = View(Model())
        try:
            for kind, data in updates(Events(objects).feed("".join(lines * 2).encode())):
                view.model.take(kind, data)
                console.print(view.draw(100, 30))
            is_told = True
        except (TcpmuxError, NotHttp) as error:
            is_told = round_ > 0 and "\n" not in str(error)
        assert is_told, told
