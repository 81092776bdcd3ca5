"""The control process's server and the client for it, over a real UNIX socket.

The master is a fake at the other end of a real socketpair, shared memory a fake source.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tcpmux.control.access import Rules
from tcpmux.control.client import AdminError, Client, NotRunning, Refused
from tcpmux.control.conditions import Conditions
from tcpmux.control.connections import Connections
from tcpmux.control.convergences import Convergences
from tcpmux.control.event_log import EventLog
from tcpmux.control.health import Health
from tcpmux.control.history import History
from tcpmux.control.metrics import Metrics
from tcpmux.control.names import HostNames
from tcpmux.control.orphans import is_worker
from tcpmux.control.process import Control
from tcpmux.control.readiness import Readiness
from tcpmux.control.rollouts import Rollouts
from tcpmux.control.server import Identity, Readings
from tcpmux.control.slices import Slices
from tcpmux.control.stream import Stream
from tcpmux.frames import Inbox, packed
from tcpmux.shm._commons import Commons
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.view import View
from tests.support import next_message, patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

DEADLINE = patient(10)  # s
OURS = Rules(frozenset({os.getuid()}))
US = f"{pwd.getpwuid(os.getuid()).pw_name} (pid {os.getpid()})"


class FakeSource:
    def __init__(self, pids: tuple[int, ...] = ()) -> None:
        self.pids = pids
        self.guardian = 0
        self.broken = False

    def in_parts(self) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        if self.broken:
            raise RuntimeError("torn")
        workers = [
            {
                "id": place,
                "pid": pid,
                "guardian_pid": self.guardian,
                "generation": 1,
                "connections": 0,
                "starts": 1,
            }
            for place, pid in enumerate(self.pids)
        ]
        overview = {
            "pid": 1,
            "state": "running",
            "generation": 1,
            "started_at": 5,
            "workers": workers,
        }
        return overview, iter(())


class Running:
    """A control process's innards in this event loop, with the master's end in our hands."""

    def __init__(self, directory: Path, source: FakeSource, rules: Rules) -> None:
        self.path = str(directory / "admin.sock")
        self.source = source
        self.master, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.inbox = Inbox()
        self.master.setblocking(False)
        admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        admin.bind(self.path)
        admin.listen()
        identity = Identity("9.9", ["/etc/routes.yaml"], self.path, rules)
        self.commons = Commons.create()
        self.table, self.live = Table.create(1, 1, os.getpid(), 5), Live.create(0, 16)
        view, events = View(self.table.fd, [self.live.fd], commons_fd=self.commons.fd), EventLog()
        health = Health(view)
        names = HostNames()
        slices = Slices()
        conditions = Conditions(view, health, names)
        convergences = Convergences(view, slices)
        stream = Stream(
            view, events, {"version": "9.9"}, health, names, slices, conditions, convergences
        )
        metrics = Metrics(view, "9.9", conditions)
        connections = Connections(view)
        history = History(view, events, slices)
        readings = Readings(
            source,
            connections,
            events,
            metrics,
            stream,
            health,
            names,
            slices,
            conditions,
            Readiness(view, conditions),
            history,
            convergences,
            Rollouts(view, connections, slices),
        )
        self.client = Client(self.path, DEADLINE)
        self.task = asyncio.create_task(Control(admin, theirs, readings, identity).serve())

    async def received(self) -> Any:
        return await asyncio.wait_for(next_message(self.master, self.inbox), DEADLINE)

    async def answering(self, call: Callable[[], Any], **answer: object) -> tuple[Any, Any]:
        """What the call asks of the master, and what it returns when that answers so."""
        calling = asyncio.create_task(asyncio.to_thread(call))
        request = await self.received()
        self.master.send(packed({"id": request.pop("id"), **answer}))
        return request, await calling

    def raw(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """A request that Client would not send; returns the status and the JSON."""
        connection = http.client.HTTPConnection("tcpmux", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(DEADLINE)
        connection.sock.connect(self.path)
        try:
            connection.request(method, path, body, {"Connection": "close"})
            response = connection.getresponse()
            assert response.headers["Content-Type"].startswith("application/json")
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@asynccontextmanager
async def running(
    directory: Path, source: FakeSource | None = None, rules: Rules = OURS
) -> AsyncIterator[Running]:
    control = Running(directory, source or FakeSource(), rules)
    assert await control.received() == {"verb": "ready"}
    checks = await control.received()
    assert checks.pop("id")
    assert checks == {"verb": "checks", "first": 0}  # and no answer: there are none to watch
    try:
        yield control
    finally:
        control.task.cancel()
        await asyncio.wait([control.task], timeout=DEADLINE)
        control.master.close()


@contextmanager
def titled(title: str) -> Iterator[subprocess.Popen[str]]:
    """A process that calls itself so."""
    program = (
        "import setproctitle, signal\n"
        f"setproctitle.setproctitle({title!r})\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process that calls itself a worker."""
    with titled("tcpmux: worker 0") as process:
        yield process


