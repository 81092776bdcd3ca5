"""Between master and control no size kills a message, and neither waits for the other: the real
classes of both over a real socketpair."""

from __future__ import annotations

import asyncio
import logging
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import psutil
import pytest

from tcpmux import frames, messages
from tcpmux.config import Check, DestinationPolicy
from tcpmux.config.checks import from_message, watch_of
from tcpmux.control.health import MAX_CONDITIONS
from tcpmux.control.master_link import MasterLink, MasterRefused
from tcpmux.frames import HEAD, FrameError, Inbox, packed
from tcpmux.master import control as master_control
from tcpmux.master.answers import Later
from tcpmux.master.control import MAX_WAITING, ControlLink, ControlProcess
from tcpmux.master.requests import Requests
from tcpmux.privileges import oneself
from tests.support import DEADLINE, patient, wait_for

ENDLESS = "e" * 253  # a name as long as DNS has them


@contextmanager
def socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        yield ours, theirs


class Master:
    """A master's loop with nothing but its link to control, in a thread."""

    def __init__(self, sock: socket.socket, handle: Callable[[dict[str, Any]], Any]) -> None:
        self.link = ControlLink(sock)
        self._handle = handle
        self.ready = threading.Event()
        self.longest_turn = 0.0  # s
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (sock := self.link.socket) is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(sock, self.link.events)
                selector.select(0 if self.link.has_more else DEADLINE)
            began = time.monotonic()
            self.link.serve(self._handle, self.ready.set)
            self.longest_turn = max(self.longest_turn, time.monotonic() - began)

    def end(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def talk(
    handle: Callable[[dict[str, Any]], Any], scenario: Callable[[MasterLink, Master], Any]
) -> Any:
    """Runs `scenario` as control, linked to a master that answers with `handle`."""

    async def control(theirs: socket.socket, master: Master) -> Any:
        link = MasterLink(theirs, lambda: None)
        await link.start()
        try:
            return await asyncio.wait_for(scenario(link, master), patient(60))
        finally:
            link.close()

    with socketpair() as (ours, theirs):
        master = Master(ours, handle)
        try:
            return asyncio.run(control(theirs, master))
        finally:
            theirs.close()
            master.end()


# --- frames -----------------------------------------------------------------------------------


def test_messages_are_put_together_from_any_parts() -> None:
    messages: list[dict[str, Any]] = [
        {},
        {"a": "x" * 1000, "b": [1, None, "\udcff\u20ac"]},
        {"c": {"d": 1.5}},
    ]
    stream = b"".join([packed(message) for message in messages])
    for size in (1, 2, 3, 5, 7, 1000, len(stream)):
        with socketpair() as (ours, theirs):
            theirs.setblocking(False)
            inbox, got = Inbox(), []
            for at in range(0, len(stream), size):
                ours.sendall(stream[at : at + size])
                assert inbox.receive(theirs)
                while inbox.has_message:
                    got.append(inbox.take())
                assert inbox.take() is None
            assert got == messages


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (HEAD.pack(frames.MAX_SIZE + 1), "too large"),
        (HEAD.pack(0xFFFFFFFF) + b"{}", "too large"),
        (HEAD.pack(2) + b"\xff\xff", "not JSON"),
        (HEAD.pack(0), "not JSON"),
        (HEAD.pack(100_000) + b"[" * 100_000, "not JSON"),
        (HEAD.pack(2) + b"[]", "not a JSON object"),
    ],
)
def test_what_is_no_message_is_an_error(stream: bytes, reason: str) -> None:
    with socketpair() as (ours, theirs):
        ours.sendall(stream)
        inbox = Inbox()
        assert inbox.receive(theirs)
        assert inbox.has_message
        with pytest.raises(FrameError, match=reason):
            inbox.take()


# --- sizes ------------------------------------------------------------------------------------


