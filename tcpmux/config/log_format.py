"""The keys of the access log, and what it may be written as. Used by every process.

Names and meaning are those of Istio's and Envoy's default log for TCP where these have one.
"""

from __future__ import annotations

import string

KEYS = (
    "event",  # end, refused or more; start and alive if asked for
    "start_time",  # of the connection, UTC
    "duration",  # ms
    "bytes_received",  # from the client
    "bytes_sent",  # to the client
    "response_flags",
    "connection_termination_details",  # why it ended: a reason of the counters
    "closed_by",  # client, endpoint, proxy or both
    "downstream_remote_address",
    "downstream_direct_remote_address",  # of the peer, where a PROXY header named the client
    "proxy_tlvs",  # of that header, as far as they are kept
    "downstream_local_address",
    "requested_server_name",  # SNI of a TLS ClientHello, where a route reads it
    "alpn",  # protocols in it, with commas between them
    "upstream_host",
    "upstream_cluster",  # route/destination
    "upstream_local_address",
    "route",
    "destination",
    "rule",  # of the route, that it has met
    "generation",
    "pick_reason",
    "others",  # why it had no choice: what kept the other destinations out
    "attempts",
    "rehomed",  # how often its endpoint has changed under it
    "connect_ms",
    "first_byte_ms",
    "worker",
    "connection_id",
    "unique_id",  # the same, when it was accepted
    "limit",  # by which key of the configuration a client was refused
    "count",  # of connections: 1, or of event more, how many have no line of their own
)


def check_template(template: str) -> None:
    """Raises ValueError if it is not a text with {KEY} in it."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error} (write a brace as {{{{ or }}}})") from None
    for _, key, spec, conversion in parts:
        if key is None:
            continue
        if key not in KEYS:
            raise ValueError(f"unknown key {{{key}}}: expected one of {', '.join(KEYS)}")
        if spec or conversion:
            raise ValueError(f"expected {{{key}}} alone, without a format after it")
    if not any(key for _, key, _, _ in parts):
        raise ValueError("it contains no {KEY}: every line would be the same")
