"""Paths where another user could put something of his own are not used."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tcpmux.errors import TcpmuxError
from tcpmux.master import estate
from tcpmux.master.places import check_socket, danger
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
    assert (danger(f"{place}/below/file", sticky=False) == "") == (mode == 0o1777)


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
    with as_other(lambda: listen(path + estate.SUFFIX)):
        with pytest.raises(TcpmuxError, match=f"belongs to uid {OTHER}"):
            check_socket(path + estate.SUFFIX)
        os.chown(path + estate.SUFFIX, 0, 0)
        check_socket(path + estate.SUFFIX)
        # The file is root's, and still the kernel knows who listens.
        with pytest.raises(estate.Occupied, match=f"was made by uid {OTHER}"):
            estate.claim(path)
