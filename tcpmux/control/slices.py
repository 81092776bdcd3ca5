"""Long work in slices, so that checks, deadlines and other requests go on meanwhile. Runs in
control.

What reads much of shared memory is written as an iterator with many short steps. One slice of one
such piece of work is done in a turn of the loop, however many of them there are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

SLICE = 0.004  # s


_json = json.JSONEncoder(separators=(",", ":")).encode


class Slices:
    """Those of one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # served in order of arrival

    async def each(self, steps: Iterable[T]) -> AsyncIterator[list[T]]:
        """What the steps yield, a slice at a time. Nothing may be awaited between two of them but
        what is short: the next piece of work waits."""
        going_on = iter(steps)
        is_over = False
        while not is_over:
            async with self._turn:
                end = time.perf_counter() + SLICE
                found: list[T] = []
                is_over = True
                for step in going_on:
                    found.append(step)
                    if time.perf_counter() >= end:
                        is_over = False
                        break
                yield found
                if not is_over:
                    await asyncio.sleep(0)

    async def all(self, steps: Iterable[T]) -> list[T]:
        """What the steps yield."""
        return [step async for part in self.each(steps) for step in part]

    async def encoded(self, steps: Iterable[str]) -> list[bytes]:
        """All of a text, in the parts that the slices have made."""
        return ["".join(part).encode() async for part in self.each(steps)]


def json_parts(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> Iterator[str]:
    """The JSON of {**head, name: [items]}, an item at a time."""
    start = _json(dict(head))[:-1]
    yield f"{start}{', ' if head else ''}{json.dumps(name)}: ["
    before = ""
    for item in items:
        yield before + _json(item)
        before = ","
    yield "]}"
