"""Who imports whom: nobody imports what imports it, and little is loaded where somebody waits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import fields
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tcpmux import programs
from tcpmux.privileges import oneself
from tcpmux.programs import GUARDIAN
from tcpmux.shm._declared import DESTINATION_RULES, ROUTE_RULES
from tcpmux.shm.rules import DestinationRules, RouteRules
from tests.support import patient

ROOT = Path(__file__).parents[2]
# Each of them takes long to import, or imports much.
SLOW = {"aiohttp", "asyncio", "dataclasses", "inspect", "pathlib", "pydantic", "yaml", "site"}
# Packages that every other may use have no arrows in the drawing.
PACKAGES = {path.parent.name for path in (ROOT / "tcpmux").glob("*/__init__.py")}

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(text: str, modules: Collection[str], *, is_python: bool) -> set[str]:
    """Those of the modules that it imports, wherever: in functions and for types alone as well."""
    if is_python:
        found = list(_imported_by_python(text))
    else:
        pattern = r"^\s*(?:from\s+(tcpmux[\w.]*)\s+)?c?import\s+(?:\(([^)]*)\)|([^\n(]+))"
        found = [
            (origin, name.split()[0])
            for origin, inside, line in re.findall(pattern, text, re.MULTILINE)
            for name in (inside or line).split(",")
            if name.strip()
        ]
    full = {f"{origin}.{name}" if origin else name for origin, name in found}
    return {name if name in modules else name.rpartition(".")[0] for name in full} & set(modules)


def _imported_by_python(text: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (("", alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def read_graph() -> Graph:
    paths = [p for p in (ROOT / "tcpmux").rglob("*") if p.suffix in (".py", ".pyx")]
    names = {module_name(path): path for path in paths}
    del names["tcpmux"]  # which comes with each of its modules, and says nothing of them
    return {
        name: imported(path.read_text(), names, is_python=path.suffix == ".py") - {name}
        for name, path in names.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """One after the other, until there are none without them."""
    left, found = {name: set(used) for name, used in graph.items()}, []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1]
            found.append(sorted(set(circle)))
            left[circle[1]].discard(circle[0])
        else:
            return found


def test_nobody_imports_what_imports_it() -> None:
    assert circles(read_graph()) == []


@pytest.mark.parametrize(
    ("text", "is_python"),
    [
        ("import tcpmux.b", True),
        ("def f():\n    from tcpmux import b", True),
        ("if TYPE_CHECKING:\n    from tcpmux.b import C", True),
        ("from tcpmux.b cimport (\n    C,\n)", False),
        ("cdef f():\n    from tcpmux import b as c", False),
        ("from tcpmux.c cimport D\nfrom tcpmux.b cimport (\n    C, E,\n)\n", False),
        ("import tcpmux.b", False),
    ],
)
def test_a_circle_is_seen(text: str, *, is_python: bool) -> None:
    found = imported(text, {"tcpmux.b"}, is_python=is_python)
    assert found == {"tcpmux.b"}
    graph = {"tcpmux.a": found, "tcpmux.b": {"tcpmux.c"}, "tcpmux.c": {"tcpmux.a"}}
    assert circles(graph) == [["tcpmux.a", "tcpmux.b", "tcpmux.c"]]
    graph["tcpmux.c"] = set()
    assert circles(graph) == []


def test_the_drawing_is_true() -> None:
    """ARCHITECTURE.md says which package imports which."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, used in read_graph().items():
        package = name.split(".")[1] if "." in name else ""
        for other in used:
            target = other.split(".")[1]
            if package in PACKAGES and target in PACKAGES - {package}:
                arrows[package].add(target)
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = {
        package: set(targets.replace(",", " ").split()) - {"-"}
        for package, targets in re.findall(r"^    (\w+) +-> ([\w, -]+)$", text, re.MULTILINE)
    }
    assert drawn == {package: arrows[package] for package in PACKAGES}


def test_the_program_that_connections_wait_for_loads_little() -> None:
    """During an upgrade, from the end of a worker to the beginning of the next build's."""
    command = programs.quick_command(GUARDIAN, [], oneself())
    code = command.index("-c") + 1
    before, _, _ = command[code].partition("from tcpmux.programs")
    command[code] = f"{before}import tcpmux.programs, tcpmux.worker.__main__; print(*sys.modules)"
    done = subprocess.run(
        command,
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=True,
        cwd="/",
    )
    loaded = set(done.stdout.split())
    assert {"tcpmux.worker._loop", "setproctitle"} <= loaded
    assert not loaded & SLOW
    assert len(loaded) < 130


@pytest.mark.parametrize(
    ("kind", "names"), [(RouteRules, ROUTE_RULES), (DestinationRules, DESTINATION_RULES)]
)
def test_the_rules_of_an_image_are_those_of_the_memory(kind: type, names: tuple[str, ...]) -> None:
    assert tuple(field.name for field in fields(kind)) == names


def test_the_package_imports_nothing_that_is_not_a_dependency_of_it() -> None:
    """What only a developer has, an installation lacks: it would end with a traceback."""
    names, left = set[str](), ["tcpmux"]
    while left:
        for line in distribution(left.pop()).requires or []:
            needed = Requirement(line)
            name = needed.name.lower().replace("_", "-")
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if applies and name not in names:
                names.add(name)
                left.append(name)
    allowed = {"tcpmux", *sys.stdlib_module_names, "async_timeout", "tomli"}  # for Python 3.10
    for module, distributions in packages_distributions().items():
        if names & {name.lower().replace("_", "-") for name in distributions}:
            allowed.add(module)
    for path in (ROOT / "tcpmux").rglob("*.py"):
        for origin, name in _imported_by_python(path.read_text()):
            first = (origin or name).partition(".")[0]
            assert first in allowed, f"{path.relative_to(ROOT)} imports {first}"
