"""What pyproject.toml asks for and what requirements.lock installs, in CI too, agree."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support import patient

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Locked:
    """An entry of the lock: what it installs, where, and how many files it may be."""

    requirement: Requirement
    hashes: int


def project() -> dict[str, Any]:
    return tomli.loads((ROOT / "pyproject.toml").read_text())


def build_requires() -> list[str]:
    """What the backend tells pip; pyproject.toml tells it nothing."""
    sys.path.insert(0, str(ROOT / "csrc"))
    try:
        found: list[str] = runpy.run_path(str(ROOT / "csrc/build_backend.py"))["REQUIRES"]
    finally:
        sys.path.remove(str(ROOT / "csrc"))
    assert project()["build-system"]["requires"] == []
    return found


def declared() -> list[Requirement]:
    """What the package, its build and its tests need."""
    found = project()
    texts = [
        *build_requires(),
        *found["project"]["dependencies"],
        *found["project"]["optional-dependencies"]["dev"],
    ]
    return [Requirement(text) for text in texts]


def entries(text: str) -> list[Locked]:
    """Raises ValueError for anything but requirements with hashes, such as an index or a URL."""
    found = []
    for line in re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).split(
        "\n"
    ):
        said, *hashes = line.split("--hash=")
        rest = HASH.sub("", line.removeprefix(said)).strip()
        if not line.strip():
            continue
        requirement = Requirement(said)
        exact = re.fullmatch(r"==[\w.]+", str(requirement.specifier))
        if rest or not hashes or not exact or requirement.url or requirement.extras:
            raise ValueError(f"not a release with its hashes: {line}")
        found.append(Locked(requirement, len(hashes)))
    return found


def lock() -> list[Locked]:
    return entries((ROOT / "requirements.lock").read_text())


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.4",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def applies(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_what_is_asked_for(python: str, machine: str) -> None:
    """One release of each for every Python, within the bounds. If not: `make lock`."""
    where = environment(python, machine)
    versions: dict[str, list[str]] = {}
    for locked in lock():
        if applies(locked.requirement, where):
            (exact,) = locked.requirement.specifier
            versions.setdefault(canonicalize_name(locked.requirement.name), []).append(
                exact.version
            )
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    for asked in declared():
        if applies(asked, where):
            (version,) = versions.get(canonicalize_name(asked.name), ["nothing"])
            assert version != "nothing", f"{asked.name} is not in the lock"
            assert asked.specifier.contains(version), f"{asked}: the lock has {version}"


def test_the_lock_holds_for_every_python_that_the_package_allows() -> None:
    """`make lock` is told of the oldest."""
    oldest = PYTHONS[0]
    assert project()["project"]["requires-python"] == f">={oldest}"
    assert f"--python-version {oldest} " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("extra", ["docs", "peers"])
def test_the_lock_of_an_environment_has_what_is_asked_for(extra: str) -> None:
    """And nothing without a hash. If not: `make lock`."""
    texts = project()["project"]["optional-dependencies"][extra]
    locked = entries((ROOT / f"{extra}.lock").read_text())
    for asked in map(Requirement, texts):
        (found,) = [one for one in locked if one.requirement.name == asked.name]
        (exact,) = found.requirement.specifier
        assert asked.specifier.contains(exact.version), "make lock"


@pytest.mark.parametrize("asked", declared(), ids=lambda asked: asked.name)
def test_every_dependency_has_a_floor(asked: Requirement) -> None:
    """The first release that is good enough; pip may have an older one in the environment."""
    assert [one for one in asked.specifier if one.operator == ">="], str(asked)


@pytest.mark.parametrize("extra", ["dev", "build"])
def test_a_build_needs_the_same_with_and_without_the_lock(extra: str) -> None:
    """The backend's list is what pip takes where it isolates a build, the extras what the locks
    have."""
    texts = project()["project"]["optional-dependencies"][extra]
    bounds: dict[str, SpecifierSet] = {one.name: one.specifier for one in map(Requirement, texts)}
    for text in build_requires():
        asked = Requirement(text)
        assert bounds[asked.name] == asked.specifier


def test_what_a_build_installs_is_a_part_of_the_lock() -> None:
    """The same releases, so that `make test` after `make demo` only adds to what is there; and all
    that tcpmux and its build ask for. If not: `make lock`."""

    def releases(locked: list[Locked]) -> set[tuple[str, str, int]]:
        return {
            (one.requirement.name, str(one.requirement.specifier), one.hashes) for one in locked
        }

    part = entries((ROOT / "build.lock").read_text())
    assert releases(part) <= releases(lock())
    tables = project()["project"]
    asked = [*tables["dependencies"], *tables["optional-dependencies"]["build"]]
    names = {canonicalize_name(one.requirement.name) for one in part}
    assert {canonicalize_name(Requirement(text).name) for text in asked} <= names


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://example.org/simple\n",
        "--extra-index-url https://example.org/simple\n",
        "click==8.3.3\n",
        "click>=8.3.3 --hash=sha256:" + "0" * 64 + "\n",
        "click==8.* --hash=sha256:" + "0" * 64 + "\n",
        "click==8.3.3 --hash=md5:" + "0" * 32 + "\n",
        "click==8.3.3 \\\n    --hash=sha256:" + "0" * 63 + "\n",
        "click @ https://example.org/click.whl --hash=sha256:" + "0" * 64 + "\n",
        "-e .\n",
    ],
)
def test_nothing_else_can_stand_in_the_lock(text: str) -> None:
    """Neither where to get it, nor something without a hash."""
    with pytest.raises(ValueError, match=r"not a release|Expected|Invalid"):
        entries(text)


def test_an_entry_is_read_whole() -> None:
    (found,) = entries(
        "# a comment\nclick==8.3.3 ; python_full_version < '3.11' \\\n"
        f"    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n    # via tcpmux\n"
    )
    assert found.hashes == 2
    assert str(found.requirement.specifier) == "==8.3.3"
    assert not applies(found.requirement, environment("3.12", "x86_64"))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_installs_by_hashes_alone() -> None:
    """Nothing else is fetched on the way to the tests: not by the project's own install, and not
    for a build of it."""
    outside = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "build", ".venv/.locked", "asan", "docs",
         ".venv-peers/.locked"],
        cwd=ROOT, env=outside, capture_output=True, text=True, timeout=patient(60), check=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    installs = [line for line in planned.splitlines() if "pip install" in line]
    assert len(installs) == 7
    locks = "requirements|build|docs|peers"
    for line in installs:
        hashed = re.search(
            rf"--require-hashes --only-binary :all: --requirement ({locks})\.lock ", line
        )
        own = re.search(r"--no-deps\s+--no-build-isolation --editable \.$", line)
        assert hashed or own, line
    assert "pip install" not in (ROOT / ".ci/run").read_text()
