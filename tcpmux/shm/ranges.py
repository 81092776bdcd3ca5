"""Clients that are let in, as ranges of addresses: from `allow` and `deny` to the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from tcpmux.config import Clients

RANGE = 32  # bytes of one range of clients
_LAST = (1 << 128) - 1
_MAPPED = 0xFFFF << 32  # IPv4 as ::ffff:a.b.c.d


def admitted(allow: Sequence[Clients], deny: Sequence[Clients]) -> bytes | None:
    """The clients that are let in, as csrc/route_table.h has them: ranges in order that don't
    meet. None = all. deny wins."""
    if not allow and not deny:
        return None
    outside = [*_merged(deny), (_LAST + 1, _LAST + 1)]
    ranges = []
    at = 0
    for first, last in _merged(allow) if allow else [(0, _LAST)]:
        rest = first
        while outside[at][1] < rest:
            at += 1
        here = at
        while outside[here][0] <= last:
            if outside[here][0] > rest:
                ranges.append((rest, outside[here][0] - 1))
            rest = outside[here][1] + 1
            here += 1
        if rest <= last:
            ranges.append((rest, last))
    return _bytes(ranges)


def ranges_of(clients: Iterable[Clients]) -> bytes:
    """The same of these clients."""
    return _bytes(_merged(clients))


def has(ranges: bytes | None, client: IPv4Address | IPv6Address | str) -> bool:
    """Whether a client is in ranges that one of the functions above has made. str: of a UNIX
    socket."""
    if ranges is None:
        return True
    at = 0 if isinstance(client, str) else int(client) + (_MAPPED if client.version == 4 else 0)
    wanted = at.to_bytes(16, "big")
    starts = range(0, len(ranges), RANGE)
    return any(ranges[s : s + 16] <= wanted <= ranges[s + 16 : s + RANGE] for s in starts)


def _bytes(ranges: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(first.to_bytes(16, "big") + last.to_bytes(16, "big") for first, last in ranges)


def _merged(clients: Iterable[Clients]) -> list[tuple[int, int]]:
    """In order, and as few as there can be."""
    spans = []
    for some in clients:
        if isinstance(some, str):  # those of UNIX sockets
            spans.append((0, 0))
            continue
        base = _MAPPED if some.version == 4 else 0
        first, last = int(some.network_address), int(some.broadcast_address)
        if base + last:  # :: stands for UNIX sockets, and is in no network
            spans.append((max(base + first, 1), base + last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
