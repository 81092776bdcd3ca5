"""What a fleet has in etcd. Runs in control.

    routes/NAME      a document, as it was written
    version          epoch, id, decided, documents: name -> SHA-256: what the last change through
                     tcpmux left
    weights/ROUTE    weights, epoch, who, when, why; also of ROUTE/RULE
    history/NUMBER   what changed with that epoch, who wanted it, when and why
    before/NUMBER    what was there before, of the last few
    hosts/HOST       what a host says of itself, for as long as it lives
    places/NUMBER    whose place that is among the hosts, likewise

Hosts watch from routes/ to weights/: what is before that changes with every host.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tcpmux.config.fleet import (
    MAX_ALL,
    MAX_DOCUMENTS,
    MAX_EPOCH,
    MAX_PATH,
    MAX_PATHS,
    FleetState,
    document_name,
    weights_from,
    whole,
)
from tcpmux.control.fleet.values import KeyValue, Malformed, behind, decoded, mapping
from tcpmux.errors import printable

MAX_TEXT = 500  # characters of who and why


class Keys:
    """Of one fleet. prefix: Fleet.keys."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.first, self.end = f"{prefix}routes/", behind(f"{prefix}weights/")
        self.version = f"{prefix}version"
        self.hosts = f"{prefix}hosts/"
        self.places = f"{prefix}places/"
        self.history = f"{prefix}history/"

    def document(self, name: str) -> str:
        return f"{self.first}{name}"

    def weights(self, path: str) -> str:
        return f"{self.prefix}weights/{path}"

    def entry(self, epoch: int) -> str:
        """Of the history."""
        return f"{self.history}{epoch:012}"

    def before(self, epoch: int) -> str:
        """What that change has changed."""
        return f"{self.prefix}before/{epoch:012}"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def shown(value: Any, most: int = MAX_TEXT) -> str:
    """A text that somebody has put into etcd."""
    return printable(value[:most]) if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Told:
    """Of weights: who set them, when and why."""

    epoch: int = 0
    who: str = ""
    when: float = 0.0
    why: str = ""


@dataclass(slots=True)
class Contents:
    """Of the keys that hosts watch. revisions: of each key. wrong: what is there and can't be used,
    by key. decided: the epoch in which an operator has said last, by restore or confirm, that what
    was there then is right. is_full: there is more than is kept here."""

    keys: Keys
    documents: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, int]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    epoch: int = 0
    id: str = ""
    digests: Mapping[str, str] | None = None  # None: there is no version
    decided: int = 0
    is_full: bool = False
    revisions: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def take(self, events: Iterable[KeyValue]) -> None:
        """What has happened to them; each key as a whole."""
        for event in events:
            key = event.key
            self.wrong.pop(key, None)
            self.revisions[key] = event.revision
            if event.value is None:
                del self.revisions[key]
            try:
                self._one(key, event.value)
            except (Malformed, ValueError) as error:
                self.wrong[key] = f"{printable(key)}: {error}"

    def _one(self, key: str, value: bytes | None) -> None:
        """Raises Malformed, ValueError."""
        part, _, name = key.removeprefix(self.keys.prefix).partition("/")
        if part == "routes":
            self.documents.pop(name, None)
            if value is not None:
                text = _as_text(value)
                others = sum(map(len, self.documents.values()))
                if len(self.documents) >= MAX_DOCUMENTS or others + len(text) > MAX_ALL:
                    self.is_full = True
                    raise ValueError(
                        f"a fleet has at most {MAX_DOCUMENTS} documents, of {MAX_ALL >> 20} MiB "
                        "together"
                    )
                self.documents[document_name(name)] = text
        elif part == "weights":
            self.weights.pop(name, None)
            self.told.pop(name, None)
            if value is not None:
                self._weights(name, decoded(value))
        elif part == "version" and not name:
            self.epoch, self.id, self.digests, self.decided = 0, "", None, 0
            if value is not None:
                found = decoded(value)
                self.epoch = whole(found.get("epoch"), MAX_EPOCH)
                self.id = shown(found.get("id"))
                self.decided = whole(found.get("decided", 0), MAX_EPOCH)
                self.digests = {
                    document_name(each): shown(hash_)
                    for each, hash_ in mapping(found.get("documents")).items()
                }

    def _weights(self, path: str, found: Mapping[str, Any]) -> None:
        if not 0 < len(path) <= MAX_PATH or not path.isprintable():
            raise ValueError("expected the name of a route")
        made = weights_from(found.get("weights"))
        if not all(name.isprintable() for name in made):
            raise ValueError("expected names of destinations")
        if not any(made.values()):
            raise ValueError("all weights are 0: nobody would be left to take connections")
        if len(self.weights) >= MAX_PATHS:
            self.is_full = True
            raise ValueError(f"a fleet has at most {MAX_PATHS} weights")
        when: Any = found.get("when")
        self.told[path] = Told(
            whole(found.get("epoch", 0), MAX_EPOCH),
            shown(found.get("who")),
            float(when) if type(when) in (int, float) and 0 <= when < 1e12 else 0.0,
            shown(found.get("why")),
        )
        self.weights[path] = made

    @property
    def newest(self) -> int:
        """The revision of what has been changed last."""
        return max(self.revisions.values(), default=0)

    @property
    def are_confirmed(self) -> bool:
        """Whether these are the documents that the last change through tcpmux has left."""
        here = {name: digest(text) for name, text in self.documents.items()}
        return self.digests is not None and dict(self.digests) == here

    def misses(self, found: Iterable[KeyValue], revision: int, within: str = "") -> bool:
        """Whether a watch should have told of something that has been read, or of something that
        was gone. revision: at which. within: of that key alone."""
        there = {each.key: each.revision for each in found}
        here = self.revisions
        gone = (
            key
            for key, of in here.items()
            if key not in there and of <= revision and within in ("", key)
        )
        return any(of > here.get(key, 0) for key, of in there.items()) or any(True for _ in gone)

    def wrong_document(self) -> str:
        """What is wrong with one as a whole; "" = nothing."""
        of = (text for key, text in self.wrong.items() if key.startswith(self.keys.first))
        return next(of, "")

    def wrong_weights(self) -> str:
        """The same of the others, which keep what they had."""
        of = sorted(text for key, text in self.wrong.items() if not key.startswith(self.keys.first))
        more = f" (and {len(of) - 1} more)" if len(of) > 1 else ""
        return f"{of[0]}{more}" if of else ""

    def state(self, before: FleetState) -> FleetState:
        """As hosts are to have it. Weights that make no sense are those of before."""
        weights = dict(self.weights)
        for key in self.wrong:
            path = key.removeprefix(self.keys.weights(""))
            if path != key and path in before.weights:
                weights[path] = dict(before.weights[path])
        return FleetState(self.keys.prefix, dict(self.documents), weights, self.epoch)


def _as_text(value: bytes) -> str:
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = value.count(b"\n", 0, error.start) + 1
        raise Malformed(f"line {line} is not UTF-8") from None


def as_value(value: Mapping[str, Any]) -> bytes:
    """JSON, as it is put there."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
