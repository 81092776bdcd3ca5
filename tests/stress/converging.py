"""Workers, control and the master die while live connections follow the weights, to and fro: closed
in quiet moments, or with another endpoint under them. The endpoints note what they hear."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from random import Random
from typing import Any

import psutil

from tcpmux.control.asking import AdminError
from tcpmux.control.client import Client
from tests.pool import Ledger, Pool, assert_nothing_lost, assert_unnoticed
from tests.stress.events import Acted, worker_kill
from tests.stress.targets import Target, Tcpmux, Unsupported
from tests.support import free_port, listening, patient, wait_for

CLIENTS = 40
PAUSE = 0.1  # s between an answer and the next question, on average
TURN = patient(5)  # s after which the weights change, wherever it has got to
# Once in so many kills of workers control dies as well, and half way between two such deaths the
# master: control comes back later each time, until there is another master.
OTHERS_KILL = 10
SOME = 3  # connections that have gone elsewhere before that


@contextmanager
def _running(target: Tcpmux, method: str) -> Iterator[tuple[Pool, tuple[Ledger, Ledger]]]:
    """On a route of their own."""
    port = free_port()
    with ExitStack() as stack:
        ledgers = Ledger("one"), Ledger("two")
        for ledger in ledgers:
            stack.callback(ledger.close)
        target.more = [_route(port, [ledger.port for ledger in ledgers], method)]
        target.reload(1)
        wait_for(partial(listening, port), "the route")
        pool = Pool(port, CLIENTS, PAUSE)
        stack.callback(pool.stop)
        yield pool, ledgers


def _route(port: int, endpoints: list[int], method: str) -> dict[str, Any]:
    return {
        "name": "converging",
        "listen": f"127.0.0.1:{port}",
        "connect_timeout": "60s",
        "converge": {"when": ["weights"], "rate": "200/s", "quiet": "20ms", "method": method},
        "destinations": [
            {"name": f"v{n}", "weight": 1, "endpoints": [f"127.0.0.1:{endpoint}"]}
            for n, endpoint in enumerate(endpoints, 1)
        ],
    }


class _Turns:
    """Of the weights, all to one and all to the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self.count = 0

    def take(self) -> None:
        """The next one, if its time has come. While control is away there is none."""
        with suppress(AdminError):
            found = next(r for r in self._client.routes() if r["name"] == "converging")
            if found["convergence"] is None or time.monotonic() >= self._next:
                v1, v2 = (0, 1) if self.count % 2 else (1, 0)
                self._client.set_weights("converging", {"v1": v1, "v2": v2})
                self._next = time.monotonic() + TURN
                self.count += 1

    def moved(self, reason: str) -> int:
        """How many connections have gone elsewhere."""
        found = next(r for r in self._client.routes() if r["name"] == "converging")
        return sum(destination["closed"][reason] for destination in found["destinations"])


def kill_control(target: Tcpmux) -> None:
    for child in psutil.Process(target.pid).children():
        with suppress(psutil.Error):
            if child.cmdline()[:1] == ["tcpmux: control"]:
                child.send_signal(signal.SIGKILL)


def replace_master(target: Tcpmux) -> None:
    target.kill_master()
    target.start()


def _converge(method: str, target: Target, times: int, chance: Random) -> Acted:
    """SIGKILL to workers, to control and to the master while connections go to and fro."""
    if not isinstance(target, Tcpmux):
        raise Unsupported
    acted = Acted()
    reason = "rehomed" if method == "rehome" else "converged"
    masters = 0
    with _running(target, method) as (pool, ledgers):
        turns = _Turns(Client(target.directory / "admin.sock"))
        wait_for(lambda: pool.counts["answered"] > 2 * CLIENTS, "clients to be answered")
        while acted.times < times:
            before = pool.counts["answered"]
            acted.times += worker_kill(target, 1, chance).times
            turns.take()
            if acted.times % (OTHERS_KILL // 2) == 0:
                _await_moves(turns, reason)
                if acted.times % OTHERS_KILL:
                    replace_master(target)
                    masters += 1
                else:
                    kill_control(target)
            wait_for(lambda: pool.counts["answered"] > before, "clients to go on")  # noqa: B023
        moved = wait_for(partial(_moved, turns, reason), "connections to have gone elsewhere")
        (assert_unnoticed if method == "rehome" else assert_nothing_lost)(pool, ledgers)
    answers = pool.counts["answered"]
    acted.notes.append(
        f"{moved} {reason} in {turns.count} turns, {answers} answers; {masters} masters died"
    )
    return acted


def _await_moves(turns: _Turns, reason: str) -> None:
    """That some go elsewhere just now."""
    before = _moved(turns, reason)

    def more() -> bool:
        turns.take()
        return _moved(turns, reason) >= before + SOME

    wait_for(more, "connections to go elsewhere")


def _moved(turns: _Turns, reason: str) -> int:
    with suppress(AdminError):
        return turns.moved(reason)
    return 0


converge = partial(_converge, "close")
rehome = partial(_converge, "rehome")
