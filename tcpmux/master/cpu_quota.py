"""How much CPU time the control groups of this process allow it. Runs in the master.

Version 2 has cpu.max, version 1 cpu.cfs_quota_us and cpu.cfs_period_us; each group above limits as
well (cgroups(7), Documentation/admin-guide/cgroup-v2.rst). Where a group is mounted stands in
mountinfo; in a container that shows the group itself, or some group above it, as the root.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MAX_SIZE = 1 << 20  # bytes of a file of /proc


def cpu_quota(process: Path = Path("/proc/self"), root: Path = Path("/")) -> float:
    """CPUs that the strictest of the groups allows; infinite if none limits. Never raises: what
    can't be read limits nothing. process: its directory in /proc; root: of the file system."""
    groups = _paths(_text(process / "cgroup"))
    quotas = [math.inf]
    for version, group, mount in _mounts(_text(process / "mountinfo")):
        inside = _inside(groups.get(version), group)
        base = root / mount.lstrip("/")
        for part in [inside, *inside.parents] if inside is not None else []:
            quotas.append(_limit(base / part))
    return min(quotas)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MAX_SIZE)
    except OSError:
        return ""


def _paths(cgroup: str) -> dict[int, str]:
    """Version -> the path of our group in that hierarchy, of version 1 the one of `cpu`."""
    found = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = path
        elif "cpu" in controllers.split(","):
            found[1] = path
    return found


def _mounts(mountinfo: str) -> Iterator[tuple[int, str, str]]:
    """(version, group that is its root, mount point) of each hierarchy that may limit CPU time."""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        group, mount = (_unescaped(field) for field in fields[3:5])
        if kind[0] == "cgroup2":
            yield 2, group, mount
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield 1, group, mount


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _inside(path: str | None, group: str) -> PurePosixPath | None:
    """Where our group is below the mount of `group`; the mount's root if we are not below it, as
    what stands there is what a container is given."""
    if path is None:
        return None
    try:
        inside = PurePosixPath(path).relative_to(group)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in inside.parts else inside


def _limit(group: Path) -> float:
    """Of one group by itself."""
    if words := _text(group / "cpu.max").split():
        quota, period = words[0], words[1] if len(words) > 1 else "100000"
    else:
        quota = _text(group / "cpu.cfs_quota_us").strip()
        period = _text(group / "cpu.cfs_period_us").strip()
    if not (_is_number(quota) and _is_number(period) and int(quota) and int(period)):
        return math.inf  # "max" or -1: none
    return int(quota) / int(period)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
