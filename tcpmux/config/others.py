"""Routes from haproxy.cfg and nginx.conf, as far as they are about TCP and the mapping is plain.

For `tcpmux convert` alone: tcpmux does not run on them. What has no counterpart is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tcpmux.config.address import Address, Endpoint, parse_endpoint, parse_listen
from tcpmux.config.duration import format_duration
from tcpmux.config.model import MAX_WEIGHT, Admin, Config, Destination, Route
from tcpmux.config.problems import ConfigError, Problem, describe, one_line
from tcpmux.config.schema import DAY, HOUR, FileModel
from tcpmux.config.values import MOST_DIGITS
from tcpmux.errors import printable
from tcpmux.files import Unreadable, read_file

DEFAULTS = FileModel()
CONNECT_TIMEOUT, IDLE_TIMEOUT = 10.0, 3600.0  # s
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_PART = re.compile(r"([0-9]{1,20})(us|ms|[smhd]|)")
_TIME = re.compile(r"(?:[0-9]{1,20}(?:us|ms|[smhd]))*[0-9]{1,20}(?:us|ms|[smhd]|)")


def is_other(path: str) -> bool:
    return Path(path).suffix in (".cfg", ".conf")


def load_other(paths: Sequence[str]) -> Config:
    """One configuration of all files. Raises ConfigError."""
    warnings: list[Problem] = []
    problems: list[Problem] = []
    routes: list[Route] = []
    for path in paths:
        try:
            text = read_file(path).data.decode("utf-8")
        except Unreadable as error:
            raise ConfigError([Problem(path, 0, 0, "", str(error))]) from None
        except UnicodeDecodeError as error:
            raise ConfigError([Problem(path, 0, 0, "", f"can't be read: {error}")]) from None
        kind = _Haproxy if Path(path).suffix == ".cfg" else _Nginx
        routes += kind(path, warnings, problems).routes(text)
    if problems:
        raise ConfigError(problems)
    if not routes:
        message = "no TCP proxy with a destination is in it"
        raise ConfigError([*warnings, Problem(", ".join(paths), 0, 0, "", message)])
    return Config(
        DEFAULTS.workers,
        DEFAULTS.busy_poll,
        Admin(DEFAULTS.admin.socket),
        DEFAULTS.drain_timeout,
        tuple(routes),
        tuple(Path(path) for path in paths),
        warnings=tuple(warnings),
    )


def plain_name(text: str) -> str:
    """A name of ours: other characters become '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:63] or "route"


@dataclass(slots=True)
class _Reader:
    path: str
    warnings: list[Problem]
    problems: list[Problem]

    def note(self, line: int, what: str, why: str) -> None:
        self.warnings.append(Problem(self.path, line, 1, one_line(what), printable(why)))

    def wrong(self, line: int, what: str, why: str) -> None:
        """A mistake: nothing is made of the file."""
        self.problems.append(Problem(self.path, line, 1, one_line(what), printable(why)))

    def weight(self, line: int, text: str) -> int:
        """As in the file; with a problem if it is none of ours."""
        digits = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
        if not digits or int(text) > MAX_WEIGHT:
            self.wrong(line, "weight", f"expected 0..{MAX_WEIGHT}, got {describe(text)}")
            return 0
        return int(text)

    def seconds(self, line: int, what: str, text: str, unit: float, most: float) -> float:
        """text: such as 30s, 1h30m or a number alone, whose unit is `unit` (s). A problem if it is
        more than `most` s. 0 is no limit there, too."""
        if not _TIME.fullmatch(text):
            self.wrong(line, what, f"expected a time such as 10s, got {describe(text)}")
            return most
        seconds = sum(int(count) * _UNITS.get(name, unit) for count, name in _PART.findall(text))
        if seconds > most:
            expected = f"expected at most {format_duration(most)}"
            self.wrong(line, what, f"{expected}, got {describe(text)}")
        return max(seconds, 0.001) if seconds else 0.0

    def connect(self, line: int, what: str, text: str, unit: float) -> float:
        seconds = self.seconds(line, what, text, unit, HOUR)
        if not seconds:
            self.note(
                line,
                f"{what} {text}",
                f"no limit has no counterpart: it is {format_duration(HOUR)}",
            )
        return seconds or HOUR

    def idle(self, line: int, what: str, text: str, unit: float) -> float:
        return self.seconds(line, what, text, unit, 30 * DAY)

    def listen(self, line: int, text: str) -> list[Address]:
        text = re.sub(r"^\*:", ":", text)
        try:
            return parse_listen(text if ":" in text else f":{text}")
        except ValueError as error:
            self.note(line, text, str(error))
            return []

    def endpoint(self, line: int, text: str) -> Endpoint | None:
        try:
            return parse_endpoint(text)
        except ValueError as error:
            self.note(line, text, str(error))
            return None


