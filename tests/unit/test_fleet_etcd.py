"""What etcd sends is not believed: a member that sends anything else is as good as none, and what
is in the keys is looked at before it is used."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from tcpmux.config.fleet import Etcd as EtcdSettings
from tcpmux.config.fleet import Fleet, FleetState
from tcpmux.control.fleet import etcd as client
from tcpmux.control.fleet.agent import Agent
from tcpmux.control.fleet.contents import Contents, Keys, as_value, digest
from tcpmux.control.fleet.etcd import Access, Away, Compacted, Denied, Etcd, EtcdError
from tcpmux.control.fleet.hosts import host_from
from tcpmux.control.fleet.saved import SavedFleet
from tcpmux.control.fleet.values import KeyValue, Malformed, behind, key_value, number, packed
from tests.support import patient

Ask = Callable[[Etcd], Awaitable[Any]]
HEADER = {"cluster_id": "14841639068965178418", "revision": "7"}


async def answered(raw: bytes, ask: Ask, *, user: str = "", close: bool = True) -> Any:
    """What `ask` makes of these bytes, which a member sends to each request."""

    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        await reader.readexactly(size)
        writer.write(raw)
        if close:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    etcd = Etcd(Access((f"http://127.0.0.1:{port}",), user=user), "test")
    try:
        return await ask(etcd)
    finally:
        await etcd.close()
        server.close()
        for writer in writers:
            writer.close()


def made_of(raw: bytes, ask: Ask, **more: Any) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(answered(raw, ask, **more), patient(20))

    return asyncio.run(within())


def http(body: bytes | Any, status: str = "200 OK") -> bytes:
    body = body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n"
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def ranged(etcd: Etcd) -> Awaitable[Any]:
    return etcd.range("/a", "/b")


def changed(etcd: Etcd) -> Awaitable[Any]:
    return etcd.change({"/a": 0}, {"/a": b"x"})


def granted(etcd: Etcd) -> Awaitable[Any]:
    return etcd.grant(5)


def kept(etcd: Etcd) -> Awaitable[Any]:
    return etcd.keep_alive(5)


async def watched(etcd: Etcd) -> list[Any]:
    return [change async for change in etcd.watch("/a", "/b", 1)]


EVERY: list[Ask] = [ranged, changed, granted, kept, watched]
NONSENSE: list[bytes] = [
    b"",
    b"\x00\xff" * 500,
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    http(b"[" * 200_000),
    http(b"\xff"),
    http([]),
    http(b"nothing", "503 Service Unavailable"),
    http({"error": "etcdserver: no leader", "code": 14}, "503 Service Unavailable"),
    http({"error": "etcdserver: request timed out", "code": 14}, "400 Bad Request"),
]


@pytest.mark.parametrize("ask", EVERY)
@pytest.mark.parametrize("raw", NONSENSE, ids=range(len(NONSENSE)))
def test_a_member_that_sends_nonsense_is_as_good_as_none(raw: bytes, ask: Ask) -> None:
    with pytest.raises(Away) as caught:
        made_of(raw, ask)
    assert str(caught.value).startswith("http://127.0.0.1:")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (ranged, {}),
        (ranged, {"header": {"revision": "x"}}),
        (ranged, {"header": {"revision": "-1"}}),
        (ranged, {"header": {"revision": "9" * 30}}),
        (ranged, {"header": HEADER, "kvs": "x"}),
        (ranged, {"header": HEADER, "kvs": [1]}),
        (ranged, {"header": HEADER, "kvs": [{"key": "%%"}]}),
        (ranged, {"header": HEADER, "kvs": [{"key": packed(b"\xff")}]}),
        (ranged, {"header": HEADER, "kvs": [{"key": "", "mod_revision": 1.5}]}),
        (ranged, {"header": HEADER, "more": True}),
        (changed, {"succeeded": True}),
        (granted, {}),
        (granted, {"ID": [], "TTL": "5"}),
        (kept, {"result": 5}),
        (kept, {"result": {"TTL": "many"}}),
        (watched, {"result": 1}),
        (watched, {"result": {"events": {}}}),
        (watched, {"result": {"events": [1]}}),
        (watched, {"result": {"canceled": True, "cancel_reason": "because\n"}}),
        (watched, {"error": {"message": "\x1b[2J"}}),
    ],
)
def test_an_answer_without_sense_is_none(ask: Ask, answer: Any) -> None:
    with pytest.raises(Away) as caught:
        made_of(http(answer), ask)
    assert str(caught.value).isprintable()


def test_answers_that_make_sense() -> None:
    kvs = [{"key": packed("/a"), "value": packed("v"), "mod_revision": "5", "lease": "-3"}]
    found = made_of(http({"header": HEADER, "kvs": kvs}), ranged)
    assert found == ([KeyValue("/a", b"v", 5, -3)], 7, HEADER["cluster_id"])
    assert made_of(http({"succeeded": True, "header": HEADER}), changed) == 7
    assert made_of(http({}), changed) == 0
    assert made_of(http({"result": {"TTL": "5"}}), kept) is True
    assert made_of(http({"result": {}}), kept) is False


def test_what_another_member_would_refuse_as_well_is_a_refusal() -> None:
    denied = {"error": "etcdserver: permission denied", "code": 7}
    with pytest.raises(Denied, match="permission denied"):
        made_of(http(denied, "403 Forbidden"), ranged)
    with pytest.raises(Denied, match="invalid auth token"):
        made_of(http({"error": "invalid auth token"}, "401 Unauthorized"), ranged)
    with pytest.raises(Denied, match="401"):
        made_of(http({}, "401 Unauthorized"), ranged, user="u")
    with pytest.raises(Away, match="a token that makes no sense"):
        made_of(http({"token": "a\r\nb: c"}), ranged, user="u")


def test_a_watch_whose_token_is_over_begins_anew() -> None:
    """Another member, or another token, may do."""
    with pytest.raises(Away, match="invalid auth token"):
        made_of(http({"error": "invalid auth token"}, "401 Unauthorized"), watched)


@pytest.mark.parametrize("ask", [ranged, changed, granted, kept])
def test_an_answer_that_never_ends_is_none(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a part of it comes each moment."""
    monkeypatch.setattr(client, "WHOLE_TIME", 0.3)

    async def drips() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{")
            with suppress(OSError):
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            writer.transport.abort()
            over.set()

        over = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        etcd = Etcd(Access((f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",)), "test")
        try:
            await asyncio.wait_for(ask(etcd), patient(20))
        finally:
            await etcd.close()
            await asyncio.wait_for(over.wait(), patient(20))
            server.close()

    with pytest.raises(Away, match=r"no whole answer within 0\.3 s"):
        asyncio.run(drips())


def test_a_member_that_has_no_room_says_what_to_do() -> None:
    full = {"error": "etcdserver: mvcc: database space exceeded", "code": 8}
    with pytest.raises(Denied, match=r"space exceeded: make room .* `etcdctl alarm disarm`"):
        made_of(http(full, "429 Too Many Requests"), changed)


def test_tls_on_one_side_alone_is_said() -> None:
    wrong = http(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad Request")
    with pytest.raises(Denied, match="it speaks TLS: its endpoint is https://"):
        made_of(wrong, ranged)


def test_a_watch_that_can_not_go_on_says_why() -> None:
    with pytest.raises(Compacted):
        made_of(http({"result": {"canceled": True, "compact_revision": "9"}}), watched)


@pytest.mark.parametrize("ask", [ranged, watched])
def test_no_answer_is_too_large(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    with pytest.raises(Away, match="of more than 0 MiB"):
        made_of(http(b" " * 1001), ask)


@pytest.mark.parametrize("ask", [ranged, changed, granted, kept])
def test_a_member_that_says_nothing_is_left(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_TIME", "PART_TIME"):
        monkeypatch.setattr(client, name, 0.1)
    with pytest.raises(Away, match=r"no answer within 0\.1 s"):
        made_of(b"", ask, close=False)


# --- what is in the keys ----------------------------------------------------------------------

KEYS = Keys("/tcpmux/prod/")
WEIGHTS = {"weights": {"v1": 1}, "epoch": 3, "who": "me\n", "when": 5.5, "why": "x" * 9999}


def contents(**keys: Any) -> Contents:
    """Of keys whose "/" is written as "__"."""
    made = Contents(KEYS)
    made.take(
        KeyValue(f"{KEYS.prefix}{key.replace('__', '/')}", value, at)
        for at, (key, value) in enumerate(keys.items(), 1)
    )
    return made


def test_keys_are_read() -> None:
    version = {"epoch": 3, "id": "i", "documents": {"shop": digest("routes: []")}}
    found = contents(
        routes__shop=b"routes: []", version=as_value(version), weights__shop=as_value(WEIGHTS)
    )
    assert found.state(FleetState()) == FleetState(
        KEYS.prefix, {"shop": "routes: []"}, {"shop": {"v1": 1}}, 3
    )
    assert found.are_confirmed
    assert found.newest == 3
    assert (found.told["shop"].who, len(found.told["shop"].why)) == ("me\\n", 500)
    found.take([KeyValue(KEYS.document("shop"), b"routes: [ ]", 9)])
    assert not found.are_confirmed
    found.take([KeyValue(key, None, 10) for key in list(found.revisions)])
    assert found.state(FleetState()) == FleetState(KEYS.prefix)
    assert not found.are_confirmed


def test_weights_that_make_no_sense_are_those_before() -> None:
    before = FleetState(KEYS.prefix, {}, {"shop": {"v1": 7}})
    for value in (b"", b"{", b"[]", b"{}", b'{"weights": {}}', b'{"weights": {"v1": true}}'):
        found = contents(weights__shop=value, weights__other=value)
        assert found.state(before).weights == {"shop": {"v1": 7}}, value
        assert set(found.wrong) == {KEYS.weights("shop"), KEYS.weights("other")}
        assert not found.wrong_document()


@pytest.mark.parametrize("weights", [{"v1": 0, "v2": 0}, {"v\n1": 1}, {"\ud800": 1}])
def test_weights_that_nobody_could_follow_are_wrong(weights: dict[str, int]) -> None:
    before = FleetState(KEYS.prefix, {}, {"shop": {"v1": 7}})
    value = json.dumps({"weights": weights}).encode()
    found = contents(weights__shop=value)
    assert found.state(before).weights == {"shop": {"v1": 7}}
    assert set(found.wrong) == {KEYS.weights("shop")}
    path = KEYS.weights("sh\x1b[2Jop")
    found.take([KeyValue(path, as_value(WEIGHTS), 1)])
    assert path in found.wrong


def test_there_is_an_end_to_what_is_kept() -> None:
    found = Contents(KEYS)
    large = b" " * (3 << 20)
    found.take(KeyValue(KEYS.document(f"d{n}"), large, n) for n in range(1, 10))
    assert (len(found.documents), found.is_full) == (2, True)
    assert "at most 1000 documents, of 8 MiB together" in found.wrong_document()
    found = Contents(KEYS)
    found.take(KeyValue(KEYS.weights(f"r{n}"), as_value(WEIGHTS), n) for n in range(1, 4100))
    assert (len(found.weights), found.is_full) == (4000, True)
    assert FleetState.from_json(found.state(FleetState()).as_json()).weights == found.weights


def test_what_a_watch_has_not_told_is_found() -> None:
    found = contents(routes__shop=b"routes: []", weights__shop=as_value(WEIGHTS))
    kvs = [KeyValue(key, b"", revision) for key, revision in found.revisions.items()]
    assert not found.misses(kvs, 2)
    assert found.misses([*kvs, KeyValue(KEYS.version, b"", 3)], 3)
    assert found.misses(kvs[:1], 3)  # the other has been deleted
    assert not found.misses(kvs[:1], 1)  # it has been written since
    assert found.misses([KeyValue(KEYS.version, b"", 3)], 3, KEYS.version)
    assert not found.misses([], 3, KEYS.version)


def test_no_bytes_in_any_key_are_a_fault() -> None:
    """Drawn at random: JSON that is nearly right, and bytes that are nothing."""
    chance = random.Random(11)
    atoms: list[Any] = [None, True, -1, 5, 1 << 70, 0.5, "", "x", [], {}, ["x"], {"v1": 1}]

    def value() -> Any:
        keys = ("weights", "epoch", "id", "documents", "who", "when", "why", "own_weights", "place")
        return {key: chance.choice(atoms) for key in keys if chance.random() < 0.7}

    for _ in range(2000):
        data = as_value(value()) if chance.random() < 0.8 else chance.randbytes(chance.randrange(9))
        name = chance.choice(["routes/a", "routes/", "weights/a", "weights/", "version", "x", ""])
        found = Contents(KEYS)
        found.take([KeyValue(f"{KEYS.prefix}{name}", data, 1)])
        state = found.state(FleetState())
        assert FleetState.from_json(json.loads(json.dumps(state.as_json()))) == state
        host = host_from(name, KeyValue(name, data, 1))
        own = host.pop("own_weights")
        assert all(isinstance(each, str) for each in own)
        assert all(isinstance(each, (int, str)) for each in host.values())
        assert host["workers_done"] <= host["workers"]


def test_an_etcd_that_comes_and_goes_does_not_fill_the_log() -> None:
    said: list[str] = []

    async def run() -> None:
        fleet = Fleet("prod", EtcdSettings(("http://127.0.0.1:1",)))
        agent = Agent(fleet, Access(("http://127.0.0.1:1",)), SavedFleet(None, "x"), dict, "test")

        async def told(_level: int, text: str) -> None:
            said.append(text)

        agent._told = told  # type: ignore[method-assign,assignment]
        agent._etcd = Etcd(Access(("http://127.0.0.1:1",)), "test")
        for attempt in range(50):
            agent._is_away(f"{attempt}")
            await asyncio.sleep(0)
            agent._is_back()
            await asyncio.sleep(0)
        await agent.close()

    asyncio.run(run())
    assert len(said) == 2
    assert said[0].startswith("etcd is not followed: 0")
    assert said[1].startswith("follows etcd at")


def test_small_things() -> None:
    assert behind("/a/") == "/a0"
    assert number(None) == 0
    assert key_value({"key": packed("k")}, deleted=True) == KeyValue("k", None, 0)
    nothing: list[Any] = ["", "1.5", "٣", True, [], -1]
    for wrong in nothing:
        with pytest.raises(Malformed):
            number(wrong)
    assert issubclass(Away, EtcdError)
