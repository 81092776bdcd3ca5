"""Builds the extension modules. Everything else about the package is in pyproject.toml.

TCPMUX_BUILD chooses the variant: release (default), debug (no optimisation, symbols) or
asan (address and undefined-behaviour sanitizers; run it with libasan preloaded, see the
Makefile). TCPMUX_WERROR=1 makes a compiler warning an error, as all development builds do, and
a protection that the compiler lacks (csrc/hardening.py).

The same source makes the same modules, in whatever folder, with the same compiler, Python and
Cython; the wheel around them is the same if SOURCE_DATE_EPOCH is. TCPMUX_MODULES names a tree whose
modules are taken as they are, instead of compiling any: `make wheel`.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

VARIANTS = {
    # -g1: functions and lines, for backtraces. Variables take a third of the compiler's time.
    "release": (["-O2", "-g1"], []),
    "debug": (["-O0", "-g3"], []),
    "asan": (
        ["-O1", "-g3", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
        ["-fsanitize=address,undefined"],
    ),
}

# Of a release, for what Cython generates outside the worker. Nothing of it runs for a connection,
# and the compiler takes half the time.
LESS_OPTIMISED = "-Og"

# What Cython's generated code does that our own may not.
GENERATED_CODE_WARNINGS = [
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-unused-function",
    "-Wno-unused-but-set-variable",
]

# csrc/counted.h. On other machines the compiler needs not be told.
SIXTEEN_BYTE_SWAP = ["-mcx16"] if platform.machine() in ("x86_64", "AMD64") else []

GENERATED = "build/cython"
# Made of the headers: csrc/fields.py.
FIELDS = Path("build/generated/fields.rows")
# What modules are compiled by: when it changes, all are compiled again.
BUILT_BY = Path("build/generated/built-by.txt")
MODULES = os.environ.get("TCPMUX_MODULES", "")
TOOLCHAIN = runpy.run_path("csrc/toolchain.py")
COMPILER = TOOLCHAIN["compiler"]()
CPUS = len(os.sched_getaffinity(0))
STRICT = os.environ.get("TCPMUX_WERROR") == "1"
VARIANT = os.environ.get("TCPMUX_BUILD", "release")

# (modules, what they need of csrc/): each is one file, of the first module's name, with one copy of
# csrc/ in it. tcpmux/one_file.py tells Python where the others are.
SHM = ("_region", "_address", "_beat", "_commons", "_connections", "_contests", "_declared",
       "_image", "_live", "_pick", "_readings", "_row", "_rule_set", "_table")  # fmt: skip
WORKER = ("_loop", "_listeners", "_master_line", "_guardian")
NOT_IN_WORKER = {"privileges.c"}
FILES = [
    (["tcpmux._privileges"], ["csrc/privileges.c"]),
    (["tcpmux.master._watch"], ["csrc/watch.c"]),
    (
        [f"tcpmux.shm.{name}" for name in SHM],
        [
            f"csrc/{name}.c"
            for name in (
                "route_table",
                "pick",
                "pick_rules",
                "sticky",
                "trust",
                "commons",
                "sock",
            )
        ],
    ),
    (
        [f"tcpmux.worker.{name}" for name in WORKER],
        sorted(str(path) for path in Path("csrc").rglob("*.c") if path.name not in NOT_IN_WORKER),
    ),
]


def protections(variant: str) -> tuple[list[str], list[str]]:
    """(for the compiler, for the linker)"""
    hardening = runpy.run_path("csrc/hardening.py")
    compiler, linker = hardening["flags"](COMPILER, variant, STRICT)
    return [*compiler, *hardening["without_folder"](COMPILER, Path.cwd())], linker


class Build(build_ext):  # type: ignore[misc]
    """Compiles each source once, whichever modules it goes into, and on all CPUs.

    The modules need the C library alone: folders that Python was linked with (pyenv names its
    own) are not where they should look for it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel: int = self.parallel or CPUS

    def build_extensions(self) -> None:
        if MODULES:
            for extension in self.extensions:
                self.take(extension.name)
            return
        linker = self.compiler.linker_so
        self.compiler.linker_so = [arg for arg in linker if not arg.startswith("-Wl,-rpath")]
        stale = [extension for extension in self.extensions if self.is_stale(extension)]
        sources = sorted({source for extension in stale for source in extension.sources})
        with ThreadPoolExecutor(self.parallel) as pool:
            made = dict(zip(sources, pool.map(partial(self.compiled, stale), sources), strict=True))
        for extension in self.extensions:
            extension.extra_objects += [made[one] for one in extension.sources if one in made]
            extension.depends += extension.sources
            extension.sources = []
        super().build_extensions()

    def take(self, name: str) -> None:
        """A module from another tree, without what only a debugger needs."""
        source = Path(MODULES) / self.get_ext_filename(name)
        target = Path(self.get_ext_fullpath(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        subprocess.run(["strip", "--strip-unneeded", target], check=True)

    def is_stale(self, extension: Extension) -> bool:
        """As build_extension() sees it."""
        needs = [*extension.sources, *extension.depends]
        return bool(
            self.force or newer_group(needs, self.get_ext_fullpath(extension.name), "newer")
        )

    def compiled(self, extensions: list[Extension], source: str) -> str:
        """The object that is made of a source, as any of the modules would have it."""
        extension = extensions[0]
        (made,) = self.compiler.compile(
            [source],
            output_dir=self.build_temp,
            macros=[*extension.define_macros, *((name,) for name in extension.undef_macros)],
            include_dirs=extension.include_dirs,
            extra_postargs=[*extension.extra_compile_args, *less_optimised(source)],
        )
        return str(made)


def extension(
    name: str, sources: list[str], compile_args: list[str], link_args: list[str]
) -> Extension:
    return Extension(
        name,
        sources,
        depends=sorted(str(path) for path in [*Path("csrc").rglob("*.[hd]*"), FIELDS, BUILT_BY]),
        include_dirs=["csrc", str(FIELDS.parent)],
        # Python's own flags switch assertions off. Ours stay on: a worker that finds
        # the impossible must die and be replaced, not go on.
        undef_macros=["NDEBUG"],
        define_macros=[("_GNU_SOURCE", "1")],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


def note(*built_by: str) -> None:
    """Writes down what the modules are compiled by, if it is not that already."""
    text = "\n".join(built_by)
    if not BUILT_BY.exists() or BUILT_BY.read_text() != text:
        BUILT_BY.parent.mkdir(parents=True, exist_ok=True)
        BUILT_BY.write_text(text)


def less_optimised(source: str) -> list[str]:
    """What is said to the compiler of a source beyond what is said of all."""
    generated = source.startswith(f"{GENERATED}/")
    worker = source.startswith(f"{GENERATED}/tcpmux/worker/")
    return [LESS_OPTIMISED] if VARIANT == "release" and generated and not worker else []


def pyx(name: str) -> str:
    return name.replace(".", "/") + ".pyx"


def extensions() -> list[Extension]:
    if MODULES:
        return [Extension(modules[0], []) for modules, _ in FILES]
    TOOLCHAIN["require"]()
    from Cython.Build import cythonize

    if VARIANT not in VARIANTS:
        raise SystemExit(f"TCPMUX_BUILD: expected one of {', '.join(VARIANTS)}, got {VARIANT}")
    compile_args, link_args = VARIANTS[VARIANT]
    protection, link_protection = protections(VARIANT)
    flags = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        # Only what Python looks up leaves a module: calls within it are direct, whatever this
        # Python's linker flags are, and no other module of the process can take their place.
        "-fvisibility=hidden",
        *(["-Werror"] if STRICT else []),
        *SIXTEEN_BYTE_SWAP,
        *GENERATED_CODE_WARNINGS,
        *compile_args,
        *protection,
    ]
    link_flags = [*link_args, *link_protection]
    built_by = (COMPILER, TOOLCHAIN["version"](), sys.version, version("cython"))
    note(*built_by, LESS_OPTIMISED, *flags, *link_flags)
    runpy.run_path("csrc/tables.py")["write"]()
    runpy.run_path("csrc/fields.py")["write"](COMPILER, FIELDS)
    make = partial(extension, compile_args=flags, link_args=link_flags)
    made = cythonize(  # type: ignore[no-untyped-call]
        [make(name, [pyx(name)]) for modules, _ in FILES for name in modules],
        build_dir=GENERATED,
        nthreads=CPUS,
        compiler_directives={"language_level": 3},
    )
    generated = {one.name: one.sources for one in made}
    return [
        make(modules[0], [*(one for name in modules for one in generated[name]), *sources])
        for modules, sources in FILES
    ]


setup(cmdclass={"build_ext": Build}, ext_modules=extensions())
