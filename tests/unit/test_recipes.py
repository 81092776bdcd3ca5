"""The recipes of CONTRIBUTING.md for what is declared once, each with a worked example: rows are
added to a copy of the tree, which is built, and arrive wherever they are needed.

The shared memory is real: a program in C, in place of a worker, reads and counts.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import patient

ROOT = Path(__file__).resolve().parents[2]
COMPILER = [*shlex.split(os.environ.get("CC", "gcc")), "-std=gnu11", "-D_GNU_SOURCE", "-Icsrc"]
SOURCES = ("route_table.c", "pick.c", "pick_rules.c", "sticky.c", "trust.c", "commons.c", "sock.c")
# Of tcpmux.shm, in one file of the first one's name.
SHM = ("_region", *sorted(p.stem for p in ROOT.glob("tcpmux/shm/_*.pyx") if p.stem != "_region"))
MADE = ("csrc/rules.def", "csrc/balances.def", "csrc/messages.def")  # by the build
SETTINGS, COUNTERS = "tcpmux/config/settings.py", "csrc/counters.def"

# (file, above which line, the rows): all that is edited, besides the line that reads or counts.
NUMBERS = [
    (
        SETTINGS,
        "    half_open_timeout: float",
        """\
    patience: float = seconds(
        "How long it is waited for patiently; 0s = not at all.", 0.0, high=60.0, rule="patience_ms"
    )
""",
    ),
    (
        SETTINGS,
        "    across: bool = flag(",
        """\
    share: int = percent("Of retries.", 7, rule="retry_share")
""",
    ),
    (
        SETTINGS,
        "    priority: int = whole(",
        """\
    distance: int = whole("How far away it is.", 3, 0, 9, "hops", rule="distance")
""",
    ),
]
BALANCE = [(SETTINGS, '    "maglev": "as', '    "newest": "the one that came last",\n')]
COUNTED = [
    (COUNTERS, "TM_SLOT(retries,", 'TM_SLOT(yawns, "times", "somebody was bored")\n'),
    (COUNTERS, "TM_WORKER(wakeups,", 'TM_WORKER(naps, "times", "nothing was done")\n'),
    (COUNTERS, "TM_CLOSE(killed,", 'TM_CLOSE_REJECTED(bored, "UO", "nobody came")\n'),
    (COUNTERS, "TM_PICK(only,", 'TM_PICK(guessed, "by chance")\n'),
    (COUNTERS, "TM_TIME(duration,", 'TM_TIME(sleep, latency, "from bed to bed")\n'),
]
# The lines that read, that count, and the function of an algorithm.
WORKER = """
#include "live.h"
#include <stdio.h>
#include <sys/mman.h>
#include <stdlib.h>
typedef int choose(void);
static int round_robin(void) { return 0; }
static int least_connections(void) { return 1; }
static int random_two(void) { return 2; }
static int source_hash(void) { return 3; }
static int newest(void) { return 99; }
static int maglev(void) { return 4; }
static choose *const algorithms[] = {
#define TM_BALANCE(name, symbol, help) [symbol] = name,
#include "balances.def"
};
int main(int count, char **arguments)
{
    (void)count;
    struct tm_table *table = mmap(NULL, sizeof(*table), PROT_READ, MAP_SHARED,
                                  atoi(arguments[1]), 0);
    struct tm_live *live = mmap(NULL, tm_live_size(1), PROT_READ | PROT_WRITE, MAP_SHARED,
                                atoi(arguments[2]), 0);
    const struct tm_image *image = tm_table_image(table, tm_table_generation(table));
    const struct tm_destination *destination = &image->destinations[0];
    struct tm_slot *slot = &live->slots[destination->slot];
    tm_live_begin(live, 1);
    slot->yawns += 3;
    slot->closed[TM_CLOSED_bored] += 4;
    slot->picked[TM_PICKED_guessed] += 5;
    live->counters.naps += 6;
    tm_histogram_add(&live->times[destination->slot].sleep, tm_latency_bounds_us, 700);
    printf("[%lu, %lu, %d, %lu]", destination->rules.patience_ms,
           image->routes[0].rules.retry_share, algorithms[destination->rules.balance](),
           image->endpoints[destination->first_endpoint].rules.distance);
}
"""
SEEN = """
import json, os, subprocess, sys
from pathlib import Path
from tcpmux.config import Address, load
from tcpmux.config.native import to_text
from tcpmux.config.schema import json_schema
from tcpmux.control.metrics import Metrics
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.diff import describe_changes
from tcpmux.shm.slots import Names
from tcpmux.shm.stats import StatusReader
from tcpmux.shm.view import View
from tests.docs import generate
from tests.unit import reference
from tests.unit.watching import conditions_of

def loaded(text):
    Path("r.yaml").write_text(text)
    return load(["r.yaml"])

def image(config):
    names = Names.new(lambda _: True)
    return build_image(config, {}, names, {Address("127.0.0.1", 1, ""): 0}, 1, {})

