"""Files that somebody names: only regular ones are read, at once and not without end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpmux.config import ConfigError, load
from tcpmux.convert.kinds import read_input
from tcpmux.files import LARGEST, Unreadable, read_file
from tests.support import patient


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def bound_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def link_to_fifo(path: Path) -> Path:
    path.symlink_to(fifo(path.with_suffix(".fifo")))
    return path


def endless(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def large(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "expected a regular file, and it is a FIFO"),
        (directory, "expected a regular file, and it is a directory"),
        (bound_socket, "expected a regular file, and it is a socket"),
        (link_to_fifo, "expected a regular file, and it is a FIFO"),
        (endless, "expected a regular file, and it is a device"),
        (large, "larger than 16 MiB, the most that is read"),
        (loop, "can't be read: Too many levels of symbolic links"),
        (lambda path: path, "can't be read: No such file or directory"),
        (lambda path: f"{path}\0", "no file has such a name"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_file_is_refused_at_once(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    """Nobody ever writes to the FIFO: who waits for that never comes back."""
    path = make(tmp_path / "routes.yaml")
    with pytest.raises(Unreadable) as caught:
        read_file(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("suffix", [".yaml", ".cfg"])
def test_configuration_is_read_that_way(suffix: str, tmp_path: Path) -> None:
    path = fifo(tmp_path / f"a{suffix}")
    with pytest.raises(ConfigError) as caught:
        load([path]) if suffix == ".yaml" else read_input(str(path))
    assert "it is a FIFO" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_one_in_a_directory_of_files_is_named(tmp_path: Path) -> None:
    fifo(tmp_path / "b.yaml")
    directory(tmp_path / "c.yaml")
    (tmp_path / "a.yaml").write_text("workers: 1\n")
    with pytest.raises(ConfigError) as caught:
        load([tmp_path])
    assert f"{tmp_path}/b.yaml: can't be read: expected a regular file" in str(caught.value)
    assert f"{tmp_path}/c.yaml: can't be read: expected a regular file" in str(caught.value)


def test_a_file_is_read_to_its_end_and_its_owner_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(1_000_000)
    path.write_bytes(data)
    found = read_file(path, len(data))
    assert found.data == data
    assert found.status.st_uid == os.geteuid()
    with pytest.raises(Unreadable, match="larger than 999999 bytes"):
        read_file(path, len(data) - 1)


def test_a_file_without_a_size_is_bounded_by_what_comes() -> None:
    """Of the kernel's own files, stat() says that they are empty."""
    with pytest.raises(Unreadable, match="larger than 10 bytes"):
        read_file("/proc/self/status", 10)
    assert read_file("/proc/self/status").data.startswith(b"Name:")


def test_a_command_with_a_fifo_ends(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tcpmux", "check", "-c", str(fifo(tmp_path / "a.yaml"))],
        capture_output=True,
        text=True,
        timeout=patient(30),
        check=False,
    )
    assert result.returncode == 2
    assert "it is a FIFO" in result.stderr
