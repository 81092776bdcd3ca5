"""What a host says of itself in etcd, for as long as it lives, and its place among the others. Runs
in control.

Both keys go with a lease, which is kept alive; when that fails for longer than its time, they are
gone, and are written anew.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from tcpmux.config.fleet import MAX_PATH
from tcpmux.control.fleet.contents import Keys, as_value, shown
from tcpmux.control.fleet.etcd import Etcd
from tcpmux.control.fleet.values import KeyValue, Malformed, behind, decoded, number

LEASE = 15  # s
MAX_HOSTS = 5000
NO_PLACE = -1
MAX_OWN_WEIGHTS = 10  # paths that a host names


class HostKeys:
    """name: of the host. id: of the instance: whoever has another one is somebody else. place: a
    number that no other host of the fleet has; NO_PLACE = none yet. taken_by: who else has the
    name."""

    def __init__(self, keys: Keys, name: str, id_: str) -> None:
        self._keys = keys
        self._name = name
        self._key = f"{keys.hosts}{name}"
        self._id = id_
        self._lease = 0
        self._lock = asyncio.Lock()  # what is written has that lease: without one it would stay
        self._written: Mapping[str, Any] | None = None
        self._revision = 0  # of what is written
        self.place = NO_PLACE
        self.taken_by = ""

    async def beat(self, etcd: Etcd) -> None:
        """Keeps the lease alive, or takes another one. Raises EtcdError."""
        async with self._lock:
            if self._lease and not await etcd.keep_alive(self._lease):
                self._lease, self._written = 0, None
            if not self._lease:
                self._lease = await etcd.grant(LEASE)
                self._written = None

    async def write(self, etcd: Etcd, value: Mapping[str, Any]) -> None:
        """What is to stand there, if it does not yet. Raises EtcdError."""
        async with self._lock:
            if self._lease:
                await self._write(etcd, value)

    async def _write(self, etcd: Etcd, value: Mapping[str, Any]) -> None:
        await self._take_place(etcd)
        whole = {**value, "id": self._id, "place": self.place}
        if whole == self._written:
            return
        if self._written is not None and self._revision:
            self._revision = await self._put(etcd, self._revision, whole)
            if self._revision:
                return
        found = (await etcd.range(self._key)).found
        there = found[0] if found else None
        if there is not None and there.lease != self._lease and not self._is_ours(there):
            self.taken_by = shown(_json(there).get("id")) or "somebody"
            return
        self.taken_by = ""
        self._revision = await self._put(etcd, 0 if there is None else there.revision, whole)

    async def _put(self, etcd: Etcd, revision: int, whole: Mapping[str, Any]) -> int:
        """If the key still has that revision. Returns the one that it has then, or 0."""
        made = await etcd.change(
            {self._key: revision}, {self._key: as_value(whole)}, (), self._lease
        )
        if made:
            self._written = whole
        return made

    async def _take_place(self, etcd: Etcd) -> None:
        """The first that is free, unless the one that we have had is still ours."""
        if self._written is not None and self.place != NO_PLACE:
            return
        found = (await etcd.range(self._keys.places, behind(self._keys.places), MAX_HOSTS)).found
        taken: dict[int, KeyValue] = {}
        for each in found:
            name = each.key.removeprefix(self._keys.places)
            if name.isascii() and name.isdecimal() and len(name) <= 6:
                taken[int(name)] = each
        # Hosts that are copies of one have its id as well.
        ours = sorted(
            n
            for n, each in taken.items()
            if self._is_ours(each) and _json(each).get("host") == self._name
        )
        if self.place in ours:
            ours = [self.place]
        wanted = ours[0] if ours else next(n for n in range(MAX_HOSTS + 1) if n not in taken)
        key = f"{self._keys.places}{wanted}"
        revision = taken[wanted].revision if wanted in taken else 0
        value = as_value({"id": self._id, "host": self._name})
        if await etcd.change({key: revision}, {key: value}, (), self._lease):
            self.place = wanted

    async def leave(self, etcd: Etcd) -> None:
        """Nobody waits for us any more. Raises EtcdError."""
        if self._lease:
            await etcd.revoke(self._lease)

    def _is_ours(self, found: KeyValue) -> bool:
        return _json(found).get("id") == self._id


def _json(found: KeyValue) -> dict[str, Any]:
    try:
        return decoded(found.value or b"")
    except Malformed:
        return {}


def _list(value: Any) -> list[Any]:
    return value[:MAX_OWN_WEIGHTS] if isinstance(value, list) else []


def host_from(name: str, found: KeyValue) -> dict[str, Any]:
    """What a host has said of itself, as the API shows it: within bounds."""
    value = _json(found)

    def whole(key: str) -> int:
        given = value.get(key)
        try:
            return number(given) if type(given) is int else 0
        except Malformed:
            return 0

    return {
        "host": shown(name, 64),
        "version": shown(value.get("version"), 64),
        "epoch": whole("epoch"),
        "generation": whole("generation"),
        "workers": whole("workers"),
        "workers_done": min(whole("workers_done"), whole("workers")),
        "connections": whole("connections"),
        "opened": whole("opened"),
        "place": whole("place"),
        "own_weights": [shown(each, MAX_PATH) for each in _list(value.get("own_weights"))],
        "problem": shown(value.get("problem")),
    }


def retry_delay() -> float:
    """s; of many hosts, so that they don't come together."""
    return random.uniform(0.1, 0.5)
