"""Which build of tcpmux this process runs. For the master, which tells control."""

from __future__ import annotations

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
        for path in sorted(package.rglob("*")):
            if "__pycache__" not in path.parts and path.is_file():
                data = path.read_bytes()
                made.update(f"{path.relative_to(package)} {len(data)}\n".encode())
                made.update(data)
    except OSError:
        return UNKNOWN
    return made.hexdigest()
