"""Why connections ended, in words: each reason of csrc/counters.def. Imported by commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Ended = tuple[int, str]  # how many, and why

ENDS = {
    "finished": "finished: both sides closed",
    "client_reset": "reset by the client",
    "endpoint_reset": "reset by the endpoint",
    "connect_failed": "no endpoint accepted",
    "connect_timeout": "no endpoint answered in time",
    "no_endpoint": "no endpoint was available",
    "retries_used_up": "a connect failed, no retry was left",
    "overflow": "a connection limit was reached",
    "not_allowed": "client named by a PROXY header denied",
    "rejected_by_rule": "rejected by a rule of the route",
    "proxy_header": "PROXY header bad, late or missing",
    "client_hello": "ClientHello bad, late or not sent",
    "rate_limited": "rate limit of new connections exceeded",
    "lifetime": "max_connection_duration expired",
    "idle_timeout": "idle for idle_timeout",
    "local_error": "this host was out of ports or memory",
    "shutdown": "still open when tcpmux stopped",
    "killed": "reset by an operator",
    "converged": "closed for the weights",
    "converged_late": "reset for the weights",
    "rehomed": "continued with another endpoint",
    "not_rehomed": "not rehomed: stayed where it was",
    "shadow": "a copy of a connection, compared",
    "unread": "a peer stopped reading",
    "worker_lost": "lost when a worker died",
    "passed_on": "continued with another destination",
}
# Of a route, before a connection had a destination.
TURNED_AWAY = {
    "connections_denied_total": "client not allowed",
    "connections_looped_total": "forwarded in a loop",
}


def in_words(closed: Mapping[str, int], route: Mapping[str, Any] | None = None) -> list[Ended]:
    """How many ended for each reason, the most first; those of none are left out. A reason of
    another build is shown by its name. route: with what it has turned away, from its status."""
    found = [(count, ENDS.get(reason, reason)) for reason, count in closed.items()]
    if route is not None:
        found += [(int(route.get(key, 0)), text) for key, text in TURNED_AWAY.items()]
    return sorted((pair for pair in found if pair[0]), key=lambda pair: -pair[0])
