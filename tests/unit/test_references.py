"""What comments and documents name is there: files, functions, names of csrc/.

A file of somebody else is named with its directory (linux/tcp.h), a function of somebody else
stands in OTHERS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("csrc", "tcpmux", "tests", "bench", "docs", ".")
C, PYTHON = (".c", ".h", ".def"), (".py", ".pyi", ".pyx", ".pxd")
OTHERS = {
    "Python.h": "Python",
    "aclose()": "Python",
    "ask.py": "the tutorial, where a reader writes it",
    "build_extension()": "setuptools",
    "fdname_is_valid()": "systemd",
    "pg_is_in_recovery()": "PostgreSQL",
    "tcp_inq_hint()": "Linux",
    "tcp_reset()": "Linux",
}
IN_C = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
# Comments, strings with their prefix, and what lines go on within.
IN_PYTHON = re.compile(
    r"#[^\n]*|(?P<bracket>[()\[\]{}])"
    r"|(?<!\w)[a-zA-Z]{0,2}(?P<quote>\"{3}|'{3}|[\"'])(?:\\.|(?!(?P=quote)).)*(?P=quote)",
    re.DOTALL,
)
# Before a string that is no docstring. What Cython passes on to C is a text of its own, too.
GOES_ON = ("\\", "cdef extern from *:")
FILE = re.compile(r"(?<![\w/.$~<*{-])(?:[\w.-]+/)*\w[\w-]*\.(?:c|h|def|py|pyx|pxd)\b(?![\w/(=])")
FUNCTION = re.compile(r"(?<![\w.])(?:\w+\.)*(\w+\(\))")
OF_C = re.compile(r"\btm_[a-z0-9_]+\b|\bTM_[A-Z0-9_]+\b")


def sources() -> dict[str, str]:
    """Every text but this one by its path: code, tests, and documents but for what has happened."""
    paths = (
        path
        for room in ROOMS
        for path in ((ROOT / room).glob("*") if room == "." else (ROOT / room).rglob("*"))
        if path.suffix in (*C, *PYTHON, ".md")
        if path.name != "CHANGELOG.md" and path != Path(__file__).resolve()
    )
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


@cache
def split(name: str, text: str) -> tuple[list[tuple[int, str]], str]:
    """Comments and docstrings, each with its line, or all of a document; and the code."""
    if name.endswith(".md"):
        return [(1, text)], ""
    if name.endswith(C):
        found = [(text.count("\n", 0, part.start()) + 1, part[0]) for part in IN_C.finditer(text)]
        return found, IN_C.sub("", text)
    prose, code = [], []
    end = depth = 0
    for part in IN_PYTHON.finditer(text):
        if bracket := part["bracket"]:
            depth += 1 if bracket in "([{" else -1
            continue
        start = text.rfind("\n", 0, part.start()) + 1
        before = text[max(0, start - 99) : start].rstrip()
        begins = not depth and not text[start : part.start()].strip()
        if part["quote"] and (not begins or before.endswith(GOES_ON)):
            continue
        prose.append((text.count("\n", 0, part.start()) + 1, part[0]))
        code.append(text[end : part.start()])
        end = part.end()
    return prose, " ".join([*code, text[end:]])


class Tree:
    """What there is to be named."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.files = {
            "/".join(parts[start:])
            for parts in (name.split("/") for name in texts)
            for start in range(len(parts))
        }
        self.directories = {parent.name for name in texts for parent in Path(name).parents}
        code = "\n".join(split(name, text)[1] for name, text in texts.items())
        self.words = {*re.findall(r"\w+", code), *(Path(name).stem for name in texts)}

    def has_file(self, named: str) -> bool:
        first = named.split("/", maxsplit=1)[0]
        if named in OTHERS or ("/" in named and first not in self.directories):
            return True
        return named in self.files

    def missing(self, text: str) -> Iterator[tuple[int, str]]:
        """(where in the text, name) of what it names, and is not there."""
        for found in FILE.finditer(text):
            if not self.has_file(found[0]):
                yield found.start(), found[0]
        for found in FUNCTION.finditer(text):
            if found[1] not in OTHERS and found[1][:-2] not in self.words:
                yield found.start(), found[0]
        for found in OF_C.finditer(text):
            if found[0] not in self.words:
                yield found.start(), found[0]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return sources()


@pytest.fixture(scope="module")
def tree(texts: dict[str, str]) -> Tree:
    return Tree(texts)


def test_all_that_is_named_is_there(texts: dict[str, str], tree: Tree) -> None:
    assert len(texts) > 300
    found = [
        f"{name}:{line + part.count(chr(10), 0, at)}: {missing}"
        for name, text in texts.items()
        for line, part in split(name, text)[0]
        for at, missing in tree.missing(part)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "missing"),
    [
        ("a.c", "int x; /* as\n * worker/_gone.pyx has it */", "worker/_gone.pyx"),
        ("a.c", "int x; // gone.h", "gone.h"),
        ("a.h", "/* Before tm_was_here() ends. */", "tm_was_here()"),
        ("a.h", "/* TM_WAS_HERE is one more */", "TM_WAS_HERE"),
        ("a.py", 'def f():\n    """As nobody.does_that()."""\n', "nobody.does_that()"),
        ("a.pyx", "x = 1  # was_here.c\n", "was_here.c"),
        ("A.md", "`csrc/conn/gone.c` does it", "csrc/conn/gone.c"),
        ("a.c", "/* linux/gone.h, csrc/pick.h, pick.h, read() */", None),
        ("a.py", 'x = """\n# gone.h\n"""\n', None),
        ("a.pyx", 'cdef extern from *:\n    """\n    #include "gone.h"\n    """\n', None),
    ],
)
def test_what_is_gone_is_found(tree: Tree, name: str, text: str, missing: str | None) -> None:
    found = [each for _, part in split(name, text)[0] for _, each in tree.missing(part)]
    assert found[:1] == ([missing] if missing else [])
