"""Backends that a map names, by what a client of TLS asks for: %[req.ssl_sni,lower,map(FILE)]."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.report import Word
from tcpmux.files import Unreadable, read_file

_LOOKUP = re.compile(
    r"%\[(req[._]ssl_sni(?:,lower)?),map(?:_(str|end|dom|beg|sub|reg))?\(([^(),]+)(?:,([^(),]*))?\)\]"
)


@dataclass(frozen=True, slots=True)
class Lookup:
    """entries: in order, of which the first that matches decides. default: "" = none."""

    fetch: str
    match: str
    entries: tuple[tuple[str, str], ...]
    default: str

    @property
    def names(self) -> list[str]:
        """Of all backends that it may lead to."""
        return [*(value for _, value in self.entries), self.default]

    def tests(self) -> Iterator[tuple[list[Word], str]]:
        """Each with the backend of what it is true for."""
        flags = ["-m", self.match]
        for value, group in groupby(self._reached(), key=lambda entry: entry[1]):
            keys = [key for key, _ in group]
            yield [Word(text, 0, 0) for text in (self.fetch, *flags, "--", *keys)], value

    def _reached(self) -> list[tuple[str, str]]:
        """Without those that no client asks for; of equal keys the first."""
        lowers = self.fetch.endswith(",lower")
        found: dict[str, str] = {}
        for key, value in self.entries:
            if "*" not in key and not (lowers and key != key.lower()):
                found.setdefault(key, value)
        if self.match == "str":  # no connection matches two
            return sorted(found.items(), key=lambda entry: entry[1])
        return [*found.items()]


def lookup_of(text: str, file: str) -> Lookup | None:
    """None: it is something else. file: that it stands in, beside which a map is. Raises
    Refused."""
    found = _LOOKUP.fullmatch(text)
    if not found:
        return None
    path = Path(file).parent / found[3].strip()
    try:
        content = read_file(str(path)).data.decode("utf-8", "surrogateescape")
    except (Unreadable, ValueError) as error:
        raise Refused(f"the map {path} can't be read: {error}") from None
    entries = []
    for line in content.split("\n"):
        words = line.strip().split(None, 1)
        if words and not words[0].startswith("#"):
            if len(words) < 2:
                raise Refused(f"expected a key and a value in the map {path}, got {words[0]}")
            entries.append((words[0], words[1].strip()))
    return Lookup(found[1], found[2] or "str", tuple(entries), (found[4] or "").strip())
