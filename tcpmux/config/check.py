"""A check of endpoints, as the rest of the program sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """How control looks whether an endpoint is healthy: CHECK_KINDS. Times in s; fast_interval from
    the first failure on, until it is decided. fall, rise: results in a row that decide.

    port: 0 = the endpoint's own. send, expect: of kind send; expect is found anywhere in the
    answer, as it is or as a regular expression. path, host, status: of kind http; host: also the
    name that tls verifies. A check of kind tls does not verify the certificate without it.
    """

    kind: str
    interval: float = 2.0
    fast_interval: float = 1.0
    timeout: float = 1.0
    fall: int = 3
    rise: int = 2
    port: int = 0
    send: bytes = b""
    expect: bytes = b""
    is_pattern: bool = False
    path: str = "/"
    host: str = ""
    status: tuple[int, int] = (200, 399)
    tls: bool = False


CHECK_KINDS = ("tcp", "send", "tls", "http", "redis", "postgres", "mysql")
