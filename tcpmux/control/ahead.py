"""Imports in advance what control would otherwise import later. Runs in control, while it is root.

Afterwards it may be a user who cannot read the files of the interpreter, or ours. A module that is
neither ours nor here and is loaded later is a fault, which tests/integration/test_users.py finds.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tcpmux import control
from tcpmux.control import pages

MODULES = (
    "aiodns",
    "aiohttp.http_exceptions",
    "concurrent.futures.thread",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.unicode_escape",
    "linecache",
    "re2",
    "ssl",
    "stringprep",
    "traceback",
)


def load_all() -> None:
    ours = (f"{control.__name__}.{found.name}" for found in iter_modules(control.__path__))
    for name in (*ours, *MODULES):
        import_module(name)
    pages.load()
