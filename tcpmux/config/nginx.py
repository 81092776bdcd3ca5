"""Routes from nginx.conf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tcpmux.config.address import Address, Endpoint
from tcpmux.config.foreign import Reader, plain_name
from tcpmux.config.model import MAX_WEIGHT, Destination, Route
from tcpmux.config.problems import describe
from tcpmux.config.settings import DestinationPolicy, RoutePolicy


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


class Nginx(Reader):
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
                self.note(block.line, " ".join(block.words), "has no equivalent in tcpmux")
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
                self.note(part.line, " ".join(part.words), "has no equivalent in tcpmux")
        destinations = tuple(
            Destination(
                plain_name(label), weight * factor, (endpoint,), DestinationPolicy(connect, idle)
            )
            for name, weight in self._shares(server, target, splits)
            for label, factor, endpoint in self._upstream(server, name, upstreams)
        )
        if not listen or not destinations:
            return None
        name = target.removeprefix("$")
        name = f"server-{number}" if name[:1].isdigit() else plain_name(name)
        source = f"server at {self.path}:{server.line}"
        return Route(name, tuple(listen), destinations, source, RoutePolicy(connect, idle))

    def _listen(self, part: _Block) -> list[Address]:
        for word in part.words[2:]:
            if not word.startswith(("reuseport", "backlog=")):
                self.note(part.line, f"listen {word}", "has no equivalent in tcpmux")
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
                        "gets weight 0: see on_unavailable",
                    )
                    weight = 0
                else:
                    self.note(part.line, option, "has no equivalent in tcpmux")
            endpoint = self.endpoint(part.line, part.argument)
            if endpoint is not None:
                label = name if len(servers) == 1 else f"{name}-{part.argument}"
                found.append((label, weight, endpoint))
        for part in upstreams[name].inside:
            if part.name not in ("server", *self.SILENT):
                self.note(part.line, " ".join(part.words), "has no equivalent in tcpmux")
        return found
