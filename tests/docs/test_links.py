"""Links lead somewhere, on GitHub and on the site, and files that are named exist."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.pages import CODE, DOCS, ROOT, Page, blocks, on_github, on_the_site, pages

LANGUAGES = {
    "", "console", "haproxy", "ini", "json", "nginx", "promql", "python", "sh", "sql", "text",
    "toml", "yaml",
}  # fmt: skip
FILE = re.compile(r"(?:configs|docs|bench|tests|csrc|tcpmux)/[\w./-]+|\w+\.md")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page: Page) -> None:
    for link in page.links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.is_file(), f"{page.name}: {link}: there is no such file"
        if page.path.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{page.name}: {link}: it is not on the site"
        if anchor:
            anchors = Page(target).anchors
            assert anchor in anchors, f"{page.name}: {link}: there is no such heading"
            assert anchors[anchor] == anchor, f"{page.name}: {link}: not the same on the site"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Page) -> None:
    for code in page.codes:
        if FILE.fullmatch(code):
            assert (ROOT / code).exists(), f"{page.name}: {code}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_has_one_title_and_known_languages(page: Page) -> None:
    assert len(re.findall(r"^# ", page.prose, re.MULTILINE)) == 1, page.name
    for block in page.blocks:
        assert block.language in LANGUAGES, block.name
        assert block.language, f"{block.name}: say text, if it is nothing else"
    headings = re.findall(r"^#+ .+$", page.prose, re.MULTILINE)
    assert len(page.anchors) == len(headings), f"{page.name}: two headings are the same"


def test_the_menu_has_every_page_once() -> None:
    def listed(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [name for part in parts for name in listed(part)]  # type: ignore[attr-defined]

    menu = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(menu) == len(set(menu))
    assert set(menu) == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_images_are_used() -> None:
    texts = "\n".join(page.text for page in pages())
    for path in DOCS.rglob("*"):
        if path.suffix in (".png", ".svg"):
            assert path.name in texts, path


@pytest.mark.parametrize(
    ("title", "github", "site"),
    [
        ("Limits of each client", "limits-of-each-client", "limits-of-each-client"),
        ("drain_timeout, TERM", "drain_timeout-term", "drain_timeout-term"),
        ("a + b", "a--b", "a-b"),
    ],
)
def test_anchors(title: str, github: str, site: str) -> None:
    assert (on_github(title), on_the_site(title)) == (github, site)


def test_blocks_are_found() -> None:
    assert len(blocks("yaml")) > 20
    assert CODE.findall("`a` ``b`` `c d`") == ["a", "c d"]
