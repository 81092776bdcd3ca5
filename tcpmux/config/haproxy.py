"""Routes from haproxy.cfg."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Address, Endpoint
from tcpmux.config.foreign import Reader, plain_name
from tcpmux.config.model import Destination, Route
from tcpmux.config.settings import DestinationPolicy, RoutePolicy, Timeouts

_DEFAULT = Timeouts()


@dataclass(slots=True)
class _Section:
    """One of haproxy.cfg."""

    kind: str
    name: str
    line: int
    mode: str
    connect: float = _DEFAULT.connect_timeout
    idle: float = _DEFAULT.idle_timeout
    listen: list[Address] = field(default_factory=list)
    backend: str = ""
    servers: list[tuple[str, int, Endpoint]] = field(default_factory=list)


class Haproxy(Reader):
    """docs.haproxy.org: sections begin with a keyword in the first column of words."""

    SILENT = ("log", "option", "maxconn", "balance", "retries", "description")

    def routes(self, text: str) -> list[Route]:
        sections = self._sections(text)
        backends = {s.name: s for s in sections if s.kind in ("backend", "listen")}
        found = []
        for section in sections:
            if not section.listen:
                continue
            if section.mode != "tcp":
                self.note(section.line, section.name, f"mode {section.mode}: only tcp is relayed")
                continue
            backend = backends.get(section.backend) if section.backend else section
            if backend is None or not backend.servers:
                self.note(section.line, section.name, "it has no default_backend with servers")
                continue
            destinations = tuple(
                Destination(
                    name, weight, (endpoint,), DestinationPolicy(backend.connect, section.idle)
                )
                for name, weight, endpoint in backend.servers
            )
            source = f"{section.kind} {section.name} at {self.path}:{section.line}"
            found.append(
                Route(
                    plain_name(section.name),
                    tuple(section.listen),
                    destinations,
                    source,
                    RoutePolicy(backend.connect, section.idle),
                )
            )
        return found

    def _sections(self, text: str) -> list[_Section]:
        sections: list[_Section] = []
        defaults = _Section("defaults", "", 0, "http")
        current = _Section("global", "", 0, "", 0, 0)
        for number, line in enumerate(text.splitlines(), 1):
            words = re.sub(r"(^|\s)#.*", "", line).split()
            if not words:
                continue
            if words[0] in ("global", "defaults", "frontend", "backend", "listen"):
                base = _Section("", "", 0, "http")
                base = base if words[0] == "defaults" else defaults
                name = words[1] if len(words) > 1 else ""
                current = _Section(words[0], name, number, base.mode, base.connect, base.idle)
                if words[0] == "defaults":
                    defaults = current
                elif words[0] != "global":
                    sections.append(current)
            elif current.kind != "global":
                self._line(current, number, words)
        return sections

    def _line(self, section: _Section, number: int, words: list[str]) -> None:
        keyword, *rest = words
        if keyword == "mode" and rest:
            section.mode = rest[0]
        elif keyword == "timeout" and len(rest) == 2:
            self._timeout(section, number, *rest)
        elif keyword == "bind" and rest:
            for address in rest[0].split(","):
                section.listen += self.listen(number, self._address(address))
            self._rest(number, rest[1:])
        elif keyword == "default_backend" and rest:
            section.backend = rest[0]
        elif keyword == "server" and len(rest) >= 2:
            self._server(section, number, rest)
        elif keyword not in self.SILENT:
            self.note(number, " ".join(words), "has no equivalent in tcpmux")

    def _timeout(self, section: _Section, number: int, what: str, text: str) -> None:
        if what == "connect":
            section.connect = self.connect(number, "timeout connect", text, 1e-3)
        elif what in ("client", "server", "tunnel"):
            section.idle = self.idle(number, f"timeout {what}", text, 1e-3)
        else:
            self.note(number, f"timeout {what}", "has no equivalent in tcpmux")

    @staticmethod
    def _address(text: str) -> str:
        text = re.sub(r"^(ipv4|ipv6|tcp|tcp4|tcp6)@", "", text)
        if text.startswith(("/", "unix@")):
            return "unix:" + text.removeprefix("unix@")
        return text

    def _server(self, section: _Section, number: int, words: list[str]) -> None:
        name, address, *options = words
        endpoint = self.endpoint(number, self._address(address))
        weight = 1
        for at, option in enumerate(options):
            if option == "weight" and at + 1 < len(options):
                weight = self.weight(number, options[at + 1])
            elif option in ("backup", "disabled"):
                self.note(
                    number,
                    f"server {name} {option}",
                    "gets weight 0: see on_unavailable",
                )
                weight = 0
                break
            elif not (at and options[at - 1] == "weight"):
                self.note(number, f"server {name} {option}", "has no equivalent in tcpmux")
        if endpoint is not None:
            section.servers.append((plain_name(name), weight, endpoint))

    def _rest(self, number: int, words: Sequence[str]) -> None:
        if words:
            self.note(number, " ".join(words), "has no equivalent in tcpmux")
