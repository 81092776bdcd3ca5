"""No test's time limit goes round TCPMUX_TEST_PATIENCE: tests/support.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG

TESTS = Path(__file__).parents[1]

# Where a call takes a limit: (position, how it may be named).
LIMITS: dict[str, tuple[int | None, set[str]]] = {
    "ask": (2, {"timeout"}),
    "check_call": (None, {"timeout"}),
    "check_output": (None, {"timeout"}),
    "communicate": (1, {"timeout"}),
    "create_connection": (1, {"timeout"}),
    "HTTPConnection": (2, {"timeout"}),
    "join": (0, {"timeout"}),
    "run": (None, {"timeout"}),
    "select": (3, {"timeout"}),
    "settimeout": (0, set()),
    "timeout": (0, {"delay"}),
    "Timer": (0, {"interval"}),
    "urlopen": (2, {"timeout"}),
    "wait": (0, {"timeout"}),
    "wait_for": (1, {"timeout", "deadline"}),
}
NAMES = {"deadline", "patience", "timeout", "within"}
ENDS = {"deadline", "end"}  # what is to last, has its end in "until"
CLOCK = "monotonic()"
# What is shorter waits for something not to happen, or looks again.
MIN_LIMIT = 1.0


def bare(node: ast.expr | None, constants: dict[str, float]) -> float:
    """The number that it is, written here or at the head of the file; else 0."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name):
        return constants.get(node.id, 0)
    if isinstance(node, ast.BinOp):
        both = bare(node.left, constants), bare(node.right, constants)
        return max(both) if all(both) else 0
    return 0


def limits(node: ast.AST) -> Iterator[ast.expr | None]:
    """The time limits that stand in it: of a call, of a parameter's default, of a comparison."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        position, names = LIMITS.get(name, (None, set()))
        if name == "wait_for":
            yield from node.args[1:]
        elif position is not None and len(node.args) > position:
            yield node.args[position]
        yield from (keyword.value for keyword in node.keywords if keyword.arg in names)
    elif isinstance(node, ast.arguments):
        plain = node.args[len(node.args) - len(node.defaults) :]
        defaults = zip([*plain, *node.kwonlyargs], [*node.defaults, *node.kw_defaults], strict=True)
        yield from (default for arg, default in defaults if arg.arg in NAMES)
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ENDS:
        if isinstance(node.value, ast.BinOp):
            yield node.value.right
    elif isinstance(node, ast.Compare) and CLOCK in ast.unparse(node.left):
        yield from (
            limit
            for limit, how in zip(node.comparators, node.ops, strict=True)
            if isinstance(how, ast.Lt | ast.LtE | ast.Gt)
        )


def around(source: str) -> list[str]:
    """Lines of it with a limit that is a bare number."""
    tree = ast.parse(source)
    constants = {
        ast.unparse(node.targets[0]): bare(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    return [
        f"{getattr(node, 'lineno', '')}: {ast.unparse(node)[:80]}"
        for node in ast.walk(tree)
        if any(bare(limit, constants) >= MIN_LIMIT for limit in limits(node))
    ]


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_no_limit_is_a_bare_number(path: Path) -> None:
    """A bare number would be too short where everything is slower: patient(60), or DEADLINE."""
    assert around(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "sock.settimeout(15)",
        "LIMIT = 15\nsock.settimeout(LIMIT)",
        "LIMIT = 5 * 3.0\nsock.settimeout(LIMIT)",
        "subprocess.run(command, check=True, timeout=60)",
        "process.wait(15)",
        "wait_for(ready, 'it', 30)",
        "await asyncio.wait_for(task, timeout=5)",
        "def until(it, deadline=10): ...",
        "async def until(it, *, timeout=10.0): ...",
        "end = time.monotonic() + 10",
        "assert time.monotonic() - began < 5",
        "select.select([sock], [], [], 2)",
    ],
)
def test_a_bare_number_is_found(line: str) -> None:
    assert len(around(line)) == 1
    for number in ("60", "30", "15", "10.0", "10", "5 * 3.0", "5", "2"):
        line = line.replace(number, "patient(7)", 1) if "patient" not in line else line
    assert around(line) == []


@pytest.mark.parametrize("name", LONG)
def test_what_is_started_first_exists(name: str) -> None:
    """A test that got another name would be among the last again."""
    assert any(f"def {name}(" in path.read_text() for path in TESTS.rglob("test_*.py"))
