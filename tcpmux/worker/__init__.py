"""The worker process: accepts, picks, connects, relays, closes.

Its extension modules are in one file, that of `_loop`, so that a worker has one copy of what is in
csrc/: a `static` variable of C in two files would be two.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType

_TOGETHER = "tcpmux.worker._loop"
_IN_IT = frozenset(f"tcpmux.worker.{name}" for name in ("_listeners", "_master_line", "_guardian"))


class _Finder:
    """Finds the modules that are in the file of another one."""

    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _IN_IT:
            return None
        file = PathFinder.find_spec(_TOGETHER, __path__)
        if file is None or file.origin is None:
            return None
        return spec_from_file_location(
            name, file.origin, loader=ExtensionFileLoader(name, file.origin)
        )


sys.meta_path.append(_Finder)
