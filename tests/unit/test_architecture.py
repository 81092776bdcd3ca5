"""The shape of the source: imports go one way, and what is public is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmux.cli.app import cli
from tcpmux.config.instance_schema import AdminModel
from tcpmux.config.schema import DestinationModel, FileModel, RouteModel
from tcpmux.shm._declared import counter_rows
from tests.support import patient

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tcpmux"

# Which packages each may use. None = nothing but itself and what all may use.
ALLOWED = {
    "rollout": set(),
    "config": {"rollout"},
    "shm": {"config"},
    "worker": {"shm"},
    "master": {"config", "rollout", "shm", "worker"},
    "control": {"config", "rollout", "shm"},
    "logger": {"config", "shm"},
    "demo": {"config", "control"},
    "convert": {"config"},
    "cli": {"config", "control", "convert", "demo", "rollout"},
}
FOR_ALL = {
    "_privileges",
    "build",
    "connection_id",
    "errors",
    "files",
    "frames",
    "halves",
    "levels",
    "log_file",
    "log_formats",
    "log_style",
    "log_targets",
    "logs",
    "messages",
    "nearest",
    "one_file",
    "output",
    "peer",
    "privileges",
    "processes",
    "programs",
    "sock_diag",
    "token_file",
}
EXCEPTIONS = {"cli/run.py": {"master"}}  # `run` is the one verb that becomes the master


def imports(path: Path) -> set[str]:
    """The tcpmux packages that a module imports anywhere, also inside functions."""
    text = path.read_text()
    if path.suffix == ".py":
        names = []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = re.findall(r"^\s*(?:from|cimport|import)\s+(tcpmux[\w.]*)", text, re.MULTILINE)
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "tcpmux" and len(part) > 1}


def sources() -> list[Path]:
    """Of the packages; the two modules beside them are the entry points."""
    return sorted(p for p in PACKAGE.glob("*/**/*") if p.suffix in (".py", ".pyx", ".pxd"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    where = path.relative_to(PACKAGE)
    package = where.parts[0]
    allowed = ALLOWED[package] | FOR_ALL | {package, "__version__"}
    allowed |= EXCEPTIONS.get(str(where), set())
    assert imports(path) <= allowed


def test_the_check_sees_what_it_should() -> None:
    """A rule that finds nothing would pass for ever."""
    assert "master" in imports(PACKAGE / "cli/run.py")
    assert "shm" in imports(PACKAGE / "worker/_loop.pyx")
    assert "config" in imports(PACKAGE / "shm/build.py")


# Help, and what is meant for a file or a shell.
MAY_ECHO = {"output.py": 3, "app.py": 2, "convert.py": 2, "small.py": 1}


def test_what_commands_print_is_escaped() -> None:
    """They say() it, which does that."""
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        text = path.read_text()
        assert len(re.findall(r"\bclick\.s?echo\(", text)) <= MAY_ECHO.get(path.name, 0), path
        assert not re.search(r"^\s*print\(|sys\.stdout\.write", text, re.MULTILINE), path


def test_no_time_limit_forgets_a_cancellation() -> None:
    """asyncio.wait_for() does, before Python 3.12: control/timeouts.py is for that."""
    for path in PACKAGE.rglob("*.py"):
        if path.name != "timeouts.py":
            assert "asyncio.wait_for(" not in path.read_text(), path


def test_c_knows_nothing_of_python() -> None:
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".c", ".h", ".def")]
    assert sources
    for path in sources:
        assert "Python.h" not in path.read_text()


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function of a C source or of Cython code, and how many lines its body has."""
    in_c = r"^(?!static const|struct|enum|union|#)[^\n;{}]*?(\w+)\([^;{}]*\)\n{\n(.*?)^}"
    for found in re.finditer(in_c, text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2].count("\n")
    in_cython = r"^( *)(?:cdef|def) (?!class )[^\n]*?(\w+)\((?:.|\n)*?:\n((?:(?:\1 {4}.*)?\n)+)"
    for found in re.finditer(in_cython, text, re.MULTILINE):
        yield found[2], len(found[3].rstrip().split("\n"))


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """The same of a Python module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.body[0].lineno + 1


ROOMS = {
    "csrc": (list((ROOT / "csrc").rglob("*.[ch]")), 300),
    "worker": (list((PACKAGE / "worker").glob("*.pyx")), 60),
    "shm": ([p for p in (PACKAGE / "shm").iterdir() if p.suffix in (".py", ".pyx", ".pxd")], 200),
    "config": (list((PACKAGE / "config").glob("*.py")), 250),
}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_not_full(room: str) -> None:
    """A file of 400 lines, or a function of 60, has a second job inside."""
    paths, least = ROOMS[room]
    texts = {path.name: path.read_text() for path in paths}
    found = [
        (f"{name}: {function}", lines)
        for name, text in texts.items()
        for function, lines in (python_functions if name.endswith(".py") else functions)(text)
    ]
    assert len(found) > least
    lines = {name: text.count("\n") for name, text in texts.items()}
    assert {name: n for name, n in lines.items() if n > 400} == {}
    assert [(function, n) for function, n in found if n > 60] == []


WIDTH = 100  # columns; ruff holds Python to the same


def test_no_line_is_too_wide() -> None:
    """Of C and Cython, which no formatter here holds to a width."""
    paths = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".c", ".h", ".def")]
    paths += [p for p in PACKAGE.rglob("*") if p.suffix in (".pyx", ".pxd")]
    made = {"rules.def", "balances.def", "messages.def"}  # by csrc/tables.py
    lines = [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in paths
        if path.name not in made
        for number, line in enumerate(path.read_text().split("\n"), 1)
    ]
    assert len(lines) > 10_000
    assert [where for where, line in lines if len(line) > WIDTH] == []


@pytest.mark.parametrize(
    "text",
    [
        "static int far(struct tm_x *x)\n{\n" + "    x++;\n" * 61 + "}\n",
        "cdef int far(x) except -1:\n" + "    x += 1\n" * 61,
        "cdef class A:\n    def far(self,\n            x):\n" + "        x += 1\n" * 61,
        "class A:\n    def far(self, x):\n" + "        x += 1\n" * 61,
    ],
    ids=["C", "Cython", "a method in Cython", "Python"],
)
def test_a_long_function_is_seen(text: str) -> None:
    which = python_functions if text.startswith("class") else functions
    assert dict(which(text)) == {"far": 61}


def test_a_state_is_changed_in_one_place() -> None:
    """tm_conn_enter(): also in recovery and handoff. A record that was never used is made free."""
    store = re.compile(r"\b(?:conn|records\[\w+\])(?:->|\.)state\s*=[^=]|_n\(&conn->state,")
    found = {
        path.name: count
        for path in (ROOT / "csrc").rglob("*.[ch]")
        if (count := len(store.findall(path.read_text())))
    }
    # live.h: of a record that was never used; live_copy.h: the load of tm_conn_copy().
    assert found == {"conn_record.h": 1, "live.h": 1, "live_copy.h": 1}


def test_every_key_is_in_the_reference() -> None:
    text = (ROOT / "configs/reference.yaml").read_text()
    for model in (FileModel, AdminModel, RouteModel, DestinationModel):
        for key in model.model_fields:
            assert re.search(rf"^[ -]*{key}:", text, re.MULTILINE), key


def test_every_command_and_counter_is_in_the_documentation() -> None:
    commands = (ROOT / "docs/reference/commands.md").read_text()
    for name in cli.commands:
        assert f"\n## tcpmux {name}\n" in commands, name
    counters = (ROOT / "docs/reference/metrics.md").read_text()
    for _, _, name, _, _ in counter_rows():
        assert f"`{name}`" in counters, name


@pytest.mark.parametrize("module", ["_loop", "_listeners", "_master_line"])
def test_the_hot_loop_is_free_of_python(module: str, tmp_path: Path) -> None:
    """In the C that Cython makes of the loop, no function of it calls Python's API."""
    source, made = PACKAGE / f"worker/{module}.pyx", tmp_path / f"{module}.c"
    declared = set(
        re.findall(
            r"^cdef [^\n(]*?(\w+)\([^)]*\) noexcept nogil:", source.read_text(), re.MULTILINE
        )
    )
    assert len(declared) > 5
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "cython",
            "-3",
            "--module-name",
            f"tcpmux.worker.{module}",
            str(source),
            "-o",
            str(made),
        ],
        capture_output=True,
        text=True,
        timeout=patient(100),
        check=True,
        cwd=ROOT,
    )
    assert "hint" not in result.stderr
    prefix = f"__pyx_f_6tcpmux_6worker_{len(module)}{module}_"
    function = rf"^static [^\n;]*{prefix}(\w+)\([^\n;]*\) {{\n(.*?)^}}"
    bodies = dict(re.findall(function, made.read_text(), re.MULTILINE | re.DOTALL))
    assert bodies.keys() == declared
    for name, body in bodies.items():
        assert not re.search(r"\bPy[A-Z]\w*\(|\b__Pyx_\w+\(", body), name
