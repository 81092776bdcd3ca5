"""What the documentation shows is carried out, with real servers, and prints what it shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, pages
from tests.docs.session import Session, matches
from tests.support import short_directory

RUNNABLE = ("run", "background")


@pytest.fixture(scope="module")
def commands() -> Iterator[Path]:
    """The socket of a commands_server."""
    with short_directory() as directory:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.commands_server", str(directory / "sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        with server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield directory / "sock"
            server.stdin.close()


def runnable() -> list[Page]:
    return [p for p in pages() if any(b.directive in RUNNABLE for b in p.blocks)]


@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.name)
def test_a_page_does_what_it_says(page: Page, open_path: Path, commands: Path) -> None:
    with Session(page, open_path, commands) as session:
        assert session.carry_out()


def test_the_tutorial_is_among_them() -> None:
    assert "docs/tutorial.md" in [page.name for page in runnable()]


def test_known_directives() -> None:
    """A typo would leave a block untested."""
    known = ("run", "background", "output", "file", "of", "invalid", "recording", "")
    for page in pages():
        for block in page.blocks:
            what = block.directive.partition(": ")[0]
            assert what in known, f"{block.name}: {block.directive}"


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("a  b", "a b\n", True),
        ("a b", "a c", False),
        ("a … c", "a b d c", True),
        ("a\n…\nc", "a\nb\nb\nc", True),
        ("a\n…\nc", "a\nc", True),
        ("a", "a\nb", False),
        ("a.c", "abc", False),
    ],
)
def test_output_is_compared(expected: str, found: str, same: bool) -> None:
    assert matches(expected, found) is same


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("<!-- run -->\n```sh\necho a\n```\n<!-- output -->\n```text\na\n```\n", True),
        ("<!-- run -->\n```sh\necho a\n```\n<!-- output -->\n```text\nb\n```\n", False),
        ("<!-- run -->\n```sh\nfalse\necho a\n```\n", False),
        ("<!-- run -->\n```sh\nexit 3\n```\n", False),
        ("<!-- file: a/b -->\n```text\nx\n```\n<!-- run -->\n```sh\ngrep x a/b\n```\n", True),
        (
            (
                "<!-- background -->\n```sh\necho up; exec sleep 100\n```\n<!-- output -->\n"
                "```text\nup\n```\n<!-- interrupt: sleep -->\n<!-- run -->\n```sh\ntrue\n```\n"
            ),
            True,
        ),
    ],
)
def test_a_session_notices(
    text: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    (tmp_path / "work").mkdir()
    with Session(Page(path), tmp_path / "work") as session:
        if ends:
            assert session.carry_out()
        else:
            with pytest.raises(AssertionError):
                session.carry_out()
