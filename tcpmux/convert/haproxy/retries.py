"""What happens when servers are full or don't answer: queues and retries."""

from __future__ import annotations

import re
from dataclasses import replace

from tcpmux.config.rows import MAX_CONNECTIONS
from tcpmux.config.settings import DestinationPolicy, Queue, Retry
from tcpmux.convert.haproxy.balance import TURNS
from tcpmux.convert.haproxy.proxies import Section, guarded
from tcpmux.convert.haproxy.servers import Servers
from tcpmux.convert.haproxy.timeouts import Times, queue_timeout
from tcpmux.convert.haproxy.values import Unsupported, whole
from tcpmux.convert.report import Report

DEFAULT_RETRIES = 3
MAX_ATTEMPTS = 255
QUEUES = "queues per server"


def with_queue(
    back: Section, servers: Servers, balance: str, policy: DestinationPolicy, times: Times
) -> DestinationPolicy:
    """Connections beyond the servers' maxconn wait."""
    setting = back.last("timeout queue")
    _mark_limits(servers, balance)
    limited = [line for line in servers.all if line.maxconn]
    if not limited and setting is not None:
        setting.at.harmless(note="no server has maxconn, so no connection waits")
    if not limited or len(limited) < len(servers.all):
        return policy  # one is never full
    try:
        timeout = queue_timeout(times)
    except Unsupported as error:
        if setting is not None:
            setting.at.changes(note=str(error))
        return policy
    return replace(policy, on_full="queue", queue=Queue(MAX_CONNECTIONS, timeout))


def _mark_limits(servers: Servers, balance: str) -> None:
    """Where a full server matters otherwise than in tcpmux."""
    for line in servers.all:
        queue = line.options.get("maxqueue")
        if queue is not None and balance == "source" and line.maxconn:
            queue.changes("tcpmux has no queue length per server", QUEUES)
        elif queue is not None:
            queue.harmless("in tcpmux, connections wait for any server")
        if not line.maxconn:
            continue
        limit = line.options.get("maxconn") or line.options["minconn"]
        if servers.backups and line in servers.active:
            limit.changes("tcpmux sends connections beyond it to a backup", QUEUES)
        elif balance == "source" and len(servers.active) > 1:
            limit.changes("tcpmux sends connections beyond it to another server", QUEUES)


def retry_of(back: Section, balance: str, servers: Servers, report: Report) -> Retry | None:
    """HAProxy tries the same server again, unless option redispatch lets it try others."""
    retries = _retries(back, report)
    others = _elsewhere(back, retries, balance in TURNS and len(servers.active) > 1)
    setting = back.last("retries")
    if setting is not None:
        same = "" if others == retries else "tcpmux does not try the same server again"
        setting.at.mapped(note=same)
    if len(servers.all) <= 1:
        return None
    if not others:
        return Retry(attempts=1)
    return Retry(attempts=min(1 + others, MAX_ATTEMPTS), budget=100, burst=1_000_000)


def _retries(back: Section, report: Report) -> int:
    numbers: list[int] = []
    setting = back.last("retries")
    if setting is not None:
        guarded(report, setting.at, lambda: numbers.append(whole(setting.arg().text, 0, 2**31 - 1)))
    on = back.last("retry-on")
    if on is not None:
        on.at.mapped()
        words = [word.text for word in on.args]
        if "conn-failure" not in words and "all-retryable-errors" not in words:
            return 0
    return numbers[0] if numbers else DEFAULT_RETRIES


def _elsewhere(back: Section, retries: int, in_turns: bool) -> int:
    """How many of the retries go to another server."""
    option = back.last("option redispatch")
    if option is None:
        return 0
    option.at.mapped()
    text = option.args[0].text if option.args else ""
    every = int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else 0
    if in_turns:
        return retries
    return retries // every if every else min(retries, 1)
