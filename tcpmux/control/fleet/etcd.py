"""A client for etcd, over the HTTP gateway that each of its members has. Runs in control.

It asks one member until that fails, and then the next. Every request has a time limit, of an answer
so much is read, and what is in it is checked (values.py). Names are looked up as those of endpoints
are, without a thread. Nothing is tried again here: who asks knows whether it may be.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp

from tcpmux.control.connecting import error_text
from tcpmux.control.fleet.values import (
    KeyValue,
    Malformed,
    decoded,
    key_value,
    lease_id,
    listing,
    mapping,
    number,
    packed,
)
from tcpmux.control.hook_requests import Names
from tcpmux.errors import printable

ANSWER_TIME = 1.5  # s for a member to answer; then the next one is asked
PART_TIME = 1.5  # s between two parts of an answer
WHOLE_TIME = 10.0  # s for a whole answer, however many parts it has
MAX_ANSWER = 24 << 20  # bytes; base64 of what FleetState may hold, and more
MAX_KEYS = 20_000  # of an answer
MAX_EVENTS = 20_000
SHOWN = 200  # characters of an error
COMPACTED = 11  # gRPC's OUT_OF_RANGE


_NOTHING: Mapping[str, str] = {}


class EtcdError(Exception):
    """Its text says what, and of which member."""


class Away(EtcdError):
    """It does not answer, or not as it should: another member may. done: whether it may have done
    what it was asked."""


class Denied(EtcdError):
    """It says no."""


class Compacted(EtcdError):
    """What has happened since is not known any more: everything has to be read."""


class Access(NamedTuple):
    """Where it is, and as whom it is asked. tls: for https. user: "" = nobody."""

    members: tuple[str, ...]
    tls: ssl.SSLContext | None = None
    user: str = ""
    password: str = ""


class Range(NamedTuple):
    """Of one moment: revision, of the store that has that id."""

    found: list[KeyValue]
    revision: int
    cluster: str


class Change(NamedTuple):
    """Of a watch. events: all of that revision, or none, and it is only known to work."""

    events: list[KeyValue]
    revision: int


class Etcd:
    """One client. Needs a loop that runs."""

    def __init__(self, access: Access, user_agent: str) -> None:
        self._access = access
        self._at = random.randrange(len(access.members))
        self._token = ""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=16, resolver=Names(), use_dns_cache=False, ssl=access.tls or True
            ),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    @property
    def member(self) -> str:
        """The one that is asked."""
        return self._access.members[self._at]

    def leave(self) -> None:
        """The next one is asked from now on."""
        self._at = (self._at + 1) % len(self._access.members)
        self._token = ""

    async def close(self) -> None:
        await self._session.close()

    # --- keys -------------------------------------------------------------------------------

    async def range(self, first: str, end: str = "", most: int = MAX_KEYS) -> Range:
        """The keys from `first` to before `end`, or that one, as the majority has them."""
        asked: dict[str, Any] = {"key": packed(first), "limit": str(most + 1)}
        if end:
            asked["range_end"] = packed(end)
        answer = await self._ask("kv/range", asked)
        with self._sense():
            header = mapping(answer.get("header"))
            found = [key_value(each) for each in listing(answer.get("kvs"), most)]
            revision, cluster = number(header.get("revision")), str(header.get("cluster_id"))[:20]
            if answer.get("more") or not revision:
                raise Malformed(f"more than {most} keys, or no revision")
        return Range(found, revision, cluster)

    async def change(
        self,
        unchanged: Mapping[str, int],
        put: Mapping[str, bytes],
        delete: Sequence[str] = (),
        lease: int = 0,
        ranges: Mapping[str, str] = _NOTHING,
    ) -> int:
        """All of it, if none of `unchanged` has another revision than that (0 = it is not there);
        then the revision that it has now; else nothing, and 0. lease: the keys go with it. ranges:
        first -> end; all keys in them are deleted."""
        compare = [
            {
                "key": packed(key),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": str(revision),
            }
            for key, revision in unchanged.items()
        ]
        acts: list[dict[str, Any]] = [
            {"request_put": {"key": packed(key), "value": packed(value), "lease": str(lease)}}
            for key, value in put.items()
        ]
        acts += [{"request_delete_range": {"key": packed(key)}} for key in delete]
        acts += [
            {"request_delete_range": {"key": packed(first), "range_end": packed(end)}}
            for first, end in ranges.items()
        ]
        answer = await self._ask("kv/txn", {"compare": compare, "success": acts})
        if answer.get("succeeded") is not True:
            return 0
        with self._sense():
            revision = number(mapping(answer.get("header")).get("revision"))
            if not revision:
                raise Malformed("a change without a revision")
        return revision

    # --- leases -----------------------------------------------------------------------------

    async def grant(self, seconds: int) -> int:
        """A lease that ends so long after it was kept alive last."""
        answer = await self._ask("lease/grant", {"TTL": str(seconds)})
        with self._sense():
            found = lease_id(answer.get("ID"))
            if not found:
                raise Malformed("a lease without a number")
        return found

    async def keep_alive(self, lease: int) -> bool:
        """False: it has ended."""
        answer = await self._ask("lease/keepalive", {"ID": str(lease)})
        with self._sense():
            return number(mapping(answer.get("result")).get("TTL")) > 0

    async def revoke(self, lease: int) -> None:
        """It ends, and what goes with it."""
        await self._ask("lease/revoke", {"ID": str(lease)})

    # --- changes ----------------------------------------------------------------------------

    async def watch(self, first: str, end: str, revision: int) -> AsyncIterator[Change]:
        """What happens to these keys from that revision on, until it fails; an empty change comes
        first, when it works. Raises Compacted."""
        asked = {
            "create_request": {
                "key": packed(first),
                "range_end": packed(end),
                "start_revision": str(revision),
            }
        }
        # Without a leader there is nothing to be told, which it says then.
        headers = {**await self._headers(), "Grpc-Metadata-Hasleader": "true"}
        timeout = aiohttp.ClientTimeout(connect=ANSWER_TIME, sock_connect=ANSWER_TIME)
        try:
            async with self._session.post(
                f"{self.member}/v3/watch",
                data=json.dumps(asked),
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                if answer.status != 200:
                    self._refused(answer.status, await self._body(answer))
                async for line in self._lines(answer):
                    with self._sense():
                        change = self._change(decoded(line))
                    yield change
        except _TokenIsOver as error:
            self._token = ""
            raise Away(str(error)) from None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            raise Away(self._text(error)) from None
        raise Away(f"{self.member}: the watch has ended")

    def _change(self, answer: dict[str, Any]) -> Change:
        """Raises Malformed, Compacted, Away."""
        if "error" in answer:
            error = mapping(answer["error"])
            raise Away(f"{self.member}: {printable(str(error.get('message')))[:SHOWN]}")
        result = mapping(answer.get("result"))
        if number(result.get("compact_revision")):
            raise Compacted(f"{self.member}: it has been compacted")
        if result.get("canceled"):
            why = printable(str(result.get("cancel_reason")))[:SHOWN]
            raise Away(f"{self.member}: the watch was cancelled: {why}")
        events = [
            key_value(mapping(event).get("kv"), deleted=event.get("type") == "DELETE")
            for event in map(mapping, listing(result.get("events"), MAX_EVENTS))
        ]
        return Change(events, number(mapping(result.get("header")).get("revision")))

    async def _lines(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Raises Away for one that is too long."""
        held = bytearray()
        async for part in answer.content.iter_any():
            held += part
            if b"\n" in part:
                *lines, held = held.split(b"\n")
                for line in lines:
                    if line.strip():
                        yield bytes(line)
            if len(held) > MAX_ANSWER:
                raise Away(f"{self.member}: a line of more than {MAX_ANSWER >> 20} MiB")

    # --- requests ---------------------------------------------------------------------------

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._asked(path, asked, await self._headers())
        except _TokenIsOver:
            self._token = ""
        try:
            return await self._asked(path, asked, await self._headers())
        except _TokenIsOver as error:
            raise Denied(str(error)) from None

    async def _headers(self) -> dict[str, str]:
        if self._access.user and not self._token:
            asked = {"name": self._access.user, "password": self._access.password}
            try:
                answer = await self._asked("auth/authenticate", asked, {})
            except _TokenIsOver as error:
                raise Denied(str(error)) from None
            token = answer.get("token")
            if not isinstance(token, str) or not token.isprintable() or len(token) > 8192:
                raise Away(f"{self.member}: a token that makes no sense")
            self._token = token
        given = {"Content-Type": "application/json"}
        return {**given, "Authorization": self._token} if self._token else given

    async def _asked(
        self, path: str, asked: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(
            WHOLE_TIME, connect=ANSWER_TIME, sock_connect=ANSWER_TIME, sock_read=PART_TIME
        )
        try:
            async with self._session.post(
                f"{self.member}/v3/{path}",
                data=json.dumps(asked),
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                body = await self._body(answer)
                if answer.status != 200:
                    self._refused(answer.status, body)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            raise Away(self._text(error)) from None
        with self._sense():
            found = decoded(body)
            if "error" in found:
                self._refused(500, body)
            return found

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        held = bytearray()
        async for part in answer.content.iter_any():
            held += part
            if len(held) > MAX_ANSWER:
                raise Away(f"{self.member}: an answer of more than {MAX_ANSWER >> 20} MiB")
        return bytes(held)

    def _refused(self, status: int, body: bytes) -> None:
        """Raises Denied where another member would say the same, else Away."""
        text = ""
        with suppress(Malformed):
            found = decoded(body)
            error = found.get("error")
            text = str(error.get("message") if isinstance(error, dict) else error or "")
        if "space exceeded" in text:
            text += ": make room (`etcdctl compact`, `defrag`), then `etcdctl alarm disarm`"
        if b"HTTPS server" in body[:SHOWN]:
            text = "it speaks TLS: its endpoint is https://"
        text = printable(text)[:SHOWN]
        if status == 401 or "invalid auth token" in text:
            raise _TokenIsOver(f"{self.member}: {text or status}")
        if "space exceeded" in text:
            raise Denied(f"{self.member}: {text}")
        # No leader, no time: the gateway has no better code for these than it has for
        # what is wrong with a request.
        if status in (400, 403) and not any(word in text for word in _OF_THE_MOMENT):
            raise Denied(f"{self.member}: {text or f'it answers {status}'}")
        raise Away(f"{self.member}: {text or f'it answers {status}'}")

    def _sense(self) -> _Sense:
        return _Sense(self.member)

    def _text(self, error: BaseException) -> str:
        return f"{self.member}: {printable(_text_of(error))[:SHOWN]}"


_OF_THE_MOMENT = ("leader", "timed out", "too many requests", "stopped")


def _text_of(error: BaseException) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ServerTimeoutError):
        text = f"no answer within {ANSWER_TIME:g} s"
    elif isinstance(error, asyncio.TimeoutError):
        text = f"no whole answer within {WHOLE_TIME:g} s"
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "it does not fit"
        text = f"its certificate is not trusted: {why}"
    elif isinstance(cause, OSError) and "[SSL" in str(cause):  # its errno is none of the kernel's
        text = _tls_text(str(cause))
    elif isinstance(cause, OSError) and cause.errno:
        text = error_text(cause.errno)
    elif isinstance(error, aiohttp.ClientConnectorError) and isinstance(cause, ConnectionError):
        text = "closed in the TLS handshake: does it speak TLS? else its endpoint is http://"
    elif isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionError)):
        text = "closed without an answer"
    elif isinstance(error, aiohttp.ClientPayloadError):
        text = "closed in the middle of an answer"
    return text


def _tls_text(text: str) -> str:
    """Of what OpenSSL says: `[SSL: NAME] name`, and more around that."""
    if "WRONG_VERSION_NUMBER" in text:
        return "it does not speak TLS: its endpoint is http://"
    if "CERTIFICATE_REQUIRED" in text or "BAD_CERTIFICATE" in text:
        return "it wants a certificate that it trusts: fleet.etcd.certificate"
    return f"TLS: {text.partition('[SSL')[2].partition('] ')[2].partition(' (_ssl')[0] or text}"


class _TokenIsOver(Exception):
    pass


class _Sense:
    """Around what reads an answer: one that makes no sense is as good as none."""

    def __init__(self, member: str) -> None:
        self._member = member

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Malformed):
            raise Away(f"{self._member}: it sends {error}") from None
