"""Workers, control and the master die, and upgrades take place, while new versions take over step
by step: good ones are promoted and bad ones taken back, as if nothing had happened."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from typing import Any, NamedTuple

from tcpmux.control.asking import AdminError
from tcpmux.control.client import Client
from tests.hook_server import HookServer, answers
from tests.rolling import BadServer, Clients, clients, closes, resets
from tests.stress.converging import kill_control, replace_master
from tests.stress.events import Acted
from tests.stress.targets import Target, Tcpmux, Unsupported, send_signal
from tests.support import EchoServer, free_port, listening, patient, refusing_port, wait_for

ROUTE = "rolling"
LONGEST = 0.6  # s between two deaths
# How fast a version is depends on who has died.
PLAN = {
    "to": "v2",
    "steps": ["20%", "50%", "100%"],
    "bake": 0.7,
    "min_connections": 10,
    "max_wait": 600,
    "judge": {"first_byte_p95": None},
}
END_TIME = patient(90)  # s


class _Version(NamedTuple):
    """What v2 may be. end: of its rollout."""

    name: str
    address: str
    end: str


@contextmanager
def _versions() -> Iterator[list[_Version]]:
    good, resetting, closing = EchoServer("two"), BadServer(resets), BadServer(closes)
    with refusing_port() as port:
        yield [
            _Version("good", good.address, "promoted"),
            _Version("refusing", f"127.0.0.1:{port}", "rolled back"),
            _Version("resetting", resetting.address, "rolled back"),
            _Version("closing", closing.address, "rolled back"),
        ]
    for server in (good, resetting, closing):
        server.close()


def _route(port: int, one: str, two: str, events: str) -> dict[str, Any]:
    return {
        "name": ROUTE,
        "listen": f"127.0.0.1:{port}",
        "rollout": {"to": "v2", "hooks": {"events": events}},
        "connect_timeout": "60s",
        "destinations": [
            {"name": "v1", "weight": 1, "endpoints": [one]},
            {"name": "v2", "weight": 0, "endpoints": [two]},
        ],
    }


def _found(client: Client) -> Any:
    """The route's rollouts, if there is somebody who knows."""
    with suppress(AdminError):
        (found,) = client.rollouts(ROUTE)
        return found
    return None


def _is_over(client: Client) -> Any:
    found = _found(client)
    assert not found or not found["rollout"] or found["rollout"]["state"] == "running", (
        f"its rollout is paused: {found['rollout']['reason']}"
    )
    return found and not found["rollout"] and found["history"]


def _act(target: Tcpmux, chance: Random, done: Counter[str]) -> None:
    """One thing that must not matter."""
    what = chance.choice(["worker", "worker", "control", "control", "master", "upgrade"])
    if what == "worker":
        send_signal([chance.choice(wait_for(target.workers, "a worker"))], signal.SIGKILL)
    elif what == "control":
        kill_control(target)
    elif what == "master":
        replace_master(target)
    else:
        target.upgrade()
    done[what] += 1


def _told(told: HookServer, since: float) -> list[str]:
    """Each event once, though it may have been sent again by another control."""
    events = {each["id"]: each["event"] for each in told.documents if each["time"] >= since}
    return list(events.values())


def _roll_out(
    target: Tcpmux,
    version: _Version,
    asking: Clients,
    told: HookServer,
    chance: Random,
    done: Counter[str],
) -> None:
    """One rollout, to its end."""
    client = Client(target.directory / "admin.sock")
    wait_for(partial(_found, client), "control")
    before, asked = time.time(), len(asking.answers)
    client.start_rollout(ROUTE, PLAN)
    give_up = time.monotonic() + END_TIME
    while not (ends := _is_over(client)):
        assert time.monotonic() < give_up, f"{version.name}: no end of it: {_found(client)}"
        time.sleep(chance.uniform(0, LONGEST))
        _act(target, chance, done)
    new = [end for end in ends if end["began"] >= before]
    assert [end["end"] for end in new] == [version.end], f"{version.name}: {new}"
    wait_for(
        lambda: {"started", version.end.replace(" ", "_")} <= {*_told(told, before - 0.001)},
        f"its events to be told: {_told(told, before - 0.001)}",
    )
    wait_for(target.status, "control")
    found = next(route for route in client.routes() if route["name"] == ROUTE)
    weights = {each["name"]: each["weight"] for each in found["destinations"]}
    is_good = version.end == "promoted"
    assert weights == ({"v1": 0, "v2": 1} if is_good else {"v1": 1, "v2": 0}), weights
    wait_for(lambda: len(asking.answers) > asked + 20, "clients to go on")
    lost = [answer for _, answer in asking.answers[asked:] if not answer]
    assert not lost or not is_good, f"{len(lost)} connections got no answer from good versions"


def rollouts(target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers, to control and to the master, and upgrades, in the course of rollouts."""
    if not isinstance(target, Tcpmux):
        raise Unsupported
    acted, done, verdicts = Acted(), Counter[str](), Counter[str]()
    port, one, told = free_port(), EchoServer("one"), HookServer(answers(200))
    with _versions() as versions:
        for number in range(times):
            version = versions[number % len(versions)]
            target.more = [_route(port, one.address, version.address, told.url)]
            target.reload(1)
            wait_for(partial(_is_in_force, target, version, port), "the route")
            with clients(port) as asking:
                wait_for(lambda: len(asking.answers) > 5, "clients")
                _roll_out(target, version, asking, told, chance, done)
            acted.times += 1
            verdicts[version.end] += 1
    one.close()
    told.close()
    deaths = ", ".join(f"{count} of {what}" for what, count in sorted(done.items()))
    acted.notes.append(f"{dict(verdicts)} amid {deaths}")
    return acted


def _is_in_force(target: Tcpmux, version: _Version, port: int) -> bool:
    """Its endpoint, and the weights of the file."""
    status = target.status()
    for route in status["routes"] if status else ():
        if route["name"] == ROUTE:
            v1, v2 = route["destinations"]
            addresses = [endpoint["address"] for endpoint in v2["endpoints"]]
            return (addresses, v1["weight"], v2["weight"], listening(port)) == (
                [version.address], 1, 0, True,
            )  # fmt: skip
    return False
