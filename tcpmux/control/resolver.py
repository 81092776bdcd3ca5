"""Looks host names of endpoints up, once. Runs in control, and in programs without one.

aiodns (c-ares) asks; /etc/hosts comes first. What an answer says is not trusted: numbers are
bounded, and what can't be an endpoint is left out with a note.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiodns
import pycares

from tcpmux.config import Address, HostName
from tcpmux.config.address import parse_endpoint
from tcpmux.config.turns import turns
from tcpmux.control.dns_records import (
    MAX_TTL,
    UNKNOWN_TTL,
    rank,
    reason,
    shown,
    unusable,
    usable_ttl,
    why_not,
)
from tcpmux.control.hosts_file import HostsFile
from tcpmux.control.timeouts import within
from tcpmux.errors import printable

log = logging.getLogger("tcpmux.control")

QUERY_TIME = 2.0  # s for one server's answer
TRIES = 2
LOOK_UP_TIME = 20.0  # s for all that one name takes
OTHER_FAMILY_TIME = 1.0  # s that IPv4 waits for IPv6, or the other way round
# s; for a name that has no records of one family, a target that does not exist. The answer tells a
# time for that (RFC 2308), which the library keeps to itself.
NEGATIVE_TTL = 30.0
AT_ONCE = 50  # hosts that are being looked up
MAX_ADDRESSES = 4096  # of one name; no more A records fit into an answer
MAX_TARGETS = 256  # SRV records of one name
MAX_NOTES = 10
# c-ares answers from a cache of its own, which takes an answer without records as good for an hour
# (github.com/c-ares/c-ares/issues/1293) and can't be turned off from here. It is a channel's, so a
# channel is for lookups that begin at the same time: less than MIN_TTL and any retry.
CHANNEL_TIME = 0.5  # s

_DNS_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_NOT_THERE = (pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENOTFOUND)

# The addresses that a host had, by host and family: what is kept if one family can't be asked for.
Memory = dict[tuple[str, socket.AddressFamily], tuple[str, ...]]


class LookupFailed(Exception):
    """A name has no address now, or nobody could be asked. The text is the reason."""


class _NotThere(LookupFailed):
    """Who was asked has answered: there is no such name, or it has no address."""


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses as often as they take turns, and for how many s they are good. None: the name says
    that there is no service. notes: what was left out, or went wrong, and why."""

    addresses: tuple[Address, ...]
    ttl: float
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Channel:
    dns: aiodns.DNSResolver
    began: float  # monotonic
    users: int = 0


@dataclass(slots=True)
class _Asked:
    """One lookup under way."""

    before: Memory
    now: Memory = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ttl: float = MAX_TTL

    def good_for(self, seconds: float) -> None:
        self.ttl = min(self.ttl, seconds)


