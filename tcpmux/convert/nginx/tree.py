"""Directives as statements of the report, with included files in their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tcpmux.convert.kinds import Input
from tcpmux.convert.nginx.include import Includer
from tcpmux.convert.nginx.lexer import Node, parse
from tcpmux.convert.nginx.tables import HARMLESS_IN_MAIN, MAPPED_IN_MAIN
from tcpmux.convert.report import Report, Statement, Word

STREAM = "stream"  # the section of what stands in stream {} itself
OTHERS = {"http": "HTTP", "mail": "mail"}  # blocks about other things than TCP
# Blocks of data, whose entries are parts of the same statement.
_DATA = ("geo", "map", "match", "split_clients", "types")
_WITHOUT_INCLUDES = ("split_clients", "match")


@dataclass(slots=True, eq=False)
class Directive:
    """inside: what is in its braces; None = it has none. own: how many words of the statement stand
    before the braces."""

    at: Statement
    own: int
    inside: list[Directive] | None = None

    @property
    def name(self) -> str:
        return self.at.words[0].text

    @property
    def arguments(self) -> list[Word]:
        return self.at.words[1 : self.own]

    def argument(self, index: int = 0) -> str:
        """ "" if it has not so many."""
        return self.at.words[index + 1].text if self.own > index + 1 else ""

    def all(self) -> Iterator[Directive]:
        """It and those in its braces."""
        yield self
        for inner in self.inside or ():
            yield from inner.all()

    def changes(self, note: str, needs: str = "") -> None:
        """All of it, with what is in its braces."""
        for one in self.all():
            one.at.changes(note=note, needs=needs)

    def mapped(self, note: str = "") -> None:
        for one in self.all():
            one.at.mapped(note="" if one is not self else note)

    def harmless(self, note: str = "") -> None:
        for one in self.all():
            one.at.harmless(note=note)


@dataclass(slots=True)
class Tree:
    """main: what stands in no braces. stream: in stream {}, and in files that are included from
    there, which is what a file without such blocks is taken for."""

    report: Report
    main: list[Directive] = field(default_factory=list)
    stream: list[Directive] = field(default_factory=list)
    blocks: dict[str, Statement] = field(default_factory=dict)  # stream {} of each main file

    def add(self, file: Input) -> None:
        includer = Includer(file.name, self.report)
        nodes = parse(file.name, file.content, self.report)
        names = {node.words[0].text for node in nodes}
        if names & {"events", STREAM, *OTHERS} or names <= {*HARMLESS_IN_MAIN, *MAPPED_IN_MAIN}:
            self.main += self._directives(nodes, includer, "")
        else:
            self.stream += self._directives(nodes, includer, STREAM)

    def _directives(
        self, nodes: Sequence[Node], includer: Includer, section: str
    ) -> list[Directive]:
        found: list[Directive] = []
        for node in nodes:
            name = node.words[0].text
            at = self.report.statement(node.file, node.words, section)
            if name == "include" and node.inside is None:
                includer.open.append(node.file)
                found += self._directives(includer.nodes(at), includer, section)
                includer.open.pop()
            elif section == "" and name in OTHERS:
                _take_whole(node)
                found.append(Directive(at, 1, []))
            elif section == "" and name == STREAM and node.inside is not None:
                at.mapped()
                before = self.blocks.setdefault(includer.main, at)
                if before is not at:
                    self.report.problem(at, f"a stream block already exists in line {before.line}")
                self.stream += self._directives(node.inside, includer, STREAM)
            else:
                found.append(self._one(at, node, includer))
        return found

    def _one(self, at: Statement, node: Node, includer: Includer) -> Directive:
        if at.section == STREAM and node.inside is not None:
            at.section = _section(at)
        own = len(at.words)
        if node.inside is None:
            return Directive(at, own)
        name = at.words[0].text
        if (
            at.section != ""
            and name in _DATA
            and all(entry.inside is None for entry in node.inside)
        ):
            return Directive(at, own, self._data(at, node, includer))
        if _is_udp(node):
            _take_whole(node)
            return Directive(at, own, [])
        return Directive(at, own, self._directives(node.inside, includer, at.section or "main"))

    def _data(self, at: Statement, node: Node, includer: Includer) -> list[Directive]:
        """The entries of a block of data. Their words are the block's; those that are included from
        another file make statements."""
        found: list[Directive] = []
        for entry in node.inside or ():
            if entry.words[0].text == "include" and at.words[0].text not in _WITHOUT_INCLUDES:
                found += self._directives([entry], includer, at.section)
            else:
                found.append(
                    Directive(Statement(at.file, entry.words, at.section), len(entry.words))
                )
                at.words += entry.words
        return found


def _is_udp(node: Node) -> bool:
    """Whether it is a server that listens for UDP alone."""
    listens = [inner.words for inner in node.inside or () if inner.words[0].text == "listen"]
    is_udp = all("udp" in (word.text for word in words[2:]) for words in listens)
    return node.words[0].text == "server" and bool(listens) and is_udp


def _section(at: Statement) -> str:
    """Of a block in stream {}: one whose remarks belong to the routes that are made of it."""
    if at.words[0].text == "server":
        return f"server {at.file}:{at.line}:{at.words[0].column}"
    return str(at)


def _take_whole(node: Node) -> None:
    """All words of a block as one statement."""
    pending = list(node.inside or ())[::-1]
    while pending:
        inner = pending.pop()
        node.words += inner.words
        pending += list(inner.inside or ())[::-1]
    node.inside = None
