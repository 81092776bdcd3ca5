"""What is asked and told in the course of a rollout: `hooks` of a file, and of nothing else. Who
may call the API must not have tcpmux fetch a URL, or run a program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
MAX_URL = 2000  # characters
MAX_QUERY = 4000  # characters
MAX_PATH = 4096  # bytes, with its end
MAX_QUERIES = 16
TIMEOUTS = (0.1, 300.0)  # s
QUERY_PATH = "/api/v1/query"


class Site(NamedTuple):
    """Of a URL what may be in a log: its path may be a secret."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Query:
    """url: of a Prometheus server. query: whose value is to be low..high."""

    url: str
    query: str
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class Hooks:
    """gate: a URL that answers 200 when a step may begin. events: a URL that is told what happens.
    exec: a program that is. timeout: s, of each request and of the program. "" = there is none."""

    gate: str = ""
    events: str = ""
    exec: str = ""
    prometheus: tuple[Query, ...] = ()
    timeout: float = 5.0


NO_HOOKS = Hooks()


def site_of(url: str) -> Site:
    """Raises ValueError."""
    parts = urlsplit(url)
    return Site(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme])


def checked_url(text: object, *, is_base: bool = False) -> str:
    """is_base: something is added to it. Raises ValueError, which does not quote it: it may be
    secret."""
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_URL:
        raise ValueError(f"expected a URL such as http://ci.example/ok of at most {MAX_URL} bytes")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected a URL in ASCII and without blanks")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"expected a URL: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ValueError("expected a URL that begins with http://HOST or https://HOST")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without a user or a password")
    if parts.fragment or (is_base and parts.query):
        raise ValueError(f"expected a URL without {'? or ' if is_base else ''}#")
    return text


def checked_path(text: object) -> str:
    """Of a program. Raises ValueError."""
    if not isinstance(text, str) or not text.startswith("/") or not text.isprintable():
        raise ValueError("expected the absolute path of a program, which gets no arguments")
    if len(text.encode()) >= MAX_PATH or text.endswith("/"):
        raise ValueError("expected the path of a program")
    return text


def checked_query(text: object) -> str:
    """Raises ValueError."""
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_QUERY or not text.isprintable():
        raise ValueError(f"expected a query in one line, of at most {MAX_QUERY} characters")
    return text


# --- as JSON: from the master to control --------------------------------------------------------


def as_json(hooks: Hooks) -> dict[str, Any]:
    return {
        "gate": hooks.gate,
        "events": hooks.events,
        "exec": hooks.exec,
        "prometheus": [
            {
                "url": each.url,
                "query": each.query,
                "min": each.low if math.isfinite(each.low) else None,
                "max": each.high if math.isfinite(each.high) else None,
            }
            for each in hooks.prometheus
        ],
        "timeout": hooks.timeout,
    }


def hooks_from(value: Mapping[str, Any]) -> Hooks:
    """Of what as_json() has made."""
    return Hooks(
        value["gate"],
        value["events"],
        value["exec"],
        tuple(
            Query(
                each["url"],
                each["query"],
                -math.inf if each["min"] is None else float(each["min"]),
                math.inf if each["max"] is None else float(each["max"]),
            )
            for each in value["prometheus"]
        ),
        float(value["timeout"]),
    )
