"""Lists every field of every struct that processes share, as rows of C. The layout check between
builds is made of it, and tests find fields by name. setup.py runs this before compiling.

    row of a field   {struct, declaration, name, offset, size}
    row of an enum   {"enum", its text, its name, 0, 0}

The headers are preprocessed first, as some of the fields come from tables (*.def).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRIVATE = ("tm_pump", "tm_pipe_pool", "tm_tap")  # of one process
HEADERS = ("route_table.h", "counted.h", "commons.h", "live.h", "handoff_message.h", "channel.h")


def preprocessed(compiler: str) -> str:
    """The shared headers as the compiler sees them, without comments."""
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    command = [*shlex.split(compiler), "-E", "-P", "-std=gnu11", "-D_GNU_SOURCE", f"-I{HERE}", "-"]
    return subprocess.run(
        command, input=includes, text=True, check=True, capture_output=True
    ).stdout


def bodies(text: str, kind: str) -> Iterator[tuple[str, str]]:
    """(name, what is between the braces) of every `kind tm_NAME { }`."""
    for found in re.finditer(rf"\b{kind}\s+(tm_\w+)\s*{{", text):
        yield found[1], inside(text, found.end())


def inside(text: str, start: int) -> str:
    """From behind an opening brace up to its closing one."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    raise ValueError("a brace is not closed")


def declarations(body: str) -> Iterator[str]:
    """Each declaration; those of a union without a name one by one."""
    while body.strip():
        nested = re.match(r"\s*(?:union|struct)\s*{", body)
        if nested:
            inner = inside(body, nested.end())
            body = body[nested.end() + len(inner) + 1 :]
            name, _, body = body.partition(";")
            if name.strip():
                raise ValueError(f"{name.strip()}: give its type a name")
            yield from declarations(inner)
        else:
            declaration, _, body = body.partition(";")
            yield " ".join(declaration.split())


def names(declaration: str) -> Iterator[str]:
    """What a declaration declares."""
    plain = re.sub(r"_Alignas\s*\([^)]*\)|\[[^]]*\]", " ", declaration)
    first, *others = plain.split(",")
    for part in (first.split()[-1], *others):
        yield part.strip().lstrip("*")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rows(text: str) -> Iterator[str]:
    for struct, body in bodies(text, "struct"):
        for declaration in declarations(body if struct not in PRIVATE else ""):
            for name in names(declaration):
                size = f"sizeof(((struct {struct} *)0)->{name})"
                if re.search(rf"\b{name}\s*\[\s*\]", declaration):
                    size = "0"
                yield (
                    f"{{{quoted(struct)}, {quoted(declaration)}, {quoted(name)}, "
                    f"offsetof(struct {struct}, {name}), {size}}},"
                )
    for enum, body in bodies(text, "enum"):
        yield f"{{{quoted('enum')}, {quoted(' '.join(body.split()))}, {quoted(enum)}, 0, 0}},"


def write(compiler: str, target: Path) -> None:
    """Writes the rows, if they are not there already."""
    text = "\n".join(rows(preprocessed(compiler))) + "\n"
    if not target.exists() or target.read_text() != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
