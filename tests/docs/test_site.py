"""The site is built from docs/ by Zensical, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.support import patient

ZENSICAL = ROOT / os.environ.get("TCPMUX_DOCS_VENV", ".venv-docs") / "bin/zensical"
LOADED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?([^"'\s>]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ZENSICAL.exists():
        pytest.skip("Zensical is not installed: `make docs` installs it")
    place = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", place)
    shutil.copytree(DOCS, place / "docs")
    build = [str(ZENSICAL), "build", "--strict"]
    done = subprocess.run(
        build, cwd=place, capture_output=True, text=True, timeout=patient(60), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "build/site"


def test_every_page_is_built(site: Path) -> None:
    expected = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert expected <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_to_build_it_compiles_nothing() -> None:
    command = ["make", "--dry-run", "--always-make", "docs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "zensical build" in done.stdout
    assert "--editable" not in done.stdout
    assert ".venv/" not in done.stdout


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        loaded = [*LOADED.findall(text), *re.findall(r"url\(([^)]+)\)", text)]
        far = [one for one in loaded if re.match(r"""["']?(?:https?:)?//""", one)]
        assert not far, path


def test_a_link_to_nowhere_stops_the_build(site: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Home\n\n[a](gone.md)\n")
    build = [str(ZENSICAL), "build", "--strict"]
    done = subprocess.run(
        build, cwd=tmp_path, capture_output=True, timeout=patient(60), check=False
    )
    assert done.returncode != 0
