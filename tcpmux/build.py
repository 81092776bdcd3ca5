"""Which build of tcpmux this process runs. For the master, which tells control."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path

PACKAGE = Path(__file__).parent
DIGITS = 12  # hexadecimal
UNKNOWN = "unknown"


@cache
def build() -> str:
    """A hash of all that is installed of it, which is the same for the same files wherever they
    are; UNKNOWN if they can't be read. It takes some 40 ms, and has to be asked for before
    another build may be installed in its place."""
    return stamp(PACKAGE)


def stamp(package: Path) -> str:
    """As build(), of the package in that directory."""
    made = blake2b(digest_size=DIGITS // 2)
    try:
        for name in sorted(_files(str(package)), key=lambda name: name.split(os.sep)):
            data = (package / name).read_bytes()
            made.update(f"{name} {len(data)}\n".encode())
            made.update(data)
    except OSError:
        return UNKNOWN
    return made.hexdigest()


def _files(package: str) -> Iterator[str]:
    """Their paths below it, as text: paths of pathlib take longer, and control waits for this."""
    for directory, inner, names in os.walk(package):
        if "__pycache__" in inner:
            inner.remove("__pycache__")
        for path in (os.path.join(directory, name) for name in names):
            if os.path.isfile(path):
                yield path[len(package) + 1 :]
