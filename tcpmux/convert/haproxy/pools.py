"""A backend as a destination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import (
    DestinationPolicy,
    EndpointPolicy,
    Retry,
)
from tcpmux.convert.draft import Pool, Server
from tcpmux.convert.haproxy.access import access_of
from tcpmux.convert.haproxy.balance import balance_of
from tcpmux.convert.haproxy.headers import check_sending, send_proxy_of
from tcpmux.convert.haproxy.health import can_go_down, health_of, out_of_range
from tcpmux.convert.haproxy.keepalive import keepalive_of
from tcpmux.convert.haproxy.proxies import Section, mark_known
from tcpmux.convert.haproxy.retries import retry_of, with_queue
from tcpmux.convert.haproxy.servers import Line, Servers, leave_out, servers_of
from tcpmux.convert.haproxy.timeouts import connect_timeout, times_of
from tcpmux.convert.haproxy.values import Unsupported
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
    retry: Retry | None  # None: there is nothing to try again
    all_backups: bool


def backend_of(front: Section, back: Section, report: Report) -> Backend:
    if back is not front:
        mark_known(back, report)
        back.at.mapped()
        _own_rules(back, report)
    servers = Servers() if back.is_disabled else servers_of(back, report)
    for line in servers.all:
        out_of_range([line])
    times = times_of(front, back, report)
    all_backups = _backups(back, servers)
    health = health_of(back, servers, times, report)
    balance, word = balance_of(back, servers, report)
    send_proxy = send_proxy_of(servers)
    policy = DestinationPolicy(
        send_proxy=send_proxy,
        connect_timeout=connect_timeout(back, times),
        idle_timeout=times.idle,
        half_open_timeout=times.half_open,
        balance=word,
        check=check_sending(servers, health.check, send_proxy),
        passive=health.passive,
        slow_start=health.slow_start,
        keepalive=keepalive_of(front, back, report),
    )
    policy = with_queue(back, servers, balance, policy, times)
    retry = retry_of(back, balance, servers, report)
    if back.last("source") is not None:
        back.last("source").at.changes(  # type: ignore[union-attr]
            note="servers see the source address that the system chooses", needs="source addresses"
        )
    return Backend(back, servers, balance, policy, retry, all_backups)


def _own_rules(back: Section, report: Report) -> None:
    for rule in access_of(back, report, stages=("content",)).rules:
        if rule.accepts is None or (rule.accepts and not rule.condition.alternatives):
            rule.setting.at.mapped()
        else:
            rule.setting.at.changes(
                note="tcpmux has rules on clients only for routes, not for destinations",
                needs="rules by source",
            )


def _backups(back: Section, servers: Servers) -> bool:
    """Whether all backups serve at once. Those that HAProxy never uses are left out."""
    together = back.is_on("option allbackups")
    if not servers.backups or not servers.active:
        return together
    if all(can_go_down(line) for line in servers.active):
        return together
    for line in servers.backups:
        leave_out(line)
        line.options["backup"].mapped(
            "it is left out: HAProxy never uses it, as a server that is not a backup has no check"
        )
    servers.backups = []
    return together


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
                line.at.changes(
                    note=f"tcpmux has at most {MOST_PRIORITY} priorities", needs="priorities"
                )
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
                note=f"{server.endpoint} appears with two priorities",
                needs="an endpoint with two priorities",
            )
            continue
        found[server.endpoint] = Server(
            server.endpoint, before.weight + server.weight,
            EndpointPolicy(min(limit, MAX_CONNECTIONS), one.priority),
        )  # fmt: skip
    return list(found.values())
