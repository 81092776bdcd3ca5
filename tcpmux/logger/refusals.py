"""Why clients are turned away, as the access log says it."""

from __future__ import annotations

from typing import NamedTuple

from tcpmux.shm._declared import REFUSAL_COUNT
from tcpmux.shm.counters import FLAGS


class Refusal(NamedTuple):
    """reason: of the counters, or why the client was reset on accept. limit: the key of the
    configuration by which it was refused; None = it is no limit."""

    reason: str
    limit: str | None = None

    @property
    def flags(self) -> str:
        """As Envoy abbreviates it."""
        if self.limit in _FIRST_BYTES:
            return FLAGS[_FIRST_BYTES[self.limit]]
        return _FLAGS.get(self.reason) or FLAGS[self.reason]


_FIRST_BYTES = {"accept_proxy": "proxy_header", "preread": "client_hello"}
_FLAGS = {"denied": "UAEX", "looped": "NR", "no_route": "NR"}
_HELLO_FAULTS = ("malformed", "too_long", "late", "silent")
_HEADER_FAULTS = ("missing", "version", "malformed", "too_long", "checksum", "late")
REFUSALS = (  # csrc/access_log.h: enum tm_refusal, from 1
    Refusal("denied"),
    Refusal("looped"),
    Refusal("no_route"),
    Refusal("overflow", "listener_max_connections"),
    Refusal("overflow", "source.max_connections"),
    Refusal("overflow", "max_connections"),
    Refusal("rate_limited", "source.rate"),
    Refusal("rate_limited", "rate"),
    Refusal("rejected_by_rule", "rules"),
    Refusal("no_endpoint"),
    Refusal("overflow", "destination.max_connections"),
    Refusal("overflow", "endpoint.max_connections"),
    *(Refusal(f"proxy_header_{fault}", "accept_proxy") for fault in _HEADER_FAULTS),
    *(Refusal(f"client_hello_{fault}", "preread") for fault in _HELLO_FAULTS),
)
REFUSAL_FLAGS = frozenset(refusal.flags for refusal in REFUSALS)
assert len(REFUSALS) == REFUSAL_COUNT


def refusal(number: int) -> Refusal | None:
    """None: the client was not refused, or the number is none of ours."""
    return REFUSALS[number - 1] if 0 < number <= len(REFUSALS) else None
