"""What both clients wait for, and how they give it up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import tcpmux
from tcpmux import (
    AdminError,
    AsyncClient,
    Client,
    NotRunning,
    TcpmuxError,
    Unanswered,
    UsageError,
    WaitTimeout,
)
from tcpmux.control.waiting import Drained
from tests.support import patient
from tests.unit.answering import CUT, DEADLINE, HEAD, answering, both, telling

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = b'{"routes": []}'
TABLE = b"event: table\ndata: {}\n\n"


def status(
    active: int = 0,
    *,
    state: str = "draining",
    weight: int = 1,
    endpoints: tuple[tuple[str, str, int], ...] = (),
) -> bytes:
    """Of a route r with two destinations, of which v2 is idle and disabled."""
    found = ", ".join(
        f'{{"address": "{address}", "state": "{is_so}", "connections_active": {count}}}'
        for address, is_so, count in endpoints
    )
    return (
        '{"routes": [{"name": "r", "destinations": ['
        f'{{"name": "v1", "state": "{state}", "weight": {weight}, "connections_active": {active}, '
        f'"endpoints": [{found}]}}, '
        '{"name": "v2", "state": "disabled", "weight": 1, "connections_active": 0, "endpoints": []}'
        "]}]}"
    ).encode()


def test_a_status_is_waited_for_and_what_is_cut_off_asked_again(tmp_path: Path) -> None:
    """As control is replaced in an upgrade, or after its death."""

    async def scenario() -> None:
        for at in range(2):
            path = tmp_path / str(at)
            parts = b'{"generation": 1, "routes": []}', CUT, b'{"generation": 2, "routes": []}'
            async with telling(path, *parts) as asked:
                ask = both(path, lambda c: c.wait_for(lambda s: s["generation"] == 2, DEADLINE))
                assert await ask[at]() == {"generation": 2, "routes": []}
                assert len(asked) == 3

    asyncio.run(scenario())


def test_without_time_one_looks_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with telling(tmp_path / "s", EMPTY) as asked:
            for ask in both(tmp_path / "s", lambda c: c.wait_for(lambda _: True, 0)):
                assert await ask() == {"routes": []}
            for ask in both(tmp_path / "s", lambda c: c.wait_for(lambda _: False, 0)):
                with pytest.raises(WaitTimeout, match=r"waited 0 s in vain"):
                    await ask()
            assert len(asked) == 4

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_that_makes_no_sense_is_refused(tmp_path: Path, timeout: float) -> None:
    for ask in both(tmp_path / "none", lambda c: c.wait_drained("r", timeout)):
        with pytest.raises(UsageError, match="timeout: expected 0 or more seconds"):
            asyncio.run(ask())


def test_what_is_no_interruption_ends_the_wait(tmp_path: Path) -> None:
    """Nobody is there, the predicate fails, or it answers to nobody."""

    def broken(_: Any) -> bool:
        raise ZeroDivisionError

    async def scenario() -> None:
        for ask in both(tmp_path / "none", lambda c: c.wait_for(lambda _: False, None)):
            with pytest.raises(NotRunning):
                await ask()
        async with telling(tmp_path / "s", EMPTY):
            for ask in both(tmp_path / "s", lambda c: c.wait_for(broken, None)):
                with pytest.raises(ZeroDivisionError):
                    await ask()
        async with answering(tmp_path / "silent", HEAD, stays=True):
            for seconds, error in ((None, Unanswered), (0, WaitTimeout)):
                for ask in both(
                    tmp_path / "silent",
                    lambda c, limit=seconds: c.wait_for(lambda _: True, limit),  # type: ignore[misc]
                    timeout=0.05,
                ):
                    with pytest.raises(error):
                        await ask()

    asyncio.run(scenario())


def test_a_drain_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        for at in range(2):
            path = tmp_path / str(at)
            async with telling(path, status(2), status(1), status()) as asked:
                ask = both(path, lambda c: c.wait_drained("r/v1", DEADLINE))
                assert (await ask[at]())["routes"][0]["name"] == "r"
                assert len(asked) == 3
        async with telling(tmp_path / "s", status(1)):
            for again in both(tmp_path / "s", lambda c: c.wait_drained("r/v1", 0)):
                with pytest.raises(WaitTimeout, match="r/v1 has 1 connection left"):
                    await again()

    asyncio.run(scenario())


def test_a_drain_that_ends_on_the_way_is_no_success(tmp_path: Path) -> None:
    """Somebody has enabled it, or its time is over: that it has no connection now means nothing."""

    async def scenario() -> None:
        for at in range(2):
            path = tmp_path / str(at)
            async with telling(path, status(2), status(0, state="ready")):
                ask = both(path, lambda c: c.wait_drained("r/v1", DEADLINE))
                with pytest.raises(AdminError, match="r/v1 takes new connections"):
                    await ask[at]()

    asyncio.run(scenario())


ONE, OTHER = "127.0.0.1:1", "unix:/run/a.sock"


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ("r", status(), True),
        ("r/", status(), True),
        ("r", status(3), False),
        ("r", status(state="ready"), "r/v1 takes new connections: drain or disable it first"),
        ("r/v1", status(state="disabled"), True),
        ("r/v1", status(state="ready", weight=0), True),
        ("r/v2", status(3, state="ready"), True),
        (f"r/v1/{ONE}", status(3, endpoints=((ONE, "ready", 1),)), False),
        (f"r/v1/{ONE}", status(3, endpoints=((ONE, "ready", 0),)), True),
        (
            f"r/v1/{ONE}",
            status(3, state="ready", endpoints=((ONE, "ready", 0),)),
            f"r/v1/{ONE} takes new connections",
        ),
        (
            f"r/v1/{OTHER}",
            status(1, state="ready", endpoints=((ONE, "ready", 1), (OTHER, "draining", 0))),
            True,
        ),
        ("", status(), "no route, destination or endpoint named ''"),
        ("v1", status(), "no route, destination or endpoint named 'v1'"),
        ("r/v3", status(), "named 'r/v3'"),
        (f"r/v1/{ONE}", status(), f"named 'r/v1/{ONE}'"),
        ("r/v1/r/v1", status(), "named"),
    ],
)
def test_what_is_drained(target: str, text: bytes, expected: bool | str) -> None:
    from json import loads

    if isinstance(expected, bool):
        assert Drained(target)(loads(text)) is expected
    else:
        with pytest.raises(AdminError, match=expected):
            Drained(target)(loads(text))


def test_what_a_newer_instance_streams_is_left_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with answering(tmp_path / "s", HEAD, b"event: new\ndata: 1\n\n", TABLE):
            client = Client(tmp_path / "s", DEADLINE)
            expected: list[Any] = [("table", {})]
            assert await asyncio.to_thread(lambda: list(client.stream())) == expected
        async with answering(tmp_path / "other", HEAD, b"event: events\ndata: {}\n\n"):
            client = Client(tmp_path / "other", DEADLINE)
            with pytest.raises(AdminError, match="not tcpmux"):
                await asyncio.to_thread(lambda: list(client.stream()))
            with pytest.raises(AdminError, match="not tcpmux"):
                _ = [update async for update in AsyncClient(tmp_path / "other").stream()]

    asyncio.run(scenario())


def test_at_the_end_of_its_block_a_client_holds_no_connection(tmp_path: Path) -> None:
    """Though the iterator of a stream is still referred to; and closing again does no harm."""
    ended = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + TABLE)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        ended.release()
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(serve, str(tmp_path / "s"))
        with Client(tmp_path / "s", DEADLINE) as client:
            stream = client.with_timeout(DEADLINE).stream()
            assert (await asyncio.to_thread(next, stream)).kind == "table"
        await asyncio.wait_for(ended.acquire(), patient(10.0))
        assert next(stream, None) is None
        client.close()
        async with AsyncClient(tmp_path / "s", DEADLINE) as other:
            updates = other.stream()
            assert (await updates.__anext__()).kind == "table"
        await asyncio.wait_for(ended.acquire(), patient(10.0))
        assert [update async for update in updates] == []
        await other.close()
        server.close()

    asyncio.run(scenario())


def test_errors_are_exported_and_loaded_when_asked_for() -> None:
    kinds = [getattr(tcpmux, name) for name in tcpmux.__all__]
    errors = [k for k in kinds if isinstance(k, type) and issubclass(k, TcpmuxError)]
    assert {AdminError, WaitTimeout, UsageError} < set(errors)
    assert set(tcpmux.__all__) <= set(dir(tcpmux))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = tcpmux.Nothing
    code = "import sys, tcpmux; print([n for n in sys.modules if n.startswith('tcpmux.')])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=patient(60),
    )
    assert done.stdout == "[]\n"
