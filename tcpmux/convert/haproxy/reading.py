"""Files of HAProxy as sections of lines."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.convert.haproxy.conditions import CONDITIONALS, Conditions, Malformed
from tcpmux.convert.haproxy.lexer import Mistake, numbered, raw_words, words_of
from tcpmux.convert.haproxy.tables import DIRECTIVES, global_reason
from tcpmux.convert.kinds import Input
from tcpmux.convert.report import Effect, Report, Word

PROXIES = ("frontend", "backend", "listen")
# Sections that say nothing of where connections go, with what they are for.
OTHERS = {
    "peers": "shares stick tables with other instances",
    "ring": "buffers logs",
    "mailers": "sends mail when a server's state changes",
    "userlist": "applies to HTTP only",
    "cache": "applies to HTTP only",
    "http-errors": "applies to HTTP only",
    "fcgi-app": "applies to HTTP only",
    "crt-store": "loads certificates",
    "crt-list": "loads certificates",
    "traces": "for debugging only",
    "acme": "requests certificates",
    "log-profile": "logs",
    "program": "starts another program, which tcpmux does not do",
    "resolvers": "tcpmux queries the host's name servers",
}
SECTIONS = ("global", "defaults", *PROXIES, *OTHERS, "log-forward")
_KNOWN = {"no", "default", "option", "timeout", *(key.split()[0] for key in DIRECTIVES)}
UNDECIDED = "its .if depends on the running HAProxy: keep only the branch that applies"


@dataclass(slots=True)
class RawLine:
    """fate: of all words, if they are not to be interpreted."""

    words: list[Word]
    fate: tuple[Effect, str] | None = None


@dataclass(slots=True)
class RawSection:
    """lines: the first is the head, except that of kind "", which is what is before a section."""

    file: str
    kind: str
    name: str = ""
    base: str | None = None  # of `from`
    old_addresses: list[Word] = field(default_factory=list)  # of `listen NAME ADDRESS`
    lines: list[RawLine] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


def read_sections(files: Sequence[Input], report: Report) -> list[RawSection]:
    """In order. Mistakes become problems of the report."""
    environment = dict(os.environ)
    sections: list[RawSection] = []
    for file in files:
        sections += _File(file.name, report, environment).read(file.content)
    return sections


@dataclass(slots=True)
class _File:
    name: str
    report: Report
    environment: dict[str, str]
    conditions: Conditions = field(default_factory=Conditions)
    sections: list[RawSection] = field(default_factory=list)

    def read(self, content: str) -> list[RawSection]:
        self.sections = [RawSection(self.name, "")]
        last: list[Word] = []
        for number, text in numbered(content):
            last = self._line(number, text) or last
        if self.conditions.blocks and last:
            self._problem(last, ".if without .endif at the end of the file")
        return self.sections

    def _problem(self, words: list[Word], message: str, column: int = 0) -> None:
        at = self.report.statement(self.name, words or [Word("", 1, 1)])
        place = Word("", at.line, column) if column else None
        self.report.problem(at, message, place)

    def _line(self, number: int, text: str) -> list[Word]:
        raw = raw_words(text, number)
        if not raw or raw[0].text.startswith("#"):
            return []
        if raw[0].text.split("#")[0] not in CONDITIONALS and self.conditions.active is not True:
            self._add(self._fated(raw))
            return raw
        here = self.sections[-1]
        pseudo = {".FILE": self.name, ".LINE": str(number), ".SECTION": here.name or here.kind}
        try:
            line = words_of(text, number, {**self.environment, **pseudo})
        except Mistake as mistake:
            self._problem(raw, str(mistake), mistake.column)
            return raw
        if not line.words:
            return []
        keyword = line.words[0].text
        if keyword.startswith("."):
            self._directive(line.words)
            return raw
        for missing in line.missing:
            self._problem(
                raw, f"the environment variable {missing} is not set: set it to HAProxy's value"
            )
        if keyword in SECTIONS or self._begins_unknown(line.words[0]):
            self._head(line.words)
        else:
            self._inside(line.words)
        return raw

    def _begins_unknown(self, word: Word) -> bool:
        """Whether it must be the head of a section that is not known here: the lines before it
        are indented, and it is neither that nor a directive."""
        lines = self.sections[-1].lines[1:]
        return (
            word.column == 1
            and bool(lines)
            and all(line.words[0].column > 1 for line in lines)
            and word.text not in _KNOWN
            and not global_reason(word.text)
        )

    def _fated(self, words: list[Word]) -> RawLine:
        if self.conditions.active is None:
            return RawLine(words, (Effect.CHANGES, UNDECIDED))
        return RawLine(words, (Effect.HARMLESS, "its .if is false"))

    def _add(self, line: RawLine) -> None:
        self.sections[-1].lines.append(line)

    def _directive(self, words: list[Word]) -> None:
        keyword, *rest = [word.text for word in words]
        if keyword in (".notice", ".warning", ".diag"):
            self._add(RawLine(words, (Effect.HARMLESS, "only a message")))
        elif keyword == ".alert":
            self._problem(words, f"HAProxy stops here: {' '.join(rest)}")
        elif keyword in CONDITIONALS:
            outside = self.conditions.active
            try:
                value = self.conditions.take(keyword, " ".join(rest), self.environment)
            except Malformed as error:
                self._problem(words, str(error))
                return
            if value is None and outside is not False:
                self._add(RawLine(words, (Effect.CHANGES, UNDECIDED)))
            else:
                self._add(RawLine(words, (Effect.MAPPED, "")))
        else:
            self._problem(words, f"unknown directive {keyword}")

    def _head(self, words: list[Word]) -> None:
        kind, *rest = words
        made = RawSection(self.name, kind.text, lines=[RawLine(words)])
        texts = [word.text for word in rest]
        if len(texts) >= 2 and texts[-2] == "from" and kind.text in (*PROXIES, "defaults"):
            made.base = texts[-1]
            rest, texts = rest[:-2], texts[:-2]
        made.name = texts[0] if texts else ""
        self.sections.append(made)
        if kind.text in PROXIES and not re.fullmatch(r"[A-Za-z0-9_.:-]+", made.name):
            self._problem(words, f"expected a name of letters, digits and -_.: after {kind.text}")
        elif kind.text in ("frontend", "listen"):
            made.old_addresses = rest[1:2]
            rest = rest[2:]
        elif kind.text in ("backend", "defaults"):
            rest = rest[1:]
        if rest and kind.text in (*PROXIES, "defaults"):
            self._problem(words, f"unexpected {rest[0].text} after the section's name")

    def _inside(self, words: list[Word]) -> None:
        section = self.sections[-1]
        if not section.kind:
            self._problem(words, f"unknown keyword {words[0].text} outside of a section")
            return
        if section.kind == "global":
            self._environment([word.text for word in words])
        self._add(RawLine(words))

    def _environment(self, texts: list[str]) -> None:
        keyword, *rest = texts
        if keyword == "setenv" and len(rest) == 2:
            self.environment[rest[0]] = rest[1]
        elif keyword == "presetenv" and len(rest) == 2:
            self.environment.setdefault(*rest)
        elif keyword == "unsetenv":
            for name in rest:
                self.environment.pop(name, None)
        elif keyword == "resetenv":
            for name in [*self.environment]:
                if name not in rest:
                    del self.environment[name]
