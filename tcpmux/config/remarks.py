"""What is said of a part of a resource while it is translated: one saying, two readers.

Who runs the files is warned, or refused, where tcpmux would treat connections otherwise than the
file asks for. Who converts them gets a report with a class for every value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tcpmux.config.problems import Location

MAPPED, HARMLESS, CHANGES = "mapped", "harmless", "changes traffic"


@dataclass(frozen=True, slots=True)
class Remark:
    """Of the value at `location` and all inside it. effect: the class of a report. needs: the
    feature that tcpmux would need to have it mapped. told: to who runs the files, too. refused: who
    runs them can't, as they would send traffic elsewhere."""

    location: Location
    effect: str
    note: str
    needs: str = ""
    told: bool = False
    refused: bool = False
    owner: Location | None = None

    @property
    def is_weighty(self) -> bool:
        """Some connections are treated otherwise than the file asks for, or are not served."""
        return self.effect == CHANGES or bool(self.needs)


@dataclass(frozen=True, slots=True)
class Harmless:
    """Of a field of a model: it has no effect on where, whether and for how long a connection
    goes. needs: it is about connections that tcpmux does not serve at all, such as those of HTTP;
    with that feature it would."""

    note: str
    told: bool = False
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """Of a field of a model that tcpmux does not honour, unless it has one of these values.
    refused: ignoring it would send traffic elsewhere or otherwise than asked for."""

    note: str
    needs: str = ""
    refused: bool = False
    unless: tuple[Any, ...] = ()
    harmless: str = "this is what tcpmux does"

    def of(self, value: Any) -> Changes | Harmless:
        is_plain = value is None or value == [] or any(value == other for other in self.unless)
        return Harmless(self.harmless) if is_plain else self


def remark_of(
    mark: Changes | Harmless, location: Location, owner: Location | None = None
) -> Remark:
    if isinstance(mark, Changes):
        return Remark(location, CHANGES, mark.note, mark.needs, True, mark.refused, owner)
    return Remark(location, HARMLESS, mark.note, mark.needs, mark.told, owner=owner)


@dataclass(slots=True)
class Remarks:
    """Those of a document. of: the remarks of each location."""

    of: dict[Location, list[Remark]] = field(default_factory=dict)

    def add(self, remark: Remark) -> None:
        known = self.of.setdefault(remark.location, [])
        if remark not in known:
            known.append(remark)

    def __iter__(self) -> Iterator[Remark]:
        return (remark for found in self.of.values() for remark in found)

    def of_all(self, location: Location) -> Remark | None:
        """What is said of the whole of it."""
        return _weightiest(self.of.get(location, ()))

    def of_leaf(self, location: Location) -> Remark | None:
        """The one that counts: what changes traffic before anything else, and the innermost."""
        found = None
        for length in range(len(location) + 1):
            here = _weightiest(self.of.get(location[:length], ()))
            if here and (found is None or found.effect != CHANGES or here.effect == CHANGES):
                found = here
        return found


def _weightiest(remarks: Iterable[Remark]) -> Remark | None:
    """Of one location: the first of equals."""
    known: Mapping[str, Remark] = {remark.effect: remark for remark in reversed([*remarks])}
    return known.get(CHANGES) or known.get(MAPPED) or known.get(HARMLESS)
