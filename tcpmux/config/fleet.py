"""A fleet: hosts that take their routes and weights from one etcd. Frozen, checked values, for
every process."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "/tcpmux"  # the default
MAX_DOCUMENTS = 1000
MAX_PATHS = 4000  # that have weights
MAX_ALL = 8 << 20  # characters of all documents
MAX_KEY = 512
MAX_PATH = 127
MAX_NAMES = 64  # destinations of a route
MAX_EPOCH = 1 << 53
MAX_WEIGHT = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Etcd:
    """Where it is, and how it is to know us. endpoints: of its members, http(s)://HOST:PORT. The
    others are paths of files, and "" is none. prefix: what all keys begin with."""

    endpoints: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    prefix: str = PREFIX

    @property
    def files(self) -> tuple[str, ...]:
        """What is read besides the configuration."""
        every = (self.ca, self.certificate, self.key, self.password_file)
        return tuple(path for path in every if path)


@dataclass(frozen=True, slots=True)
class Fleet:
    """host: the name of this one in it; "" = the host's own."""

    name: str
    etcd: Etcd
    host: str = ""

    @property
    def host_name(self) -> str:
        return self.host or socket.gethostname()

    @property
    def keys(self) -> str:
        """What all keys of the fleet begin with: `/tcpmux/prod/`."""
        return f"{self.etcd.prefix}/{self.name}/"

    def document(self, name: str) -> str:
        """The key of one, which stands in messages for its file."""
        return f"{self.keys}routes/{name}"


@dataclass(frozen=True, slots=True)
class FleetState:
    """What a fleet has said. keys: of which one, as Fleet has it. documents: text by name.
    weights: by ROUTE or ROUTE/RULE and destination. epoch: the number of its last change that is
    in this; 0 = none is known."""

    keys: str = ""
    documents: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    epoch: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "keys": self.keys,
            "documents": dict(self.documents),
            "weights": {path: dict(weights) for path, weights in self.weights.items()},
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: Any) -> FleetState:
        """Of what may have come from anywhere. Raises ValueError."""
        try:
            documents, weights = value["documents"], value["weights"]
            _must(len(documents) <= MAX_DOCUMENTS and len(weights) <= MAX_PATHS)
            made = cls(
                _text(value["keys"], MAX_KEY),
                {document_name(name): _text(text, MAX_ALL) for name, text in documents.items()},
                {_text(path, MAX_PATH): weights_from(each) for path, each in weights.items()},
                whole(value["epoch"], MAX_EPOCH),
            )
            _must(sum(map(len, made.documents.values())) <= MAX_ALL)
        except (AttributeError, KeyError, TypeError):
            raise ValueError("something is missing in it, or of another type") from None
        return made


NO_FLEET = FleetState()


def weights_from(value: Any) -> dict[str, int]:
    """Raises ValueError."""
    _must(isinstance(value, dict) and 0 < len(value) <= MAX_NAMES)
    return {_text(name, MAX_PATH): whole(weight, MAX_WEIGHT) for name, weight in value.items()}


def document_name(value: Any) -> str:
    """Raises ValueError."""
    if not is_document_name(value):
        raise ValueError("the name of a document is 1 to 63 letters, digits, '.', '_' or '-'")
    return str(value)


def is_document_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def whole(value: Any, most: int) -> int:
    """Raises ValueError."""
    _must(type(value) is int and 0 <= value <= most)
    return int(value)


def _text(value: Any, most: int) -> str:
    _must(isinstance(value, str) and len(value) <= most)
    return str(value)


def _must(is_so: object) -> None:
    if not is_so:
        raise ValueError("a value of it is of the wrong type, or out of its range")
