"""Who may use the admin API. Runs in control.

Over the UNIX socket: the users that the master names. Over TCP, where admin.http names an address:
whoever asks for one of its own names and has the token. A page of another site may do neither:
browsers tell what a request is from.
"""

from __future__ import annotations

import hmac
import pwd
import socket
import struct
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from tcpmux.control.head import Head, Refused

# Without a token: the page, which tells nothing and asks for one; and what load balancers and
# Kubernetes ask, which have none: they are told yes or no, and how many routes are down, but no
# name (server.py).
OPEN = ("/", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Rules:
    """uids: who may ask over the UNIX socket; nobody else. The rest is for requests over TCP.
    address: IP:port as configured. hosts: more names for it, lower case. token: SHA-256 of what
    they have to know; without one everybody is refused, unless insecure."""

    uids: frozenset[int]
    address: str = ""
    hosts: tuple[str, ...] = ()
    token: bytes = b""
    insecure: bool = False


def authorize(head: Head, sock: Any, rules: Rules) -> str:
    """Says who asks, for the log; raises Refused. GET changes nothing, so that only what a
    browser says of other requests' origin matters."""
    if sock.family == socket.AF_UNIX:
        return _local_user(sock, rules.uids)
    _check_host(head, rules)
    _check_origin(head)
    if head.path not in OPEN and not head.path.startswith("/static/"):
        _check_token(head, rules)
    return f"{sock.getpeername()[0]} over HTTP"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _local_user(sock: Any, uids: frozenset[int]) -> str:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in uids:
        allowed = " and ".join(_user_name(uid) for uid in sorted(uids)) or "nobody"
        raise Refused(403, f"user {uid} may not: only {allowed} may")
    name = _user_name(uid)
    return f"{name} (pid {pid})" if pid else name


def _check_host(head: Head, rules: Rules) -> None:
    """Against DNS rebinding: a name that somebody else has pointed here is not ours."""
    try:
        name = (urlsplit(f"//{head.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        name = ""
    allowed = {"localhost", *rules.hosts}
    if name in allowed:
        return
    try:
        asked = ip_address(name)
    except ValueError:
        pass
    else:
        own = ip_address(urlsplit(f"//{rules.address}").hostname or "0.0.0.0")  # noqa: S104
        if own.is_unspecified or asked == own or (asked.is_loopback and own.is_loopback):
            return
    raise Refused(403, f"host {name[:100]!r} is not one of ours: list it in admin.hosts")


def _check_origin(head: Head) -> None:
    site = head.headers.get("sec-fetch-site")
    reads = head.method in ("GET", "HEAD")
    if reads and head.headers.get("sec-fetch-mode") == "navigate":
        return
    if site not in (None, "same-origin", "none"):
        raise Refused(403, "a request from another site")
    origin = head.headers.get("origin")
    try:
        if origin is None or urlsplit(origin).netloc == head.headers.get("host"):
            return
    except ValueError:
        pass
    raise Refused(403, "a request from another site")


def _check_token(head: Head, rules: Rules) -> None:
    if not rules.token:
        if rules.insecure:
            return
        raise Refused(403, "no token is configured: access over HTTP is denied")
    kind, _, given = head.headers.get("authorization", "").partition(" ")
    digest = sha256(given.strip().encode("latin-1")).digest()
    if not hmac.compare_digest(digest, rules.token) or kind.lower() != "bearer":
        raise Refused(
            401,
            "this needs the token of admin.token_file: Authorization: Bearer ...",
            WWW_Authenticate="Bearer",
        )