head = "routes: [{name: r, listen: '127.0.0.1:1', %s destinations: [{name: v, %s}]}]"
ends = "endpoints: [{address: '127.0.0.1:9'%s}]"
old = loaded(head % ("", ends % ""))
said = "patience: 5s, " + ends % ", distance: 4"
new = loaded(head % ("retry: {share: 9%}, balance: newest,", said))
shared = loaded("defaults: {patience: 7s}\\n" + head % ("", ends % ""))
try:
    loaded(head % ("", "patience: 61s, " + ends % ", distance: 10"))
except Exception as error:
    refused = str(error)
table, live = Table.create(1, 1, os.getpid(), 1), Live.create(0, 1)
publish_image(table, image(new))
fds = [table.fd, live.fd]
worker = subprocess.run(["./worker", *map(str, fds)], pass_fds=fds, capture_output=True, check=True)
view = View(table.fd, [live.fd])
route = StatusReader(view).read()["routes"][0]
defs = json_schema()["$defs"]
json.dump({
    "schema": [defs[name]["properties"]["patience"]["description"]
               for name in ("DefaultsModel", "RouteModel", "DestinationModel")],
    "schema of an endpoint": defs["EndpointModel"]["properties"]["distance"]["description"],
    "balances": defs["RouteModel"]["properties"]["balance"]["anyOf"][0]["enum"],
    "config": [of.routes[0].destinations[0].policy.patience for of in (old, shared, new)],
    "refused": refused,
    "text": to_text(new),
    "worker": json.loads(worker.stdout),
    "diff": describe_changes(image(old), image(new)),
    "reference": reference.made_of(Path(sys.argv[1]).read_text()),
    "counters": generate.metrics(),
    "route": route,
    "worker_counters": live.counters(),
    "metrics": Metrics(view, "1", conditions_of(view)).text(),
}, sys.stdout)
"""


def copied(tree: Path) -> None:
    for name in ("tcpmux", "csrc"):
        shutil.copytree(
            ROOT / name, tree / name,
            ignore=shutil.ignore_patterns("__pycache__", f"{SHM[0]}.*.so"),
        )  # fmt: skip


def edit(tree: Path, rows: list[tuple[str, str, str]]) -> None:
    for name, above, row in rows:
        text = (tree / name).read_text()
        assert text.count(above) == 1, above
        (tree / name).write_text(text.replace(above, row + above))


def edited(tree: Path) -> list[str]:
    """The files in git that are not as they are here."""
    here = (path for name in ("tcpmux", "csrc") for path in (ROOT / name).rglob("*"))
    return sorted(
        str(name)
        for path in here
        if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts
        for name in (path.relative_to(ROOT),)
        if str(name) not in MADE and path.read_bytes() != (tree / name).read_bytes()
    )


def translated(tree: Path, modules: list[str]) -> bool:
    """Takes what Cython made of them in the last build, if they are as they were then."""
    youngest = max(path.stat().st_mtime for path in ROOT.glob("tcpmux/shm/*.pxd"))
    pairs = [(ROOT / f"build/cython/{name}.c", ROOT / f"{name}.pyx") for name in modules]
    if not all(
        c.exists() and c.stat().st_mtime > max(youngest, pyx.stat().st_mtime) for c, pyx in pairs
    ):
        return False
    for (c, _), name in zip(pairs, modules, strict=True):
        shutil.copy(c, tree / f"{name}.c")
    return True


def build(tree: Path) -> None:
    """What setup.py makes, as far as shared memory goes."""
    for command in (["csrc/tables.py"], ["csrc/fields.py", shlex.join(COMPILER), "fields.rows"]):
        subprocess.run([sys.executable, *command], cwd=tree, check=True, timeout=patient(60))
    swap = ["-mcx16"] if platform.machine() in ("x86_64", "AMD64") else []
    flags = ["-O0", "-w", "-fPIC", "-shared", "-I.", f"-I{sysconfig.get_paths()['include']}"]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    sources = " ".join(f"csrc/{name}" for name in SOURCES)
    shared, worker = (
        shlex.join([*COMPILER, *swap, *more]) for more in (flags, ["-Wall", "-Werror"])
    )
    modules = [f"tcpmux/shm/{name}" for name in SHM]
    made = " ".join(f"{module}.c" for module in modules)
    cython = shlex.join([sys.executable, "-m", "cython", "-3", *(f"{m}.pyx" for m in modules)])
    # Rows are read by the compiler of C: what Cython makes does not depend on them.
    translate = "" if translated(tree, modules) else f"{cython} && "
    jobs = [f"{translate}{shared} -o {modules[0]}{suffix} {made} {sources}"]
    (tree / "worker.c").write_text(WORKER)
    jobs.append(f"{worker} -o worker worker.c {sources}")
    running = [subprocess.Popen(["sh", "-ec", job], cwd=tree) for job in jobs]
    assert [job.wait(patient(300)) for job in running] == [0] * len(jobs)


def seen_in(tree: Path) -> Any:
    """What the package in that tree makes of the examples."""
    said = subprocess.run(
        [sys.executable, "-c", SEEN, str(ROOT / "configs/reference.yaml")],
        cwd=tree, env={**os.environ, "PYTHONPATH": f"{tree}:{ROOT}"},
        capture_output=True, text=True, timeout=patient(100), check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.mark.parametrize(
    ("rows", "files"),
    [
        pytest.param(NUMBERS, [SETTINGS], id="three numbers"),
        pytest.param(BALANCE, [SETTINGS], id="a balancing algorithm"),
        pytest.param(COUNTED, [COUNTERS], id="counters of all kinds"),
    ],
)
def test_one_file_is_edited(
    rows: list[tuple[str, str, str]], files: list[str], tmp_path: Path
) -> None:
    copied(tmp_path)
    assert edited(tmp_path) == []
    edit(tmp_path, rows)
    assert edited(tmp_path) == files


def check_a_number_of_a_destination(seen: Any) -> None:
    assert seen["schema"] == ["How long it is waited for patiently; 0s = not at all."] * 3
    assert seen["config"] == [0.0, 7.0, 5.0]
    assert "routes[0].destinations[0].patience: expected 0s..1m, got 61s" in seen["refused"]
    assert "        patience: 5s\n" in seen["text"]
    assert seen["worker"][0] == 5000
    assert "v patience 0s->5s" in seen["diff"][0]
    reference = yaml.safe_load(seen["reference"])
    assert reference["defaults"]["patience"] == "0s"
    assert (
        "  # How long it is waited for patiently; 0s = not at all.\n  patience: 0s  # 0s..1m\n"
        in seen["reference"]
    )


def check_a_number_of_a_section_of_a_route(seen: Any) -> None:
    assert "    retry: {share: 9%}\n" in seen["text"]
    assert seen["worker"][1] == 9
    assert "retry.share 7%->9%" in seen["diff"][0]
    assert yaml.safe_load(seen["reference"])["routes"][0]["retry"]["share"] == "7%"


def check_a_number_of_an_endpoint(seen: Any) -> None:
    assert seen["schema of an endpoint"] == "How far away it is."
    where = "routes[0].destinations[0].endpoints[0].distance"
    assert f"{where}: expected 0..9, got 10" in seen["refused"]
    assert "          - {address: 127.0.0.1:9, distance: 4}\n" in seen["text"]
    assert seen["worker"][3] == 4
    assert "v endpoint 127.0.0.1:9 distance 3->4" in seen["diff"][0]
    destination = yaml.safe_load(seen["reference"])["routes"][0]["destinations"][0]
    assert destination["endpoints"][1]["distance"] == 3


def check_a_balancing_algorithm(seen: Any) -> None:
    assert seen["balances"][-2:] == ["newest", "maglev"]
    assert "balance: newest\n" in seen["text"]
    assert seen["worker"][2] == 99
    assert seen["route"]["destinations"][0]["balance"] == "newest"
    assert "v balance round_robin->newest" in seen["diff"][0]
    assert "  #   newest              the one that came last\n" in seen["reference"]


def check_counters(seen: Any) -> None:
    destination = seen["route"]["destinations"][0]
    assert destination["counters"]["yawns"] == 3
    assert destination["closed"]["bored"] == 4
    assert destination["picked"]["guessed"] == 5
    assert seen["worker_counters"]["naps"] == 6
    labels = 'route="r",destination="v"'
    for line in (
        "# HELP tcpmux_yawns_total Times: somebody was bored.",
        f"tcpmux_yawns_total{{{labels}}} 3",
        f'tcpmux_connections_closed_total{{{labels},reason="bored"}} 4',
        f'tcpmux_picks_total{{{labels},reason="guessed"}} 5',
        'tcpmux_worker_naps_total{worker="0"} 6',
        f"tcpmux_sleep_seconds_sum{{{labels}}} 0.000700",
        'tcpmux_route_connections_rejected_total{route="r"} 0',
    ):
        assert line in seen["metrics"], line
    for row in ("`yawns` | times", "`bored` | UO", "`guessed`", "`sleep` | latency", "`naps`"):
        assert f"| {row}" in seen["counters"], row


@pytest.mark.timeout(patient(400))  # it compiles most of the tree
def test_rows_arrive_wherever_they_are_needed(tmp_path: Path) -> None:
    """One build for all, as it is the dear part."""
    copied(tmp_path)
    for rows in (NUMBERS, BALANCE, COUNTED):
        edit(tmp_path, rows)
    build(tmp_path)
    seen = seen_in(tmp_path)
    check_a_number_of_a_destination(seen)
    check_a_number_of_a_section_of_a_route(seen)
    check_a_number_of_an_endpoint(seen)
    check_a_balancing_algorithm(seen)
    check_counters(seen)
