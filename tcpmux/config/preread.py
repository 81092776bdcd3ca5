"""The settings of `preread`: rows as those of settings.py, which has them in a route."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.rows import DAY, other, seconds, size, word

PREREAD_SILENT = {
    "default": "goes on as one that says nothing of TLS",
    "reject": "is reset",
}


PREREAD_STARTTLS = {
    "none": "a ClientHello comes first, if any",
    "postgres": "PostgreSQL's SSLRequest may come first",
}


@dataclass(frozen=True, slots=True)
class Preread:
    """Of the client's first bytes, before the pick. is_asked: the file says so; a route's rules may
    need it as well: needs.reading(). timeout in s, from the accept or the end of a PROXY header.
    limit in bytes."""

    is_asked: bool = other(
        "Whether a TLS ClientHello is read.", False, rule="preread", unit="tm_preread"
    )
    timeout: float = seconds(
        "How long a client may take to send its first bytes, and all of a ClientHello: from the "
        "accept, or from the end of its PROXY header.",
        5.0, 0.001, DAY, rule="preread_timeout_ms",
    )  # fmt: skip
    limit: int = size(
        "Largest ClientHello, without the heads of its records: with them it has at most 64 KiB. A "
        "client with a larger one is reset.",
        16 * 1024, 512, 60 * 1024, rule="preread_limit",
    )  # fmt: skip
    starttls: str = word(
        "The protocol in which clients ask for TLS first: postgres (an SSLRequest is answered, and "
        "the endpoint asked in the client's place), or none.",
        "none", PREREAD_STARTTLS, rule="preread_starttls", unit="tm_preread_starttls",
    )  # fmt: skip
    silent: str = word(
        "What becomes of a client that has sent nothing by then, as where the server speaks first: "
        "default (it goes on as one that says nothing of TLS) or reject (it is reset).",
        "default", PREREAD_SILENT, rule="preread_silent", unit="tm_preread_silent",
    )  # fmt: skip
