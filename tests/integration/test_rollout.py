"""A new version that takes over step by step, and is taken back if it is worse."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control.client import AdminError
from tcpmux.control.rollout_readings import HISTOGRAMS
from tcpmux.rollout.judgement import DEFAULT_LIMITS, Counts, Judge, Names
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_shifting import held, talk
from tests.rolling import (
    BadServer,
    Clients,
    answers_errors,
    clients,
    closes,
    hangs,
    is_slow,
    resets,
)
from tests.support import EchoServer, patient, refusing_port, wait_for

QUICK = {"bake": 0.5, "min_connections": 5, "steps": ["20%", "50%", "100%"]}


def config(directory: Path, port: int, one: str, two: str, **more: Any) -> dict[str, Any]:
    """Of a proxy whose state is kept in `directory`."""
    return routes({**route("r", port, v1=(1, one), v2=(0, two)), **more}, state_dir=str(directory))


def now(proxy: Proxy) -> Any:
    (found,) = proxy.client.rollouts("r")
    return found["rollout"]


def end(proxy: Proxy) -> Any:
    """Of the last rollout that is over."""
    wait_for(lambda: now(proxy) is None, "the rollout to end", patient(60))
    (found,) = proxy.client.rollouts("r")
    return found["history"][-1]


def weights(proxy: Proxy) -> dict[str, int]:
    return {d["name"]: d["weight"] for d in proxy.status()["routes"][0]["destinations"]}


def test_a_version_that_is_as_good_is_promoted(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """By the command, with all that it says; its history is kept over a restart of control."""
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    with clients(port) as asking:
        done = proxy.run(
            "rollout", "start", "r", "--to", "v2", "--steps", "20%,50%,100%", "--bake", "500ms",
            "--min-connections", "5", "--first-byte-p95", "off", "--wait",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: asking.answers[-1][1] == "two", "v2 to have all")
    assert weights(proxy) == {"v1": 0, "v2": 1}
    assert "" not in {answer for _, answer in asking.answers}
    for step in ("20% to v2 (step 1 of 3)", "50% to v2 (step 2 of 3)", "100% to v2 (step 3 of 3)"):
        proxy.says(f"rollout: {step}")
    proxy.says("r: rollout promoted: all to v2")
    os.kill(proxy.control_pid(), signal.SIGKILL)
    wait_for(lambda: proxy.run("rollout", "history", "r").returncode == 0, "another control")
    assert "promoted" in proxy.run("rollout", "history", "r").stdout


def deciding(asking: Clients) -> float:
    """When the connection that decided was over; for a version that always fails."""
    judge, good, bad = Judge(DEFAULT_LIMITS, Names("v2", "v1"), HISTOGRAMS), 0, 0
    for at, answer in asking.answers:
        good, bad = good + bool(answer), bad + (not answer)
        verdict = judge.look(Counts(bad, 0, bad), Counts(good, good))
        if not answer and verdict.kind == "worse":
            return at
    raise AssertionError(f"{bad} of {good + bad} failed: nothing has decided")


def test_a_version_that_refuses_is_rolled_back_at_once(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer
) -> None:
    with refusing_port() as refusing:
        two = f"127.0.0.1:{refusing}"
        proxy = start_proxy(config(tmp_path, port, one.address, two, passive="off"))
        with clients(port) as asking:
            proxy.client.start_rollout("r", {**QUICK, "to": "v2"})
            found = end(proxy)
            seen = len(asking.answers)
            wait_for(lambda: len(asking.answers) > seen + 20, "more of them")
        assert found["end"] == "rolled back"
        assert "connects failed, v1: 0 of" in found["text"]
        assert weights(proxy) == {"v1": 1, "v2": 0}
        failed = [at for at, answer in asking.answers if answer != "one"]
        assert failed[-1] - deciding(asking) <= patient(1.1)
        proxy.says("WARNING r: rollout rolled back: v2: ")


@contextmanager
def broken(treat: Callable[[socket.socket], None] | None) -> Iterator[str]:
    """The address of a version that treats connections so; None: it refuses them."""
    if treat is None:
        with refusing_port() as refusing:
            yield f"127.0.0.1:{refusing}"
    else:
        server = BadServer(treat)
        yield server.address
        server.close()


BY_CHANCE = r"; p = (\S+) < (\S+) \(1\.0e-5, look \d+ in window 1\)"
COUNTED = r"v2: (\d+) of (\d+) {}, v1: 0 of (\d+)" + BY_CHANCE
TIMED = r"v2: first byte p95 [12]\d\d ms, v1: [\d.]+ ms \([\d.]+x > 1\.5x\)" + BY_CHANCE


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (None, COUNTED.format("connects failed")),
        (resets, COUNTED.format("connections reset by it")),
        (closes, COUNTED.format("connections closed by it within 1 s, without a byte")),
        (answers_errors, COUNTED.format("connections answered with an error at first")),
        (is_slow, TIMED),
    ],
    ids=["refuses", "resets", "closes", "errors", "slow"],
)
def test_a_version_that_is_broken_is_rolled_back(
    start_proxy: StartProxy,
    tmp_path: Path,
    port: int,
    one: EchoServer,
    treat: Callable[[socket.socket], None] | None,
    says: str,
) -> None:
    """By the command, whose last line is the verdict with its arithmetic."""
    with broken(treat) as two:
        protocol = {"when": "manual", "protocol": "redis"}
        proxy = start_proxy(
            config(tmp_path, port, one.address, two, passive="off", converge=protocol)
        )
        with clients(port):
            done = proxy.run(
                "rollout", "start", "r", "--to", "v2", "--steps", "20%,50%,100%",
                "--min-connections", "1000", "--wait",
            )  # fmt: skip
    assert done.returncode == 1, done.stdout
    found = re.fullmatch(rf"r: v2, \S+ to \S+: rolled back: {says}", done.stdout.split("\n")[-2])
    assert found, done.stdout
    p, threshold = map(float, found.groups()[-2:])
    assert p < threshold <= 1e-5
    if treat is not is_slow:
        bad, of = map(int, found.groups()[:2])
        assert 3 <= bad <= of <= 30
    assert weights(proxy) == {"v1": 1, "v2": 0}
    proxy.says("r: rollout rolled back: v2: ")


def test_a_version_that_has_no_place_for_its_clients_is_not_promoted(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """Its limit turns them away: nothing is known of it."""
    found = config(tmp_path, port, one.address, two.address, passive="off")
    found["routes"][0]["destinations"][1]["max_connections"] = 1
    proxy = start_proxy(found)
    proxy.run("weight", "r", "v1=0", "v2=1")
    with held(port):
        proxy.run("weight", "r", "v1=1", "v2=0")
        with clients(port):
            proxy.client.start_rollout("r", {**QUICK, "to": "v2", "max_wait": patient(3)})
            wait_for(lambda: now(proxy)["state"] == "paused", "it to pause", patient(30))
        assert "waiting for 5 connections of v2: 0 so far; " in now(proxy)["reason"]
        assert "more have not reached it: see tcpmux status r" in now(proxy)["reason"]


def test_a_version_that_never_answers_is_not_promoted(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer
) -> None:
    """It accepts, and its clients give up: nothing fails that could be counted."""
    with broken(hangs) as two:
        proxy = start_proxy(config(tmp_path, port, one.address, two, passive="off"))
        with clients(port, patience=0.05):
            proxy.client.start_rollout("r", {**QUICK, "to": "v2", "max_wait": patient(3)})
            wait_for(lambda: now(proxy)["state"] == "paused", "it to pause", patient(30))
        assert re.fullmatch(
            r"in doubt: v2: 0 of \d+ connections answered, v1: \d+ of \d+; p = \S+, and max_wait "
            "is over",
            now(proxy)["reason"],
        )


def test_it_goes_on_when_control_and_the_master_are_killed(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """In the middle of each step; and the step is judged by what was counted before as well."""
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    with clients(port) as asking:
        # How fast each is depends on who else uses the machine.
        plan = {**QUICK, "to": "v2", "bake": 2, "judge": {"first_byte_p95": None}}
        proxy.client.start_rollout("r", plan)
        os.kill(proxy.control_pid(), signal.SIGKILL)
        proxy.says("50% to v2 (step 2 of 3)")
        proxy.process.kill()
        proxy.process.wait()
        proxy.start()
        found = end(proxy)
    assert found["end"] == "promoted", found["text"]
    assert len(found["verdicts"]) == 3
    assert weights(proxy) == {"v1": 0, "v2": 1}
    assert "" not in {answer for _, answer in asking.answers}


def test_what_others_do_in_the_middle_of_it(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    whole = config(tmp_path, port, one.address, two.address)
    proxy = start_proxy(whole)
    slow = {"to": "v2", "steps": ["20%", "50%", "100%"], "bake": 600}
    proxy.client.start_rollout("r", slow)
    assert now(proxy)["state"] == "running"
    again = proxy.run("rollout", "start", "r", "--to", "v2")
    assert again.returncode == 1
    assert "a rollout to v2 is running already" in again.stderr
    proxy.client.set_weights("r", {"v2": 7})
    wait_for(lambda: now(proxy)["state"] == "paused", "the pause")
    assert "its weights are v1=4 v2=7 now" in now(proxy)["reason"]
    assert "paused" in proxy.run("rollout", "history", "r").stdout
    assert "  rollout paused: step " in proxy.run("status").stdout
    proxy.client.change_rollout("r", "resume")
    assert weights(proxy) == {"v1": 4, "v2": 1}
    proxy.client.change_rollout("r", "promote")
    assert weights(proxy) == {"v1": 1, "v2": 1}
    more = config(tmp_path, port, one.address, two.address)
    more["routes"][0]["destinations"].append({"name": "v3", "endpoints": [one.address]})
    proxy.reload(more)
    wait_for(lambda: now(proxy)["state"] == "paused", "another pause")
    proxy.client.change_rollout("r", "resume")
    assert weights(proxy) == {"v1": 1, "v2": 2, "v3": 1}
    wait_for(lambda: now(proxy)["step_seconds"] > 1, "some looks at it")
    proxy.client.change_rollout("r", "pause")
    proxy.client.drain("r", "v2")
    for action in ("resume", "promote"):
        with pytest.raises(AdminError, match="v2 is draining: enable it first"):
            proxy.client.change_rollout("r", action)
    proxy.client.enable("r", "v2")
    assert now(proxy)["reason"] == "by an operator"
    proxy.client.change_rollout("r", "abort")
    assert weights(proxy) == {"v1": 1, "v2": 0, "v3": 1}
    assert end(proxy)["end"] == "aborted"
    with pytest.raises(AdminError, match="no rollout is under way"):
        proxy.client.change_rollout("r", "pause")
    proxy.client.start_rollout("r", slow)
    proxy.reload({**whole, "routes": [route("r", port, v1=(1, one.address))]})
    assert (end(proxy)["end"], end(proxy)["text"]) == ("aborted", "v2 is gone")


def test_it_is_paused_when_all_was_started_anew(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    proxy.client.start_rollout("r", {"to": "v2", "steps": ["20%"], "bake": 600})
    started = int(time.time())
    proxy.stop()
    wait_for(lambda: int(time.time()) > started, "another second")
    proxy.start()
    assert now(proxy)["state"] == "paused"
    proxy.says(
        "WARNING r: rollout paused: tcpmux was started anew: the weights are those of", times=1
    )
    assert weights(proxy) == {"v1": 1, "v2": 0}
    os.kill(proxy.control_pid(), signal.SIGKILL)
    proxy.client.change_rollout("r", "resume")
    assert weights(proxy) == {"v1": 4, "v2": 1}
    assert proxy.log.count("tcpmux was started anew") == 1


def test_a_rollback_resets_what_is_open_if_it_is_to(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    proxy.client.start_rollout("r", {"to": "v2", "steps": ["50%"], "existing": "reset"})
    with held(port) as a, held(port) as b:
        proxy.client.change_rollout("r", "abort")
        by = {talked(sock) for sock in (a, b)}
    assert by == {"one", ""}


def talked(sock: socket.socket) -> str:
    with suppress(OSError):
        return talk(sock).partition(" ")[0]
    return ""


def test_a_state_that_can_not_be_saved_is_said(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    slow = {"to": "v2", "steps": ["20%", "50%"], "bake": 600}
    proxy.client.start_rollout("r", slow)
    assert "saved" not in proxy.run("rollout", "status", "r").stdout
    (state,) = tmp_path.glob("rollouts-*")
    state.unlink()
    proxy.client.change_rollout("r", "promote")
    why = f"{state} has been removed: start tcpmux again"
    proxy.says(f"WARNING the state of rollouts can't be saved: {why}; they go on")
    assert f"its state can't be saved: {why}" in proxy.run("rollout", "status", "r").stdout
    proxy.client.change_rollout("r", "abort")
    with pytest.raises(AdminError, match=f"its state can't be kept: {re.escape(why)}"):
        proxy.client.start_rollout("r", slow)


def test_one_whose_state_is_lost_is_an_event(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """Control forgets it when it dies, and the master knows of it."""
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    proxy.client.start_rollout("r", {"to": "v2", "steps": ["20%"], "bake": 600})
    (state,) = tmp_path.glob("rollouts-*")
    os.truncate(state, 0)
    os.kill(proxy.control_pid(), signal.SIGKILL)
    proxy.says("ERROR r: its rollout is forgotten, as its state could not be kept or read: its ")
    assert weights(proxy) == {"v1": 4, "v2": 1}


def test_without_a_place_for_its_state_none_is_begun(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path / "absent", port, one.address, two.address))
    proxy.says("WARNING no rollout can be started, as its state can't be kept: state_dir ")
    done = proxy.run("rollout", "start", "r", "--to", "v2")
    assert done.returncode == 1
    assert "absent: No such file or directory" in done.stderr
    assert weights(proxy) == {"v1": 1, "v2": 0}
