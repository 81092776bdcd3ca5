"""The tokens of admin.token_file and admin.read_only_token_file. Runs in the master.

Control never sees a token, and nor does anybody who reads a command line or an environment: what
it is given, in descriptors, is the hash of each.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from tcpmux.config import Admin
from tcpmux.errors import TcpmuxError
from tcpmux.token_file import read_token


class Tokens(NamedTuple):
    """SHA-256 of each; empty: there is none."""

    operator: bytes
    viewer: bytes


NO_TOKENS = Tokens(b"", b"")
KEYS = ("admin.token_file", "admin.read_only_token_file")


def hashes(token_file: str, read_only_token_file: str) -> Tokens:
    """Of the one line in each of these files; of "" nothing. Raises TcpmuxError if others may know
    it, or if both have the same."""
    found = Tokens(_hash(KEYS[0], token_file), _hash(KEYS[1], read_only_token_file))
    _check_different(found.operator, found.viewer)
    return found


def files(admin: Admin) -> tuple[str, str]:
    """Those that are read, as hashes() takes them: without the API over TCP none is."""
    return (admin.token_file, admin.read_only_token_file) if admin.http else ("", "")


def changes(old: Tokens, new: Tokens) -> list[str]:
    """What is different, a line each, and never a word of what is in a file."""
    return [
        _change(key, bool(was), bool(now))
        for key, was, now in zip(KEYS, old, new, strict=True)
        if was != now
    ]


@dataclass(frozen=True, slots=True)
class Look:
    """What the files of the configuration in force hold at the moment, for a diff: the process
    that makes one can open no file. in_force: what they held when they were read last. found: of
    each the hash, or why a reload would be refused."""

    admin: Admin
    in_force: Tokens
    found: tuple[bytes | TcpmuxError, ...]

    @classmethod
    def now(cls, admin: Admin, in_force: Tokens) -> Look:
        return cls(admin, in_force, tuple(map(_found, KEYS, files(admin))))

    def changes(self, new: Admin) -> list[str]:
        """What a reload to this changes, a line each: of another file than the one in force nobody
        can tell before. Raises TcpmuxError if the reload would be refused."""
        wanted = files(new)
        known = [
            found if path == before else None
            for path, before, found in zip(wanted, files(self.admin), self.found, strict=True)
        ]
        for found in known:
            if isinstance(found, TcpmuxError):
                raise found
        operator, viewer = known
        _check_different(operator, viewer)
        return list(self._lines(wanted, known))

    def _lines(
        self, wanted: tuple[str, str], known: list[bytes | TcpmuxError | None]
    ) -> Iterator[str]:
        for key, path, was, now in zip(KEYS, wanted, self.in_force, known, strict=True):
            if now is None and path and was:
                yield f"{key}: another file; a reload reads it and tells whether its token differs"
            elif now is None and bool(path) != bool(was):
                yield _change(key, bool(was), bool(path))
            elif now is not None and now != was:
                yield _change(key, bool(was), bool(now))


def _change(key: str, was: bool, now: bool) -> str:
    words = {(True, True): "another token", (False, True): "a token", (True, False): "no token"}
    return f"{key}: {words[was, now]}"


def _check_different(operator: object, viewer: object) -> None:
    if operator and operator == viewer:
        raise TcpmuxError(
            "admin.read_only_token_file has the same token as admin.token_file: whoever may read "
            "could change everything; make one more, as with: openssl rand -hex 32"
        )


def _found(key: str, path: str) -> bytes | TcpmuxError:
    try:
        return _hash(key, path)
    except TcpmuxError as error:
        return error


def _hash(key: str, path: str) -> bytes:
    return sha256(read_token(key, path, [os.getegid()])).digest() if path else b""


def hash_descriptor(digest: bytes) -> int:
    """A descriptor from which the hash is read, and which its reader can't change."""
    fd = os.memfd_create("tcpmux-token", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, digest)
    os.fchmod(fd, 0o400)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd
