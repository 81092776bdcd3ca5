"""Types of the compiled module, which has the documentation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from tcpmux.shm._live import Live
from tcpmux.shm.known import Known

MOMENTS: dict[int, str]
SORT_KEYS: tuple[str, ...]
GROUP_KEYS: tuple[str, ...]
GROUP_SORT_KEYS: tuple[str, ...]
STEP: int  # records

Row = tuple[
    str, int, int, int, str, str, int, str, float, float, int, int, int, str, int, float, float,
    Known, int, str, int, str | None, bool,
]  # fmt: skip
Group = tuple[tuple[int, ...] | tuple[bytes], int, int, int, float]

class Scan:
    total: int
    group_count: int
    def __init__(
        self,
        lives: Sequence[Live],
        *,
        slots: Iterable[int] | None = None,
        rules: Iterable[int] | None = None,
        network: IPv4Network | IPv6Network | None = None,
        older: float = 0.0,
        idle: float = 0.0,
        sort: str = "age",
        ascending: bool = False,
        limit: int | None = None,
        asked: Mapping[int, tuple[int, bool]] = {},
    ) -> None: ...
    def rows(self) -> Iterator[Row | None]: ...
    def groups(self, by: str) -> Iterator[Group | None]: ...

Facts = tuple[bytes, int, int, bytes, bytes, bytes]
RelayingRow = tuple[int, int, int, int, int, int, int, int, bool, Facts | None, str]

class Relaying:
    counts: dict[int, dict[tuple[int, int, int], int]]
    rows: dict[int, list[RelayingRow]]
    def __init__(
        self, lives: Sequence[Live], routes: Mapping[int, tuple[int, bool, int, bool]]
    ) -> None: ...
    def steps(self) -> Iterator[None]: ...

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
def whereabouts(live: Live, index: int, generation: int) -> tuple[int, int, bool] | None: ...
