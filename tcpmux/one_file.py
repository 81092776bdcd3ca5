"""Extension modules that are in one file: it is loaded once, and there is one copy of what is in
csrc/ in it. A `static` variable of C in two files would be two.

Python looks for a module in a file of the same name; what is told here is where the others are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType


class _Finder:
    """Finds the modules that are in the file of another one."""

    def __init__(self, first: str, others: Iterable[str], path: Sequence[str]) -> None:
        self._first = first
        self._others = frozenset(others)
        self._path = path

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._others:
            return None
        file = PathFinder.find_spec(self._first, self._path)
        if file is None or file.origin is None:
            return None
        return spec_from_file_location(
            name, file.origin, loader=ExtensionFileLoader(name, file.origin)
        )


def modules_in_one_file(package: str, path: Sequence[str], first: str, *others: str) -> None:
    """The file is that of the module `first` of a package, of which `path` is __path__."""
    names = (f"{package}.{name}" for name in others)
    # Before those that look for files: an earlier build may have left one of that name.
    sys.meta_path.insert(0, _Finder(f"{package}.{first}", names, path))
