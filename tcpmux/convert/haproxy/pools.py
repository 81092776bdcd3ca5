"""A backend as a destination."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import (
    DestinationPolicy,
    EndpointPolicy,
    Keepalive,
    Queue,
    Retry,
)
from tcpmux.convert.draft import Pool, Server
from tcpmux.convert.haproxy.access import access_of
from tcpmux.convert.haproxy.health import Health, can_go_down, health_of, out_of_range
from tcpmux.convert.haproxy.keepalive import keepalive_of
from tcpmux.convert.haproxy.proxies import Section, guarded, mark_known
from tcpmux.convert.haproxy.servers import Line, Servers, servers_of
from tcpmux.convert.haproxy.timeouts import connect_timeout, queue_timeout, times_of
from tcpmux.convert.haproxy.values import Refused, Unsupported, whole
from tcpmux.convert.report import Report

MOST_PRIORITY = 100
DEFAULT_RETRIES = 3


@dataclass(slots=True)
class Backend:
    """balance: HAProxy's word."""

    section: Section
    servers: Servers
    balance: str
    policy: DestinationPolicy
    retry: Retry
    all_backups: bool


def backend_of(front: Section, back: Section, report: Report) -> Backend:
    if back is not front:
        mark_known(back, report)
        back.at.mapped()
        _own_rules(back, report)
    servers = servers_of(back, report)
    for line in servers.all:
        out_of_range([line], report)
    times = times_of(front, back, report)
    all_backups = _backups(back, servers)
    health = health_of(back, servers, times, report)
    balance, word = _balance(back, servers, report)
    policy = DestinationPolicy(
        connect_timeout=connect_timeout(back, times),
        idle_timeout=times.idle,
        half_open_timeout=times.half_open,
        balance=word,
        check=health.check,
        passive=health.passive,
        slow_start=health.slow_start,
        keepalive=keepalive_of(front, back, report),
    )
    policy = _with_queue(back, servers, balance, policy, times)
    retry = _retry(back, balance, servers, report)
    if back.last("source") is not None:
        back.last("source").at.changes(  # type: ignore[union-attr]
            note="servers see another source address", needs="source addresses"
        )
    return Backend(back, servers, balance, policy, retry, all_backups)


def _own_rules(back: Section, report: Report) -> None:
    for rule in access_of(back, report, stages=("content",)).rules:
        if rule.accepts is None or (rule.accepts and not rule.condition.alternatives):
            rule.setting.at.mapped()
        else:
            rule.setting.at.changes(
                note="a backend's own rules on clients are not applied", needs="rules by source"
            )


def _backups(back: Section, servers: Servers) -> bool:
    """Whether all backups serve at once. Those that HAProxy never uses are left out."""
    together = back.is_on("option allbackups")
    if not servers.backups or not servers.active:
        return together
    if all(can_go_down(line) for line in servers.active):
        return together
    for line in servers.backups:
        line.options["backup"].mapped(
            "it is left out: HAProxy never uses it, as a server that is no backup has no check"
        )
    servers.backups = []
    return together


_BALANCE = {
    "roundrobin": ("round_robin", ""),
    "static-rr": ("round_robin", ""),
    "leastconn": ("least_connections", ""),
    "source": ("source_hash", "each client stays at a server, at another than with HAProxy"),
    "first": ("round_robin", ""),
    "uri": ("round_robin", "HAProxy uses roundrobin with mode tcp"),
    "url_param": ("round_robin", "HAProxy uses roundrobin with mode tcp"),
    "hdr": ("round_robin", "HAProxy uses roundrobin with mode tcp"),
}


def _balance(back: Section, servers: Servers, report: Report) -> tuple[str, str]:
    """(HAProxy's word, tcpmux's)."""
    setting = back.last("balance")
    if setting is None:
        return "roundrobin", "round_robin"
    found: list[tuple[str, str, str]] = []

    def read() -> None:
        name = re.split(r"[(]", setting.arg().text)[0]
        if name == "hash" and [w.text for w in setting.args[1:]] == ["src"]:
            name = "source"
        if name == "random":
            draws = re.fullmatch(r"random(?:\(([0-9]{1,9})\))?", setting.arg().text)
            if not draws:
                raise Refused("expected random or random(DRAWS)")
            drawn = int(draws[1] or 2)
            if drawn < 1:
                raise Refused("expected at least one draw")
            word = "random_two" if drawn > 1 else "round_robin"
            note = "" if drawn == 2 else "the shares are the same, in turns"
            found.append(("random", word, note if drawn == 1 else "" if drawn == 2 else "of two"))
            return
        if name not in _BALANCE:
            setting.at.changes(note="connections would take turns", needs="hashes of content")
            return
        found.append((name, *_BALANCE[name]))

    guarded(report, setting.at, read)
    if not found:
        return "roundrobin", "round_robin"
    name, word, note = found[0]
    setting.at.mapped(note=note)
    _hash_type(back, name)
    if name == "first":
        _first(servers)
    return name, word


def _hash_type(back: Section, name: str) -> None:
    setting = back.last("hash-type")
    if setting is not None and name == "source":
        note = "" if "consistent" in [w.text for w in setting.args] else (
            "if a server goes down, only its own clients move"
        )  # fmt: skip
        setting.at.mapped(note=note)
    factor = back.last("hash-balance-factor")
    if factor is not None and name == "source" and factor.args and factor.args[0].text != "0":
        factor.at.changes(note="no server's load would be bounded", needs="bounded loads")


