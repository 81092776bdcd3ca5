"""Files run by the program that they are for, and by tcpmux: clients see the same.

docs/migrate/tried.md has a row for each look; TCPMUX_WRITE_DOCS=1 writes those of the cases that
are run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.convert.beside import FILES, PROGRAMS, Ports, converted, original
from tests.convert.cases import envoy, haproxy, nginx, traefik
from tests.convert.looks import Case
from tests.convert.tried import rows_in, write_rows

CASES = [*haproxy.CASES, *nginx.CASES, *envoy.CASES, *traefik.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_clients_see_the_same(case: Case, tmp_path: Path) -> None:
    program = PROGRAMS[case.file.partition("/")[0]]
    if missing := program.missing():
        pytest.skip(missing)
    tmp_path.chmod(0o755)
    ports, path = Ports(), FILES / case.file
    with original(program, path, ports, tmp_path) as seen:
        first = [look.take(seen) for look in case.looks]
    with converted(path, ports, tmp_path, is_partial=case.is_partial) as seen:
        second = [look.take(seen) for look in case.looks]
    assert second == first
    if "TCPMUX_WRITE_DOCS" in os.environ:
        write_rows(case, first)


def test_the_table_has_every_look() -> None:
    assert sorted(rows_in()) == sorted(
        (case.file, look.what) for case in CASES for look in case.looks
    )
