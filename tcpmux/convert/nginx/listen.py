"""`listen`, in all its forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from tcpmux.config.address import Address
from tcpmux.config.schema import MAX_LISTENERS
from tcpmux.config.settings import Keepalive
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import milliseconds, number
from tcpmux.convert.report import Report, Statement, Word

# Of Linux, unless the host says otherwise: s, s, probes.
KERNEL_KEEPALIVE = Keepalive(7200, 75, 9)
MAX_KEEPALIVE = 32767  # s
MAX_PROBES = 127
ANY_V4, ANY_V6 = "0.0.0.0", "::"  # noqa: S104

_HARMLESS = {
    "accept_filter": "applies to FreeBSD only",
    "backlog": "tcpmux uses the longest backlog that the system allows",
    "bind": "tcpmux binds each address separately",
    "deferred": "tcpmux accepts connections before their first data",
    "fastopen": "saves only a round trip",
    "multipath": "clients fall back to plain TCP",
    "rcvbuf": "buffers",
    "reuseport": "each worker of tcpmux has its own socket",
    "sndbuf": "buffers",
}
_CHANGES = {
    "ssl": ("tcpmux relays TLS without decrypting it", "TLS"),
    "setfib": ("tcpmux uses the host's routing table", "routing tables"),
}
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_DUAL = re.compile(r"ipv6only=(on|off)")


@dataclass(slots=True)
class Listen:
    """keepalive: None = the client's side has none. v6_only: of [::], that IPv4 is not meant.
    header: the word for a PROXY header in front of each connection."""

    at: Statement
    addresses: list[Address]
    keepalive: Keepalive | None = None
    v6_only: bool = False
    has_tls: bool = False
    header: Word | None = None
    default: Word | None = None  # that says that it is of the default server


@dataclass(slots=True)
class Listens:
    """Reads those of all servers."""

    report: Report
    count: int = 0
    taken: dict[Address, tuple[Statement, Directive | None]] = field(default_factory=dict)

    def read(self, one: Directive, names: Directive | None = None) -> Listen | None:
        """None if tcpmux can't listen there, which is in the report then. names: `server_name` of
        the server."""
        at = one.at
        if not one.arguments or one.inside is not None:
            self.report.problem(at, "expected an address after listen")
            return None
        if any(word.text == "udp" for word in at.words[2:]):
            at.changes(note="a UDP listener: it is not opened", needs="UDP")
            return None
        at.mapped(at.words[0], at.words[1])
        addresses = self._untaken(at, self._addresses(at, at.words[1]), names)
        found = Listen(at, addresses)
        for word in at.words[2:]:
            self._parameter(found, word)
        v6_any = any(address.host == ANY_V6 for address in addresses)
        found.v6_only = v6_any and not any(word.text == "ipv6only=off" for word in at.words)
        return found if addresses else None

    def _addresses(self, at: Statement, word: Word) -> list[Address]:
        text = word.text
        if text.startswith("unix:"):
            return self._checked(at, word, text, 1)
        host, colon, ports = text.rpartition(":")
        found = _PORTS.fullmatch(ports)
        if text.endswith("]") or (not colon and not found):
            self.report.problem(at, "expected a port", word)
        elif not found:
            self.report.problem(at, f"expected a port or a range of ports, got {ports!r}", word)
        elif not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
            self.report.problem(at, "expected ports from 1 to 65535, from low to high", word)
        else:
            first, last = int(found[1]), int(found[2] or found[1])
            head = ANY_V4 if host in ("", "*") else host
            return self._checked(at, word, f"{head}:{first}", last - first + 1)
        return []

    def _checked(self, at: Statement, word: Word, text: str, count: int) -> list[Address]:
        """From this address on, as many ports."""
        if self.count + count > MAX_LISTENERS:
            at.changes(word, note=f"tcpmux listens on at most {MAX_LISTENERS} addresses")
            return []
        try:
            first = Address.parse(text)
        except ValueError:
            at.changes(
                word, note="it is not opened: tcpmux listens only on numeric addresses and paths"
            )
            return []
        self.count += count
        return [first, *(replace(first, port=first.port + n) for n in range(1, count))]

    def _untaken(
        self, at: Statement, addresses: list[Address], names: Directive | None
    ) -> list[Address]:
        """Those that no other server listens on. One that differs by name may."""
        found = []
        for address in addresses:
            other, other_names = self.taken.setdefault(address, (at, names))
            if other is at:
                found.append(address)
                continue
            place = f"{other.file}:{other.line}"
            if (names or other_names) and names is not other_names:
                found.append(address)
            else:
                self.report.problem(
                    at, f"{address} is already used by the listener at {place}", at.words[1]
                )
        return found

    def _parameter(self, of: Listen, word: Word) -> None:
        at = of.at
        name, _, value = word.text.partition("=")
        if name == "default_server":
            of.default = word
        elif name in _HARMLESS:
            at.harmless(word, note=_HARMLESS[name])
        elif name in _CHANGES:
            note, needs = _CHANGES[name]
            at.changes(word, note=note, needs=needs)
            of.has_tls = of.has_tls or name == "ssl"
        elif _DUAL.fullmatch(word.text):
            at.mapped(word)
        elif word.text == "proxy_protocol":
            of.header = word
        elif name == "so_keepalive":
            of.keepalive = self._keepalive(at, word, value)
        elif name == "ipv6only":
            self.report.problem(at, "expected ipv6only=on or ipv6only=off", word)

    def _keepalive(self, at: Statement, word: Word, text: str) -> Keepalive | None:
        at.mapped(word)
        if text == "off":
            return None
        if text == "on":
            return KERNEL_KEEPALIVE
        idle, interval, count = [*text.split(":"), "", ""][:3]
        numbers = (
            milliseconds(idle, whole_seconds=True) if idle else KERNEL_KEEPALIVE.idle * 1000,
            milliseconds(interval, whole_seconds=True)
            if interval
            else KERNEL_KEEPALIVE.interval * 1000,
            number(count) if count else KERNEL_KEEPALIVE.count,
        )
        if text.count(":") != 2 or text == "::" or None in numbers or 0 in numbers:
            self.report.problem(at, "expected so_keepalive=on, off or IDLE:INTERVAL:COUNT", word)
            return None
        seconds, pause, probes = (numbers[0] or 0) // 1000, (numbers[1] or 0) // 1000, numbers[2]
        if seconds > MAX_KEEPALIVE or pause > MAX_KEEPALIVE or (probes or 0) > MAX_PROBES:
            most = f"it is above tcpmux's maximum, {MAX_KEEPALIVE} s and {MAX_PROBES} probes"
            at.changes(word, note=most)
            return KERNEL_KEEPALIVE
        return Keepalive(seconds, pause, probes or 1)
