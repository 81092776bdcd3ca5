"""Whose the token's file may be, and what may be in it."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tcpmux.config import Address
from tcpmux.config.model import Admin
from tcpmux.errors import TcpmuxError
from tcpmux.master.token import KEYS, NO_TOKENS, Look, changes, files, hash_descriptor, hashes
from tests.support import TOKEN, write_token


def token_hash(path: str) -> bytes:
    """By either key, the same."""
    found = hashes(path, "").operator
    assert hashes("", path).viewer == found
    return found


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As systemd makes it for a service: of a user of the moment, by access lists."""
    made = tmp_path / "tcpmux.service"
    made.mkdir()
    made.chmod(0o550)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(made))
    return made


def put(directory: Path, mode: int) -> str:
    directory.chmod(0o750)
    path = directory / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    directory.chmod(0o550)
    return str(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_ours_that_others_may_not_read(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    assert token_hash(str(token_file)) == sha256(TOKEN.encode()).digest()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o440, 0o620, 0o601])
def test_one_that_others_may_read_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    with pytest.raises(TcpmuxError, match=rf"others may read it \(mode {mode:04o}\)"):
        token_hash(str(token_file))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_one_that_belongs_to_another_user_is_refused(token_file: Path) -> None:
    os.chown(token_file, 65534, 65534)
    with pytest.raises(TcpmuxError, match="it belongs to user 65534"):
        token_hash(str(token_file))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