def _first(servers: Servers) -> None:
    for line in servers.backups:
        line.options["backup"].changes(
            "it would be used as soon as the others are full", "backups of full servers"
        )


def _with_queue(
    back: Section, servers: Servers, balance: str, policy: DestinationPolicy, times: object
) -> DestinationPolicy:
    """Connections beyond the servers' maxconn wait."""
    from tcpmux.convert.haproxy.timeouts import Times

    assert isinstance(times, Times)
    limited = [line for line in servers.all if line.maxconn]
    for line in servers.all:
        queue = line.options.get("maxqueue")
        if queue is not None:
            if balance == "source" and line.maxconn:
                queue.changes("the queue of a server has no length of its own", "queues of servers")
            else:
                queue.harmless("connections wait for any server")
    setting = back.last("timeout queue")
    if not limited:
        if setting is not None:
            setting.at.harmless(note="no server has maxconn, so none waits")
        return policy
    for line in limited:
        option = line.options["maxconn"]
        if servers.backups and line in servers.active and servers.active:
            option.changes("connections beyond it would go to a backup", "queues of servers")
        elif balance == "source" and len(servers.active) > 1:
            option.changes("connections beyond it would go to another server", "queues of servers")
    try:
        timeout = queue_timeout(times)
    except Unsupported as error:
        if setting is not None:
            setting.at.changes(note=str(error))
        return policy
    if len(limited) < len(servers.all):
        return policy  # one is never full
    return replace(policy, on_full="queue", queue=Queue(MAX_CONNECTIONS, timeout))


def _retry(back: Section, balance: str, servers: Servers, report: Report) -> Retry:
    """HAProxy tries the same server again, unless option redispatch lets it try others."""
    retries = DEFAULT_RETRIES
    setting = back.last("retries")
    if setting is not None:
        numbers: list[int] = []
        guarded(report, setting.at, lambda: numbers.append(whole(setting.arg().text, 0, 2**31 - 1)))
        retries = numbers[0] if numbers else 0
        setting.at.mapped()
    on = back.last("retry-on")
    if on is not None:
        words = [w.text for w in on.args]
        if words == ["none"]:
            retries = 0
        elif words and "conn-failure" not in words and "all-retryable-errors" not in words:
            retries = 0
        on.at.mapped()
    option = back.last("option redispatch")
    others = 0
    if option is not None:
        every = int(option.args[0].text) if option.args and _is_small(option.args[0].text) else 0
        option.at.mapped()
        if balance in ("roundrobin", "static-rr", "random") and len(servers.active) > 1:
            others = retries
        elif every > 0:
            others = retries // every
        else:
            others = min(retries, 1)
    elif setting is not None and retries and len(servers.all) > 1:
        setting.at.mapped(
            *setting.at.words, note="HAProxy tries the same server again, tcpmux none"
        )
    if len(servers.all) <= 1:
        return Retry()
    attempts = min(1 + others, 255)
    if attempts == 1:
        return Retry(attempts=1)
    return Retry(attempts=attempts, budget=100, burst=1_000_000)


def _is_small(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,9}", text, re.ASCII))


def pool_of(backend: Backend, port: int) -> Pool:
    """For connections to that port."""
    made: list[Server] = []
    for tier, lines in ((0, backend.servers.active), (1, backend.servers.backups)):
        for index, line in enumerate(_ordered(backend, lines)):
            priority = tier
            if backend.balance == "first" and not tier:
                priority = index
            elif tier and not backend.all_backups:
                priority = 1 + index
            if backend.balance == "first" and tier:
                priority = min(len(backend.servers.active) + index, MOST_PRIORITY)
            if priority > MOST_PRIORITY:
                line.at.changes(note=f"tcpmux has {MOST_PRIORITY} priorities", needs="priorities")
                continue
            try:
                found = line.endpoint_for(port)
            except Unsupported as error:
                line.at.changes(note=str(error))
                continue
            limit = min(line.maxconn * line.count, MAX_CONNECTIONS)
            made.append(Server(found, line.weight * line.count, EndpointPolicy(limit, priority)))
    return Pool(backend.section.name, _merged(backend, made), backend.policy)


def _ordered(backend: Backend, lines: Sequence[Line]) -> list[Line]:
    if backend.balance == "first":
        return sorted(lines, key=lambda line: line.order)
    return list(lines)


def _merged(backend: Backend, servers: Sequence[Server]) -> list[Server]:
    """The same address twice is one endpoint, with the sum of both limits."""
    found: dict[object, Server] = {}
    for server in servers:
        before = found.get(server.endpoint)
        if before is None:
            found[server.endpoint] = server
            continue
        one, two = before.policy, server.policy
        limit = one.max_connections + two.max_connections
        if not (one.max_connections and two.max_connections):
            limit = 0
        if one.priority != two.priority:
            backend.section.at.changes(
                note=f"{server.endpoint} is a server and a backup, or of two ranks",
                needs="endpoints twice",
            )
            continue
        found[server.endpoint] = Server(
            server.endpoint, before.weight + server.weight,
            EndpointPolicy(min(limit, MAX_CONNECTIONS), one.priority),
        )  # fmt: skip
    return list(found.values())
