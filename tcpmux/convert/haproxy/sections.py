"""The sections of haproxy.cfg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tcpmux.config.address import Address, parse_endpoint, parse_listen
from tcpmux.convert.draft import Draft, Pool, Server
from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.report import Report, Statement, Word


@dataclass(slots=True)
class Section:
    at: Statement
    pool: Pool
    listen: list[Address] = field(default_factory=list)
    backend: str = ""


def read(files: Sequence[Input], report: Report) -> Result:
    sections: dict[str, Section] = {}
    for file in files:
        current = ""
        for number, line in enumerate(file.content.splitlines(), 1):
            words = [Word(text, number, 1) for text in line.split()]
            if not words:
                continue
            if words[0].text in ("frontend", "backend", "listen"):
                current = words[1].text
            at = report.statement(file.name, words, current)
            _line(at, sections)
    drafts = []
    for name, section in sections.items():
        if section.listen:
            of = sections[section.backend or name]
            drafts.append(
                Draft(name, section.listen, [(of.pool, Fraction(1))], section.at, sections={name})
            )
    return Result(drafts)


def _line(at: Statement, sections: dict[str, Section]) -> None:
    keyword, *rest = at.texts
    if keyword in ("frontend", "backend", "listen"):
        sections[at.section] = Section(at, Pool(at.section))
        at.mapped()
    elif at.section and keyword == "bind":
        sections[at.section].listen += parse_listen(rest[0])
        at.mapped(*at.words[:2])
    elif at.section and keyword == "server":
        sections[at.section].pool.servers.append(Server(parse_endpoint(rest[1])))
        at.mapped(*at.words[:3])
    elif keyword == "default_backend":
        sections[at.section].backend = rest[0]
        at.mapped()
