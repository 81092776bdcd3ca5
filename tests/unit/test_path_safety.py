"""Paths where another user could put something of his own are not used."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tcpmux.errors import TcpmuxError
from tcpmux.master import log_process, takeover
from tcpmux.master.handoff import Occupied
from tcpmux.master.path_safety import check_socket, danger
from tcpmux.privileges import User
from tests.others import OTHER, as_other, needs_root


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "place"
    made.mkdir(mode=0o755)
    return made


def test_a_directory_of_ones_own_is_safe(place: Path) -> None:
    for name in ("file", "none/file", "../place/file"):
        assert danger(f"{place}/{name}", sticky=False) == ""


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722, 0o1777])
def test_where_others_write_is_not(place: Path, mode: int) -> None:
    """With the sticky bit it is good enough for what has an owner of its own."""
    if mode == 0o775:
        os.chown(place, -1, OTHER) if os.geteuid() == 0 else pytest.skip("needs root")
    place.chmod(mode)
    (place / "below").mkdir()
    assert str(place) in danger(f"{place}/file", sticky=False)
    assert (danger(f"{place}/file", sticky=True) == "") == (mode == 0o1777)
    on_the_way = danger(f"{place}/below/file", sticky=False) == ""
    assert on_the_way == (mode in (0o1777, 0o775))


@needs_root
def test_where_a_group_may_write_on_the_way_nothing_of_others_is_taken(open_path: Path) -> None:
    """/var/log is root:syslog, 0775, on Debian and Ubuntu: a log has to be possible below it, and
    whoever is in that group must not lead it elsewhere."""
    log_directory = open_path / "log"
    log_directory.mkdir()
    os.chown(log_directory, 0, OTHER)
    log_directory.chmod(0o775)
    (log_directory / "tcpmux").mkdir(mode=0o755)
    path = f"{log_directory}/tcpmux/access.log"
    fd = log_process.open_for(User(OTHER, OTHER), path)
    assert fd is not None
    os.write(fd, b"a line\n")
    os.close(fd)
    assert Path(path).read_bytes() == b"a line\n"

    elsewhere = open_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (log_directory / "tcpmux").rename(log_directory / "before")
    (log_directory / "tcpmux").symlink_to(elsewhere)
    os.lchown(log_directory / "tcpmux", OTHER, OTHER)
    with pytest.raises(TcpmuxError, match="symbolic link"):
        log_process.open_for(User(OTHER + 1, OTHER + 1), path)
    os.lchown(log_directory / "tcpmux", 0, 0)
    with pytest.raises(TcpmuxError, match=f"others may write to {log_directory}"):
        log_process.open_for(User(OTHER + 1, OTHER + 1), path)
    (log_directory / "tcpmux").unlink()
    (log_directory / "tcpmux").mkdir()
    os.chown(log_directory / "tcpmux", OTHER, OTHER)
    with pytest.raises(TcpmuxError, match=f"belongs to uid {OTHER}"):
        log_process.open_for(User(OTHER + 1, OTHER + 1), path)
    assert not list(elsewhere.iterdir())
    # What a directory of the group's own would lead to, as the log's, is still refused.
    with pytest.raises(TcpmuxError, match="others may write"):
        log_process.open_for(User(OTHER + 1, OTHER + 1), f"{log_directory}/access.log")


@needs_root
def test_what_is_anothers_on_the_way_is_not(place: Path) -> None:
    below = place / "below"
    below.mkdir()
    os.chown(place, OTHER, OTHER)
    assert f"{place} belongs to uid {OTHER}" in danger(f"{below}/file", sticky=True)
    os.chown(place, 0, 0)
    assert danger(f"{below}/file", sticky=False) == ""
    link = place / "link"
    link.symlink_to(below)
    assert danger(f"{link}/file", sticky=False) == ""
    os.lchown(link, OTHER, OTHER)
    assert f"{link} belongs to uid {OTHER}" in danger(f"{link}/file", sticky=False)


def test_a_link_without_end_is_told(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert "Too many levels" in danger(f"{place}/a/file", sticky=False)


def listen(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(path)
    sock.listen()
    os.dup2(sock.detach(), 200)


@needs_root
def test_a_socket_that_another_user_has_made_is_not_asked(open_path: Path) -> None:
    """In a shared directory: whoever answers there would get listeners and name pids."""
    open_path.chmod(0o1777)
    path = f"{open_path}/admin.sock"
    with as_other(lambda: listen(path + takeover.SUFFIX)):
        with pytest.raises(TcpmuxError, match=f"belongs to uid {OTHER}"):
            check_socket(path + takeover.SUFFIX)
        os.chown(path + takeover.SUFFIX, 0, 0)
        check_socket(path + takeover.SUFFIX)
        # The file is root's, and still the kernel knows who listens.
        with pytest.raises(Occupied, match=f"was made by uid {OTHER}"):
            takeover.claim(path)


@needs_root
def test_an_instance_of_another_user_is_told(open_path: Path) -> None:
    """Without a traceback: so it goes for whoever starts tcpmux with the default admin socket
    while that of root runs."""
    path = f"{open_path}/admin.sock"
    listen(path + takeover.SUFFIX)
    os.chmod(path + takeover.SUFFIX, 0o600)

    def ask() -> None:
        with pytest.raises(Occupied, match=r"Permission denied: it belongs to another user"):
            takeover.claim(path)

    with as_other(ask):
        pass
    os.close(200)


def test_where_no_instance_can_be_there_is_none(place: Path) -> None:
    (place / "file").touch()
    assert takeover.claim(f"{place}/none/admin.sock") is None
    assert takeover.claim(f"{place}/file/admin.sock") is None
