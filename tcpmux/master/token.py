"""The tokens of admin.token_file and admin.read_only_token_file. Runs in the master.

Control never sees a token, and nor does anybody who reads a command line or an environment: what
it is given, in descriptors, is the hash of each.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from typing import NamedTuple

from tcpmux.errors import TcpmuxError
from tcpmux.token_file import read_token


class Tokens(NamedTuple):
    """SHA-256 of each; empty: there is none."""

    operator: bytes
    viewer: bytes


NO_TOKENS = Tokens(b"", b"")


def hashes(token_file: str, read_only_token_file: str) -> Tokens:
    """Of the one line in each of these files; of "" nothing. Raises TcpmuxError if others may know
    it, or if both have the same."""
    found = Tokens(
        _hash("admin.token_file", token_file),
        _hash("admin.read_only_token_file", read_only_token_file),
    )
    if found.operator and found.operator == found.viewer:
        raise TcpmuxError(
            "admin.read_only_token_file has the same token as admin.token_file: whoever may read "
            "could change everything; make one more, as with: openssl rand -hex 32"
        )
    return found


def _hash(key: str, path: str) -> bytes:
    return sha256(read_token(key, path, [os.getegid()])).digest() if path else b""


def hash_descriptor(digest: bytes) -> int:
    """A descriptor from which the hash is read, and which its reader can't change."""
    fd = os.memfd_create("tcpmux-token", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, digest)
    os.fchmod(fd, 0o400)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd
