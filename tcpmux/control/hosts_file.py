"""What /etc/hosts says: hosts(5). Read again when it has changed.

The library that asks DNS reads it, too, but gives the addresses of a name together with those that
DNS has of the other family.
"""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address

log = logging.getLogger("tcpmux.control")

PATH = "/etc/hosts"
MAX_SIZE = 16 * 1024 * 1024  # bytes


class HostsFile:
    def __init__(self) -> None:
        self._seen: tuple[int, int, int] | None = None
        self._addresses: dict[str, list[str]] = {}

    def addresses(self, name: str) -> list[str]:
        """In order; none if the name is not in it."""
        try:
            found = os.stat(PATH)
            seen = found.st_ino, found.st_mtime_ns, found.st_size
            if seen != self._seen:
                self._seen = seen
                self._addresses = self._read()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s can't be read: %s", PATH, error.strerror)
            return []
        return self._addresses.get(name.lower(), [])

    @staticmethod
    def _read() -> dict[str, list[str]]:
        with open(PATH, "rb") as file:
            data = file.read(MAX_SIZE + 1)
        if len(data) > MAX_SIZE:
            log.warning(
                "%s is larger than %d MiB: only the beginning is used", PATH, MAX_SIZE >> 20
            )
        found: dict[str, set[str]] = {}
        for line in data[:MAX_SIZE].split(b"\n"):
            address, *names = line.partition(b"#")[0].split()[:65] or [b""]
            if not names:
                continue
            try:
                text = str(ip_address(address.decode("ascii")))
            except ValueError:  # or with a zone, which no endpoint can have
                continue
            for name in names:
                found.setdefault(name.decode("ascii", "replace").lower(), set()).add(text)
        return {name: sorted(texts) for name, texts in found.items()}
