"""A check of endpoints, as the rest of the program sees it: rows as those of settings.py."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.rows import DAY, flag, limit, other, seconds, whole

CHECK_KINDS = ("tcp", "send", "tls", "http", "redis", "postgres", "mysql")


@dataclass(frozen=True, slots=True)
class Check:
    """How control looks whether an endpoint is healthy: CHECK_KINDS. Times in s.

    port: 0 = the endpoint's own. expect is found anywhere in the answer, as it is or as a regular
    expression. A check of kind tls does not verify the certificate without host.
    """

    kind: str
    interval: float = seconds("Between two checks of an endpoint.", 2.0, 0.001, DAY)
    fast_interval: float = seconds(
        "The same from the first failure on, until it is decided.", 1.0, 0.001, DAY
    )
    timeout: float = seconds("For a check as a whole.", 1.0, 0.001, DAY)
    fall: int = whole("Failures in a row, and it is down.", 3, 1, 100, "failures")
    rise: int = whole("Successes in a row, and it is up.", 2, 1, 100, "successes")
    port: int = limit("Another port of the endpoint's host.", 65535)
    send: bytes = other("send: this text first.", b"")
    expect: bytes = other("send: a text that the answer has in it.", b"")
    is_pattern: bool = False
    path: str = other("http: what to GET.", "/")
    host: str = other("http: the Host header; tls: the name that the certificate must be for.", "")
    status: tuple[int, int] = other("http: the answers that count as healthy.", (200, 399))
    tls: bool = flag("http: over TLS.", False)
