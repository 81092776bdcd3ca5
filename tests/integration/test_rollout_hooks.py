"""Hooks of a rollout, with servers and programs that do what they like."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control.client import AdminError
from tests.hook_server import (
    HookServer,
    Treat,
    answers,
    answers_ten_megabytes,
    answers_without_an_end,
    closes,
    hangs,
    value,
)
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_rollout import end, now, weights
from tests.rolling import clients
from tests.support import EchoServer, patient, short_directory, wait_for

QUICK = {"bake": "200ms", "min_connections": 2, "steps": ["50%", "100%"]}
JUDGE = {"first_byte": {"p95": "off"}}  # it depends on who else uses the machine


@pytest.fixture
def serve() -> Iterator[Callable[..., HookServer]]:
    started: list[HookServer] = []

    def start(*treats: Treat) -> HookServer:
        started.append(HookServer(*treats))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def hooked(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> Callable[..., Proxy]:
    """A proxy whose route has these hooks; it can be given others."""

    def start(hooks: dict[str, Any], **more: Any) -> Proxy:
        return start_proxy(file(tmp_path, port, one, two, hooks, **more))

    return start


def file(
    directory: Path, port: int, one: EchoServer, two: EchoServer, hooks: dict[str, Any], **more: Any
) -> dict[str, Any]:
    rollout = {"to": "v2", **QUICK, "judge": JUDGE, "hooks": hooks, **more}
    made = route("r", port, v1=(1, one.address), v2=(0, two.address))
    return routes({**made, "rollout": rollout}, state_dir=str(directory))


def waits(proxy: Proxy, text: str) -> None:
    wait_for(lambda: text in (now(proxy) or {"waits": ""})["waits"], f"it to wait: {text}")


def test_a_gate_opens_each_step(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int
) -> None:
    gate = serve(answers(403), answers(200))
    proxy = hooked({"gate": f"{gate.url}/may?x=1"})
    with clients(port):
        status = proxy.client.start_rollout("r", {})
        assert status["rollout"] is not None
        assert (status["rollout"]["step"], weights(proxy)) == (0, {"v1": 1, "v2": 0})
        waits(proxy, f"gate 127.0.0.1:{gate.port}: answered 403, not 200")
        said = proxy.run("rollout", "status", "r").stdout
        assert "r: running: before step 1 of 2, 50% to v2" in said
        assert "answered 403" in said
        found = end(proxy)
    assert found["end"] == "promoted", found["text"]
    assert all(head.startswith("GET /may?x=1 HTTP/1.1") for head in gate.heads)
    steps = [head.split("Tcpmux-Step: ")[1].split("\r\n")[0] for head in gate.heads]
    assert steps == ["1", "1", "2"]
    proxy.says("r: rollout waits: gate 127.0.0.1")


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (hangs, "no answer within 0.2 s"),
        (answers(500, b"x" * 100_000), "answered 500, not 200"),
        (closes, "closed without an answer"),
        (answers_without_an_end, "its answer is not HTTP"),
    ],
)
def test_a_gate_that_does_not_open(
    hooked: Callable[..., Proxy],
    serve: Callable[..., HookServer],
    treat: Treat,
    says: str,
) -> None:
    """It waits, and pauses in the end; control does all else meanwhile."""
    gate = serve(treat)
    timeout = "200ms" if treat is hangs else "10s"
    proxy = hooked({"gate": gate.url, "timeout": timeout}, max_wait="2s")
    proxy.client.start_rollout("r", {})
    waits(proxy, says)
    began = time.monotonic()
    proxy.status()
    assert time.monotonic() - began < patient(2)
    wait_for(lambda: now(proxy)["state"] == "paused", "the pause")
    assert says in now(proxy)["reason"]
    assert now(proxy)["reason"].endswith("and max_wait is over")
    assert weights(proxy) == {"v1": 1, "v2": 0}
    proxy.client.change_rollout("r", "resume")  # which asks it again
    waits(proxy, says)
    proxy.client.change_rollout("r", "promote")  # which does not
    assert weights(proxy) == {"v1": 1, "v2": 1}


def test_a_gate_with_ten_megabytes_has_answered(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer]
) -> None:
    proxy = hooked({"gate": serve(answers_ten_megabytes).url})
    proxy.client.start_rollout("r", {})
    wait_for(lambda: weights(proxy) == {"v1": 1, "v2": 1}, "the first step")


def test_what_is_worse_is_rolled_back_though_a_gate_hangs(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int, two: EchoServer
) -> None:
    gate = serve(answers(200), hangs)
    proxy = hooked({"gate": gate.url, "timeout": "5m"})
    with clients(port) as asking:
        proxy.client.start_rollout("r", {})
        waits(proxy, "waiting for its hooks")
        wait_for(lambda: len(gate.heads) == 2, "the second question")
        two.close()
        found = end(proxy)
        wait_for(lambda: asking.answers[-1][1] == "one", "v1 to have all")
    assert found["end"] == "rolled back"
    assert "connects failed" in found["text"]


def test_events_are_told_and_tried_again(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int
) -> None:
    chat = serve(answers(500), closes, answers(204))
    proxy = hooked({"events": f"{chat.url}/secret"})
    with clients(port):
        proxy.client.start_rollout("r", {})
        found = end(proxy)
    assert found["end"] == "promoted", found["text"]
    wait_for(lambda: len(chat.documents) == 6, "four events, two of them again")
    documents = chat.documents[2:]
    assert [each["event"] for each in documents] == ["started", "step", "step", "promoted"]
    assert chat.documents[0] == chat.documents[1] == documents[0]
    assert len({each["id"] for each in documents}) == 4
    assert documents[1]["weights"] == {"v1": 1, "v2": 1}
    assert [each["step"] for each in documents] == [0, 1, 2, 2]
    assert documents[2]["steps"] == ["50%", "100%"]
    assert documents[3]["text"].startswith("r: rollout promoted: all to v2: v2: 0 of ")
    proxy.says(f"events 127.0.0.1:{chat.port}: answered 500; it is tried again in 1 s")
    proxy.says("events works again")
    assert "secret" not in proxy.log


def test_events_that_nobody_takes(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int
) -> None:
    """They are lost, which log, status and metrics say; the rollout goes on."""
    chat = serve(answers(404))
    proxy = hooked({"events": chat.url, "exec": "/absent/hook"})
    with clients(port):
        proxy.client.start_rollout("r", {})
        assert end(proxy)["end"] == "promoted"
    proxy.says(f"events 127.0.0.1:{chat.port}: answered 404; event 'promoted' is lost")
    proxy.says("exec /absent/hook: it can't be run: No such file or directory; event 'promoted'")
    said = proxy.run("rollout", "status", "r").stdout
    assert f"hook: events 127.0.0.1:{chat.port}: answered 404" in said
    assert "hook: exec /absent/hook: it can't be run" in said
    metrics = proxy.client.metrics()
    assert 'tcpmux_rollout_hook_failures_total{route="r",hook="events"} 4' in metrics


def test_events_outlive_control(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer]
) -> None:
    chat = serve(hangs, answers(200))
    proxy = hooked({"events": chat.url, "timeout": "5m"}, bake="1h")
    proxy.client.start_rollout("r", {})
    wait_for(lambda: len(chat.documents) == 1, "the first event to be on its way")
    os.kill(proxy.control_pid(), signal.SIGKILL)
    wait_for(lambda: len(chat.documents) >= 3, "all of them, from another control")
    assert [each["event"] for each in chat.documents] == ["started", "started", "step"]
    assert chat.documents[0] == chat.documents[1]


PROGRAM = """#!/bin/sh
echo "$TCPMUX_EVENT $TCPMUX_ROUTE $TCPMUX_TO $TCPMUX_STEP $TCPMUX_STEPS $TCPMUX_WEIGHTS" >> {out}
{then}
"""


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ("exit 0", ""),
        ("exec sleep 1000", "it had not ended after 0.5 s, and was killed; event 'promoted'"),
        ("exec yes flood", "it was ended by signal 13: flood flood"),
        ("echo no; exit 7", "exit code 7: no; event 'promoted' is lost"),
    ],
)
def test_a_program_is_run(hooked: Callable[..., Proxy], port: int, then: str, says: str) -> None:
    with short_directory() as directory:
        path, out = directory / "hook", directory / "out"
        path.write_text(PROGRAM.format(out=out, then=then))
        path.chmod(0o755)
        out.touch()
        out.chmod(0o666)  # tcpmux may be another user
        proxy = hooked({"exec": str(path), "timeout": "500ms" if "sleep" in then else "20s"})
        with clients(port):
            proxy.client.start_rollout("r", {})
            found = end(proxy)
        assert found["end"] == "promoted", found["text"]
        wait_for(lambda: out.read_text().count("\n") == 4, "the program to have been told all")
        assert out.read_text().split("\n")[:4] == [
            "started r v2 0 50%,100% v1=1 v2=0",
            "step r v2 1 50%,100% v1=1 v2=1",
            "step r v2 2 50%,100% v1=0 v2=1",
            "promoted r v2 2 50%,100% v1=0 v2=1",
        ]
        if says:
            proxy.says(f"exec {path}: {says}")
        else:
            assert "hook of its rollout" not in proxy.log


def test_a_query_has_to_be_within_bounds(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int
) -> None:
    server = serve(value("0.7"), value("0.1"))
    queries = [{"url": server.url, "query": "errors", "max": 0.5}]
    proxy = hooked({"prometheus": queries})
    with clients(port):
        proxy.client.start_rollout("r", {})
        waits(proxy, f"prometheus 127.0.0.1:{server.port}: 0.7 is above 0.5 (errors)")
        assert weights(proxy) == {"v1": 1, "v2": 1}
        found = end(proxy)
    assert found["end"] == "promoted", found["text"]
    assert len(server.bodies) == 3  # twice for the first step


def test_a_query_without_an_answer_ends_in_a_rollback_if_it_is_to(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer], port: int
) -> None:
    server = serve(answers_ten_megabytes)
    queries = [{"url": server.url, "query": "errors", "max": 0.5}]
    proxy = hooked({"prometheus": queries}, then="rollback", max_wait="3s")
    with clients(port):
        proxy.client.start_rollout("r", {})
        found = end(proxy)
    assert found["end"] == "rolled back"
    assert "its answer has more than 1 MiB (errors), and max_wait is over" in found["text"]


def test_only_the_file_has_hooks(
    hooked: Callable[..., Proxy], serve: Callable[..., HookServer]
) -> None:
    """Who may call the API has nothing fetched and nothing run."""
    chat = serve(answers(200))
    proxy = hooked({})
    tries: list[dict[str, Any]] = [
        {"hooks": {"events": chat.url}},
        {"hooks": {}},
        {"judge": {"hooks": 1}},
    ]
    for values in tries:
        with pytest.raises(AdminError, match="hooks"):
            proxy.client.start_rollout("r", {"to": "v2", **values})
    assert now(proxy) is None
    assert chat.heads == []


def test_a_reload_brings_other_hooks(
    hooked: Callable[..., Proxy],
    serve: Callable[..., HookServer],
    tmp_path: Path,
    port: int,
    one: EchoServer,
    two: EchoServer,
) -> None:
    """For the rollout that is under way as well."""
    before, after = serve(answers(403)), serve(answers(200))
    proxy = hooked({"gate": before.url})
    proxy.client.start_rollout("r", {})
    waits(proxy, "answered 403")
    proxy.reload(file(tmp_path, port, one, two, {"gate": after.url}))
    wait_for(lambda: weights(proxy) == {"v1": 1, "v2": 1}, "the first step")
    assert len(after.heads) == 1


def test_a_program_that_hangs_keeps_nobody_from_stopping(hooked: Callable[..., Proxy]) -> None:
    """It is killed with control's end."""
    with short_directory() as directory:
        path, out = directory / "hook", directory / "out"
        path.write_text(f"#!/bin/sh\necho $$ >> {out}\nexec sleep 1000\n")
        path.chmod(0o755)
        out.touch()
        out.chmod(0o666)  # tcpmux may be another user
        proxy = hooked({"exec": str(path), "timeout": "5m"})
        proxy.client.start_rollout("r", {})
        pid = int(wait_for(lambda: out.read_text().strip(), "the program"))
        proxy.children.add(pid)
        began = time.monotonic()
        proxy.stop()
        assert time.monotonic() - began < patient(5)
    assert "internal error" not in proxy.log
