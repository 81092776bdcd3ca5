"""The build backend (PEP 517) that pyproject.toml names. It is setuptools', but what the machine
lacks is said before setuptools and Cython are downloaded; until then only the standard library is
imported."""

from __future__ import annotations

from typing import Any

import toolchain  # beside this file: backend-path

REQUIRES = ["setuptools>=83", "cython>=3.1,<4"]  # setuptools: CVE-2026-59890


def get_requires_for_build_wheel(_config_settings: Any = None) -> list[str]:
    """What a wheel is built with. Raises SystemExit if it can't be built here."""
    toolchain.require()
    return REQUIRES


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(_config_settings: Any = None) -> list[str]:
    return REQUIRES


def __getattr__(name: str) -> Any:
    """The other hooks are setuptools' own."""
    from setuptools import build_meta

    return getattr(build_meta, name)
