"""Which instance a command talks to."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tcpmux.cli import instance
from tcpmux.cli.instance import Found, candidates, choose
from tcpmux.cli.where import Where
from tcpmux.control.client import Client, NotRunning, PermissionDenied
from tcpmux.errors import UsageError
from tests.support import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

US = os.geteuid()
STRANGER = 65534
OWN = Found("/run/a.sock", US, trusted=True, usable=True)
OTHER = Found("/run/b.sock", US, trusted=True, usable=True)
HIDDEN = Found("/run/c.sock", 0, trusted=True, usable=False)
FOREIGN = Found("/tmp/d.sock", STRANGER, trusted=False, usable=True)
TITLED = r"""
import os, setproctitle, signal, socket, sys
kinds = {"": socket.SOCK_STREAM, ".takeover": socket.SOCK_SEQPACKET}
for suffix, kind in kinds.items():
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(sys.argv[1] + suffix)
    os.chmod(sys.argv[1] + suffix, 0o777)
    sock.listen()
    sock.detach()
setproctitle.setproctitle("tcpmux: master \x1b]0;owned\x07routes.yaml")
print("ready", flush=True)
signal.pause()
"""


@contextmanager
def listening(path: Path, *, takeover: bool = True) -> Iterator[None]:
    """As an instance does, in this process."""
    with ExitStack() as opened:
        kinds = [(str(path), socket.SOCK_STREAM)]
        kinds += [(f"{path}.takeover", socket.SOCK_SEQPACKET)] * takeover
        for name, kind in kinds:
            sock = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
            sock.bind(name)
            sock.listen()
        yield


@contextmanager
def by_a_stranger(path: Path) -> Iterator[None]:
    """A process of another user, with the title of a master."""
    command = [sys.executable, "-c", TITLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, user=STRANGER) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may write to, as /tmp is."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def below(directory: Path) -> list[Found]:
    return [one for one in candidates() if one.path.startswith(f"{directory}/")]


def test_one_instance_is_the_one() -> None:
    assert choose([OWN]) == OWN


def test_one_that_we_may_not_talk_to_is_passed_over_by_what_only_reads() -> None:
    assert choose([HIDDEN, FOREIGN, OTHER], reads=True) == OTHER


def test_a_change_does_not_go_to_whichever_instance_is_within_reach() -> None:
    with pytest.raises(UsageError) as caught:
        choose([HIDDEN, FOREIGN, OTHER])
    assert str(caught.value) == (
        "2 instances of tcpmux are running: choose one with --admin /run/b.sock; "
        "--admin /run/c.sock (of user root: needs sudo)"
    )


def test_nobody_keeps_the_commands_of_others_from_working() -> None:
    """A user who is not trusted may listen wherever he can."""
    assert choose([FOREIGN, OTHER]) == OTHER


@pytest.mark.parametrize("reads", [False, True])
def test_several_are_listed(reads: bool) -> None:
    """As they are to be named, so that a line can be copied."""
    odd = Found("/run/a b.sock", US, trusted=True, usable=True)
    with pytest.raises(UsageError) as caught:
        choose([OWN, OTHER, odd], reads=reads)
    assert str(caught.value) == (
        "3 instances of tcpmux are running: choose one with --admin /run/a.sock; "
        "--admin /run/b.sock; --admin '/run/a b.sock'"
    )


def test_it_is_said_which_one_of_several_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one is read; a change has been refused. Nothing is said of a stranger's."""
    monkeypatch.setattr(instance, "candidates", lambda: [HIDDEN, FOREIGN, OTHER])
    assert instance.client(Where(), reads=True).path == OTHER.path
    expected = "tcpmux: note: this is the instance at /run/b.sock; there are others\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(UsageError, match="choose one with"):
        instance.client(Where())
    monkeypatch.setattr(instance, "candidates", lambda: [FOREIGN, OTHER])
    assert instance.client(Where(), reads=True).path == OTHER.path
    assert instance.client(Where("/run/any"), reads=True).path == "/run/any"
    assert capsys.readouterr().err == ""


def test_none_means_the_default_socket() -> None:
    assert choose([]).path == "/run/tcpmux.sock"


