"""Types of the compiled module; what things mean is said there."""

from collections.abc import Sequence

from tcpmux.shm._shm import Commons, Live, Table

def adopt(live: Live, channel: int, listeners: Sequence[tuple[int, int, int, bool]]) -> None: ...
def run(
    worker: int,
    table: Table,
    commons: Commons,
    live: Live,
    kept: Sequence[int],
    offered: Sequence[int],
    takeover: int,
    owner: int,
    pipes: int,
) -> int: ...
