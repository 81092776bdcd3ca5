"""Fixtures: the shim, built once for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fault.control import Control
from tests.fault.control import build as build_shim
from tests.fault.runner import shim


@pytest.fixture(scope="session")
def library() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield build_shim(Path(name))


@pytest.fixture
def control() -> Iterator[Control]:
    with shim() as made:
        yield made
