"""Files are replaced whole, where their paths lead, or not at all with a reason."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpmux.config.edit import NotSaved, save_weights
from tcpmux.config.rewrite import NotWritten, Target, rewrite
from tests.support import patient
from tests.unit.calling import tcpmux

GOOD = """routes:
  - name: r
    listen: 127.0.0.1:1
    destinations:
      - {name: v1, weight: 80, endpoints: [127.0.0.1:2]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """In a directory of its own."""
    (tmp_path / "real").mkdir()
    found = tmp_path / "real/routes.yaml"
    found.write_text(GOOD)
    found.chmod(0o640)
    return found


def save(path: Path) -> None:
    save_weights([str(path)], "r", {"v1": 7})


def format_it(path: Path) -> None:
    path.write_text(path.read_text().replace("      - {", "       -  {"))
    result = tcpmux("fmt", "-c", str(path))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("change", [save, format_it])
@pytest.mark.parametrize("kind", ["link", "link of a link", "relative", "link of a directory"])
def test_a_link_stays_and_its_target_changes(
    file: Path, tmp_path: Path, kind: str, change: Callable[[Path], None]
) -> None:
    link = tmp_path / "routes.yaml"
    if kind == "link of a directory":
        (tmp_path / "d").symlink_to("real")
        link = tmp_path / "d/routes.yaml"
    else:
        link.symlink_to("real/routes.yaml" if kind == "relative" else file)
    if kind == "link of a link":
        (tmp_path / "first").symlink_to(link)
        link = tmp_path / "first"
    was_link = link.is_symlink()
    before = file.stat().st_ino
    change(link)
    assert link.is_symlink() == was_link
    assert file.stat().st_ino != before
    assert not file.is_symlink()
    assert file.read_text() == (GOOD.replace("80", "7") if change is save else GOOD)
    assert file.stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["routes.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_mode_and_owner_stay(file: Path) -> None:
    file.chmod(0o4640)
    os.chown(file, 65534, 65533)
    file.chmod(0o4640)
    save(file)
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (65534, 65533, 0o4640)


def test_an_owner_that_would_change_is_a_refusal(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    status = file.stat()
    theirs = os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(NotWritten, match="belongs to another user or group"):
        rewrite(Target(file, theirs), b"x")
    assert file.read_text() == GOOD


def test_attributes_stay(file: Path) -> None:
    try:
        os.setxattr(file, "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes: {error.strerror}")
    save(file)
    assert os.getxattr(file, "user.note") == b"mine"


def test_one_of_several_names_is_a_refusal(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other")
    with pytest.raises(NotSaved, match=r"has 2 names \(hard links\)"):
        save(file)
    assert file.read_text() == GOOD


def test_what_is_no_file_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "x\0"):
        with pytest.raises(NotWritten):
            Target.of(path)


def test_file_and_directory_are_on_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, the directory after."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_replace(old: str, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    save(file)
    assert len(done) == 3
    assert done[0].startswith(str(file.parent / ".routes.yaml."))
    assert done[1:] == ["replace", str(file.parent)]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EBUSY, "is a mount of its own, as in a container, and can't be replaced"),
        (errno.EROFS, "its file system is not writable"),
        (errno.EACCES, "can't create a file in its directory"),
        (errno.ENOSPC, "No space left on device"),
    ],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_what_the_system_refuses_is_said_and_leaves_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(NotSaved, match=said):
        save(file)
    assert file.read_text() == GOOD
    assert [path.name for path in file.parent.iterdir()] == ["routes.yaml"]


# In a mount namespace of its own: mount it as asked, save, and say what came of it.
MOUNTED = """
import subprocess, sys
from tcpmux.config.edit import NotSaved, save_weights
path, *mount = sys.argv[1:]
subprocess.run(mount, check=True)
try:
    save_weights([path], "r", {"v1": 7})
except NotSaved as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["bind mount", "read-only"])
def test_a_real_mount(file: Path, tmp_path: Path, kind: str) -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "unshare", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounts are not permitted here")
    source = tmp_path / "source.yaml"
    source.write_text(GOOD)
    mount = ["mount", "--bind", str(source), str(file)]
    if kind == "read-only":
        mount = ["mount", "-o", "bind,ro", str(file.parent), str(file.parent)]
    finished = subprocess.run(
        [unshare, "--mount", sys.executable, "-c", MOUNTED, str(file), *mount],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=patient(60),
    )
    expected = "is a mount of its own" if kind == "bind mount" else "is not writable"
    assert expected in finished.stdout
    assert source.read_text() == GOOD
    assert file.read_text() == GOOD
    assert [path.name for path in file.parent.iterdir()] == ["routes.yaml"]
