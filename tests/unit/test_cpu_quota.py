"""How many workers `auto` means: by the CPUs and by the control groups, of every kind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tcpmux.master.cpu_quota import cpu_quota
from tcpmux.master.limits import Cpus

V2 = "30 23 0:26 {group} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "34 25 0:30 {group} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_OTHER = "35 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def quota(directory: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> float:
    """As it is on a host with these lines in /proc/self/cgroup and mountinfo, and these files below
    /sys/fs/cgroup."""
    process = directory / "proc"
    process.mkdir()
    (process / "cgroup").write_text(cgroup)
    (process / "mountinfo").write_text("\n".join(["23 1 0:1 / / rw - ext4 /dev/a rw", *mounts]))
    for name, text in files.items():
        path = directory / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(process, directory)


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "expected"),
    [
        # Version 2.
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "20000\n"}, 0.2),
        # The strictest of those above.
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 25000"}, 2),
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", ["/"], {"a/b/cpu.max": "100000 100000", "cpu.max": "400000 100000"}, 1),
        # In a namespace of control groups the root is the group itself.
        ("0::/\n", ["/"], {"cpu.max": "250000 100000"}, 2.5),
        ("0::/../other\n", ["/"], {"cpu.max": "250000 100000"}, 2.5),
        # Without one, the group is mounted as the root, or one above it.
        ("0::/docker/x\n", ["/docker/x"], {"cpu.max": "250000 100000"}, 2.5),
        ("0::/pod/x\n", ["/pod"], {"x/cpu.max": "250000 100000", "cpu.max": "200000 100000"}, 2),
        # Neighbours limit nobody else.
        ("0::/a\n", ["/"], {"a/cpu.max": "max 100000", "ab/cpu.max": "1000 100000"}, math.inf),
        # What makes no sense limits nothing.
        ("0::/a\n", ["/"], {"a/cpu.max": "-5 100000"}, math.inf),
        ("0::/a\n", ["/"], {"a/cpu.max": "100000 0"}, math.inf),
        ("0::/a\n", ["/"], {"a/cpu.max": "nonsense"}, math.inf),
        ("0::/a\n", ["/"], {"a/cpu.max": ""}, math.inf),
        ("nonsense\n::\n", ["/"], {"cpu.max": "100000 100000"}, math.inf),
        ("0::/gone\n", ["/"], {}, math.inf),
    ],
)
def test_version_2(
    tmp_path: Path, cgroup: str, mounts: list[str], files: dict[str, str], expected: float
) -> None:
    lines = [V2.format(group=group) for group in mounts]
    assert quota(tmp_path, cgroup, lines, files) == expected


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("/", {"a/b": (150000, 100000)}, 1.5),
        ("/", {"a/b": (-1, 100000)}, math.inf),
        ("/", {"a/b": (-1, 100000), "a": (200000, 50000)}, 4),
        ("/a/b", {".": (50000, 100000)}, 0.5),
    ],
)
def test_version_1(
    tmp_path: Path, group: str, files: dict[str, tuple[int, int]], expected: float
) -> None:
    cgroup = "5:memory:/elsewhere\n4:cpu,cpuacct:/a/b\n0::/\n"
    texts = {}
    for name, (most, period) in files.items():
        texts[f"cpu,cpuacct/{name}/cpu.cfs_quota_us"] = f"{most}\n"
        texts[f"cpu,cpuacct/{name}/cpu.cfs_period_us"] = f"{period}\n"
    assert quota(tmp_path, cgroup, [V1_OTHER, V1.format(group=group)], texts) == expected


def test_both_versions_and_a_mount_with_a_blank_in_its_name(tmp_path: Path) -> None:
    mounts = [
        "30 23 0:26 / /sys/fs/cgroup/a\\040b rw - cgroup2 cgroup2 rw",
        V1.format(group="/"),
    ]
    files = {
        "a b/x/cpu.max": "300000 100000",
        "cpu,cpuacct/y/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/y/cpu.cfs_period_us": "100000",
    }
    assert quota(tmp_path, "4:cpu,cpuacct:/y\n0::/x\n", mounts, files) == 2.5


def test_without_proc_nothing_limits(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("cpus", "most", "workers", "pinned"),
    [
        (4, math.inf, 4, True),
        (4, 4.0, 4, True),
        (4, 8.0, 4, True),
        (4, 3.2, 4, False),
        (16, 1.5, 2, False),
        (16, 0.1, 1, False),
        (2, 1e18, 2, True),
    ],
)
def test_auto_is_what_can_be_busy(cpus: int, most: float, workers: int, pinned: bool) -> None:
    """The lesser of CPUs and quota, rounded up; pinned only if all CPUs are ours."""
    allowed = Cpus(tuple(range(cpus)), most)
    assert allowed.workers == workers
    assert allowed.to_pin == (tuple(range(cpus)) if pinned else ())