def test_one_that_we_may_not_talk_to_is_named(tmp_path: Path) -> None:
    default = tmp_path / "tcpmux.sock"
    with pytest.raises(UsageError, match=r"use sudo, or become its user: /run/c.sock of user root"):
        choose([HIDDEN, FOREIGN], str(default))
    default.touch()
    assert choose([HIDDEN], str(default)).path == str(default)


def test_a_strangers_is_named_and_not_used(tmp_path: Path) -> None:
    evil = Found("/tmp/\x1b[2J\u202e\n.sock", STRANGER, trusted=False, usable=True)
    with pytest.raises(
        UsageError, match=r"no tcpmux of root or of your own user is running"
    ) as caught:
        choose([evil], str(tmp_path / "tcpmux.sock"))
    assert "/tmp/\\x1b[2J\\u202e\\n.sock" in str(caught.value)


def test_an_instance_is_found_by_its_two_sockets_wherever_they_are(tmp_path: Path) -> None:
    with listening(tmp_path / "an admin.sock"), listening(tmp_path / "route", takeover=False):
        found = below(tmp_path)
    assert found == [Found(str(tmp_path / "an admin.sock"), US, trusted=True, usable=True)]
    assert below(tmp_path) == []  # left over: nobody listens


def test_an_instance_is_found_once_by_whatever_names_it_has(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with listening(tmp_path / "real/a.sock"), listening(tmp_path / "link/b.sock"):
        paths = [one.path for one in below(tmp_path)]
    assert paths == [str(tmp_path / "real/b.sock"), str(tmp_path / "real/a.sock")]


def test_a_directory_that_all_may_write_to_without_the_sticky_bit_is_not_trusted(
    public: Path,
) -> None:
    with listening(public / "a.sock"):
        assert [one.trusted for one in below(public)] == [True]
        public.chmod(0o777)
        assert [one.trusted for one in below(public)] == [False]


@pytest.mark.skipif(US != 0, reason="needs root, to be two users")
def test_a_process_of_another_user_with_our_title_is_not_an_instance(public: Path) -> None:
    with by_a_stranger(public / "a.sock"):
        (found,) = below(public)
        assert (found.owner, found.trusted) == (STRANGER, False)
        with pytest.raises(UsageError, match="of user nobody"):
            choose([found], str(public / "none"))


@pytest.mark.skipif(US != 0, reason="needs root, to be two users")
def test_a_directory_of_run_that_root_has_given_away_is_the_machines(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RuntimeDirectory= of a unit with User= or DynamicUser=."""
    monkeypatch.setattr(instance, "RUNTIME", (public,))
    for name, trusted in (("tcpmux", True), ("other", False)):
        (public / name).mkdir()
        os.chown(public / name, STRANGER, STRANGER)
        with by_a_stranger(public / name / "a.sock"):
            (found,) = below(public / name)
            assert found.trusted is trusted
            assert STRANGER in found.peers


@pytest.mark.skipif(US != 0, reason="needs root, to be two users")
def test_one_in_a_directory_of_run_that_is_closed_to_us_is_named(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the unit makes it, 0750. A directory that anybody may have made counts for nothing."""
    monkeypatch.setattr("tcpmux.cli.instance.RUNTIME", (public,))
    for name in ("tcpmux", "mine"):
        (public / name).mkdir(mode=0o700)
    with listening(public / "tcpmux/s"), listening(public / "mine/s"):
        os.seteuid(STRANGER)
        try:
            found = below(public)
            with pytest.raises(UsageError, match=r"sudo.*tcpmux/s of user root"):
                choose(found, str(public / "none"))
        finally:
            os.seteuid(0)
        assert found == [Found(str(public / "tcpmux/s"), 0, trusted=True, usable=False)]


@pytest.mark.skipif(US != 0, reason="needs root, to be two users")
def test_who_listens_is_asked_of_the_kernel_not_of_the_file(public: Path) -> None:
    """A socket file can be given to anybody by whoever made it."""
    path = public / "a.sock"
    with by_a_stranger(path):
        os.chown(path, US, US)
        (found,) = below(public)
        assert found.trusted
        with pytest.raises(PermissionDenied, match="user nobody listens at"):
            Client(found.path, DEADLINE, found.peers).status()


def test_a_socket_that_is_named_may_be_anybodys(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        instance.client(Where(str(tmp_path / "missing"))).status()
