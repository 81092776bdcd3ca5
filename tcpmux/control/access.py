"""Who may use the admin API. Runs in control.

Over the UNIX socket: the users that the master names. Over TCP, where admin.http names an address:
whoever asks for one of its own names and has the token. A page of another site may do neither:
browsers tell what a request is from.
"""

from __future__ import annotations

import hmac
import pwd
import socket
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from tcpmux.control.head import Head, Refused
from tcpmux.control.operation import Role
from tcpmux.control.operations import OPERATIONS
from tcpmux.peer import peer_of

# Without a token: the page, which tells nothing and asks for one; and what load balancers and
# Kubernetes ask, which have none: they are told yes or no, and how many routes are down, but no
# name (server.py).
OPEN = ("/", *(row.path for row in OPERATIONS if row.role is Role.ANYONE))
READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Rules:
    """uids: who may ask over the UNIX socket; nobody else. The rest is for requests over TCP.
    address: IP:port as configured. hosts: more names for it, lower case. token, viewer_token:
    SHA-256 of what an operator and a viewer have to know, empty = there is none; without either
    everybody is refused, unless insecure."""

    uids: frozenset[int]
    address: str = ""
    hosts: tuple[str, ...] = ()
    token: bytes = b""
    viewer_token: bytes = b""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. name: for the log."""

    name: str = ""
    role: Role = Role.ANYONE

    def check(self, least: Role) -> None:
        """Raises Refused."""
        if self.role < least:
            raise Refused(
                403,
                "this token may only read: what changes something needs that of admin.token_file"
                if self.role is Role.VIEWER
                else "this needs a token",
            )


def authorize(head: Head, sock: Any, rules: Rules) -> Caller:
    """Says who asks; raises Refused. GET changes nothing, so that only what a browser says of other
    requests' origin matters, and everything else is for operators: they are told before a body is
    read. The handlers look at the role once more (server.py)."""
    if sock.family == socket.AF_UNIX:
        return Caller(_local_user(sock, rules.uids), Role.OPERATOR)
    _check_host(head, rules)
    _check_origin(head)
    is_open = head.path in OPEN or head.path.startswith("/static/")
    role = Role.ANYONE if is_open else _role_of_token(head, rules)
    caller = Caller(f"{sock.getpeername()[0]} over HTTP", role)
    if not is_open and head.method not in READS:
        caller.check(Role.OPERATOR)
    return caller


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _local_user(sock: Any, uids: frozenset[int]) -> str:
    pid, uid = peer_of(sock)
    if uid not in uids:
        allowed = " and ".join(_user_name(uid) for uid in sorted(uids)) or "nobody"
        raise Refused(403, f"user {uid} may not: only {allowed} may")
    name = _user_name(uid)
    return f"{name} (pid {pid})" if pid else name


def _check_host(head: Head, rules: Rules) -> None:
    """Against DNS rebinding: a name that somebody else has pointed here is refused."""
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
    raise Refused(403, f"host {name[:100]!r} is not accepted: list it in admin.hosts")


def _check_origin(head: Head) -> None:
    site = head.headers.get("sec-fetch-site")
    if head.method in READS and head.headers.get("sec-fetch-mode") == "navigate":
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


def _role_of_token(head: Head, rules: Rules) -> Role:
    """In the same time whatever is given."""
    if not rules.token and not rules.viewer_token:
        if rules.insecure:
            return Role.OPERATOR
        raise Refused(403, "no token is configured: access over HTTP is denied")
    kind, _, given = head.headers.get("authorization", "").partition(" ")
    digest = sha256(given.strip().encode("latin-1")).digest()
    is_operator = hmac.compare_digest(digest, rules.token)
    is_viewer = hmac.compare_digest(digest, rules.viewer_token)
    if kind.lower() == "bearer" and (is_operator or is_viewer):
        return Role.OPERATOR if is_operator else Role.VIEWER
    raise Refused(
        401,
        "this needs a token that admin.token_file or admin.read_only_token_file holds: "
        "Authorization: Bearer ...",
        WWW_Authenticate="Bearer",
    )
