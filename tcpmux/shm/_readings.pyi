"""Types of the compiled module, which has the documentation."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from tcpmux.shm._live import Live
from tcpmux.shm.counters import SlotCounters, Times

LATENCY_BOUNDS_US: tuple[int, ...]
DURATION_BOUNDS_US: tuple[int, ...]
SORT_KEYS: tuple[str, ...]
GROUP_KEYS: tuple[str, ...]
GROUP_SORT_KEYS: tuple[str, ...]
STEP: int  # records

Row = tuple[
    str, int, int, int, str, str, int, str, float, float, int, int, int, str, int, float, float
]
Group = tuple[tuple[int, ...] | tuple[bytes], int, int, int, float]
LogEntry = tuple[
    bool, int, int, int, str, str, str, str,
    float, float, int, int, str, str, int, int, float, float, str,
]  # fmt: skip

class Counters:
    def __init__(self, lives: Iterable[Live]) -> None: ...
    def slot(self, slot: int) -> SlotCounters: ...
    def closed(self, slots: array[int], reasons: Sequence[str]) -> array[int]: ...
    def connects(self, slot: int) -> int: ...
    def times(self, slot: int) -> Times: ...

def failed_connects(lives: Sequence[Live], seen: list[int]) -> list[tuple[str, int, int, int]]: ...

class Scan:
    total: int
    group_count: int
    def __init__(
        self,
        lives: Sequence[Live],
        *,
        slots: Iterable[int] | None = None,
        network: IPv4Network | IPv6Network | None = None,
        older: float = 0.0,
        idle: float = 0.0,
        sort: str = "age",
        ascending: bool = False,
        limit: int | None = None,
    ) -> None: ...
    def rows(self) -> Iterator[Row | None]: ...
    def groups(self, by: str) -> Iterator[Group | None]: ...

def connections(
    lives: Sequence[Live],
    *,
    slots: Iterable[int] | None = None,
    network: IPv4Network | IPv6Network | None = None,
    older: float = 0.0,
    idle: float = 0.0,
    sort: str = "age",
    ascending: bool = False,
    limit: int | None = None,
) -> tuple[int, list[Row]]: ...
def is_open(live: Live, index: int, generation: int) -> bool: ...
def read_log(live: Live, most: int) -> list[LogEntry]: ...
def release_log(live: Live, count: int) -> None: ...
def unwritten_log(live: Live) -> int: ...