@pytest.mark.parametrize(
    ("mode", "group", "user", "refused"),
    [
        (0o440, 4321, 4321, False),
        (0o640, 4321, 4321, False),
        (0o444, 4321, 4321, True),
        (0o660, 4321, 4321, True),
        (0o440, 1234, 4321, True),  # a group that we are not in
        (0o440, 4321, 0, True),  # root needs no group
    ],
)
def test_root_may_give_it_to_the_group_that_tcpmux_runs_as(
    token_file: Path,
    mode: int,
    group: int,
    user: int,
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Kubernetes mounts a secret for a container that does not run as root."""
    os.chown(token_file, 0, group)
    token_file.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: 4321)
    if refused:
        with pytest.raises(TcpmuxError, match="others may read it"):
            token_hash(str(token_file))
    else:
        assert token_hash(str(token_file))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_only_root_may_give_it_to_a_group(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(token_file, 4321, 4321)
    token_file.chmod(0o440)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    monkeypatch.setattr(os, "getegid", lambda: 4321)
    with pytest.raises(TcpmuxError, match="others may read it"):
        token_hash(str(token_file))


def test_credentials_of_a_service_are_told_by_their_directory(
    credentials: Path, token_file: Path
) -> None:
    assert token_hash(put(credentials, 0o400))
    credentials.chmod(0o750)
    (credentials / "token").unlink()
    path = put(credentials, 0o440)
    assert token_hash(path)
    token_file.unlink()
    token_file.symlink_to(path)
    assert token_hash(str(token_file))


def test_what_is_no_credential_is_not_let_pass_as_one(credentials: Path, token_file: Path) -> None:
    token_file.chmod(0o440)
    credentials.chmod(0o750)
    (credentials / "token").symlink_to(token_file)
    with pytest.raises(TcpmuxError, match="others may read it"):
        token_hash(str(credentials / "token"))
    (credentials / "token").unlink()
    path = put(credentials, 0o444)
    with pytest.raises(TcpmuxError, match="others may read it"):
        token_hash(path)
    Path(path).chmod(0o440)
    credentials.chmod(0o555)
    with pytest.raises(TcpmuxError, match="others may read it"):
        token_hash(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected one line of 16"),
        (b"short\n", "expected one line of 16"),
        (b"two words that are long\n", "expected one line of 16"),
        (b"line-line-line-line\nline-line-line-line\n", "expected one line of 16"),
        ("größer-als-sechzehn-zeichen".encode(), "it is not ASCII text"),
        (b"x" * 5000, "larger than 4096 bytes"),
    ],
)
def test_what_is_no_token_is_refused_and_not_quoted(
    token_file: Path, content: bytes, reason: str
) -> None:
    token_file.write_bytes(content)
    with pytest.raises(TcpmuxError, match=reason) as caught:
        token_hash(str(token_file))
    assert str(caught.value).startswith(f"admin.token_file {token_file}: ")
    for word in content.decode().split():
        assert word not in str(caught.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    for path in ("fifo", "socket", ".", "missing"):
        with pytest.raises(TcpmuxError, match="can't be read"):
            token_hash(str(tmp_path / path))


def test_control_is_given_the_hash_alone() -> None:
    digest = sha256(b"x").digest()
    fd = hash_descriptor(digest)
    try:
        assert os.pread(fd, 64, 0) == digest
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_both_tokens_have_to_be_different(token_file: Path, tmp_path: Path) -> None:
    """Or who may read could change everything."""
    other = tmp_path / "other"
    other.write_text(TOKEN)
    other.chmod(0o600)
    with pytest.raises(TcpmuxError, match=r"has the same token as admin\.token_file") as caught:
        hashes(str(token_file), str(other))
    assert TOKEN not in str(caught.value)
    other.write_text(TOKEN.upper())
    assert hashes(str(token_file), str(other)) == (
        sha256(TOKEN.encode()).digest(),
        sha256(TOKEN.upper().encode()).digest(),
    )
    assert hashes("", "") == (b"", b"")


def test_a_read_only_token_that_others_may_read_is_refused_by_its_name(token_file: Path) -> None:
    token_file.chmod(0o644)
    with pytest.raises(TcpmuxError, match=rf"^admin.read_only_token_file {token_file}: others"):
        hashes("", str(token_file))


ADDRESS = Address("127.0.0.1", 1, "")
OTHER = "another-" * 3


@pytest.fixture
def admin(token_file: Path, tmp_path: Path) -> Admin:
    """With both files."""
    viewer = write_token(tmp_path / "viewer", "viewer-" * 3)
    return Admin("/x", ADDRESS, token_file=str(token_file), read_only_token_file=str(viewer))


def test_a_diff_compares_the_files_in_force_with_what_was_read_of_them(admin: Admin) -> None:
    """By their hashes, and no word of what is in them is told."""
    in_force = hashes(*files(admin))
    assert Look.now(admin, in_force).changes(admin) == []
    Path(admin.read_only_token_file).write_text(OTHER)
    look = Look.now(admin, in_force)
    assert look.changes(admin) == ["admin.read_only_token_file: another token"]
    assert look.changes(admin) == changes(in_force, hashes(*files(admin))), "as a reload says it"
    Path(admin.token_file).write_text(f"{OTHER}{OTHER}")
    told = Look.now(admin, in_force).changes(admin)
    assert told == [f"{key}: another token" for key in KEYS]
    assert look.changes(admin) == ["admin.read_only_token_file: another token"], "it reads no more"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (
            {"token_file": "/another"},
            "admin.token_file: another file; a reload reads it and tells whether its token differs",
        ),
        ({"read_only_token_file": ""}, "admin.read_only_token_file: no token"),
        ({"hosts": ("a.example",)}, None),
    ],
)
def test_a_diff_reads_no_file_but_those_in_force(
    admin: Admin, new: dict[str, Any], told: str | None
) -> None:
    """Whoever asks for one has the path from where they like."""
    look = Look.now(admin, hashes(*files(admin)))
    assert look.changes(replace(admin, **new)) == ([told] if told else [])


def test_a_diff_of_an_instance_that_has_no_token_yet_or_none_any_more(admin: Admin) -> None:
    off = replace(admin, http=None)
    assert Look.now(off, NO_TOKENS).changes(admin) == [f"{key}: a token" for key in KEYS]
    look = Look.now(admin, hashes(*files(admin)))
    assert look.changes(off) == [f"{key}: no token" for key in KEYS]
    assert Look.now(off, NO_TOKENS).changes(off) == []


def test_a_diff_says_that_a_reload_would_be_refused_for_a_token(admin: Admin) -> None:
    """Unless it reads that file no more."""
    in_force = hashes(*files(admin))
    Path(admin.read_only_token_file).write_text(TOKEN)
    with pytest.raises(TcpmuxError, match=r"has the same token as admin\.token_file"):
        Look.now(admin, in_force).changes(admin)
    Path(admin.read_only_token_file).chmod(0o644)
    look = Look.now(admin, in_force)
    with pytest.raises(TcpmuxError, match=r"others may read it \(mode 0644\)"):
        look.changes(admin)
    without = replace(admin, read_only_token_file="")
    assert look.changes(without) == ["admin.read_only_token_file: no token"]
