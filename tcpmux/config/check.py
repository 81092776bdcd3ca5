"""A check of endpoints, as the rest of the program sees it: rows as those of settings.py."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.rows import DAY, flag, limit, other, seconds, whole

CHECK_KINDS = ("tcp", "send", "tls", "http", "redis", "postgres", "mysql")


@dataclass(frozen=True, slots=True)
class Check:
    """How control looks whether an endpoint is healthy: CHECK_KINDS. Times in s.

    proxy: version of the PROXY header, naming nobody, that is sent first; 0 = none.
    port: 0 = the endpoint's own. expect is found anywhere in the answer, as it is or as a regular
    expression. A check of kind tls does not verify the certificate without host.
    """

    kind: str
    interval: float = seconds("Time between two checks of an endpoint.", 2.0, 0.001, DAY)
    fast_interval: float = seconds(
        "Time between checks from the first failure on, until the endpoint is up or down.",
        1.0,
        0.001,
        DAY,
    )
    timeout: float = seconds("Time limit of a check.", 1.0, 0.001, DAY)
    fall: int = whole("Consecutive failures until an endpoint is down.", 3, 1, 100, "failures")
    rise: int = whole("Consecutive successes until it is up again.", 2, 1, 100, "successes")
    port: int = limit("Port to check, if it is not the endpoint's own.", 65535)
    send: bytes = other("send: text to send first.", b"")
    expect: bytes = other("send: text that the answer must contain.", b"")
    is_pattern: bool = False
    path: str = other("http: path to request.", "/")
    host: str = other("http: the Host header; tls: the name that the certificate must be for.", "")
    status: tuple[int, int] = other("http: status codes that count as healthy.", (200, 399))
    tls: bool = flag("http: use TLS.", False)
    proxy: int = other(
        "Whether checks send the header of send_proxy, naming nobody: by default those that say "
        "something do, on the endpoint's own port.",
        0,
    )
