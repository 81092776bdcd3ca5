"""The compiler's and linker's protections for the extension modules. setup.py runs this.

A protection that the toolchain does not have is left out and named on standard error (pip
shows that with -v); with `strict`, as in every development build, that is the end of the build.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 60
EMPTY = "int probe(void) { return 0; }\n"


@dataclass(frozen=True)
class Protection:
    """compiler, linker: its flags. source: compiles only where they have an effect."""

    name: str
    compiler: tuple[str, ...] = ()
    linker: tuple[str, ...] = ()
    source: str = EMPTY


def fortified(level: int, *flags: str) -> Protection:
    """A C library that knows nothing of it takes the macro without a word: so it is asked."""
    source = f"#include <features.h>\n#if __USE_FORTIFY_LEVEL < {level}\n#error not fortified\n"
    return Protection(f"-D_FORTIFY_SOURCE={level}", tuple(flags), source=f"{source}#endif\n{EMPTY}")


# What comes first is taken. Python's own flags may define the macro already, as Debian's and
# Ubuntu's do with -D, or Fedora's with -Wp,-D, which takes effect after every plain -U. The
# second form undoes both, but ccache caches nothing that has it. (In two arguments, ccache would
# swap them.) Level 3 needs gcc 12 or clang 9, and glibc 2.34.
FORTIFY = tuple(
    fortified(level, *flags)
    for level in (3, 2)
    for flags in (
        ("-U_FORTIFY_SOURCE", f"-D_FORTIFY_SOURCE={level}"),
        (f"-Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE={level}",),
    )
)
# Where the code is not optimised, the macro makes glibc warn, and sanitizers check the same.
UNFORTIFIED = Protection("-U_FORTIFY_SOURCE", ("-U_FORTIFY_SOURCE", "-Wp,-U_FORTIFY_SOURCE"))

BRANCHES = {
    # The linker's flag, as glibc's own start files may lack the mark and so take it from all.
    # They keep to the shadow stack; of indirect branches (-z ibt) that can't be said.
    "x86_64": Protection("-fcf-protection", ("-fcf-protection",), ("-Wl,-z,shstk",)),
    "aarch64": Protection("-mbranch-protection", ("-mbranch-protection=standard",)),
}


def wanted(machine: str, optimised: bool) -> list[tuple[Protection, ...]]:
    """Each protection, as the ways to ask for it, best first."""
    return [
        FORTIFY if optimised else (UNFORTIFIED,),
        (Protection("-fstack-protector-strong", ("-fstack-protector-strong",)),),
        (Protection("-z relro -z now", linker=("-Wl,-z,relro", "-Wl,-z,now")),),
        (Protection("-z noexecstack", linker=("-Wl,-z,noexecstack",)),),
        *([(BRANCHES[machine],)] if machine in BRANCHES else []),
    ]


def works(compiler: str, protections: Sequence[Protection]) -> bool:
    """Whether a module can be made with them, and without a warning."""
    command = [
        *shlex.split(compiler),
        *shlex.split(sysconfig.get_config_var("CFLAGS") or ""),
        *shlex.split(os.environ.get("CFLAGS", "")),
        *("-O2", "-fPIC", "-shared", "-Werror", "-Wl,--fatal-warnings"),
        *(flag for one in protections for flag in (*one.compiler, *one.linker)),
    ]
    with tempfile.TemporaryDirectory() as directory:
        sources = []
        for number, one in enumerate(protections):
            sources.append(f"{directory}/probe{number}.c")
            Path(sources[-1]).write_text(one.source.replace("probe", f"probe{number}"))
        try:
            done = subprocess.run(
                [*command, *sources, "-o", f"{directory}/probe.so"],
                capture_output=True, timeout=PROBE_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def chosen(compiler: str, optimised: bool, strict: bool) -> list[Protection]:
    """Those that work here, in a form that does. Raises SystemExit if one fails and `strict`."""
    asked = wanted(platform.machine(), optimised)
    best = [ways[0] for ways in asked]
    if works(compiler, best):
        return best
    if not works(compiler, [Protection("nothing")]):
        raise SystemExit(f"setup.py: {compiler} does not compile even an empty C function")
    found: list[Protection] = []
    for ways in asked:
        way = next((one for one in ways if works(compiler, [one])), None)
        if way is not None:
            found.append(way)
        if way is None or way.name != ways[0].name:
            instead = f"with {way.name} instead" if way else "without it"
            said = f"{compiler} can't do {ways[0].name}: the modules are compiled {instead}"
            if strict:
                raise SystemExit(f"setup.py: {said}, which TCPMUX_WERROR=1 does not allow")
            print(f"setup.py: warning: {said}", file=sys.stderr)
    return found


def flags(compiler: str, variant: str, strict: bool) -> tuple[list[str], list[str]]:
    """(for the compiler, for the linker) of a build: setup.py has the variants."""
    if variant == "asan":
        return list(UNFORTIFIED.compiler), []
    protections = chosen(compiler, variant == "release", strict)
    return (
        [flag for one in protections for flag in one.compiler],
        [flag for one in protections for flag in one.linker],
    )


def without_folder(compiler: str, folder: Path) -> list[str]:
    """Flags that keep the name of the folder out of what is built in it, so that two builds are
    the same to the byte. The compiler takes the name from $PWD, if that leads here."""
    names = {str(folder.resolve())}
    shell = os.environ.get("PWD", "")
    if shell and Path(shell).is_dir() and Path(shell).samefile(folder):
        names.add(shell)
    mapped = Protection(
        "-ffile-prefix-map", tuple(f"-ffile-prefix-map={name}=." for name in sorted(names))
    )
    if works(compiler, [mapped]):
        return list(mapped.compiler)
    print(f"setup.py: warning: {compiler} can't do {mapped.name}: modules name the folder "
          "that they were built in", file=sys.stderr)  # fmt: skip
    return []
