"""Looks up the host names of endpoints, again and again. Runs in control.

aiodns (c-ares) does it: it knows /etc/hosts, and tells how long an answer is good for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiodns
import pycares

from tcpmux.config import Address, HostName
from tcpmux.config.address import parse_endpoint
from tcpmux.config.turns import turns

log = logging.getLogger("tcpmux.control")

QUERY_TIME = 2.0  # s for one server's answer
TRIES = 2
LEAST_TTL, MOST_TTL = 1.0, 3600.0  # s
UNKNOWN_TTL = 10.0  # s; of what /etc/hosts says
FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # s
AT_ONCE = 50  # lookups


class LookupFailed(Exception):
    """A name has no address now, or nobody could be asked. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses as often as they take turns, and for how many s they are good."""

    addresses: tuple[Address, ...]
    ttl: float


class Resolver:
    """One lookup. servers: IP:port; none = those of /etc/resolv.conf."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._dns = aiodns.DNSResolver(
            nameservers=list(servers) or None, timeout=QUERY_TIME, tries=TRIES
        )
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        await self._dns.close()

    async def look_up(self, name: HostName) -> Found:
        """Raises LookupFailed."""
        async with self._at_once:
            if name.port:
                return await self._hosts([(name.name, name.port, 1)])
            return await self._service(name.name)

    async def _service(self, name: str) -> Found:
        try:
            answer = await self._dns.query_dns(name, "SRV")
        except aiodns.error.DNSError as error:
            raise LookupFailed(_reason(error)) from None
        records = [
            (record.data, record.ttl)
            for record in answer.answer
            if isinstance(record.data, pycares.SRVRecordData)
        ]
        if not records:
            raise LookupFailed("it has no SRV record")
        # RFC 2782: the lowest priority that can be reached; whether it can, a health check knows.
        first = min(data.priority for data, _ in records)
        chosen = [(data, ttl) for data, ttl in records if data.priority == first]
        found = await self._hosts([(data.target, data.port, data.weight) for data, _ in chosen])
        return Found(found.addresses, min(found.ttl, _ttl(min(ttl for _, ttl in chosen))))

    async def _hosts(self, hosts: Sequence[tuple[str, int, int]]) -> Found:
        """Of (name, port, weight)."""
        weighted: list[tuple[Address, int]] = []
        ttl = MOST_TTL
        for host, port, weight in hosts:
            try:
                answer = await self._dns.getaddrinfo(
                    host.removesuffix("."), family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
                )
            except aiodns.error.DNSError as error:
                raise LookupFailed(_reason(error)) from None
            texts = dict.fromkeys(node.addr[0].decode() for node in answer.nodes)
            weighted += [(Address.of_ip(text, port), weight) for text in sorted(texts)]
            ttl = min(ttl, _ttl(min((node.ttl for node in answer.nodes), default=0)))
        if not weighted:
            raise LookupFailed("it has no address")
        return Found(turns(weighted), ttl)


def _ttl(seconds: int) -> float:
    return min(max(float(seconds), LEAST_TTL), MOST_TTL) if seconds > 0 else UNKNOWN_TTL


def _reason(error: Exception) -> str:
    return str(error.args[1] if len(error.args) > 1 else error)


Tell = Callable[[HostName, Sequence[Address]], Awaitable[None]]


class NameWatch:
    """Keeps the addresses of the names in use up to date. tell() gets every change."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._servers: tuple[str, ...] = ()
        self._resolver: Resolver | None = None
        self._known: dict[HostName, tuple[Address, ...]] = {}
        self._tasks: dict[HostName, asyncio.Task[None]] = {}

    async def watch(
        self, known: dict[HostName, tuple[Address, ...]], servers: Sequence[str]
    ) -> None:
        """From now on these names, with the addresses in force, and no others."""
        if tuple(servers) != self._servers or self._resolver is None:
            await self.close()
            self._servers = tuple(servers)
            self._resolver = Resolver(servers)
        for name in self._tasks.keys() - known.keys():
            self._tasks.pop(name).cancel()
            self._known.pop(name, None)
        for name, addresses in known.items():
            self._known[name] = addresses
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._follow(name))

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        for task in self._tasks.values():
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    async def _follow(self, name: HostName) -> None:
        assert self._resolver is not None
        retry = FIRST_RETRY
        failing = False
        while True:
            try:
                found = await self._resolver.look_up(name)
            except LookupFailed as error:
                if not failing:
                    failing = True
                    kept = self._known.get(name, ())
                    log.warning(
                        "%s can't be looked up (%s): %s",
                        name,
                        error,
                        f"it keeps {', '.join(map(str, dict.fromkeys(kept)))}"
                        if kept
                        else "its share of connections is reset until it can",
                    )
                await asyncio.sleep(retry)
                retry = min(retry * 2, LAST_RETRY)
                continue
            if failing:
                log.info("%s can be looked up again", name)
            failing, retry = False, FIRST_RETRY
            if found.addresses != self._known.get(name):
                self._known[name] = found.addresses
                await self._tell(name, found.addresses)
            await asyncio.sleep(found.ttl)


async def look_up_all(
    names: Iterable[HostName], servers: Sequence[str], seconds: float
) -> dict[HostName, tuple[Address, ...] | str]:
    """For each name its addresses, or why there are none after `seconds`."""
    names = list(names)
    resolver = Resolver(servers)
    try:
        tasks = {name: asyncio.create_task(resolver.look_up(name)) for name in names}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=seconds)
        found: dict[HostName, tuple[Address, ...] | str] = {}
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                found[name] = f"no answer within {seconds:g} s"
            elif (error := task.exception()) is not None:
                found[name] = str(error) if isinstance(error, LookupFailed) else repr(error)
            else:
                found[name] = task.result().addresses
        return found
    finally:
        await resolver.close()


def look_up_now(
    names: Iterable[HostName], servers: Sequence[str], seconds: float = 5.0
) -> dict[HostName, tuple[Address, ...] | str]:
    """As look_up_all(), for programs without an event loop."""
    return asyncio.run(look_up_all(names, servers, seconds))


def parse_name(text: str) -> HostName:
    """What str() of a HostName has written."""
    name = parse_endpoint(text)
    assert isinstance(name, HostName)
    return name
