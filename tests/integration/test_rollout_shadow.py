"""A rollout whose new version gets copies of connections first."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control.client import AdminError
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.test_rollout import config, end, now, weights
from tests.integration.test_shifting import held
from tests.rolling import BadServer, clients, resets
from tests.support import EchoServer, patient, refusing_port, wait_for

SHADOW = {"to": "v2", "steps": ["50%", "100%"], "min_connections": 5, "bake": 0.3}
SHADOW |= {"judge": {"first_byte_p95": None}}
LONG = {**SHADOW, "shadow": 600}


def mirror(proxy: Proxy) -> Any:
    return proxy.status()["routes"][0]["mirror"]


def is_mirroring(proxy: Proxy) -> bool:
    found = mirror(proxy)
    return bool(found and found["percent"])


def begun(proxy: Proxy, **more: Any) -> None:
    proxy.client.start_rollout("r", {**LONG, **more})
    wait_for(lambda: now(proxy)["step"] == 1, "the shadow to begin")
    assert now(proxy)["steps"] == ["shadow", "50%", "100%"]
    assert is_mirroring(proxy)


def test_it_gets_copies_and_then_connections(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """By the command. While it is a shadow, no client gets an answer of the new version."""
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    with clients(port) as asking:
        done = proxy.run(
            "rollout", "start", "r", "--to", "v2", "--steps", "shadow:500ms,50%,100%",
            "--bake", "300ms", "--min-connections", "5", "--first-byte-p95", "off", "--wait",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: asking.answers[-1][1] == "two", "v2 to have all")
    answers = [answer for _, answer in asking.answers]
    assert "" not in answers
    assert answers.index("two") >= 5
    assert weights(proxy) == {"v1": 0, "v2": 1}
    for step in ("shadow to v2 (step 1 of 3)", "50% to v2 (step 2 of 3): v2: 0 of "):
        proxy.says(f"rollout: {step}")
    passed = re.search(r"50% to v2 .*; (\d+) of (\d+) answers of shadows agreed", proxy.log)
    assert passed
    assert int(passed[1]) == 0  # "one question", "two question"
    assert int(passed[2]) >= 5
    found = mirror(proxy)
    assert found["percent"] == 0
    assert found["mirrored_total"] >= 5


@pytest.mark.parametrize(
    ("is_there", "why"), [(True, "connections reset by it"), (False, "connects failed")]
)
def test_a_bad_version_never_gets_a_client(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, is_there: bool, why: str
) -> None:
    bad = BadServer(resets)
    with refusing_port() as refusing, clients(port) as asking:
        address = bad.address if is_there else f"127.0.0.1:{refusing}"
        proxy = start_proxy({**config(tmp_path, port, one.address, address)})
        wait_for(lambda: asking.answers and asking.answers[-1][1] == "one", "clients to be served")
        before = len(asking.answers)
        proxy.client.start_rollout("r", {**LONG, "shadow": 0.5})
        found = end(proxy)
        assert found["end"] == "rolled back", found
        assert why in found["text"]
        assert not is_mirroring(proxy)
        assert {answer for _, answer in asking.answers[before:]} == {"one"}
    bad.close()


def test_a_limit_of_a_version_condemns_it_not(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """Shadows for which there is no place tell nothing of its endpoints."""
    found = config(tmp_path, port, one.address, two.address)
    found["routes"][0]["destinations"][1]["max_connections"] = 1
    proxy = start_proxy(found)
    begun(proxy, max_wait=patient(3), shadow=0.1, min_connections=1000)
    with held(port), clients(port):
        wait_for(lambda: mirror(proxy)["results"]["cut"] > 20, "shadows without a place")
        wait_for(lambda: now(proxy)["state"] == "paused", "it to pause")
    assert now(proxy)["reason"].startswith("waiting for 1000 connections of v2: 0 so far")


def test_it_goes_on_when_control_is_killed(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    with clients(port):
        begun(proxy, shadow=0.5)
        os.kill(proxy.control_pid(), signal.SIGKILL)
        wait_for(lambda: proxy.run("rollout", "status", "r").returncode == 0, "another control")
        assert end(proxy)["end"] == "promoted"
    assert not is_mirroring(proxy)


def test_who_ends_it_ends_the_mirror(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    begun(proxy)
    proxy.client.change_rollout("r", "abort")
    assert now(proxy) is None
    assert not is_mirroring(proxy)
    assert weights(proxy) == {"v1": 1, "v2": 0}


def test_a_mirror_of_the_file_stays(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    own = {"to": "v2", "percent": 20}
    proxy = start_proxy(config(tmp_path, port, one.address, two.address, mirror=own))
    begun(proxy)
    assert mirror(proxy)["percent"] == 20
    proxy.client.change_rollout("r", "abort")
    assert (mirror(proxy)["percent"], mirror(proxy)["at_run_time"]) == (20, False)


def test_somebody_elses_mirror_is_not_touched(
    start_proxy: StartProxy, tmp_path: Path, port: int, one: EchoServer, two: EchoServer
) -> None:
    """Neither one that was there before, nor a change of the rollout's own."""
    proxy = start_proxy(config(tmp_path, port, one.address, two.address))
    proxy.client.set_mirror("r", 30, "v1")
    with pytest.raises(AdminError, match="are mirrored to v1 already"):
        proxy.client.start_rollout("r", LONG)
    proxy.client.set_mirror("r", 0)
    begun(proxy)
    proxy.client.set_mirror("r", 0)
    wait_for(lambda: now(proxy)["state"] == "paused", "the rollout to pause", patient(20))
    assert "its mirror is off now, which somebody else has set" in now(proxy)["reason"]
    proxy.client.change_rollout("r", "resume")
    wait_for(lambda: is_mirroring(proxy), "the mirror to be set again")
