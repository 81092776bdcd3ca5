"""`map` and `geo`: values by what a client of TLS asks for, and by client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import groupby

from tcpmux.config.settings import UNIX, Clients, Network
from tcpmux.convert.clients import ClientRule, accepted_by, without_mapped
from tcpmux.convert.hellos import ALONE, Hello, covers, pattern_of, patterns_of_regex, protocol_of
from tcpmux.convert.nginx.scope import is_plain
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import network
from tcpmux.convert.report import Report

NAME = "ssl_preread_server_name"
PROTOCOLS = "ssl_preread_alpn_protocols"
VERSION = "ssl_preread_protocol"
OF_HELLO = (NAME, PROTOCOLS, VERSION)
OF_CLIENT = "remote_addr"
_WORD = re.compile(r"~\*?\\b([^\\()|\[\]?*+.^$]+)\\b")
MAX_RUNS = 64  # of networks with the same value
_SUFFIX = re.compile(r"[^*~]+\.\*")


class Unresolved(Exception):
    """A value depends on what tcpmux does not look at. needs: the feature that would."""

    def __init__(self, note: str, needs: str = "") -> None:
        super().__init__(note)
        self.needs = needs


NO_NAME = (
    "tcpmux can't tell clients of TLS that ask for no name from those that ask for another one"
)


@dataclass(slots=True)
class Map:
    """entries: of whole values, in lower case. names: of *.x and .x, with `hostnames`. patterns:
    others, in order. default: of what has no entry."""

    source: str
    hostnames: bool = False
    entries: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    patterns: list[tuple[str, str]] = field(default_factory=list)
    default: str = ""

    def add(self, key: str, value: str) -> None:
        if key == "default":
            self.default = value
        elif key.startswith("~") or (self.hostnames and _SUFFIX.fullmatch(key)):
            self.patterns.append((key, value))
        elif self.hostnames and key.startswith("."):
            self.entries.setdefault(key[1:].lower(), value)
            self.names.setdefault(f"*{key}".lower(), value)
        elif self.hostnames and key.startswith("*."):
            self.names.setdefault(key.lower(), value)
        else:
            self.entries.setdefault(key.removeprefix("\\").lower(), value)

    def of_text(self, text: str) -> str:
        """Raises Unresolved."""
        if text in self.entries:
            return self.entries[text]
        if self.names or self.patterns:
            raise Unresolved(
                f"the map has the pattern {[*self.names, *self.patterns][0]}", "patterns"
            )
        return self.default

    # --- of what a client begins with -----------------------------------------------------------

    @property
    def asked_names(self) -> list[str]:
        """Raises Unresolved."""
        found = [self._name(key) for key in self.entries if key]
        found += [self._name(key) for key in self.names]
        for pattern, _ in self.patterns:
            found += self._of_pattern(pattern)
        return found

    @staticmethod
    def _name(key: str) -> str:
        try:
            return pattern_of(key)
        except ValueError:
            raise Unresolved(f"{key} is no host name", "rules by SNI") from None

    @staticmethod
    def _of_pattern(pattern: str) -> list[str]:
        names = patterns_of_regex(pattern.lstrip("~*")) if pattern.startswith("~") else None
        if names is None:
            raise Unresolved(f"the map has the pattern {pattern}", "patterns")
        return names

    def of_name(self, hello: Hello) -> str:
        """Raises Unresolved."""
        if not hello.tls:
            return self.entries.get("", self.default)
        if hello.sni and hello.sni in self.entries:
            return self.entries[hello.sni]
        fitting = [name for name in self.names if hello.sni and covers(name, hello.sni)]
        if fitting:
            return self.names[max(fitting, key=len)]
        for pattern, value in self.patterns:
            if any(map(hello.is_named, self._of_pattern(pattern))):
                return value
        if not hello.sni and self.entries.get("", self.default) != self.default:
            raise Unresolved(NO_NAME, "rules by a missing name")
        return self.default

    @property
    def asked_protocols(self) -> list[str]:
        """Raises Unresolved."""
        found = [key for key in self.entries if key]
        if found and found != [ALONE]:
            note = "nginx compares the whole list of protocols, tcpmux each of them"
            raise Unresolved(note, "rules by lists of protocols")
        return found + [self._protocol(pattern) for pattern, _ in self.patterns]

    @staticmethod
    def _protocol(pattern: str) -> str:
        found = _WORD.fullmatch(pattern)
        try:
            return protocol_of(found[1] if found else "")
        except ValueError:
            raise Unresolved(f"the map has the pattern {pattern}", "patterns") from None

    def of_protocols(self, hello: Hello) -> str:
        """Raises Unresolved."""
        if not hello.tls:
            return self.entries.get("", self.default)
        for protocol, value in (
            *((key, value) for key, value in self.entries.items() if key),
            *((self._protocol(pattern), value) for pattern, value in self.patterns),
        ):
            offered = hello.is_offered(protocol)
            if offered is None:
                raise Unresolved("it depends on several protocols", "rules by lists of protocols")
            if offered:
                return value
        if self.entries.get("", self.default) != self.default:
            note = "tcpmux can't tell clients of TLS that offer no protocol from the others"
            raise Unresolved(note, "rules by a missing protocol")
        return self.default

    def of_version(self, hello: Hello) -> str:
        """Raises Unresolved."""
        if self.patterns or (
            hello.tls and any(v != self.default for key, v in self.entries.items() if key)
        ):
            raise Unresolved("it depends on the version of TLS", "rules by version of TLS")
        return self.default if hello.tls else self.entries.get("", self.default)

    # --- of clients -----------------------------------------------------------------------------

    def by_client(self) -> Parts:
        """Raises Unresolved."""
        if self.patterns or self.names:
            raise Unresolved("the map has patterns of addresses", "patterns")
        found: list[tuple[tuple[Clients, ...], str]] = []
        for key, value in self.entries.items():
            if key == "unix:":
                found.append(((UNIX,), value))
            elif (one := _address(key)) is not None:
                found.append(((one,), value))
        return found, self.default


Parts = tuple[list[tuple[tuple[Clients, ...], str]], str]  # by client, and of the others


def _address(text: str) -> Network | None:
    """Of an entry that an address may be equal to, as nginx writes it."""
    try:
        return ip_network(text) if str(ip_address(text)) == text else None
    except ValueError:
        return None


def read_map(one: Directive, report: Report) -> Map:
    found = Map(one.argument())
    inside = one.inside or ()
    found.hostnames = any(entry.name == "hostnames" and not entry.arguments for entry in inside)
    for entry in inside:
        if entry.name in ("hostnames", "volatile") and not entry.arguments:
            continue
        if is_plain(entry, report, 1, 1):
            found.add(entry.name, entry.argument())
    return found


@dataclass(slots=True)
class Geo:
    """networks: with their values, by what nginx sees of a client. obstacle: why nobody can tell
    here what it says."""

    source: str
    networks: dict[Network, str] = field(default_factory=dict)
    default: str = ""
    obstacle: str = ""

    def by_client(self) -> Parts:
        """The longest prefix decides. Raises Unresolved."""
        if self.obstacle:
            raise Unresolved(self.obstacle, "rules by source")
        ordered = sorted(self.networks, key=lambda net: (net.version, -net.prefixlen))
        runs = [
            (tuple(clients for net in run for clients in without_mapped(net)), value)
            for value, run in groupby(ordered, key=lambda net: self.networks[net])
        ]
        if len(runs) <= MAX_RUNS:
            return runs, self.default
        return [
            (accepted_by(self._rules(ordered, value), otherwise=False), value)
            for value in dict.fromkeys(self.networks.values())
        ], self.default

    def _rules(self, ordered: Sequence[Network], value: str) -> Iterator[ClientRule]:
        """Of the clients that have this value."""
        for net in ordered:
            for clients in without_mapped(net):
                yield ClientRule(self.networks[net] == value, clients)


def read_geo(one: Directive, report: Report) -> Geo:
    found = Geo(one.argument() if len(one.arguments) > 1 else f"${OF_CLIENT}")
    for entry in one.inside or ():
        if entry.name in ("volatile", "proxy_recursive") and not entry.arguments:
            continue
        if entry.name == "ranges" and not entry.arguments:
            found.obstacle = "the geo has ranges of addresses"
        elif is_plain(entry, report, 1, 1):
            _add(found, entry, report)
    return found


def _add(geo: Geo, entry: Directive, report: Report) -> None:
    if entry.name == "default":
        geo.default = entry.argument()
    elif entry.name == "delete":
        if (net := network(entry.argument())) is not None:
            geo.networks.pop(net, None)
    elif entry.name == "proxy":
        geo.obstacle = "the geo trusts other addresses"
    elif (net := network(entry.name)) is not None:
        geo.networks[net] = entry.argument()
    elif not geo.obstacle:
        report.problem(entry.at, f"expected a network, got {entry.name}")