def test_checks_of_the_largest_configuration_come_through() -> None:
    """4,096 routes of 64 destinations with names of 253 characters: 137 MB of names, and each
    route's check is another."""
    policies = [
        DestinationPolicy(check=Check("send", send=b"\x00" * 300, expect=str(n).encode()))
        for n in range(4096)
    ]
    routes = [
        SimpleNamespace(
            name=f"{number:04}{ENDLESS}"[:253],
            destinations=[
                SimpleNamespace(name=f"{place:02}{ENDLESS}"[:253], policy=policy)
                for place in range(64)
            ],
        )
        for number, policy in enumerate(policies)
    ]
    master = SimpleNamespace(
        draining=False,
        changes=SimpleNamespace(in_force=SimpleNamespace(config=SimpleNamespace(routes=routes))),
    )

    async def scenario(link: MasterLink, _master: Master) -> tuple[int, set[int], int]:
        first: int | None = 0
        got, right, parts = 0, set(), 0
        while first is not None:
            answer = await link.request("checks", first=first)
            watches = list(map(from_message, answer["watches"]))
            for route, destination, number in answer["checks"]:
                assert len(route) == len(destination) == 253
                policy = int(route[:4])
                if policy not in right and watches[number] == watch_of(policies[policy]):
                    right.add(policy)
                got += 1
            first, parts = answer["next"], parts + 1
        return got, right, parts

    got, right, parts = talk(Requests(cast("Any", master)).answer, scenario)
    assert got == 4096 * 64
    assert len(right) == 4096
    assert parts < 1000


def test_one_check_that_is_large_makes_no_endless_answer() -> None:
    policy = DestinationPolicy(check=Check("send", send=b"\x00" * (3 << 20), expect=b"x"))
    other = DestinationPolicy(check=Check("send", send=b"\x01" * (3 << 20), expect=b"x"))
    destinations = [
        SimpleNamespace(name=f"d{place}", policy=policy if place % 2 else other)
        for place in range(8)
    ]
    config = SimpleNamespace(routes=[SimpleNamespace(name="r", destinations=destinations)])
    master = SimpleNamespace(
        draining=False, changes=SimpleNamespace(in_force=SimpleNamespace(config=config))
    )

    async def scenario(link: MasterLink, _master: Master) -> list[int]:
        sizes, first = [], 0
        while first is not None:
            answer = await link.request("checks", first=first)
            sizes.append(len(answer["checks"]))
            first = answer["next"]
        return sizes

    assert talk(Requests(cast("Any", master)).answer, scenario) == [1] * 8


def test_everything_fails_at_once_and_the_master_hears_of_it() -> None:
    """65,536 endpoints in the parts in which Health tells of them."""
    heard: list[Any] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        heard.extend(request["conditions"])
        return {}

    told = [
        [f"{number:05}{ENDLESS}"[:253], ENDLESS, f"[2001:db8::{number:x}]:65535", 1, 100]
        for number in range(65536)
    ]

    async def scenario(link: MasterLink, _master: Master) -> None:
        for at in range(0, len(told), MAX_CONDITIONS):
            part = told[at : at + MAX_CONDITIONS]
            await link.request("conditions", conditions=part, texts=["x" * 300] * 1000)

    talk(handle, scenario)
    assert heard == told


def test_pushes_and_answers_have_any_size_too() -> None:
    addresses = {"big.example.org:80": [f"10.0.{n >> 8}.{n & 255}:80" for n in range(4000)]}
    large = {"names": {f"{n}{ENDLESS}": list(addresses.values()) for n in range(100)}}
    pushed: list[dict[str, Any]] = []

    async def scenario(link: MasterLink, master: Master) -> Any:
        link._on_push = pushed.append
        assert master.ready.wait(DEADLINE)
        master.link.push({"push": "names", **large})
        answer = await link.request("addresses", found=addresses)
        assert answer["found"] == addresses
        while not pushed:
            await asyncio.sleep(0)
        return pushed

    assert talk(lambda request: {"found": request["found"]}, scenario) == [
        {"push": "names", **large}
    ]


