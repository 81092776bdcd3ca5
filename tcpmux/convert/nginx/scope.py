"""What stands in stream {} or in a server, before it is known which of it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.convert.nginx.tables import CHANGES, HARMLESS, OTHER_HANDLERS
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.report import Report
from tcpmux.errors import plural

# Those that a server may have of its own, instead of what stream {} says: once at each place, with
# (fewest, most) arguments.
SETTINGS = {
    "proxy_bind": (1, 2),
    "proxy_connect_timeout": (1, 1),
    "proxy_download_rate": (1, 1),
    "proxy_half_close": (1, 1),
    "proxy_next_upstream": (1, 1),
    "proxy_next_upstream_timeout": (1, 1),
    "proxy_next_upstream_tries": (1, 1),
    "proxy_protocol": (1, 1),
    "proxy_protocol_timeout": (1, 1),
    "proxy_socket_keepalive": (1, 1),
    "proxy_ssl": (1, 1),
    "proxy_timeout": (1, 1),
    "proxy_upload_rate": (1, 1),
    "limit_conn_dry_run": (1, 1),
    "resolver": (1, 99),
    "ssl_preread": (1, 1),
    "preread_timeout": (1, 1),
    "preread_buffer_size": (1, 1),
}
# A server's own replace all of stream {}'s. allow and deny are one list.
LISTS = {name: name for name in ("allow", "limit_conn", "set_real_ip_from")} | {"deny": "allow"}


@dataclass(slots=True)
class Scope:
    """settings: by name. lists: by the names in LISTS, in order. tls: ssl_* and proxy_ssl_*, which
    mean nothing without TLS."""

    report: Report
    settings: dict[str, Directive] = field(default_factory=dict)
    lists: dict[str, list[Directive]] = field(default_factory=dict)
    zones: set[str] = field(default_factory=set)  # of limit_conn
    tls: list[Directive] = field(default_factory=list)
    handler: Directive | None = None  # return, pass

    def take(self, one: Directive) -> bool:
        """Whether it is one that may stand in both. Those that always have the same class are
        marked."""
        name = one.name
        if name in HARMLESS:
            one.at.harmless(note=HARMLESS[name])
        elif name in CHANGES:
            one.changes(*CHANGES[name])
        elif name in OTHER_HANDLERS:
            self.handler = one
            one.changes(*OTHER_HANDLERS[name])
        elif name in SETTINGS:
            self._set(one)
        elif name in LISTS:
            self._list(one)
        elif name.startswith(("ssl_", "proxy_ssl_")):
            self.tls.append(one)
        else:
            return False
        return True

    def _set(self, one: Directive) -> None:
        fewest, most = SETTINGS[one.name]
        if is_plain(one, self.report, fewest, most):
            before = self.settings.setdefault(one.name, one)
            if before is not one:
                self.report.problem(one.at, f"it is already set in line {before.at.line}")

    def _list(self, one: Directive) -> None:
        count = 2 if one.name == "limit_conn" else 1
        if is_plain(one, self.report, count, count):
            is_limit = one.name == "limit_conn"
            if is_limit and one.argument() in self.zones:
                self.report.problem(one.at, f"{one.argument()} already has a limit here")
                return
            self.zones |= {one.argument()} if is_limit else set()
            self.lists.setdefault(LISTS[one.name], []).append(one)


def is_plain(one: Directive, report: Report, fewest: int, most: int) -> bool:
    """Whether it has no braces and so many arguments; else that is a problem."""
    if one.inside is not None:
        report.problem(one.at, f"unexpected braces after {one.name}")
    elif not fewest <= len(one.arguments) <= most:
        expected = plural(most, "argument")
        if fewest != most:
            expected = f"{fewest} to {expected}"
        report.problem(one.at, f"expected {expected}, got {len(one.arguments)}")
    else:
        return True
    return False


def is_block(one: Directive, report: Report, fewest: int, most: int) -> bool:
    """Whether it has braces and so many arguments; else that is a problem."""
    if one.inside is None:
        report.problem(one.at, f"expected braces after {one.name}")
    elif not fewest <= len(one.arguments) <= most:
        report.problem(one.at, f"expected {fewest} to {most} words before the braces")
    else:
        return True
    return False


def is_on(one: Directive, report: Report) -> bool:
    """Of a directive that is on or off; anything else is a problem."""
    text = one.argument().lower()
    if text not in ("on", "off"):
        report.problem(one.at, "expected on or off", one.at.words[1])
    return text == "on"


def mark_tls(directives: Sequence[Directive], *, to_clients: bool, to_servers: bool) -> None:
    """ssl_* and proxy_ssl_*: without TLS, they mean nothing."""
    for one in directives:
        if to_servers if one.name.startswith("proxy_") else to_clients:
            one.changes("tcpmux relays TLS without decrypting it", "TLS")
        else:
            one.harmless("no TLS is used here")
