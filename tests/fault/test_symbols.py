"""No call of the relay can be forgotten: what the modules link against is either wrapped by the
shim and in the table of errors, or known not to fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fault import control
from tests.fault.sites import HARMLESS, OTHERWISE, SITES
from tests.support import patient

WORKER = Path(__file__).parents[2] / "tcpmux/worker"


def symbols(path: Path, which: str) -> set[str]:
    """Of the dynamic table; which: --undefined-only or --defined-only."""
    listed = subprocess.run(
        ["nm", "-D", which, str(path)],
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=True,
    ).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines()}


def plain(name: str) -> str:
    """-D_FORTIFY_SOURCE puts __memcpy_chk in the place of memcpy: the same, if it is harmless.
    (The shim does not wrap __read_chk, so that one is not read.)"""
    unchecked = name.removeprefix("__").removesuffix("_chk")
    return unchecked if name == f"__{unchecked}_chk" and unchecked in HARMLESS else name


def imported() -> set[str]:
    """What the worker's modules call of libc."""
    modules = list(WORKER.glob("*.so"))
    assert len(modules) == 1, "the module is not built"
    found = set().union(*(symbols(module, "--undefined-only") for module in modules))
    return {
        plain(name) for name in found if not name.startswith(("Py", "_Py", "_ITM", "__gmon_start"))
    }


def test_every_call_is_known(library: Path) -> None:
    """One that is not gets a wrapper in shim.c and a row in sites.py, or a reason there."""
    wrapped = set(control.sites(library).values())
    assert imported() - wrapped - HARMLESS.keys() == set()


def test_what_is_listed_is_wrapped(library: Path) -> None:
    """The shim defines every symbol of its table, and each is called by the relay."""
    wrapped = set(control.sites(library).values())
    assert wrapped <= symbols(library, "--defined-only")
    assert wrapped <= imported()
    assert not wrapped & HARMLESS.keys()


def test_both_tables_have_the_same_sites(library: Path) -> None:
    assert set(control.sites(library)) == SITES.keys()
    assert {site for site, errors in SITES.items() if not errors} == OTHERWISE.keys()


@pytest.mark.parametrize("symbol", ["recv", "splice", "epoll_ctl"])
def test_the_check_sees_what_it_should(symbol: str) -> None:
    """A list of symbols that finds nothing would pass for ever."""
    assert symbol in imported()


@pytest.mark.parametrize(
    ("linked", "called"),
    [("__memcpy_chk", "memcpy"), ("__read_chk", "__read_chk"), ("memcpy_chk", "memcpy_chk")],
)
def test_only_a_harmless_call_may_be_checked_by_libc(linked: str, called: str) -> None:
    """A call that can fail has to be wrapped under the name that it is linked by."""
    assert plain(linked) == called


def test_only_the_monotonic_clock_can_be_asked() -> None:
    """No call but clock_gettime tells the time, and test_host.py watches that one."""
    assert not imported() & {"time", "gettimeofday", "localtime", "timespec_get", "ftime"}