@dataclass(slots=True)
class _Section:
    """One of haproxy.cfg."""

    kind: str
    name: str
    line: int
    mode: str
    connect: float
    idle: float
    listen: list[Address] = field(default_factory=list)
    backend: str = ""
    servers: list[tuple[str, int, Endpoint]] = field(default_factory=list)


class _Haproxy(_Reader):
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
                Destination(name, weight, (endpoint,), backend.connect, section.idle)
                for name, weight, endpoint in backend.servers
            )
            source = f"{section.kind} {section.name} at {self.path}:{section.line}"
            found.append(
                Route(
                    plain_name(section.name),
                    tuple(section.listen),
                    backend.connect,
                    section.idle,
                    destinations,
                    source,
                )
            )
        return found

    def _sections(self, text: str) -> list[_Section]:
        sections: list[_Section] = []
        defaults = _Section("defaults", "", 0, "http", CONNECT_TIMEOUT, IDLE_TIMEOUT)
        current = _Section("global", "", 0, "", 0, 0)
        for number, line in enumerate(text.splitlines(), 1):
            words = re.sub(r"(^|\s)#.*", "", line).split()
            if not words:
                continue
            if words[0] in ("global", "defaults", "frontend", "backend", "listen"):
                base = _Section("", "", 0, "http", CONNECT_TIMEOUT, IDLE_TIMEOUT)
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
            self.note(number, " ".join(words), "has no counterpart")

    def _timeout(self, section: _Section, number: int, what: str, text: str) -> None:
        if what == "connect":
            section.connect = self.connect(number, "timeout connect", text, 1e-3)
        elif what in ("client", "server", "tunnel"):
            section.idle = self.idle(number, f"timeout {what}", text, 1e-3)
        else:
            self.note(number, f"timeout {what}", "has no counterpart")

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
                    "it gets weight 0: see on_unavailable",
                )
                weight = 0
                break
            elif not (at and options[at - 1] == "weight"):
                self.note(number, f"server {name} {option}", "has no counterpart")
        if endpoint is not None:
            section.servers.append((plain_name(name), weight, endpoint))

    def _rest(self, number: int, words: Sequence[str]) -> None:
        if words:
            self.note(number, " ".join(words), "has no counterpart")


@dataclass(slots=True)
class _Block:
    """A directive of nginx.conf, with what is in its braces."""

    line: int
    words: list[str]
    inside: list[_Block]

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def argument(self) -> str:
        return self.words[1] if len(self.words) > 1 else ""


_TOKEN = re.compile(r"""\s+|\#[^\n]*|([{};])|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s{};]+)""")


