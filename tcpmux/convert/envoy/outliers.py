"""Outlier detection, as far as connections of TCP come into it: connects that fail."""

from __future__ import annotations

from tcpmux.config.address import HostName
from tcpmux.config.settings import Passive
from tcpmux.convert.envoy.servers import Servers
from tcpmux.convert.envoy.values import seconds
from tcpmux.convert.tree import Node
from tcpmux.errors import plural

_MOST_ERRORS = 1000
_BACKOFF = 10  # times ejection_time; the longest ejection of tcpmux
_MAX_EJECTION_TIME = 300.0  # s; Envoy's default
_SMALLEST = 5  # servers, from which on Envoy compares their rates of success
_RATES = "has no effect unless a success or failure rate may eject a server"


def passive_of(node: Node, servers: Servers) -> Passive:
    if not node.fields:
        node.mapped()
    count = len(servers.all)
    split = node["split_external_local_origin_errors"].flag()
    errors = _errors(node, split=split)
    _rates(node, count, split=split)
    base = seconds(node["base_ejection_time"], 30.0)
    longest = node["max_ejection_time"]
    if seconds(longest, _MAX_EJECTION_TIME) != base * _BACKOFF:
        if longest:
            longest.changes(
                f"tcpmux ejects a server for at most {_BACKOFF} times base_ejection_time"
            )
        else:
            node.remark(
                f"tcpmux ejects a server for at most {_BACKOFF} times "
                "base_ejection_time, Envoy for 300s"
            )
    most = node["max_ejection_percent"].integer(10, 0)
    always = node["always_eject_one_host"].flag()
    node["successful_active_health_check_uneject_host"].flag(True)
    if _has_names(servers):
        node.remark("with few servers Envoy ejects none: see max_ejection_percent")
    elif most * count < 100 and not always:
        node["max_ejection_percent"].mapped(_never(count, most))
        if not node["max_ejection_percent"]:
            node.remark(_never(count, most))
        errors = 0
    interval = seconds(node["interval"], 10.0)
    return Passive(errors, interval, base, min(most, 100)) if errors else Passive(errors=0)


def _has_names(servers: Servers) -> bool:
    """How many servers they are is not in the file."""
    return any(isinstance(server.endpoint, HostName) for server in servers.all)


def _never(count: int, most: int) -> str:
    servers = plural(count, "server")
    return f"with {servers} Envoy never ejects one, because that would exceed {most} %"


def _errors(node: Node, *, split: bool) -> int:
    """Failed connects in a row that eject; 0 = never."""
    local = "consecutive_local_origin_failure"
    keys = {local: 100} if split else {"consecutive_5xx": 100, "consecutive_gateway_failure": 0}
    found = []
    for key in ("consecutive_5xx", "consecutive_gateway_failure", local):
        errors, enforced = node[key], node[f"enforcing_{key}"]
        if key not in keys:
            note = (
                "applies to HTTP only"
                if split
                else "has no effect without split_external_local_origin_errors"
            )
            errors.harmless(note)
            enforced.harmless(note)
            continue
        chance = enforced.integer(keys[key], 0, 100)
        if chance not in (0, 100):
            enforced.changes("tcpmux always ejects, not by chance")
        limit = errors.integer(5, 0)
        if chance and limit > _MOST_ERRORS:
            errors.changes(f"it is above {_MOST_ERRORS}, tcpmux's maximum")
        if not chance:
            errors.harmless("Envoy does not enforce it")
        elif limit:  # 0 = never
            found.append(min(limit, _MOST_ERRORS))
    return min(found, default=0)


def _rates(node: Node, count: int, *, split: bool) -> None:
    """Envoy also compares servers' rates of success, if there are enough of them."""
    used = "local_origin_success_rate" if split else "success_rate"
    node[f"enforcing_{'success_rate' if split else 'local_origin_success_rate'}"].harmless(
        "counts other failures than failed connection attempts"
    )
    smallest = node["success_rate_minimum_hosts"].integer(_SMALLEST)
    enforced = node[f"enforcing_{used}"]
    if enforced.integer(100, 0, 100) and count >= smallest:
        told = "tcpmux does not compare success rates of servers"
        enforced.changes(told, "ejection by rate")
        if not enforced:
            node.remark(told)
    for key in ("request_volume", "stdev_factor"):
        node[f"success_rate_{key}"].harmless(_RATES)
    for key in ("", "_local_origin"):
        failure = node[f"enforcing_failure_percentage{key}"]
        if failure.integer(0, 0, 100):
            failure.changes("tcpmux does not eject by failure percentage", "ejection by rate")
    for key in ("threshold", "minimum_hosts", "request_volume"):
        node[f"failure_percentage_{key}"].harmless(_RATES)
