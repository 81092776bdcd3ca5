"""The settings of `converge`, as rows: settings.py."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tcpmux.config.rows import DAY, HOUR, flag, other, seconds, whole, word

# What may set it off, in the order of bits in the route table.
CONVERGE_WHEN = {
    "weights": "weights change, by a command or a reload",
    "drain": "a destination or an endpoint is drained, disabled or enabled",
    "rollback": "`tcpmux undo` restores weights",
    "recovery": "health or DNS changes who takes connections",
}
CONVERGE_ORDER = {
    "idle": "those that have been idle longest first",
    "oldest": "those accepted first",
    "random": "at random",
}
CONVERGE_THEN = {
    "keep": "stay where they are",
    "reset": "are reset, at the same rate",
}
CONVERGE_METHOD = {
    "close": "are closed, and their clients come again",
    "rehome": "stay, and their endpoint changes under them",
}
CONVERGE_PROTOCOL = {
    "none": "nothing is known of it",
    "postgres": "PostgreSQL",
    "mysql": "MySQL and MariaDB",
    "redis": "Redis",
    "memcached": "memcached's text protocol",
    "mqtt": "MQTT 3.1.1 and 5",
    "http1": "HTTP/1.1 with keep-alive",
}
# Those in which an endpoint knows nothing of a client between two requests, or the next one is told
# what; or nobody says which.
REHOME_PROTOCOLS = ("none", "memcached", "http1", "redis")
TOLD_PROTOCOLS = ("redis",)
GOODBYES = ("postgres", "mysql", "mqtt")  # protocols in which a client can be told to come again
MAX_CONVERGE_RATE = 100_000  # connections/s
_RATE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<percent>%?)/s")


@dataclass(frozen=True, slots=True)
class Converge:
    """How live connections follow the weights. is_set: the file says so. when: of CONVERGE_WHEN, a
    bit each, in order; 0 = only when somebody asks for it. Of rate and rate_percent one is 0. Times
    in s."""

    is_set: bool = other("Whether live connections follow the weights.", False)
    when: int = other(
        "What sets it off: a list of weights, drain, rollback (`tcpmux undo`) and recovery (health "
        "or DNS), or manual (only `tcpmux converge`).",
        0, rule="converge_when", unit="causes, a bit each",
    )  # fmt: skip
    rate: int = other(
        "How many connections are closed per second: 10/s, or a percentage of the route's live "
        "connections: 1%/s.",
        10_000, rule="converge_rate", unit="connections per 1,000 s",
    )  # fmt: skip
    rate_percent: int = other(
        "The same as a percentage of the route's live connections.",
        0, rule="converge_rate_percent", unit="percent per 1,000 s",
    )  # fmt: skip
    order: str = word(
        "Which go first: idle (idle longest), oldest or random.",
        "idle", CONVERGE_ORDER, rule="converge_order", unit="index",
    )  # fmt: skip
    quiet: float = seconds(
        "How long no byte may have moved, either way, on a connection that is closed.",
        2.0, 0.001, HOUR, rule="converge_quiet_ms",
    )  # fmt: skip
    deadline: float = seconds(
        "How long it lasts at most, from the last change that set it off.",
        600.0, 0.001, 30 * DAY, rule="converge_deadline_ms",
    )  # fmt: skip
    then: str = word(
        "What becomes of those that found no quiet moment by then: keep (they stay) or reset.",
        "keep", CONVERGE_THEN, rule="converge_then", unit="index",
    )  # fmt: skip
    tolerance: int = whole(
        "How many connections too many a destination may keep.",
        1, 0, 1_000_000, "connections", rule="converge_tolerance",
    )  # fmt: skip
    method: str = word(
        "What happens to a connection that is to go elsewhere: close, or rehome (its endpoint "
        "changes while the client's socket stays; only for protocols without state between "
        "requests, and redis).",
        "close", CONVERGE_METHOD, rule="converge_method", unit="index",
    )  # fmt: skip
    protocol: str = word(
        "The protocol, in which the endpoint's bytes say whether anything is under way: none, "
        "postgres, mysql, redis, memcached, mqtt or http1.",
        "none", CONVERGE_PROTOCOL, rule="converge_protocol", unit="tm_protocol",
    )  # fmt: skip
    goodbye: bool = flag(
        "Tell the client in its protocol, before the close, that it has to reconnect: postgres, "
        "mysql and mqtt.",
        False, rule="converge_goodbye",
    )  # fmt: skip


def why_not_rehome(protocol: str, goodbye: bool, *, by_file: bool = True) -> str:
    """Why connections of that protocol keep their endpoint; "" = they need not. by_file: the route
    has that method, whoever asks now."""
    if protocol in TOLD_PROTOCOLS and not by_file:
        return (
            f"what another server has to be told of a client of {protocol} is noted only with "
            "`method: rehome` in the route's converge, from the connection's start on: use method "
            "close"
        )
    if protocol not in REHOME_PROTOCOLS:
        return (
            "method rehome is for protocols whose endpoint keeps no state between requests, or can "
            f"be told it, and {protocol} has a session (who is logged in, what is set): use method "
            "close"
        )
    if goodbye:
        return "goodbye is for method close: with rehome no client is told to go"
    return ""


def when_text(when: int) -> str:
    """As it stands in a file."""
    causes = [cause for bit, cause in enumerate(CONVERGE_WHEN) if when >> bit & 1]
    return f"[{', '.join(causes)}]" if causes else "manual"


def rate_of(text: str) -> tuple[int, int]:
    """(rate, rate_percent) of `10/s`, `0.5/s` or `1%/s`. Raises ValueError."""
    found = _RATE.fullmatch(text)
    value = float(found["number"]) if found else 0.0
    is_percent = bool(found and found["percent"])
    most = 100 if is_percent else MAX_CONVERGE_RATE
    thousandfold = round(value * 1000) if value <= most else 0
    if not thousandfold:
        raise ValueError(
            f"expected a rate such as 10/s (at most {MAX_CONVERGE_RATE}/s, at least 0.001/s) or "
            f"1%/s, got {text[:60]!r}"
        )
    return (0, thousandfold) if is_percent else (thousandfold, 0)


def rate_text(rate: int, rate_percent: int) -> str:
    """As it stands in a file."""
    value, unit = (rate_percent, "%/s") if rate_percent else (rate, "/s")
    return f"{value / 1000:g}{unit}"