class _Nginx(_Reader):
    """nginx.org/en/docs/stream: upstream, split_clients and server."""

    SILENT = ("access_log", "error_log", "tcp_nodelay", "zone", "proxy_buffer_size")

    def routes(self, text: str) -> list[Route]:
        found: list[Route] = []
        for block in self._blocks(iter(self._tokens(text))):
            if block.name == "stream":
                found += self._stream(block)
        return found

    @staticmethod
    def _tokens(text: str) -> Iterator[tuple[int, str, bool]]:
        """(line, text, is punctuation)"""
        at, line, end = 0, 1, 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:  # a quote that does not end
                return
            line += text.count("\n", end, at)
            end, at = at, found.end()
            if found[1]:
                yield line, found[1], True
            elif found.lastindex:
                yield line, found[found.lastindex], False

    def _blocks(self, tokens: Iterator[tuple[int, str, bool]], depth: int = 0) -> list[_Block]:
        blocks: list[_Block] = []
        words: list[str] = []
        began = 0
        for line, text, is_mark in tokens:
            if not is_mark:
                began = began if words else line
                words.append(text)
                continue
            if text == "}" or depth > 16:
                return blocks
            inside = self._blocks(tokens, depth + 1) if text == "{" else []
            if words:
                blocks.append(_Block(began, words, inside))
            words = []
        return blocks

    def _stream(self, stream: _Block) -> list[Route]:
        upstreams = {b.argument: b for b in stream.inside if b.name == "upstream"}
        splits = {
            b.words[2]: b for b in stream.inside if b.name == "split_clients" and len(b.words) > 2
        }
        found = []
        for number, block in enumerate(stream.inside):
            if block.name == "server":
                route = self._server(block, number, upstreams, splits)
                if route is not None:
                    found.append(route)
            elif block.name not in ("upstream", "split_clients", *self.SILENT):
                self.note(block.line, " ".join(block.words), "has no counterpart")
        return found

    def _server(
        self,
        server: _Block,
        number: int,
        upstreams: dict[str, _Block],
        splits: dict[str, _Block],
    ) -> Route | None:
        listen: list[Address] = []
        target, connect, idle = "", 60.0, 600.0  # s; nginx's defaults
        for part in server.inside:
            if part.name == "listen":
                listen += self._listen(part)
            elif part.name == "proxy_pass":
                target = part.argument
            elif part.name == "proxy_connect_timeout":
                connect = self.connect(part.line, part.name, part.argument, 1.0)
            elif part.name == "proxy_timeout":
                idle = self.idle(part.line, part.name, part.argument, 1.0)
            elif part.name not in self.SILENT:
                self.note(part.line, " ".join(part.words), "has no counterpart")
        destinations = tuple(
            Destination(plain_name(label), weight * factor, (endpoint,), connect, idle)
            for name, weight in self._shares(server, target, splits)
            for label, factor, endpoint in self._upstream(server, name, upstreams)
        )
        if not listen or not destinations:
            return None
        name = target.removeprefix("$")
        name = f"server-{number}" if name[:1].isdigit() else plain_name(name)
        source = f"server at {self.path}:{server.line}"
        return Route(name, tuple(listen), connect, idle, destinations, source)

    def _listen(self, part: _Block) -> list[Address]:
        for word in part.words[2:]:
            if not word.startswith(("reuseport", "backlog=")):
                self.note(part.line, f"listen {word}", "has no counterpart")
        return self.listen(part.line, part.argument)

    def _shares(
        self, server: _Block, target: str, splits: dict[str, _Block]
    ) -> list[tuple[str, int]]:
        if not target.startswith("$"):
            return [(target, 1)]
        split = splits.get(target)
        if split is None:
            self.note(
                server.line, f"proxy_pass {target}", "only split_clients sets a variable here"
            )
            return []
        shares, left = [], 10000
        for part in split.inside:
            share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%", part.name)
            if share is None and part.name != "*":
                expected = "expected a share such as 20% or 0.5%"
                self.wrong(part.line, "split_clients", f"{expected}, got {describe(part.name)}")
            weight = round(float(share[1]) * 100) if share else left
            left -= weight
            shares.append((part.argument, min(max(weight, 0), MAX_WEIGHT)))
        whole = all(weight % 100 == 0 for _, weight in shares)
        return [(name, weight // 100 if whole else weight) for name, weight in shares]

    def _upstream(
        self, server: _Block, name: str, upstreams: dict[str, _Block]
    ) -> list[tuple[str, int, Endpoint]]:
        if name not in upstreams:
            endpoint = self.endpoint(server.line, name)
            return [] if endpoint is None else [(name.replace(":", "-"), 1, endpoint)]
        found = []
        servers = [part for part in upstreams[name].inside if part.name == "server"]
        for part in servers:
            weight = 1
            for option in part.words[2:]:
                if option.startswith("weight="):
                    weight = self.weight(part.line, option[7:])
                elif option in ("backup", "down"):
                    self.note(
                        part.line,
                        option,
                        "it gets weight 0: see on_unavailable",
                    )
                    weight = 0
                else:
                    self.note(part.line, option, "has no counterpart")
            endpoint = self.endpoint(part.line, part.argument)
            if endpoint is not None:
                label = name if len(servers) == 1 else f"{name}-{part.argument}"
                found.append((label, weight, endpoint))
        for part in upstreams[name].inside:
            if part.name not in ("server", *self.SILENT):
                self.note(part.line, " ".join(part.words), "has no counterpart")
        return found
