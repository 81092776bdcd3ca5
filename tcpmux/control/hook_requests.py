"""The HTTP requests of hooks. Runs in control.

Nobody trusts who answers: every request has a time limit, of an answer so much is read, redirects
are errors, names are looked up as those of endpoints are, without a thread. A failure is a
HookFailed whose text names the host and never the path, which may be a secret.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tcpmux.config import HostName
from tcpmux.control.connecting import error_text
from tcpmux.control.resolver import LookupFailed, Resolver
from tcpmux.errors import printable
from tcpmux.rollout.hooks import QUERY_PATH, Query, site_of

MAX_ANSWER = 1 << 20  # bytes of one that is looked at
AT_ONCE = 32  # connections
MAX_ADDRESSES = 4  # of a name, that are tried
SHOWN = 150  # characters of an answer


class HookFailed(Exception):
    """Its text says why, in a few words."""


class Names(AbstractResolver):
    def __init__(self) -> None:
        self._resolver = Resolver()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        try:
            found = await self._resolver.look_up(HostName(host, port))
        except LookupFailed as error:
            raise OSError(f"its name can't be looked up: {error}") from None
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=port,
                family=address.family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found.addresses[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        await self._resolver.close()


class HookRequests:
    """Of all hooks of an instance. timeout of its methods: s."""

    def __init__(self, user_agent: str) -> None:
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, headers: Mapping[str, str], timeout: float) -> int:
        """The status of the answer. Raises HookFailed."""
        status, _ = await self._asked("GET", url, None, headers, timeout, most=0)
        return status

    async def post(self, url: str, document: Any, timeout: float) -> int:
        """As get(); document: becomes JSON."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps(document).encode()
        status, _ = await self._asked("POST", url, body, headers, timeout, most=0)
        return status

    async def value_of(self, query: Query, timeout: float) -> list[float]:
        """Of each series that a query finds now. Raises HookFailed."""
        url = f"{query.url.rstrip('/')}{QUERY_PATH}"
        form = aiohttp.FormData({"query": query.query})
        status, body = await self._asked("POST", url, form, {}, timeout, most=MAX_ANSWER)
        try:
            return values_in(status, body)
        except HookFailed as error:
            raise HookFailed(f"{site_of(url)}: {error}") from None

    async def _asked(
        self,
        method: str,
        url: str,
        body: Any,
        headers: Mapping[str, str],
        timeout: float,
        *,
        most: int,
    ) -> tuple[int, bytes]:
        """most: bytes of the answer's body that are read."""
        try:
            async with self._opened().request(
                method,
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as answer:
                return answer.status, await _read(answer, most) if most else b""
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            raise HookFailed(f"{site_of(url)}: {_reason(error, timeout)}") from None
        except HookFailed as error:
            raise HookFailed(f"{site_of(url)}: {error}") from None

    def _opened(self) -> aiohttp.ClientSession:
        """Needs a loop that runs."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=AT_ONCE, force_close=True, resolver=Names(), use_dns_cache=False
                ),
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    parts = bytearray()
    async for part in answer.content.iter_any():
        parts += part
        if len(parts) > most:
            raise HookFailed(f"its answer has more than {most >> 20} MiB")
    return bytes(parts)


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ServerDisconnectedError, "closed without an answer"),
    (ConnectionError, "closed without an answer"),
    (aiohttp.ClientPayloadError, "closed in the middle of its answer"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
)


def _reason(error: Exception, seconds: float) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientConnectorCertificateError
    ):
        cause = error.os_error
        if isinstance(cause, ssl.SSLError):  # its errno is none of the system's
            why = (cause.reason or "no reason given").replace("_", " ").lower()
            return f"TLS failed: {printable(why)[:SHOWN]}"
        return error_text(cause.errno) if cause.errno else printable(str(cause))[:SHOWN]
    known = next((text for kind, text in _REASONS if isinstance(error, kind)), "")
    if not known and isinstance(error, OSError) and error.errno:
        return error_text(error.errno)
    return known or printable(str(error) or type(error).__name__)[:SHOWN]


def values_in(status: int, body: bytes) -> list[float]:
    """Of an answer of Prometheus. Raises HookFailed."""
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            raise HookFailed(f"the query failed: {printable(str(answer['error']))[:SHOWN]}")
        data = answer["data"]
        kind, result = data["resultType"], data["result"]
        if kind == "scalar":
            return [_number(result[1])]
        if kind == "vector":
            return [_number(each["value"][1]) for each in result]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise HookFailed(f"answered {status}, and not as Prometheus does") from None
    raise HookFailed(f"the query gives a {printable(str(kind))[:30]}, and no number")


def _number(text: Any) -> float:
    """Raises ValueError, TypeError."""
    if not isinstance(text, str):
        raise TypeError
    return float(text)


def outside(values: list[float], query: Query) -> str:
    """How they are not as they have to be; "" = they are. One that is no number is none."""
    if not values:
        return "the query finds nothing"
    for value in values:
        if math.isnan(value):
            return "the value is NaN"
        if value > query.high:
            return f"{value:g} is above {query.high:g}"
        if value < query.low:
            return f"{value:g} is below {query.low:g}"
    return ""