def test_status_is_what_memory_says_and_who_we_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as control:
            status = await asyncio.to_thread(control.client.status)
            assert status["version"] == "9.9"
            assert status["config"] == ["/etc/routes.yaml"]
            assert status["admin"] == control.path
            assert (status["pid"], status["state"], status["generation"]) == (1, "running", 1)

    asyncio.run(scenario())


def test_streams_end_when_control_does(tmp_path: Path) -> None:
    """They end, and are not cut when the time for requests under way is over."""

    def read(control: Running, begun: asyncio.Event, loop: asyncio.AbstractEventLoop) -> bytes:
        connection = http.client.HTTPConnection("tcpmux", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(DEADLINE)
        connection.sock.connect(control.path)
        connection.request("GET", "/v1/stream")
        response = connection.getresponse()
        first = response.readline()
        loop.call_soon_threadsafe(begun.set)
        rest = response.read()  # IncompleteRead if it is cut
        connection.close()
        return first + rest

    async def scenario() -> None:
        begun = asyncio.Event()
        async with running(tmp_path) as control:
            loop = asyncio.get_running_loop()
            reading = asyncio.create_task(asyncio.to_thread(read, control, begun, loop))
            request = await control.received()
            control.master.send(packed({"id": request["id"], "ok": True, "result": {"events": []}}))
            await asyncio.wait_for(begun.wait(), DEADLINE)
            control.task.cancel()
            assert (await reading).startswith(b"event: table\n")

    asyncio.run(scenario())


def test_a_load_balancer_may_ask_with_head(tmp_path: Path) -> None:
    """The same status, without a body: a 405 would have it take the instance out of use."""

    def asked(control: Running, method: str, path: str) -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("tcpmux", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(DEADLINE)
        connection.sock.connect(control.path)
        connection.request(method, path, headers={"Connection": "close"})
        answer = connection.getresponse()
        found = answer.status, answer.headers["Content-Length"], answer.read()
        connection.close()
        return found

    async def scenario() -> None:
        async with running(tmp_path) as control:
            for path in ("/healthz", "/readyz"):
                status, length, body = await asyncio.to_thread(asked, control, "GET", path)
                assert (status, length) == (503, str(len(body)))  # no worker runs here
                head = await asyncio.to_thread(asked, control, "HEAD", path)
                assert head == (status, length, b"")

    asyncio.run(scenario())


def test_a_master_that_is_stopped_is_told_of_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wants to see what happens gets what is known without it, and that it does not answer."""
    monkeypatch.setattr("tcpmux.control.process.ASK", 0.01)
    monkeypatch.setattr("tcpmux.control.master_link.SILENCE", 0.05)
    monkeypatch.setattr("tcpmux.control.server.EVENTS_TIME", 0.05)

    def problems(control: Running) -> list[str]:
        return [each["text"] for each in control.client.status()["problems"]]

    async def scenario() -> None:
        async with running(tmp_path) as control:
            request = await control.received()
            assert request["verb"] == "events"
            told: list[str] = []
            while not any("is stopped or hangs" in text for text in told):
                told = await asyncio.to_thread(problems, control)
            assert (await asyncio.to_thread(control.client.history))["points"] == 0
            assert await asyncio.to_thread(control.client.events) == []
            kind, _ = await asyncio.to_thread(lambda: next(iter(control.client.stream())))
            assert kind == "table"
            answer = packed({"id": request["id"], "ok": True, "result": {"events": []}})
            control.master.send(answer)
            while any("is stopped or hangs" in text for text in told):
                told = await asyncio.to_thread(problems, control)

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


def test_changes_are_asked_of_the_master(tmp_path: Path) -> None:
    applied = {"generation": 7, "changes": ["r: v1 80->50"], "workers": []}

    async def scenario() -> None:
        async with running(tmp_path) as control:
            request, answer = await control.answering(
                control.client.reload, ok=True, result=applied
            )
            assert (request, answer) == (
                {"verb": "reload", "look_up": True, "by": US},
                applied,
            )
            request, answer = await control.answering(
                lambda: control.client.set_weights("a.b", {"v1": 50}), ok=True, result=applied
            )
            assert request == {
                "verb": "set_weights",
                "route": "a.b",
                "weights": {"v1": 50},
                "force": False,
                "by": US,
            }
            assert answer == applied
            for now in (False, True):
                request, answer = await control.answering(
                    partial(control.client.stop, now=now), ok=True, result={"pid": 4}
                )
                assert (request, answer) == (
                    {"verb": "stop", "now": now, "by": US},
                    {"pid": 4},
                )

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "status", "hint"),
    [
        ("invalid", 400, ""),
        ("not_found", 404, ""),
        ("refused", 409, ""),
        ("unforced", 409, "force"),
    ],
)
def test_a_refusal_becomes_its_http_status(
    tmp_path: Path, kind: str, status: int, hint: str
) -> None:
    """And only what force would have done hints at that."""

    async def scenario() -> None:
        async with running(tmp_path) as control:
            with pytest.raises(Refused, match=r"^because$") as caught:
                await control.answering(control.client.reload, ok=False, kind=kind, error="because")
            assert (caught.value.status, caught.value.hint) == (status, hint)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "/v1/nothing", b"", 404, "no such path: /v1/nothing"),
        ("GET", "/static/../server.py", b"", 404, "no such path: "),
        ("GET", "/v1/connections?route=r", b"", 404, "no route named 'r'"),
        ("GET", "/v1/connections?colour=red", b"", 404, "no filter named 'colour'"),
        ("GET", "/v1/connections?client=1.2.3", b"", 400, "client: expected an address"),
        ("GET", "/v1/connections?older=long", b"", 400, "older: expected a time"),
        ("GET", "/v1/connections?sort=--age", b"", 400, "sort: expected one of"),
        ("GET", "/v1/connections?limit=-1", b"", 400, "limit: expected 0..20000"),
        ("GET", "/v1/connections?destination=v1", b"", 404, "no destination named 'v1'"),
        ("GET", "/v1/connections?endpoint=unix:/a", b"", 404, "no endpoint named 'unix:/a'"),
        ("GET", "/v1/connections/groups", b"", 400, "by: expected one of route, destination"),
        ("GET", "/v1/connections/groups?by=age", b"", 400, "by: expected one of route"),
        ("GET", "/v1/connections/groups?by=route&sort=idle", b"", 400, "sort: expected one of"),
        ("GET", "/v1/connections/groups?by=route&route=r", b"", 404, "no route named 'r'"),
        ("GET", "/v1/events?since=x", b"", 400, "since: expected the number"),
        ("POST", "/v1/connections/kill", b'{"ids": ["0-x-1"]}', 400, "is not the id"),
        ("POST", "/v1/connections/kill", b'{"ids": [], "rate": 0}', 400, "rate: expected"),
        ("POST", "/v1/connections/kill", b'{"ids": "all"}', 400, "the body is"),
        ("PUT", "/v1/log-level", b'{"level": 3}', 400, "the body is"),
        ("PUT", "/v1/routes/r/destinations/v1/state", b"{}", 400, "the body is"),
        ("DELETE", "/v1/status", b"", 405, "method DELETE is not allowed: use GET"),
        ("POST", "/v1/stop", b"{", 400, "the body is not JSON"),
        ("POST", "/v1/stop", b'{"now": 1}', 400, "the body is {} or"),
        ("POST", "/v1/stop", b'{"later": true}', 400, "the body is {} or"),
        ("PUT", "/v1/routes/r/weights", b"[1]", 400, "not a JSON object"),
        ("PUT", "/v1/routes/r/weights", b"[" * 60_000, 400, "the body is not JSON"),
        ("PUT", "/v1/routes/r/weights", b"\xff\xfe\x00", 400, "the body is not JSON"),
        (
            "PUT",
            "/v1/routes/r/weights",
            b'{"x": "' + b"y" * 70_000 + b'"}',
            413,
            "larger than 65536",
        ),
        ("PUT", "/v1/routes/r/weights", b" " * 8_500_000, 413, "larger than"),
    ],
)
def test_wrong_requests_get_a_reason_as_json(
    tmp_path: Path, method: str, path: str, body: bytes, *, status: int, error: str
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as control:
            got, answer = await asyncio.to_thread(control.raw, method, path, body)
            assert got == status
            assert list(answer) == ["error"]
            assert error in answer["error"]

    asyncio.run(scenario())


def test_a_fault_of_ours_is_an_answer_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as control:
            control.source.broken = True
            with pytest.raises(Refused, match="torn") as caught:
                await asyncio.to_thread(control.client.status)
            assert caught.value.status == 500
            control.source.broken = False
            await asyncio.to_thread(control.client.status)

    asyncio.run(scenario())


def test_sigterm_ends_it_and_leaves_the_socket_file_to_the_master(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as control:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(control.task, DEADLINE)
            assert Path(control.path).exists()
            with pytest.raises(NotRunning, match="left over"):
                await asyncio.to_thread(control.client.status)

    asyncio.run(scenario())


def test_without_a_master_it_shows_but_changes_nothing(
    tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, FakeSource((worker.pid,))) as control:
            control.master.close()
            with pytest.raises(Refused, match="the master is gone") as caught:
                await asyncio.to_thread(control.client.reload)
            assert caught.value.status == 503
            with pytest.raises(Refused, match="the master is gone"):
                await asyncio.to_thread(control.client.set_weights, "r", {"v1": 1})
            status = await asyncio.to_thread(control.client.status)
            assert status["state"] == "orphaned"
            assert not control.task.done()

    asyncio.run(scenario())


@pytest.mark.parametrize(("now", "number"), [(False, signal.SIGTERM), (True, signal.SIGQUIT)])
def test_without_a_master_stop_ends_the_workers_and_then_control(
    tmp_path: Path, worker: subprocess.Popen[str], now: bool, number: signal.Signals
) -> None:
    async def scenario() -> None:
        # Our own pid stands for one that has come to mean another process: it is spared.
        source = FakeSource((worker.pid, os.getpid(), 0))
        async with running(tmp_path, source) as control:
            control.master.close()
            answer = await asyncio.to_thread(control.client.stop, now=now)
            assert answer == {"pid": os.getpid()}
            await asyncio.wait_for(control.task, DEADLINE)
            assert worker.wait(DEADLINE) == -number

    asyncio.run(scenario())


def test_a_worker_between_two_lives_is_told_to_stop_when_it_lives_again(
    tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    """While its guardian is there control goes on, and a stop is not lost."""

    async def scenario() -> None:
        with titled("tcpmux: guardian 0") as guardian:
            source = FakeSource((0,))
            source.guardian = guardian.pid
            async with running(tmp_path, source) as control:
                control.master.close()
                await asyncio.to_thread(control.client.stop, now=False)
                assert not control.task.done()
                source.pids = (worker.pid,)
                assert await asyncio.to_thread(worker.wait, DEADLINE) == -signal.SIGTERM
                assert not control.task.done()
                guardian.kill()
                await asyncio.wait_for(control.task, DEADLINE)

    asyncio.run(scenario())


def test_without_master_and_workers_it_ends_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, FakeSource()) as control:
            control.master.close()
            await asyncio.wait_for(control.task, DEADLINE)

    asyncio.run(scenario())


def test_a_worker_is_known_by_its_title(worker: subprocess.Popen[str]) -> None:
    assert is_worker(worker.pid)
    assert not is_worker(os.getpid())
    assert not is_worker(2**22)  # above the highest pid there can be


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "hung up before it answered"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not tcpmux"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "not tcpmux"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not tcpmux"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}", "HTTP status 502"),
    ],
)
def test_the_client_knows_a_stranger(tmp_path: Path, answer: bytes, message: str) -> None:
    async def scenario() -> None:
        async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        path = tmp_path / "stranger.sock"
        server = await asyncio.start_unix_server(stranger, str(path))
        try:
            with pytest.raises(AdminError, match=message):
                await asyncio.to_thread(Client(path, DEADLINE).status)
        finally:
            server.close()

    asyncio.run(scenario())