class Resolver:
    """servers: IP:port; none = those of /etc/resolv.conf."""

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = list(dict.fromkeys(servers)) or None
        self._hosts_file = HostsFile()
        self._current: _Channel | None = None
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        channel, self._current = self._current, None
        if channel is not None and not channel.users:
            await channel.dns.close()

    async def look_up(self, name: HostName, memory: Memory | None = None) -> Found:
        """memory: what it fills for the next time. Raises LookupFailed."""
        asked = _Asked(memory if memory is not None else {})
        try:
            async with within(LOOK_UP_TIME):
                found = await self._look_up(name, asked)
        except asyncio.TimeoutError:
            raise LookupFailed(f"no answer within {LOOK_UP_TIME:g} s") from None
        except LookupFailed:
            raise
        except Exception as error:  # whatever an answer makes the library do
            log.debug("%s", name, exc_info=True)
            raise LookupFailed(f"invalid answer: {error!r:.200}") from error
        if memory is not None:
            memory.clear()
            memory.update(asked.now)
        return found

    async def _look_up(self, name: HostName, asked: _Asked) -> Found:
        async with self._channel() as dns:
            if name.port:
                ips = await self._host(dns, name.name, asked)
                weighted = [(Address.of_ip(ip, name.port), 1) for ip in ips]
            else:
                weighted = await self._service(dns, name.name, asked)
        if len(weighted) > MAX_ADDRESSES:
            asked.notes.insert(
                0, f"{len(weighted)} addresses, of which the first {MAX_ADDRESSES} are used"
            )
            weighted = weighted[:MAX_ADDRESSES]
        if len(asked.notes) > MAX_NOTES:
            more = len(asked.notes) - MAX_NOTES
            asked.notes[MAX_NOTES:] = [f"and {more} more"]
        return Found(turns(weighted), asked.ttl, tuple(asked.notes))

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[aiodns.DNSResolver]:
        channel = self._current
        now = time.monotonic()
        if channel is None or now - channel.began > CHANNEL_TIME:
            self._current = None
            if channel is not None and not channel.users:
                await channel.dns.close()
            dns = aiodns.DNSResolver(nameservers=self._servers, timeout=QUERY_TIME, tries=TRIES)
            channel = self._current = _Channel(dns, now)
        channel.users += 1
        try:
            yield channel.dns
        finally:
            channel.users -= 1
            if not channel.users and channel is not self._current:
                await channel.dns.close()

    # --- SRV --------------------------------------------------------------------------------

    async def _service(
        self, dns: aiodns.DNSResolver, name: str, asked: _Asked
    ) -> list[tuple[Address, int]]:
        """Of the lowest priority that has an address (RFC 2782); whether it can be reached, a
        health check knows."""
        records = await self._srv_records(dns, name, asked)
        if not records:
            return []
        by_priority: dict[int, list[pycares.SRVRecordData]] = {}
        for record in records:
            by_priority.setdefault(record.priority, []).append(record)
        failures: dict[str, LookupFailed] = {}
        for priority in sorted(by_priority):
            weighted = await self._targets(dns, by_priority[priority], asked, failures)
            if weighted:
                return weighted
        told = ", ".join(f"{printable(host)}: {why}" for host, why in list(failures.items())[:3])
        raise LookupFailed(f"none of the {len(records)} SRV targets resolves ({told})")

    async def _srv_records(
        self, dns: aiodns.DNSResolver, name: str, asked: _Asked
    ) -> list[pycares.SRVRecordData]:
        """Those that can be used; none: there is no service."""
        try:
            answer = await dns.query_dns(name, "SRV")
        except aiodns.error.DNSError as error:
            raise LookupFailed(reason(error)) from None
        found = [
            (record.data, record.ttl)
            for record in answer.answer
            if isinstance(record.data, pycares.SRVRecordData)
        ]
        if not found:
            raise LookupFailed("no SRV record")
        asked.good_for(usable_ttl(min(ttl for _, ttl in found)))
        if [data.target for data, _ in found] in (["."], [""]):
            asked.notes.append('its SRV record says ".": there is no such service')
            return []
        usable = []
        for data in sorted((data for data, _ in found), key=rank):
            why = why_not(data)
            if why:
                asked.notes.append(f"SRV target {shown(data.target)} {why}: ignored")
            else:
                usable.append(data)
        if not usable:
            raise LookupFailed(f"no usable SRV record: {asked.notes[-1]}")
        if len(usable) > MAX_TARGETS:
            asked.notes.insert(
                0, f"{len(usable)} SRV records, of which the first {MAX_TARGETS} are used"
            )
        return usable[:MAX_TARGETS]

    async def _targets(
        self,
        dns: aiodns.DNSResolver,
        records: Sequence[pycares.SRVRecordData],
        asked: _Asked,
        failures: dict[str, LookupFailed],
    ) -> list[tuple[Address, int]]:
        hosts = list(dict.fromkeys(record.target.removesuffix(".").lower() for record in records))
        answers = await asyncio.gather(
            *(self._host(dns, host, asked) for host in hosts), return_exceptions=True
        )
        ips: dict[str, Sequence[str]] = {}
        for host, answer in zip(hosts, answers, strict=True):
            if isinstance(answer, LookupFailed):
                failures[host] = answer
                asked.good_for(NEGATIVE_TTL)
                asked.notes.append(f"SRV target {host} can't be resolved: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                ips[host] = answer
        return [
            (Address.of_ip(ip, record.port), record.weight)
            for record in records
            for ip in ips.get(record.target.removesuffix(".").lower(), ())
        ]

    # --- hosts ------------------------------------------------------------------------------

    async def _host(self, dns: aiodns.DNSResolver, name: str, asked: _Asked) -> list[str]:
        """Its addresses, in order. Raises LookupFailed."""
        host = name.removesuffix(".")
        async with self._at_once:
            texts = self._hosts_file.addresses(host)
            if texts:
                asked.good_for(UNKNOWN_TTL)
            else:
                texts = await self._in_dns(dns, host, asked)
        usable = []
        for text in texts:
            why = unusable(text)
            if why:
                asked.notes.append(f"{host} resolves to {text}, {why}: ignored")
            else:
                usable.append(text)
        if not usable:
            raise _NotThere(asked.notes[-1] if texts else "no address record")
        return usable

    async def _in_dns(self, dns: aiodns.DNSResolver, host: str, asked: _Asked) -> list[str]:
        """Each family is asked for by itself: one that fails must not hide the other, nor take away
        the addresses that it had."""
        tasks = {
            family: asyncio.ensure_future(self._family(dns, host, family))
            for family in _DNS_FAMILIES
        }
        for task in tasks.values():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await _first_success(list(tasks.values()))
            answers = [
                (family, _outcome(task, "no answer in time")) for family, task in tasks.items()
            ]
        finally:
            for task in tasks.values():
                task.cancel()
        failed = [answer for _, answer in answers if isinstance(answer, LookupFailed)]
        if len(failed) == len(answers):
            # If one of them knows, it is the better reason.
            reasons = sorted(failed, key=lambda failure: isinstance(failure, _NotThere))
            raise reasons[0]
        texts: list[str] = []
        for family, answer in answers:
            if not isinstance(answer, LookupFailed):
                ips, ttl = answer
                asked.good_for(ttl)
            else:
                asked.good_for(NEGATIVE_TTL)
                ips = ()
                if not isinstance(answer, _NotThere):
                    ips = asked.before.get((host, family), ())
                    kind = "A" if family == socket.AF_INET else "AAAA"
                    if ips:
                        asked.notes.append(
                            f"{host}: the lookup of {kind} records failed ({answer}): the "
                            f"{len(ips)} known addresses stay in use"
                        )
            asked.now[host, family] = tuple(ips)
            texts += ips
        return texts

    @staticmethod
    async def _family(
        dns: aiodns.DNSResolver, host: str, family: socket.AddressFamily
    ) -> tuple[tuple[str, ...], float]:
        try:
            answer = await dns.getaddrinfo(host, family=family, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            kind = _NotThere if error.args[0] in _NOT_THERE else LookupFailed
            raise kind(reason(error)) from None
        texts = sorted({node.addr[0].decode("ascii") for node in answer.nodes})
        if not texts:
            raise _NotThere("no address record")
        ttls = [node.ttl for node in answer.nodes] + [cname.ttl for cname in answer.cnames]
        return tuple(texts), usable_ttl(min(ttls))


async def _first_success(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Until all are over, or OTHER_FAMILY_TIME after one has succeeded."""
    waiting: set[asyncio.Future[Any]] = set(tasks)
    time_left: float | None = None
    while waiting:
        done, waiting = await asyncio.wait(
            waiting, timeout=time_left, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            return
        if any(not task.exception() for task in done):
            time_left = OTHER_FAMILY_TIME


def _outcome(
    task: asyncio.Future[tuple[tuple[str, ...], float]], late: str
) -> tuple[tuple[str, ...], float] | LookupFailed:
    if not task.done():
        return LookupFailed(late)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, LookupFailed):
        return error
    raise error


async def look_up_all(
    names: Iterable[HostName], servers: Sequence[str], seconds: float
) -> dict[HostName, Found | str]:
    """For each name what it means, or why that is not known after `seconds`."""
    names = list(names)
    resolver = Resolver(servers)
    try:
        tasks = {name: asyncio.create_task(resolver.look_up(name)) for name in names}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=seconds)
        found: dict[HostName, Found | str] = {}
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                found[name] = f"no answer within {seconds:g} s"
            elif (error := task.exception()) is not None:
                found[name] = str(error) if isinstance(error, LookupFailed) else repr(error)
            else:
                found[name] = task.result()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return found
    finally:
        await resolver.close()


def look_up_now(
    names: Iterable[HostName], servers: Sequence[str], seconds: float = 5.0
) -> dict[HostName, Found | str]:
    """As look_up_all(), for programs without an event loop."""
    return asyncio.run(look_up_all(names, servers, seconds))


def parse_name(text: str) -> HostName:
    """What str() of a HostName has written."""
    name = parse_endpoint(text)
    assert isinstance(name, HostName)
    return name
