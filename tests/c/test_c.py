"""Compiles the modules of csrc/ with sanitizers and runs the C test program of each.

A program that fails says where: file, line and the condition that did not hold. To repeat a
randomised one, set TCPMUX_TEST_SEED to the seed it printed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support import patient

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"

COMPILER = shlex.split(os.environ.get("CC", "gcc"))
FLAGS = [
    "-std=gnu11", "-D_GNU_SOURCE", "-g1", "-O1", "-fno-omit-frame-pointer",
    "-Wall", "-Wextra", "-Werror",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    # As if it were no part of a library: else tables of functions count as written, by the linker.
    "-fno-pic", "-no-pie",
    "-pthread", *(["-mcx16"] if platform.machine() == "x86_64" else []),
]  # fmt: skip

PROTOCOLS = tuple(str(path.relative_to(CSRC)) for path in sorted(CSRC.glob("protocol/*.c")))

PUMP = (
    *("pump.c", "pump_recover.c", "pipe_pool.c", "kernel_count.c", "tap.c", "compare.c"),
    *PROTOCOLS,
)
# Test program -> the sources of csrc/ that go into it.
PROGRAMS = {
    "test_route_table": ("route_table.c",),
    "test_pick": ("pick.c",),
    "test_pick_rules": ("pick_rules.c",),
    "test_sticky": ("sticky.c",),
    "test_commons": ("commons.c",),
    "test_pipe_pool": ("pipe_pool.c",),
    "test_pump": PUMP,
    "test_pump_recover": PUMP,
    "test_pump_skip": PUMP,
    "test_compare": ("compare.c",),
    "test_talk": PROTOCOLS,
    "test_talk_others": PROTOCOLS,
    "test_kept": PROTOCOLS,
    "test_first_answer": PROTOCOLS,
    "test_kernel_count": ("kernel_count.c",),
    "test_descriptors": ("descriptors.c",),
    "test_trust": ("trust.c", "commons.c"),
    "test_handoff_message": ("handoff_message.c", "rights.c"),
    "test_sock": ("sock.c",),
    "test_trace": ("sock.c",),
    "test_wheel": ("wheel.c",),
    "test_waiter": ("waiter.c",),
    "test_watch": ("watch.c",),
    "test_channel": ("channel.c", "rights.c"),
    "test_privileges": ("privileges.c",),
    "test_text": ("text.c",),
    "test_crc32c": ("crc32c.c",),
    "test_proxy_header": ("proxy_header.c", "crc32c.c", "text.c"),
    "test_client_hello": ("client_hello.c",),
    "test_conn": tuple(
        str(path.relative_to(CSRC))
        for path in sorted(CSRC.rglob("*.c"))
        if path.name != "privileges.c"
    ),
    "test_swap": ("conn/swap.c", "trust.c", "commons.c"),
    "test_live": PROTOCOLS,
    "test_shape": (),
    "test_pinned": (),
    "test_access_log": (),
}

# To optimise takes two thirds of the time that it takes to compile. These programs run long
# enough to repay that, and of csrc/ what they run.
OPTIMISED = (
    "test_commons", "test_pick", "test_pick_rules", "test_pump", "test_pump_recover",
    "test_pump_skip", "test_sticky", "test_text", "test_wheel",
)  # fmt: skip

COMPILE_SECONDS = patient(180)
RUN_SECONDS = patient(60)


# A sanitizer of its own: what several processes do at the same time, as threads.
THREADED = {"test_protocols": ("route_table.c", "commons.c")}
THREAD_FLAGS = [flag for flag in FLAGS if "sanitize" not in flag] + [
    "-fsanitize=thread", "-Wno-tsan",  # which says that it takes no notice of fences
]  # fmt: skip


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is compiled once for all programs, by whichever of the processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "objects"
    directory.mkdir(exist_ok=True)
    return directory


def compiled(source: str, objects: Path) -> Path:
    """A source of csrc/ as FLAGS have it; fails the test with the compiler's output."""
    made = objects / source.replace("/", "-")
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.with_suffix(".o").exists():
            hot = any(source in PROGRAMS[name] for name in OPTIMISED)
            more = [] if hot else ["-O0"]
            compile_into(made.with_suffix(".new"), [*FLAGS, *more, "-c", str(CSRC / source)])
            made.with_suffix(".new").rename(made.with_suffix(".o"))
    return made.with_suffix(".o")


