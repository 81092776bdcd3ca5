"""Builds the extension modules. Everything else about the package is in pyproject.toml.

TCPMUX_BUILD chooses the variant: release (default), debug (no optimisation, symbols) or
asan (address and undefined-behaviour sanitizers; run it with libasan preloaded, see the
Makefile). TCPMUX_WERROR=1 makes a compiler warning an error, as all development builds do, and
a protection that the compiler lacks (csrc/hardening.py).

The same source makes the same modules, in whatever folder, with the same compiler, Python and
Cython; the wheel around them is the same if SOURCE_DATE_EPOCH is.
"""

from __future__ import annotations

import os
import platform
import runpy
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

VARIANTS = {
    "release": (["-O2", "-g"], []),
    "debug": (["-O0", "-g3"], []),
    "asan": (
        ["-O1", "-g3", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
        ["-fsanitize=address,undefined"],
    ),
}

# What Cython's generated code does that our own may not.
GENERATED_CODE_WARNINGS = [
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-unused-function",
    "-Wno-unused-but-set-variable",
]

# csrc/commons.h. On other machines the compiler needs not be told.
SIXTEEN_BYTE_SWAP = ["-mcx16"] if platform.machine() in ("x86_64", "AMD64") else []

# Made of the headers: csrc/fields.py.
FIELDS = Path("build/generated/fields.rows")
COMPILER = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
STRICT = os.environ.get("TCPMUX_WERROR") == "1"

MODULES = {
    "tcpmux._privileges": ["privileges.c"],
    "tcpmux.shm._shm": ["route_table.c", "pick.c", "trust.c", "commons.c"],
    "tcpmux.shm._readings": [],
    "tcpmux.worker._limits": ["commons.c", "trust.c"],
    "tcpmux.worker._shape": ["sock.c"],
    "tcpmux.worker._stall": ["commons.c", "pipe_pool.c", "sock.c"],
    "tcpmux.worker._choice": [],
    "tcpmux.worker._connection": [
        "pump.c",
        "pick.c",
        "pipe_pool.c",
        "kernel_count.c",
        "sock.c",
        "wheel.c",
    ],
    "tcpmux.worker._recovery": [
        "pump.c",
        "pipe_pool.c",
        "kernel_count.c",
        "sock.c",
        "wheel.c",
        "descriptors.c",
        "trust.c",
        "commons.c",
    ],
    "tcpmux.worker._relay": [
        "pipe_pool.c",
        "sock.c",
        "wheel.c",
        "channel.c",
        "descriptors.c",
        "waiter.c",
        "trust.c",
        "commons.c",
    ],
    "tcpmux.worker._handover": [
        "handover.c",
        "pipe_pool.c",
        "wheel.c",
        "descriptors.c",
        "trust.c",
        "commons.c",
    ],
    "tcpmux.master._watch": ["watch.c"],
    "tcpmux.worker._guardian": ["channel.c", "watch.c", "descriptors.c"],
}


def protections(variant: str) -> tuple[list[str], list[str]]:
    """(for the compiler, for the linker)"""
    hardening = runpy.run_path("csrc/hardening.py")
    compiler, linker = hardening["flags"](COMPILER, variant, STRICT)
    return [*compiler, *hardening["without_folder"](COMPILER, Path.cwd())], linker


class WithoutRunPath(build_ext):  # type: ignore[misc]
    """The modules need the C library alone: folders that Python was linked with (pyenv names
    its own) are not where they should look for it."""

    def build_extensions(self) -> None:
        linker = self.compiler.linker_so
        self.compiler.linker_so = [arg for arg in linker if not arg.startswith("-Wl,-rpath")]
        super().build_extensions()


def extensions() -> list[Extension]:
    variant = os.environ.get("TCPMUX_BUILD", "release")
    if variant not in VARIANTS:
        raise SystemExit(f"TCPMUX_BUILD: expected one of {', '.join(VARIANTS)}, got {variant}")
    compile_args, link_args = VARIANTS[variant]
    protection, link_protection = protections(variant)
    werror = ["-Werror"] if STRICT else []
    runpy.run_path("csrc/tables.py")["write"]()
    runpy.run_path("csrc/fields.py")["write"](COMPILER, FIELDS)
    headers = sorted(str(path) for path in [*Path("csrc").glob("*.[hd]*"), FIELDS])
    return [
        Extension(
            name,
            [name.replace(".", "/") + ".pyx", *(f"csrc/{source}" for source in sources)],
            depends=headers,
            include_dirs=["csrc", str(FIELDS.parent)],
            # Python's own flags switch assertions off. Ours stay on: a worker that finds
            # the impossible must die and be replaced, not go on.
            undef_macros=["NDEBUG"],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=[
                "-std=gnu11",
                "-Wall",
                "-Wextra",
                *werror,
                *SIXTEEN_BYTE_SWAP,
                *GENERATED_CODE_WARNINGS,
                *compile_args,
                *protection,
            ],
            extra_link_args=[*link_args, *link_protection],
        )
        for name, sources in MODULES.items()
    ]


setup(
    cmdclass={"build_ext": WithoutRunPath},
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        extensions(),
        build_dir="build/cython",
        annotate=True,
        compiler_directives={"language_level": 3},
    ),
)