def test_what_is_too_large_for_a_frame_is_refused_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frames, "MAX_SIZE", 1000)
    masters: list[Master] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        """In the master's thread, as nothing of it is for two."""
        if request["verb"] == "undo":
            masters[0].link.push({"push": "names", "names": "x" * 1000})
        return {"events": "x" * 1000} if request["verb"] == "events" else {}

    async def scenario(link: MasterLink, master: Master) -> None:
        masters.append(master)
        with pytest.raises(MasterRefused, match="too large"):
            await link.request("reload", by="x" * 1000)
        with pytest.raises(MasterRefused, match="too large"):
            await link.request("events")
        assert await link.request("reload") == {}
        assert await link.request("undo") == {}
        assert await link.request("reload") == {}

    with caplog.at_level(logging.ERROR):
        talk(handle, scenario)
    assert "can't notify control of names: a message of" in caplog.text


def test_an_answer_that_comes_later_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a child of the master, which may have been made to say anything."""
    monkeypatch.setattr(frames, "MAX_SIZE", 3000)
    monkeypatch.setattr(messages, "MAX_ERROR", 100)
    outcomes: list[dict[str, Any]] = [
        {"ok": True, "result": {"changes": ["x" * 4000]}},
        {"ok": False, "kind": "bad_file", "error": "y" * 4000},
        {"ok": True, "result": {"changes": []}},
    ]

    class AtOnce(Later):
        def then(self, take: Callable[[Mapping[str, Any]], None]) -> None:
            take(outcomes.pop(0))

    async def scenario(link: MasterLink, _master: Master) -> None:
        with pytest.raises(MasterRefused, match="the answer can't be sent: a message of"):
            await link.request("diff")
        with pytest.raises(
            MasterRefused, match=r"^y{100}\.\.\. \(and 3900 characters more\)$"
        ) as caught:
            await link.request("diff")
        assert caught.value.kind == "bad_file"
        assert await link.request("diff") == {"changes": []}

    talk(lambda _: AtOnce(), scenario)


def test_both_ends_know_the_same_verbs_and_pushes() -> None:
    """Whoever adds one adds it to messages.py: mypy holds both ends to that."""
    verbs = Requests(cast("Any", SimpleNamespace()))._verbs.keys() | {"events", "fault", "stop"}
    assert verbs | {"ready"} == set(get_args(messages.Verb))
    source = (Path(__file__).parents[2] / "tcpmux").rglob("*.py")
    text = "".join(path.read_text() for path in source)
    for kind in get_args(messages.PushKind):
        assert f'"push": "{kind}"' in text, kind


# --- one that does not read -------------------------------------------------------------------


def read_until_pushed(
    sock: socket.socket, link: ControlLink, handle: Callable[[dict[str, Any]], Any]
) -> tuple[list[dict[str, Any]], int]:
    """Two pushes, and how many answers there were."""
    inbox = Inbox()
    pushes: list[dict[str, Any]] = []
    answers = 0
    deadline = time.monotonic() + DEADLINE
    while len(pushes) < 2:
        assert time.monotonic() < deadline
        link.serve(handle, lambda: None)
        with suppress(BlockingIOError):
            inbox.receive(sock)
        while (message := inbox.take()) is not None:
            if "push" in message:
                pushes.append(message)
            else:
                answers += 1
    return pushes, answers


def test_a_control_that_reads_nothing_neither_blocks_the_master_nor_fills_it() -> None:
    """It asks without end. The master stops to listen, and says when it is stalled."""
    with socketpair() as (ours, theirs):
        link = ControlLink(ours)
        theirs.setblocking(False)
        question = packed({"id": 1, "verb": "events", "since": 0})
        served = 0

        def handle(_: dict[str, Any]) -> dict[str, Any]:
            nonlocal served
            served += 1
            return {"events": "x" * 100_000}

        def ask_until_full() -> bool:
            try:
                return theirs.send(question) == len(question)
            except BlockingIOError:
                return False

        refused = 0
        while refused < 100:
            if not ask_until_full():
                refused += 1
            link.serve(handle, lambda: None)
        assert MAX_WAITING / 100_000 <= served < MAX_WAITING / 100_000 + 20
        assert link.events == selectors.EVENT_WRITE
        assert not link.has_more
        for number in range(10_000):
            assert link.push({"push": "event"})
            assert link.push({"push": "names", "names": number})
        assert link.stalls_at is not None
        assert link.stalls_at <= time.monotonic() + master_control.STALLED_SECONDS

        # It reads again, and is served again: of each kind of push the latest has come.
        pushes, answers = read_until_pushed(theirs, link, handle)
        assert answers >= MAX_WAITING / 100_000
        assert {"push": "names", "names": 9999} in pushes
        link.close()


def test_a_master_that_reads_nothing_does_not_fill_control() -> None:
    """A request that nobody reads fails, one that was given up while it was half sent is sent as
    a whole, so that the stream stays whole."""

    async def scenario(ours: socket.socket, theirs: socket.socket) -> None:
        link = MasterLink(theirs, lambda: None, answer_time=0.05)
        await link.start()
        for _ in range(25):
            with pytest.raises(Exception, match=r"did not answer|does not read"):
                await link.request("x", text="y" * (1 << 20))  # type: ignore[arg-type]
        with pytest.raises(Exception, match="does not read"):
            await link.request("x")  # type: ignore[arg-type]
        ours.setblocking(False)
        inbox, got = Inbox(), 0
        while got < 18:
            try:
                inbox.receive(ours)
            except BlockingIOError:
                await asyncio.sleep(0)
            while (message := inbox.take()) is not None:
                assert message["verb"] in ("ready", "x")
                got += 1
        link.close()

    with socketpair() as (ours, theirs):
        asyncio.run(asyncio.wait_for(scenario(ours, theirs), DEADLINE))


# --- one that can't be talked to is replaced ------------------------------------------------------


class Control(ControlProcess):
    """One whose program is another, with the far end of the link in our hands."""

    def __init__(self) -> None:
        super().__init__(oneself(), lambda: ([], []))
        _, (fd,) = self._open_link()
        self.far = socket.socket(fileno=fd)
        self._process = subprocess.Popen(["sleep", "60"])

    def serve_until_it_ends(self) -> int:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + DEADLINE
        while process.poll() is None:
            assert time.monotonic() < deadline
            self.serve(lambda _: {"x": "y" * 100_000}, lambda: None)
        self._close_link()
        return int(process.returncode)


def bad_frame(control: Control) -> None:
    control.far.send(HEAD.pack(2) + b"xx")


def bad_request(control: Control) -> None:
    control.far.send(packed({"verb": "reload"}))


def gives_up(control: Control) -> None:
    control.far.close()


def stalls(control: Control) -> None:
    for _ in range(10):
        control.far.send(packed({"id": 1, "verb": "events"}))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (bad_frame, "sent a message that is not JSON"),
        (bad_request, "sent a request without a number"),
        (gives_up, "lost its connection to the master"),
        (stalls, "has read nothing for"),
    ],
)
def test_a_control_that_can_not_be_talked_to_is_replaced_and_that_is_said(
    act: Callable[[Control], None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(master_control, "STALLED_SECONDS", 0.1)
    monkeypatch.setattr(master_control, "END_TIME", 0.1)
    control = Control()
    with control.far:
        act(control)
        assert control.serve_until_it_ends() == -signal.SIGKILL
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert said in record.getMessage()
    assert control.link is None
    assert control.next_serve() is None


def test_a_control_that_was_asked_to_end_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a reload that changes admin: it closes the link, and ends later."""
    monkeypatch.setattr(master_control, "END_TIME", 0.0)
    control = Control()
    process = control._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    # Of two signals that wait the lower number comes first, which would end it.
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it to stop")
    control.restart(DEADLINE)
    control.far.close()
    for _ in range(2):
        control.serve(lambda _: {}, lambda: None)
        assert control.next_serve() is None
    assert process.poll() is None
    assert not caplog.records
    process.send_signal(signal.SIGCONT)
    assert process.wait(DEADLINE) == -signal.SIGTERM
    control._close_link()
