"""What the master answers to a request: a result, now or later, or a refusal. Runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tcpmux.errors import TcpmuxError


class Refusal(TcpmuxError):
    """A request that can't be carried out. kind: invalid, not_found, refused or
    unforced, which can be had by force."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Later:
    """An answer that is not there yet. Whoever works it out calls come()."""

    def __init__(self) -> None:
        self._take: Callable[[Mapping[str, Any]], None] = lambda _: None

    def then(self, take: Callable[[Mapping[str, Any]], None]) -> None:
        self._take = take

    def come(self, outcome: Mapping[str, Any]) -> None:
        """ok and result, or ok, kind and error, as control gets them."""
        self._take(outcome)


Answer = Mapping[str, Any] | Later
