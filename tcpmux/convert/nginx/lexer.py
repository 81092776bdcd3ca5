"""nginx.conf as directives: words, what is in braces, and where each stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tcpmux.convert.report import Report, Statement, Word

MAX_WORD = 4095  # bytes, as nginx's buffer
MAX_DEPTH = 20  # braces within braces
_SKIPPED = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_QUOTED = {
    '"': re.compile(r'"([^"\\]*(?:\\[\s\S][^"\\]*)*)"'),
    "'": re.compile(r"'([^'\\]*(?:\\[\s\S][^'\\]*)*)'"),
}
# '}' begins no word, but is in one; '{' is in one only after '$'.
_PLAIN = re.compile(r"(?:\\[\s\S]|\$\{|[^ \t\r\n;{\\])+")
_AFTER_QUOTE = re.compile(r"[ \t\r\n;{)]|\Z")
_ESCAPE = re.compile(r"\\([\"'\\trn])")
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}


@dataclass(slots=True, eq=False)
class Node:
    """inside: what is in its braces; None = it has none."""

    file: str
    words: list[Word]
    inside: list[Node] | None = None


@dataclass(slots=True)
class _Place:
    """Line and column of growing offsets."""

    text: str
    line: int = 1
    start: int = 0  # of the line
    at: int = 0

    def word(self, at: int, text: str) -> Word:
        self.line += self.text.count("\n", self.at, at)
        last = self.text.rfind("\n", self.at, at)
        self.start = self.start if last < 0 else last + 1
        self.at = at
        return Word(text, self.line, at - self.start + 1)


@dataclass(slots=True)
class _Parser:
    file: str
    text: str
    report: Report
    place: _Place
    top: list[Node] = field(default_factory=list)
    open: list[Node] = field(default_factory=list)  # whose braces have not ended
    words: list[Word] = field(default_factory=list)

    def wrong(self, at: int, message: str) -> None:
        """The first mistake ends the file: what follows may mean anything."""
        self.report.problem(Statement(self.file, [self.place.word(at, "")]), message)

    def run(self) -> bool:
        """Whether the text has a form that nginx accepts."""
        at = 0
        while True:
            if skipped := _SKIPPED.match(self.text, at):
                at = skipped.end()
            if at >= len(self.text):
                return self._end()
            mark = self.text[at]
            if mark in ";{}":
                if not self._mark(at, mark):
                    return False
                at += 1
                continue
            end = self._word(at, mark)
            if end is None:
                return False
            at = end

    def _end(self) -> bool:
        if self.words or self.open:
            expected = '";" or "}"' if self.open else '";" or "{"'
            self.wrong(len(self.text), f"unexpected end of file, expected {expected}")
            return False
        return True

    def _mark(self, at: int, mark: str) -> bool:
        if mark == "}":
            if self.words or not self.open:
                self.wrong(at, 'unexpected "}"')
                return False
            self.open.pop()
            return True
        if not self.words:
            self.wrong(at, f'unexpected "{mark}"')
            return False
        node = Node(self.file, self.words, [] if mark == "{" else None)
        siblings = self.open[-1].inside if self.open else self.top
        assert siblings is not None
        siblings.append(node)
        self.words = []
        if mark == "{":
            self.open.append(node)
            if len(self.open) > MAX_DEPTH:
                self.wrong(at, f"more than {MAX_DEPTH} levels of braces")
                return False
        return True

    def _word(self, at: int, first: str) -> int | None:
        """Adds the word that begins there; where it ends, None if it does not."""
        found = _QUOTED.get(first, _PLAIN).match(self.text, at)
        if found is None or (first not in _QUOTED and self.text.startswith("\\", found.end())):
            self.wrong(
                at, f"unexpected end of file: the word that begins with {first} is not closed"
            )
            return None
        if first in _QUOTED and not _AFTER_QUOTE.match(self.text, found.end()):
            self.wrong(found.end(), f'unexpected "{self.text[found.end()]}" after a quote')
            return None
        text = found[1] if first in _QUOTED else found[0]
        if len(text.encode("utf-8", "surrogatepass")) > MAX_WORD or "\0" in text:
            self.wrong(at, f"a word of more than {MAX_WORD} bytes, or with a NUL in it")
            return None
        text = _ESCAPE.sub(lambda escape: _CONTROL.get(escape[1], escape[1]), text)
        self.words.append(self.place.word(at, text))
        return found.end()


def parse(file: str, text: str, report: Report) -> list[Node]:
    """[] after a mistake, which is a problem of the report."""
    parser = _Parser(file, text, report, _Place(text))
    return parser.top if parser.run() else []
