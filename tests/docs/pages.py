"""The documentation as data: pages, headings, links and fenced blocks.

A comment on the line before a fenced block says what the tests do with it:

    <!-- run -->           run it, with the other blocks of the page, in one shell
    <!-- background -->    start it, and leave it running
    <!-- output -->        what the block before has to print; … stands for anything
    <!-- file: NAME -->    write it to NAME, for the blocks that follow
    <!-- of: NAME -->      a file of NAME's (prometheus, patroni, ...), not of tcpmux
    <!-- invalid -->       an example of a mistake

and some stand alone:

    <!-- ports: 8080 9001 -->    ports that a test replaces by free ones
    <!-- needs: redis-server --> programs without which the page is not run
    <!-- interrupt: TEXT -->     end what the block with TEXT has started, as Ctrl-C does
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^`]*)$")
COMMENT = re.compile(r"^\s*<!-- (?P<text>.*?) -->$")
HEADING = re.compile(r"^(#{1,6}) (.+?)(?: \{#([\w-]+)\})?$", re.MULTILINE)
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block. directive: the comment before it, or "". line: of its fence, from 1."""

    page: Page
    language: str
    directive: str
    text: str
    line: int

    @property
    def name(self) -> str:
        """Where it is, for a message or a test's id."""
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        return list(self._blocks())

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks, which are empty lines, and without comments."""
        lines = self.text.split("\n")
        for block in self.blocks:
            last = block.line + block.text.count("\n") + 1
            lines[block.line - 1 : last] = [""] * (last - block.line + 1)
        return re.sub(r"<!--.*?-->", "", "\n".join(lines))

    @cached_property
    def anchors(self) -> dict[str, str]:
        """What may follow # in a link to this page, by what GitHub makes of each heading."""
        found: dict[str, str] = {}
        for heading in HEADING.finditer(self.prose):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2]).replace("`", "")
            found[on_github(title)] = heading[3] or on_the_site(title)
        return found

    @property
    def links(self) -> list[str]:
        return LINK.findall(CODE.sub("", self.prose))

    @property
    def codes(self) -> list[str]:
        """What stands in `backquotes`."""
        return CODE.findall(self.prose)

    def _blocks(self) -> Iterator[Block]:
        lines = self.text.split("\n")
        at = 0
        while at < len(lines):
            opened = FENCE.match(lines[at])
            if opened is None:
                at += 1
                continue
            start, fence, indent = at, opened["fence"], len(opened["indent"])
            at += 1
            while lines[at].strip() != fence:
                at += 1
                assert at < len(lines), f"{self.name}:{start + 1}: the block has no end"
            said = COMMENT.match(lines[start - 1]) if start else None
            text = "".join(f"{line[indent:]}\n" for line in lines[start + 1 : at])
            yield Block(self, opened["info"].strip(), said["text"] if said else "", text, start + 1)
            at += 1


def on_github(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def on_the_site(title: str) -> str:
    """As Python-Markdown's toc does it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def pages() -> list[Page]:
    """README.md and what is below docs/."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted(DOCS.rglob("*.md")))]


def blocks(*languages: str) -> list[Block]:
    return [block for page in pages() for block in page.blocks if block.language in languages]