def compile_into(made: Path, arguments: list[str]) -> Path:
    command = [*COMPILER, f"-I{CSRC}", f"-I{HERE}", "-o", str(made), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{shlex.join(command)}\n{done.stderr}", pytrace=False)
    return made


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_c_module(name: str, tmp_path: Path, objects: Path) -> None:
    """Every check of the module's program holds, and no sanitizer has anything to say."""
    parts = [str(compiled(source, objects)) for source in PROGRAMS[name]]
    flags = FLAGS if name in OPTIMISED else [*FLAGS, "-O0"]
    run(compile_into(tmp_path / name, [*flags, str(HERE / f"{name}.c"), *parts]), tmp_path)


def has_thread_sanitizer(directory: Path) -> bool:
    """Whether it is installed, and can run here: it wants its memory where it wants it."""
    source = directory / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    program = directory / "empty"
    made = subprocess.run(
        [*COMPILER, "-fsanitize=thread", "-o", str(program), str(source)],
        capture_output=True, timeout=COMPILE_SECONDS, check=False,
    )  # fmt: skip
    return made.returncode == 0 and subprocess.run([str(program)], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(THREADED))
def test_protocols_have_no_races(name: str, tmp_path: Path) -> None:
    """Table, records, counters, log, counts and buckets, each with its writers and readers."""
    if not has_thread_sanitizer(tmp_path):
        pytest.skip("the compiler has no thread sanitizer that runs here")
    sources = [str(HERE / f"{name}.c"), *(str(CSRC / source) for source in THREADED[name])]
    run(compile_into(tmp_path / name, [*THREAD_FLAGS, *sources]), tmp_path)


def run(program: Path, directory: Path) -> None:
    """Fails with what the program said if it does not end with 0."""
    name = program.name
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    # libasan has to come first, and the seat may be taken: the asan build preloads its own.
    environment.pop("LD_PRELOAD", None)
    try:
        done = subprocess.run(
            [str(program)], env=environment, cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        pytest.fail(f"{name}: not done after {RUN_SECONDS} s\n{said}", pytrace=False)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")
        pytest.fail(f"{name}: exit status {done.returncode}\n{said}", pytrace=False)


def mutable(compiled: Path) -> set[str]:
    """Variables of a C source that outlive a call and can be written."""
    listed = subprocess.run(
        ["nm", str(compiled)], capture_output=True, text=True, timeout=patient(30), check=True
    ).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines()]
    return {
        name
        for kind, name in symbols
        if kind in "bBdDcCsS" and not name.startswith("__odr_asan.")  # the sanitizer's own
    }


def test_no_module_keeps_state_of_its_own(tmp_path: Path, objects: Path) -> None:
    """A source of csrc/ is linked into several extension modules, and each would have a copy of
    such a variable: set in one, it stays unset in the others."""
    sources = [str(path.relative_to(CSRC)) for path in sorted(CSRC.rglob("*.c"))]
    found = {source: mutable(compiled(source, objects)) for source in sources}
    assert {name for name, variables in found.items() if variables} == set()
    state = tmp_path / "state.c"
    state.write_text("static int calls; int count(void) { return ++calls; }\n")
    assert mutable(compile_into(tmp_path / "state.o", [*FLAGS, "-c", str(state)])) == {"calls"}


def test_every_module_has_a_program() -> None:
    """A source of csrc/ without a test program, or a program that is never run, is a mistake."""
    tested = {source for sources in PROGRAMS.values() for source in sources}
    assert tested == {str(path.relative_to(CSRC)) for path in CSRC.rglob("*.c")}
    assert {*PROGRAMS, *THREADED} == {path.stem for path in HERE.glob("test_*.c")}
