"""A change of a fleet takes place once, whatever becomes of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from tcpmux.config.fleet import FleetState
from tcpmux.control.fleet.agent import Agent
from tcpmux.control.fleet.changes import FleetChanges
from tcpmux.control.fleet.contents import Keys, as_value
from tcpmux.control.fleet.etcd import Away, Range
from tcpmux.control.fleet.values import KeyValue

KEYS = Keys("/tcpmux/prod/")


class Store:
    """As Etcd; the first change is made, and its answer gets lost; then somebody else makes one."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyValue] = {}
        self.revision = 0
        self.changes = 0

    def put(self, key: str, value: bytes) -> None:
        self.revision += 1
        self.keys[key] = KeyValue(key, value, self.revision)

    async def range(self, first: str, end: str = "", _most: int = 0) -> Range:
        last = end or first + "\0"
        found = [each for key, each in sorted(self.keys.items()) if first <= key < last]
        return Range(found, self.revision, "")

    async def change(
        self,
        unchanged: Mapping[str, int],
        put: Mapping[str, bytes],
        _delete: Sequence[str] = (),
        **_more: Any,
    ) -> int:
        there = {key: self.keys[key].revision if key in self.keys else 0 for key in unchanged}
        if there != unchanged:
            return 0
        self.changes += 1
        for key, value in put.items():
            self.put(key, value)
        if self.changes == 1:
            self.put(KEYS.version, as_value({"epoch": 2, "id": "somebody", "documents": {}}))
            raise Away("no answer")
        return self.revision

    def leave(self) -> None:
        pass


def test_a_change_whose_answer_got_lost_is_not_made_twice() -> None:
    """Also if it is not the last one any more: it would take back what somebody else has done."""
    store = Store()

    async def request(_verb: str, **_asked: Any) -> dict[str, Any]:
        return {"weights": {"v1": 5}, "of_fleet": True}

    async def held_back(_contents: Any) -> str:
        return ""

    agent = SimpleNamespace(
        keys=KEYS,
        etcd=store,
        epoch=0,
        state=FleetState(KEYS.prefix),
        master=SimpleNamespace(request=request),
        held_back=held_back,
        fleet=SimpleNamespace(
            host_name="a", etcd=SimpleNamespace(endpoints=("http://127.0.0.1:2379",))
        ),
    )
    changes = FleetChanges(cast(Agent, agent))
    made = asyncio.run(changes.weights("me", "shop", {"v1": "+5"}, force=False))
    assert made["epoch"] == 1
    assert store.changes == 1
    assert KEYS.entry(1) in store.keys
    assert KEYS.entry(3) not in store.keys
