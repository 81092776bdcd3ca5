"""The modules as they are built: protected, and the same from whatever folder."""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from tests.support import patient

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "setup.py"
COMPILER = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
MODULES = sorted((ROOT / "tcpmux").rglob(f"*{EXTENSION_SUFFIXES[0]}"))
BUILD_SECONDS = patient(100)

# Builds two modules of the project and a wheel of them, by its own setup.py.
SMALL_BUILD = """
import sys, runpy, setuptools, Cython.Build
names, whole = ("tcpmux.master._watch", "tcpmux._privileges"), setuptools.setup
translate = Cython.Build.cythonize
def chosen(extensions):
    return [one for one in extensions if one.name in names]
setuptools.setup = lambda ext_modules, **how: whole(ext_modules=chosen(ext_modules), **how)
Cython.Build.cythonize = lambda extensions, **how: [
    *translate(chosen(extensions), **how), *(one for one in extensions if one.name not in names)]
sys.argv = ["setup.py", "-q", "bdist_wheel"]
runpy.run_path("setup.py", run_name="__main__")
"""


def readelf(module: Path, what: str) -> str:
    return subprocess.run(
        ["readelf", "--wide", what, str(module)],
        capture_output=True, text=True, timeout=patient(30), check=True,
    ).stdout  # fmt: skip


def symbols(module: Path) -> set[str]:
    """Names of the dynamic table, without their versions."""
    table = readelf(module, "--dyn-syms")
    return {line.split()[7].split("@")[0] for line in table.splitlines() if len(line.split()) > 7}


@pytest.fixture(params=MODULES, ids=lambda path: path.name.split(".")[0])
def module(request: pytest.FixtureRequest) -> Path:
    """A module of a release build; sanitizers do without these protections."""
    path: Path = request.param
    if any(name.startswith("__asan") for name in symbols(path)):
        pytest.skip("built with sanitizers")
    return path


def test_there_are_modules() -> None:
    """Each file that setup.py names is built, and so looked at by the tests below."""
    text = SETUP.read_text()
    named = re.findall(r'\["tcpmux\.([\w.]+)"\]', text)
    named += [
        f"{package.lower()}.{first}"
        for package, first in re.findall(r'^(SHM|WORKER) = \("(\w+)"', text, re.MULTILINE)
    ]
    assert len(named) == len(re.findall(r"^    \($|^    \(\[", text, re.MULTILINE)) == 4
    built = {str(path.relative_to(ROOT / "tcpmux")).split(".")[0] for path in MODULES}
    assert {name.replace(".", "/") for name in named} <= built


def test_what_the_linker_wrote_can_not_be_written_again(module: Path) -> None:
    """All addresses are looked up at the start (BIND_NOW), and their table is read-only (RELRO)."""
    assert "GNU_RELRO" in readelf(module, "--program-headers")
    dynamic = readelf(module, "--dynamic")
    assert "BIND_NOW" in dynamic
    assert re.search(r"FLAGS_1\).*NOW", dynamic)


def test_the_stack_can_not_be_executed(module: Path) -> None:
    (stack,) = re.findall(r"GNU_STACK.*", readelf(module, "--program-headers"))
    assert re.search(r" RW\s", stack)


def test_a_broken_stack_is_found(module: Path) -> None:
    """-fstack-protector-strong: every module has functions with arrays or addresses of locals."""
    assert "__stack_chk_fail" in symbols(module)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86-64")
def test_branches_are_marked(module: Path) -> None:
    """-fcf-protection: functions that are called by address begin with a landing mark, and the
    loader may switch the shadow stack on."""
    listed = subprocess.run(
        ["objdump", "--disassemble", "--section=.text", str(module)],
        capture_output=True, text=True, timeout=patient(60), check=True,
    ).stdout  # fmt: skip
    start = re.search(r"<PyInit_\w+>:\n.*", listed)
    assert start is not None
    assert "endbr64" in start[0]
    assert "SHSTK" in readelf(module, "--notes")


def test_lengths_are_checked_by_libc() -> None:
    """-D_FORTIFY_SOURCE: where the compiler knows how long the target is, and not that it is
    long enough. (Only modules that have such a place show it; all are compiled alike.)"""
    names: set[str] = set().union(*(symbols(path) for path in MODULES))
    if any(name.startswith("__asan") for name in names):
        pytest.skip("built with sanitizers")
    checked = {name for name in names if re.fullmatch(r"__\w+_chk", name)}
    assert "__memcpy_chk" in checked, "is it a debug build?"


def test_libraries_are_looked_for_in_no_other_folder(module: Path) -> None:
    """Whatever Python was linked with: no RPATH, no RUNPATH."""
    assert not re.search(r"\((RPATH|RUNPATH)\)", readelf(module, "--dynamic"))


def test_no_module_names_the_folder_that_it_was_built_in(module: Path) -> None:
    assert os.fsencode(ROOT) not in module.read_bytes()


def small_build(folder: Path, scratch: Path) -> Path:
    """A wheel, made in `folder` from a copy of the sources."""
    folder.mkdir(parents=True)
    scratch.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    for name in ("csrc", "configs", "tcpmux"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    environment = {
        **os.environ,
        "PWD": str(folder),
        "TMPDIR": str(scratch),
        "SOURCE_DATE_EPOCH": "1700000000",
        "CCACHE_DISABLE": "1",
        "TCPMUX_BUILD": "release",
    }
    done = subprocess.run(
        [sys.executable, "-c", SMALL_BUILD],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}", pytrace=False)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_builds_in_different_folders_are_equal(tmp_path: Path) -> None:
    """To the byte: two modules, and the wheel that they are in."""
    one, other = (
        small_build(folder, tmp_path / f"scratch-{number}")
        for number, folder in enumerate((tmp_path / "a", tmp_path / "deeper" / "down" / "here"))
    )
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        assert first.namelist() == second.namelist()
        assert sum(name.endswith(".so") for name in first.namelist()) == 2
        assert [n for n in first.namelist() if first.read(n) != second.read(n)] == []
    assert one.read_bytes() == other.read_bytes()


def hardening(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = runpy.run_path(str(ROOT / "csrc/hardening.py"))[name]
    return found


def compiler_without(directory: Path, *patterns: str) -> str:
    """A compiler that refuses what matches one of the shell patterns."""
    program = directory / "cc"
    refusals = "".join(
        f'case $arg in {pattern}) echo "unknown: $arg" >&2; exit 1;; esac\n' for pattern in patterns
    )
    program.write_text(f'#!/bin/sh\nfor arg; do\n:\n{refusals}done\nexec {COMPILER} "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_a_protection_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others stay."""
    compiler = compiler_without(tmp_path, "-Wl,-z,now", "-Wl,-z,noexecstack")
    compile_flags, link_flags = hardening("flags")(compiler, "release", False)
    assert any("_FORTIFY_SOURCE=3" in flag for flag in compile_flags)
    assert "-fstack-protector-strong" in compile_flags
    assert not {"-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"} & set(link_flags)
    assert capsys.readouterr().err.splitlines() == [
        f"setup.py: warning: {compiler} can't do {name}: the modules are compiled without it"
        for name in ("-z relro -z now", "-z noexecstack")
    ]


def test_a_lower_level_is_taken_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = compiler_without(tmp_path, "*_FORTIFY_SOURCE=3*")
    compile_flags, _ = hardening("flags")(compiler, "release", False)
    assert "-D_FORTIFY_SOURCE=2" in compile_flags
    assert "compiled with -D_FORTIFY_SOURCE=2 instead" in capsys.readouterr().err


@pytest.mark.parametrize("own", ["-D_FORTIFY_SOURCE=2", "-Wp,-D_FORTIFY_SOURCE=2"])
def test_the_level_of_pythons_own_flags_is_replaced(
    own: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the warning that a macro is defined anew."""
    monkeypatch.setenv("CFLAGS", own)
    compile_flags, _ = hardening("flags")(COMPILER, "release", True)
    source = tmp_path / "level.c"
    source.write_text("int level = _FORTIFY_SOURCE;\n")
    done = subprocess.run(
        [*COMPILER.split(), "-O2", "-Werror", own, *compile_flags, "-E", "-P", str(source)],
        capture_output=True, text=True, timeout=patient(30), check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["int", "level", "=", "3;"]
    assert capsys.readouterr().err == ""


def test_what_is_not_optimised_has_all_the_rest() -> None:
    """glibc would warn of -D_FORTIFY_SOURCE; sanitizers look after everything themselves."""
    debug, linker = hardening("flags")(COMPILER, "debug", True)
    assert "-fstack-protector-strong" in debug
    assert "-Wl,-z,now" in linker
    assert not [flag for flag in debug if "-D_FORTIFY_SOURCE" in flag]
    assert hardening("flags")(COMPILER, "asan", True) == (debug[:2], [])


def test_a_development_build_has_all_or_ends(tmp_path: Path) -> None:
    """TCPMUX_WERROR=1: what CI tests is not weaker than it looks."""
    compiler = compiler_without(tmp_path, "-Wl,-z,now")
    with pytest.raises(SystemExit, match=r"can't do -z relro -z now: .* does not allow"):
        hardening("flags")(compiler, "release", True)


def test_a_compiler_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match="no-such-cc does not compile even an empty C function"):
        hardening("flags")("no-such-cc", "release", False)


def test_the_name_by_which_the_shell_came_here_is_kept_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a symbolic link, $PWD is another name of the same folder; a stale one is none."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    monkeypatch.setenv("PWD", str(link))
    flags = hardening("without_folder")(COMPILER, real)
    assert flags == [f"-ffile-prefix-map={name}=." for name in (link, real.resolve())]
    monkeypatch.setenv("PWD", str(tmp_path))
    assert hardening("without_folder")(COMPILER, real) == [flags[1]]
